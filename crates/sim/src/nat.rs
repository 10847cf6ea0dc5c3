//! One NAT in RFC 4787's words: how it maps, what it lets in, how long it remembers.
//!
//! It translates addresses only; how packets get to it is `internet`'s.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use types::Monotonic;

use crate::dice::Dice;

/// What a behaviour depends on (RFC 4787, sections 4.1 and 5).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Dependence {
    /// On nothing.
    EndpointIndependent,
    /// On the other end's address.
    AddressDependent,
    /// On the other end's address and port.
    AddressAndPortDependent,
}

/// What a NAT does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NatKind {
    /// For which destinations one inner socket keeps its outer port.
    pub mapping: Dependence,
    /// From whom a mapping lets datagrams in.
    pub filtering: Dependence,
    /// How long a mapping lives without a datagram from inside.
    pub lifetime: Duration,
    /// Whether inner hosts reach each other by their outer addresses.
    pub hairpins: bool,
    /// Whether one outer port follows the other when it cannot be the inner one; drawn otherwise.
    pub counts: bool,
}

impl NatKind {
    /// Full cone: everything independent.
    pub const FULL_CONE: Self = Self::cone(Dependence::EndpointIndependent);
    /// Restricted cone: who was sent something may answer from any port.
    pub const RESTRICTED: Self = Self::cone(Dependence::AddressDependent);
    /// Port-restricted cone: only the port that was sent something may answer.
    pub const PORT_RESTRICTED: Self = Self::cone(Dependence::AddressAndPortDependent);
    /// Symmetric: another port for every destination, and only that may answer.
    pub const SYMMETRIC: Self = Self {
        mapping: Dependence::AddressAndPortDependent,
        ..Self::PORT_RESTRICTED
    };

    const fn cone(filtering: Dependence) -> Self {
        Self {
            mapping: Dependence::EndpointIndependent,
            filtering,
            lifetime: Duration::from_secs(120),
            hairpins: false,
            counts: false,
        }
    }
}

/// The part of a remote address on which a behaviour depends.
type Part = (Option<IpAddr>, Option<u16>);

struct Mapping {
    inner: SocketAddr,
    used: Monotonic,
    /// Who was sent something, and when last.
    permitted: BTreeMap<Part, Monotonic>,
}

/// A NAT and what it remembers.
pub struct Nat {
    kind: NatKind,
    outer: IpAddr,
    ports: BTreeMap<(SocketAddr, Part), u16>,
    mappings: BTreeMap<u16, Mapping>,
    last: u16,
    dice: Dice,
}

impl Nat {
    /// Makes a NAT with one outer address.
    #[must_use]
    pub fn new(kind: NatKind, outer: IpAddr, mut dice: Dice) -> Self {
        Self {
            last: dice.number(1024..65_536) as u16,
            kind,
            outer,
            ports: BTreeMap::new(),
            mappings: BTreeMap::new(),
            dice,
        }
    }

    /// Returns what it does.
    #[must_use]
    pub fn kind(&self) -> NatKind {
        self.kind
    }

    /// Returns its outer address.
    #[must_use]
    pub fn outer(&self) -> IpAddr {
        self.outer
    }

    /// Tells whether inner hosts reach each other by outer addresses.
    #[must_use]
    pub fn hairpins(&self) -> bool {
        self.kind.hairpins
    }

    /// Forgets everything, as by a power cut.
    pub fn reboot(&mut self) {
        self.ports.clear();
        self.mappings.clear();
    }

    /// Returns how many mappings are alive.
    #[must_use]
    pub fn mapping_count(&self, now: Monotonic) -> usize {
        let alive = |mapping: &&Mapping| now.since(mapping.used) < self.kind.lifetime;
        self.mappings.values().filter(alive).count()
    }

    /// Translates the source of a datagram on its way out.
    pub fn outbound(&mut self, source: SocketAddr, to: SocketAddr, now: Monotonic) -> SocketAddr {
        let key = (source, part(self.kind.mapping, to));
        let known = self.ports.get(&key).copied().filter(|port| {
            let mapping = self.mappings.get(port);
            mapping.is_some_and(|mapping| {
                mapping.inner == source && now.since(mapping.used) < self.kind.lifetime
            })
        });
        let port = known.unwrap_or_else(|| self.open(key, source, now));
        if let Some(mapping) = self.mappings.get_mut(&port) {
            mapping.used = now;
            mapping.permitted.insert(part(self.kind.filtering, to), now);
        }
        SocketAddr::new(self.outer, port)
    }

    /// Translates the destination of a datagram on its way in; `None` when it is not let in.
    pub fn inbound(&mut self, from: SocketAddr, port: u16, now: Monotonic) -> Option<SocketAddr> {
        let mapping = self.mappings.get(&port)?;
        if now.since(mapping.used) >= self.kind.lifetime {
            return None;
        }
        let permitted = mapping.permitted.get(&part(self.kind.filtering, from))?;
        (now.since(*permitted) < self.kind.lifetime).then_some(mapping.inner)
    }

    fn open(&mut self, key: (SocketAddr, Part), inner: SocketAddr, now: Monotonic) -> u16 {
        let lifetime = self.kind.lifetime;
        let is_free = |mappings: &BTreeMap<u16, Mapping>, port: u16| {
            mappings
                .get(&port)
                .is_none_or(|mapping| now.since(mapping.used) >= lifetime)
        };
        let preserved = self.kind.mapping == Dependence::EndpointIndependent;
        let mut port = if preserved { inner.port() } else { self.draw() };
        while !is_free(&self.mappings, port) {
            port = self.draw();
        }
        let mapping = Mapping {
            inner,
            used: now,
            permitted: BTreeMap::new(),
        };
        self.mappings.insert(port, mapping);
        self.ports.insert(key, port);
        port
    }

    fn draw(&mut self) -> u16 {
        if !self.kind.counts {
            return self.dice.number(1024..65_536) as u16;
        }
        self.last = self.last.checked_add(1).unwrap_or(1024);
        self.last
    }
}

fn part(dependence: Dependence, address: SocketAddr) -> Part {
    match dependence {
        Dependence::EndpointIndependent => (None, None),
        Dependence::AddressDependent => (Some(address.ip()), None),
        Dependence::AddressAndPortDependent => (Some(address.ip()), Some(address.port())),
    }
}

/// Tells whether two hosts behind these NATs can reach each other directly when each knows where the other was seen and
/// both send at once: what theory promises, and so what a test may demand.
#[must_use]
pub fn can_be_direct(one: Option<NatKind>, other: Option<NatKind>) -> bool {
    let (Some(one), Some(other)) = (one, other) else {
        return true;
    };
    let foretold = |kind: NatKind| kind.mapping == Dependence::EndpointIndependent;
    let lets_any_port = |kind: NatKind| kind.filtering != Dependence::AddressAndPortDependent;
    match (foretold(one), foretold(other)) {
        (true, true) => true,
        (true, false) => lets_any_port(one),
        (false, true) => lets_any_port(other),
        (false, false) => false,
    }
}

/// Tells whether they can only reach each other by guessing a port: one maps by destination, the other lets in only the very
/// port that was sent to.
#[must_use]
pub fn must_be_guessed(one: Option<NatKind>, other: Option<NatKind>) -> bool {
    let is_foretold =
        |kind: Option<NatKind>| kind.is_none_or(|kind| kind.mapping == Dependence::EndpointIndependent);
    !can_be_direct(one, other) && is_foretold(one) != is_foretold(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().expect("address")
    }

    fn nat(kind: NatKind) -> Nat {
        Nat::new(kind, "203.0.113.1".parse().expect("address"), Dice::new(1, 9))
    }

    fn seconds(count: u64) -> Monotonic {
        Monotonic::from_start(Duration::from_secs(count))
    }

    /// Whether a datagram comes in from the host that was sent something, from another port of it, and from a stranger.
    fn lets_in(kind: NatKind) -> [bool; 3] {
        let mut nat = nat(kind);
        let inner = at("10.0.0.2:5000");
        let outer = nat.outbound(inner, at("198.51.100.1:1"), seconds(0));
        ["198.51.100.1:1", "198.51.100.1:2", "198.51.100.2:1"]
            .map(|from| nat.inbound(at(from), outer.port(), seconds(1)) == Some(inner))
    }

    #[test]
    fn each_kind_lets_in_what_its_name_says() {
        assert_eq!(lets_in(NatKind::FULL_CONE), [true, true, true]);
        assert_eq!(lets_in(NatKind::RESTRICTED), [true, true, false]);
        assert_eq!(lets_in(NatKind::PORT_RESTRICTED), [true, false, false]);
        assert_eq!(lets_in(NatKind::SYMMETRIC), [true, false, false]);
    }

    #[test]
    fn only_a_symmetric_nat_gives_each_destination_another_port() {
        for (kind, is_same) in [(NatKind::PORT_RESTRICTED, true), (NatKind::SYMMETRIC, false)] {
            let mut nat = nat(kind);
            let inner = at("10.0.0.2:5000");
            let ports =
                ["198.51.100.1:1", "198.51.100.1:2"].map(|to| nat.outbound(inner, at(to), seconds(0)));
            assert_eq!(ports[0] == ports[1], is_same);
        }
    }

    #[test]
    fn a_mapping_is_forgotten_when_it_is_not_used_from_inside() {
        let mut nat = nat(NatKind::PORT_RESTRICTED);
        let (inner, to) = (at("10.0.0.2:5000"), at("198.51.100.1:1"));
        let outer = nat.outbound(inner, to, seconds(0));
        assert_eq!(nat.inbound(to, outer.port(), seconds(119)), Some(inner));
        assert_eq!(nat.inbound(to, outer.port(), seconds(120)), None);
        nat.outbound(inner, to, seconds(130));
        nat.reboot();
        assert_eq!(nat.inbound(to, outer.port(), seconds(131)), None);
    }
}
