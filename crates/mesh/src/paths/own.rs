//! What we say of ourselves: where we may be reached, and how our NAT maps.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use types::RelayId;

use crate::probe::{CANDIDATES_MAX, Candidate, CandidateKind, Mapping, is_usable};

/// Our own candidates and what they are made of. Every setter tells whether what we would say of ourselves changed.
#[derive(Clone, Debug, Default)]
pub struct OwnCandidates {
    local: BTreeSet<SocketAddr>,
    mapped: Option<SocketAddr>,
    /// What the two ports of each relay saw, by UDP.
    observed: BTreeMap<RelayId, [Option<SocketAddr>; 2]>,
    /// What peers saw.
    seen_by_peers: BTreeSet<SocketAddr>,
    is_udp_blocked: bool,
    candidates: Vec<Candidate>,
    mapping: Mapping,
}

impl OwnCandidates {
    /// Returns where we may be reached, best first, at most [`CANDIDATES_MAX`].
    #[must_use]
    pub fn candidates(&self) -> &[Candidate] {
        &self.candidates
    }

    /// Returns how our NAT maps, as far as it is known.
    #[must_use]
    pub fn mapping(&self) -> Mapping {
        self.mapping
    }

    /// Returns the addresses of our interfaces.
    pub fn local(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.local.iter().copied()
    }

    /// Takes the addresses of our interfaces, each with the port of our socket. Loopback and addresses of the mesh itself are
    /// the caller's to leave out.
    pub fn set_local(&mut self, addresses: impl IntoIterator<Item = SocketAddr>) -> bool {
        self.local = addresses
            .into_iter()
            .filter(|address| is_usable(*address))
            .collect();
        self.recount()
    }

    /// Takes the outer address of a port mapping, or that there is none.
    pub fn set_mapped(&mut self, address: Option<SocketAddr>) -> bool {
        self.mapped = address.filter(|address| is_usable(*address));
        self.recount()
    }

    /// Takes our address as a relay sees it by UDP at its port and at its second one, as far as it does.
    pub fn set_observed(&mut self, relay: RelayId, addresses: [Option<SocketAddr>; 2]) -> bool {
        let before = self.observed.insert(relay, addresses);
        self.observed.retain(|_, addresses| *addresses != [None; 2]);
        if addresses[0].is_some() && before.and_then(|before| before[0]) != addresses[0] {
            // Our NAT may have started anew, and what peers saw was before that.
            self.seen_by_peers.clear();
        }
        self.recount()
    }

    /// Takes our address as a peer saw it: proof, when it differs from what relays see, that our NAT maps by destination.
    pub fn seen_by_peer(&mut self, address: SocketAddr) -> bool {
        // A peer of our own network sees no NAT.
        if self.local.contains(&address) || !is_usable(address) {
            return false;
        }
        if self.seen_by_peers.len() < CANDIDATES_MAX {
            self.seen_by_peers.insert(address);
        }
        self.recount()
    }

    /// Takes whether UDP gets through at all.
    pub fn set_udp_blocked(&mut self, is_blocked: bool) -> bool {
        self.is_udp_blocked = is_blocked;
        self.recount()
    }

    /// Forgets what was measured: we are in another network.
    pub fn network_changed(&mut self) -> bool {
        self.observed.clear();
        self.seen_by_peers.clear();
        self.mapped = None;
        self.is_udp_blocked = false;
        self.recount()
    }

    fn recount(&mut self) -> bool {
        let mapping = self.measured_mapping();
        let mut candidates = Vec::new();
        let mut add = |kind, address| {
            let is_new = candidates
                .iter()
                .all(|candidate: &Candidate| candidate.address != address);
            if is_new && candidates.len() < CANDIDATES_MAX {
                candidates.push(Candidate { kind, address });
            }
        };
        // What NATs make of us first: should there be too many, those matter most.
        for address in self.observed.values().flatten().flatten() {
            add(CandidateKind::Reflexive, *address);
        }
        if let Some(address) = self.mapped {
            add(CandidateKind::Mapped, address);
        }
        for address in &self.local {
            add(CandidateKind::Local, *address);
        }
        for address in &self.seen_by_peers {
            add(CandidateKind::Reflexive, *address);
        }
        let changed = candidates != self.candidates || mapping != self.mapping;
        self.candidates = candidates;
        self.mapping = mapping;
        changed
    }

    fn measured_mapping(&self) -> Mapping {
        if self.is_udp_blocked {
            return Mapping::Blocked;
        }
        // A peer behind the same outer NAT sees what only the inner one did.
        let outside = self.seen_by_peers.iter().filter(|seen| !is_private(seen.ip()));
        let by_relays = self.observed.values().flatten().flatten();
        let observations = by_relays.chain(outside);
        let v4: Vec<_> = observations.filter(|address| address.is_ipv4()).collect();
        let distinct: BTreeSet<_> = v4.iter().collect();
        match (v4.len(), distinct.len()) {
            (_, 2..) => Mapping::EndpointDependent,
            (2.., 1) => Mapping::EndpointIndependent,
            (1, 1) if self.local.contains(v4[0]) => Mapping::EndpointIndependent,
            _ => Mapping::Unknown,
        }
    }
}

/// Tells whether an address belongs to networks that are not routed on the internet (those behind a provider's NAT,
/// RFC 6598, among them), so that being near is likely.
pub(super) fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let is_shared = ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64;
            ip.is_private() || ip.is_link_local() || ip.is_loopback() || is_shared
        }
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use types::NodePrivateKey;

    use super::*;

    fn relay(number: u8) -> RelayId {
        RelayId(NodePrivateKey::from_random([number; 32]).public())
    }

    fn at(text: &str) -> SocketAddr {
        text.parse().expect("address")
    }

    #[test]
    fn one_outer_port_for_two_relays_is_endpoint_independent_and_two_are_not() {
        let mut own = OwnCandidates::default();
        assert!(own.set_local([at("192.168.1.2:5000")]));
        assert!(own.set_observed(relay(1), [Some(at("203.0.113.7:5000")), None]));
        assert_eq!(own.mapping(), Mapping::Unknown);
        assert!(own.set_observed(relay(2), [Some(at("203.0.113.7:5000")), None]));
        assert_eq!(own.mapping(), Mapping::EndpointIndependent);
        assert!(!own.set_observed(relay(2), [Some(at("203.0.113.7:5000")), None]));
        assert!(own.set_observed(relay(2), [Some(at("203.0.113.7:5001")), None]));
        assert_eq!(own.mapping(), Mapping::EndpointDependent);
    }

    #[test]
    fn the_second_port_of_one_relay_tells_as_much() {
        for (second, mapping) in [
            ("203.0.113.7:5000", Mapping::EndpointIndependent),
            ("203.0.113.7:5001", Mapping::EndpointDependent),
        ] {
            let mut own = OwnCandidates::default();
            own.set_local([at("192.168.1.2:5000")]);
            own.set_observed(relay(1), [Some(at("203.0.113.7:5000")), Some(at(second))]);
            assert_eq!(own.mapping(), mapping);
            assert!(own.set_observed(relay(1), [None; 2]));
            assert_eq!(own.mapping(), Mapping::Unknown);
        }
    }

    #[test]
    fn a_peer_can_show_that_a_nat_maps_by_destination_and_a_neighbour_cannot() {
        let mut own = OwnCandidates::default();
        own.set_local([at("192.168.1.2:5000")]);
        own.set_observed(relay(1), [Some(at("203.0.113.7:5000")), None]);
        assert!(!own.seen_by_peer(at("192.168.1.2:5000")));
        own.seen_by_peer(at("203.0.113.7:6666"));
        assert_eq!(own.mapping(), Mapping::EndpointDependent);
        own.network_changed();
        assert_eq!(own.mapping(), Mapping::Unknown);
    }

    #[test]
    fn without_nat_or_without_udp_it_is_known_at_once() {
        let mut own = OwnCandidates::default();
        own.set_local([at("203.0.113.7:5000")]);
        own.set_observed(relay(1), [Some(at("203.0.113.7:5000")), None]);
        assert_eq!(own.mapping(), Mapping::EndpointIndependent);
        assert!(own.set_udp_blocked(true));
        assert_eq!(own.mapping(), Mapping::Blocked);
    }

    #[test]
    fn what_peers_saw_before_the_nat_started_anew_or_from_within_says_nothing_of_it() {
        let mut own = OwnCandidates::default();
        own.set_observed(relay(1), [Some(at("203.0.113.7:5000")), None]);
        own.set_observed(relay(2), [Some(at("203.0.113.7:5000")), None]);
        own.seen_by_peer(at("100.64.3.4:6000"));
        assert_eq!(own.mapping(), Mapping::EndpointIndependent);
        own.seen_by_peer(at("203.0.113.7:6000"));
        assert_eq!(own.mapping(), Mapping::EndpointDependent);
        own.set_observed(relay(1), [Some(at("203.0.113.7:7000")), None]);
        own.set_observed(relay(2), [Some(at("203.0.113.7:7000")), None]);
        assert_eq!(own.mapping(), Mapping::EndpointIndependent);
    }

    #[test]
    fn candidates_are_few_and_each_is_named_once() {
        let mut own = OwnCandidates::default();
        own.set_local((1..=40).map(|host| at(&format!("10.0.0.{host}:5000"))));
        own.set_observed(relay(1), [Some(at("10.0.0.1:5000")), None]);
        own.set_mapped(Some(at("203.0.113.7:5000")));
        assert_eq!(own.candidates().len(), CANDIDATES_MAX);
        let kinds: Vec<_> = own.candidates().iter().map(|candidate| candidate.kind).collect();
        assert_eq!(
            kinds[..3],
            [
                CandidateKind::Reflexive,
                CandidateKind::Mapped,
                CandidateKind::Local
            ]
        );
        let addresses: BTreeSet<_> = own
            .candidates()
            .iter()
            .map(|candidate| candidate.address)
            .collect();
        assert_eq!(addresses.len(), CANDIDATES_MAX);
    }
}
