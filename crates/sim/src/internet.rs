//! An internet of hosts and NATs: where a datagram sent from one place arrives, and when.
//!
//! A host has addresses and perhaps a NAT before it, which may have another before itself. Delay, loss, reordering and
//! doubling are drawn from a seed. There is no name service and no routing: an address is where it is.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::time::Duration;

use types::Monotonic;

use crate::dice::Dice;
use crate::nat::{Nat, NatKind};

/// The group to which hosts send what is for everybody in their network.
const GROUP: Ipv4Addr = Ipv4Addr::new(239, 255, 0, 1);

/// A host, by its number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct HostId(pub usize);

/// A NAT, by its number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NatId(usize);

/// A datagram that arrived.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Arrival {
    /// At which host.
    pub host: HostId,
    /// From where, as the host sees it.
    pub source: SocketAddr,
    /// At which of its addresses, or at the group of its network.
    pub destination: SocketAddr,
    /// The content.
    pub bytes: Vec<u8>,
}

/// What the weather does to datagrams.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Weather {
    /// How long one way takes; the width of the range reorders.
    pub delay: Range<Duration>,
    /// How many of a thousand are lost while the weather is good.
    pub lost_per_mille: u64,
    /// How many of a thousand begin a burst in which every second one is lost (Gilbert–Elliott).
    pub bursts_per_mille: u64,
    /// How many of a thousand arrive twice.
    pub doubled_per_mille: u64,
}

impl Default for Weather {
    fn default() -> Self {
        Self {
            delay: Duration::from_millis(10)..Duration::from_millis(12),
            lost_per_mille: 0,
            bursts_per_mille: 0,
            doubled_per_mille: 0,
        }
    }
}

struct Host {
    addresses: Vec<IpAddr>,
    nat: Option<NatId>,
    /// Whether its network drops every UDP datagram that leaves it or comes in.
    is_udp_blocked: bool,
    is_offline: bool,
}

struct NatBox {
    nat: Nat,
    behind: Option<NatId>,
}

/// Hosts, NATs and what is on its way.
pub struct Internet {
    /// What happens to datagrams from now on.
    pub weather: Weather,
    hosts: Vec<Host>,
    nats: Vec<NatBox>,
    dice: Dice,
    is_bursting: bool,
    flying: BTreeMap<(Monotonic, u64), Arrival>,
    sent: u64,
    next_address: u32,
}

impl Internet {
    /// Makes an empty internet.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            weather: Weather::default(),
            hosts: Vec::new(),
            nats: Vec::new(),
            dice: Dice::new(seed, 1),
            is_bursting: false,
            flying: BTreeMap::new(),
            sent: 0,
            next_address: u32::from(Ipv4Addr::new(198, 18, 0, 1)),
        }
    }

    /// Adds a NAT, itself behind another if `behind` says so.
    pub fn add_nat(&mut self, kind: NatKind, behind: Option<NatId>) -> NatId {
        let outer = match behind {
            Some(_) => self.draw_private([100, 127]),
            None => self.draw_public(),
        };
        let seed = self.nats.len() as u64 + 100;
        let dice = Dice::new(self.dice.number(0..u64::MAX), seed);
        let nat = Nat::new(kind, outer, dice);
        self.nats.push(NatBox { nat, behind });
        NatId(self.nats.len() - 1)
    }

    /// Adds a host with one IPv4 address: private behind a NAT, public without.
    pub fn add_host(&mut self, nat: Option<NatId>) -> HostId {
        let address = self.draw_for(nat);
        self.hosts.push(Host {
            addresses: vec![address],
            nat,
            is_udp_blocked: false,
            is_offline: false,
        });
        HostId(self.hosts.len() - 1)
    }

    /// Returns a host's addresses.
    #[must_use]
    pub fn addresses(&self, host: HostId) -> &[IpAddr] {
        &self.hosts[host.0].addresses
    }

    /// Gives a host another address in front of it, as a public IPv6 one is.
    pub fn add_public_address(&mut self, host: HostId, address: IpAddr) {
        self.hosts[host.0].addresses.push(address);
    }

    /// Carries a host into another network; it has a new address there.
    pub fn move_host(&mut self, host: HostId, nat: Option<NatId>) {
        let address = self.draw_for(nat);
        let host = &mut self.hosts[host.0];
        host.nat = nat;
        host.addresses = vec![address];
    }

    /// Blocks or lets through every UDP datagram of a host.
    pub fn block_udp(&mut self, host: HostId, is_blocked: bool) {
        self.hosts[host.0].is_udp_blocked = is_blocked;
    }

    /// Takes a host off every network, or brings it back.
    pub fn set_offline(&mut self, host: HostId, is_offline: bool) {
        self.hosts[host.0].is_offline = is_offline;
    }

    /// Tells whether a host is off every network.
    #[must_use]
    pub fn is_offline(&self, host: HostId) -> bool {
        self.hosts[host.0].is_offline
    }

    /// Returns the NATs between a host and the public network, its own first.
    #[must_use]
    pub fn chain(&self, host: HostId) -> Vec<(NatId, NatKind)> {
        let next = |nat: &NatId| self.nats[nat.0].behind;
        let chain = std::iter::successors(self.hosts[host.0].nat, next);
        chain.map(|nat| (nat, self.nats[nat.0].nat.kind())).collect()
    }

    /// Tells whether UDP is blocked for a host.
    #[must_use]
    pub fn is_udp_blocked(&self, host: HostId) -> bool {
        self.hosts[host.0].is_udp_blocked
    }

    /// Returns every NAT.
    pub fn nats(&self) -> impl Iterator<Item = NatId> + use<> {
        (0..self.nats.len()).map(NatId)
    }

    /// Returns a NAT.
    pub fn nat_mut(&mut self, nat: NatId) -> &mut Nat {
        &mut self.nats[nat.0].nat
    }

    /// Draws how long one way takes now.
    pub fn draw_delay(&mut self) -> Duration {
        self.dice.span(self.weather.delay.clone())
    }

    /// Sends a datagram from a port of a host.
    pub fn send(&mut self, host: HostId, port: u16, to: SocketAddr, bytes: Vec<u8>, now: Monotonic) {
        if self.is_lost() {
            return;
        }
        if let Some(way) = self.route(host, port, to, now) {
            self.fly(way, &bytes, now);
        }
    }

    fn fly(
        &mut self,
        (host, source, destination): (HostId, SocketAddr, SocketAddr),
        bytes: &[u8],
        now: Monotonic,
    ) {
        let copies = 1 + usize::from(self.dice.chance(self.weather.doubled_per_mille));
        for _ in 0..copies {
            let delay = self.draw_delay();
            self.sent += 1;
            let arrival = Arrival {
                host,
                source,
                destination,
                bytes: bytes.to_vec(),
            };
            self.flying.insert((now + delay, self.sent), arrival);
        }
    }

    /// Sends a datagram from a port of a host to everybody in its network, itself included, as multicast does that may not be
    /// routed. In the open there is nobody.
    pub fn send_to_link(&mut self, host: HostId, port: u16, bytes: &[u8], now: Monotonic) {
        let sender = &self.hosts[host.0];
        let is_mute = sender.is_udp_blocked || sender.is_offline || sender.nat.is_none();
        let own = sender.addresses.iter().find(|own| own.is_ipv4());
        let Some(source) = own.filter(|_| !is_mute).map(|own| SocketAddr::new(*own, port)) else {
            return;
        };
        let nat = sender.nat;
        for number in 0..self.hosts.len() {
            let there = &self.hosts[number];
            if there.nat != nat || there.is_udp_blocked || self.is_lost() {
                continue;
            }
            let destination = SocketAddr::new(GROUP.into(), port);
            self.fly((HostId(number), source, destination), bytes, now);
        }
    }

    /// Tells whether a host is in a network in which others may hear it.
    #[must_use]
    pub fn has_link(&self, host: HostId) -> bool {
        self.hosts[host.0].nat.is_some()
    }

    /// Returns when the next datagram arrives.
    #[must_use]
    pub fn next_arrival(&self) -> Option<Monotonic> {
        self.flying.keys().next().map(|(at, _)| *at)
    }

    /// Takes the next datagram that has arrived by `now`.
    pub fn take_arrival(&mut self, now: Monotonic) -> Option<Arrival> {
        let key = *self.flying.keys().next().filter(|(at, _)| *at <= now)?;
        let arrival = self.flying.remove(&key)?;
        let host = &self.hosts[arrival.host.0];
        let to = arrival.destination.ip();
        let is_there = !host.is_offline && (to == GROUP || host.addresses.contains(&to));
        is_there.then_some(arrival).or_else(|| self.take_arrival(now))
    }

    /// Finds whom a datagram reaches, and what it sees; NATs on the way take note.
    fn route(
        &mut self,
        host: HostId,
        port: u16,
        to: SocketAddr,
        now: Monotonic,
    ) -> Option<(HostId, SocketAddr, SocketAddr)> {
        let sender = &self.hosts[host.0];
        if sender.is_udp_blocked || sender.is_offline {
            return None;
        }
        let own = sender
            .addresses
            .iter()
            .find(|own| own.is_ipv4() == to.is_ipv4())?;
        let mut source = SocketAddr::new(*own, port);
        // IPv6 is not translated.
        let mut at = sender.nat.filter(|_| to.is_ipv4());
        loop {
            if let Some(receiver) = self.inner_host(at, to.ip()) {
                return self.accept(receiver, source, to);
            }
            if let Some(nat) = self.inner_nat(at, to.ip()) {
                return self.descend(nat, source, to, now);
            }
            let outer = at?;
            let translated = self.nats[outer.0].nat.outbound(source, to, now);
            let is_hairpin = to.ip() == self.nats[outer.0].nat.outer();
            if is_hairpin && !self.nats[outer.0].nat.hairpins() {
                return None;
            }
            source = translated;
            if is_hairpin {
                return self.descend(outer, source, to, now);
            }
            at = self.nats[outer.0].behind;
        }
    }

    /// Brings a datagram in through a NAT and those behind it.
    fn descend(
        &mut self,
        nat: NatId,
        source: SocketAddr,
        to: SocketAddr,
        now: Monotonic,
    ) -> Option<(HostId, SocketAddr, SocketAddr)> {
        let inner = self.nats[nat.0].nat.inbound(source, to.port(), now)?;
        if let Some(receiver) = self.inner_host(Some(nat), inner.ip()) {
            return self.accept(receiver, source, inner);
        }
        let next = self.inner_nat(Some(nat), inner.ip())?;
        self.descend(next, source, inner, now)
    }

    fn accept(
        &self,
        host: HostId,
        source: SocketAddr,
        to: SocketAddr,
    ) -> Option<(HostId, SocketAddr, SocketAddr)> {
        (!self.hosts[host.0].is_udp_blocked).then_some((host, source, to))
    }

    /// Finds the host with an address in the network behind `nat`, or in the public one.
    fn inner_host(&self, nat: Option<NatId>, address: IpAddr) -> Option<HostId> {
        let is_it = |host: &Host| {
            let network = if address.is_ipv4() { host.nat } else { None };
            network == nat && host.addresses.contains(&address)
        };
        self.hosts.iter().position(is_it).map(HostId)
    }

    fn inner_nat(&self, behind: Option<NatId>, address: IpAddr) -> Option<NatId> {
        let is_it = |nat: &NatBox| nat.behind == behind && nat.nat.outer() == address;
        self.nats.iter().position(is_it).map(NatId)
    }

    fn is_lost(&mut self) -> bool {
        if self.is_bursting {
            self.is_bursting = self.dice.chance(700);
        } else {
            self.is_bursting = self.dice.chance(self.weather.bursts_per_mille);
        }
        let lost_per_mille = if self.is_bursting {
            500
        } else {
            self.weather.lost_per_mille
        };
        self.dice.chance(lost_per_mille)
    }

    fn draw_for(&mut self, nat: Option<NatId>) -> IpAddr {
        match nat {
            Some(_) => self.draw_private([192, 168]),
            None => self.draw_public(),
        }
    }

    fn draw_public(&mut self) -> IpAddr {
        self.next_address += 1;
        Ipv4Addr::from(self.next_address).into()
    }

    /// Every network has the same few private addresses, as in life.
    fn draw_private(&mut self, start: [u8; 2]) -> IpAddr {
        self.next_address += 1;
        let [.., c, d] = self.next_address.to_be_bytes();
        Ipv4Addr::new(start[0], start[1], c, d).into()
    }
}
