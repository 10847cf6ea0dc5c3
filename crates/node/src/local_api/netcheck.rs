//! What the networks around this device let through.
//!
//! Most of it was noticed: relays are asked every 20 s while they are in use, so that it is that old at most. How the NAT
//! filters is measured when somebody asks, since it takes a socket that has written to nobody yet.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use mesh::RelayView;
use mesh::probe::{CandidateKind, Mapping};
use net::filtering::{self, Filtering, StunPorts};
use net::port_mapping::Router;
use net::port_mapping::spoken::{Answer, Spoken};
use net::{RelayPoint, Surroundings};
use serde::{Deserialize, Serialize};
use types::{RelayId, RelayRecord};

use super::{LocalState, in_ms, refuse_unlinked};
use crate::port_mapping::PortMappingState;

/// What the networks around this device let through.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Netcheck {
    /// Whether UDP gets through: `false` when relays are reached and none by UDP, absent when no relay is reached.
    pub udp: Option<bool>,
    /// How far IPv6 works.
    pub ipv6: Ipv6,
    /// Whether relays see another address of this device than it has itself; absent when none sees it by UDP.
    pub nat: Option<bool>,
    /// How the NAT maps (RFC 4787, section 4.1); without a NAT `endpoint_independent`.
    pub mapping: NatMapping,
    /// From whom the NAT or firewall lets something in (RFC 4787, section 5).
    pub filtering: NatFiltering,
    /// Whether the router opens ports when asked, and by which protocol.
    pub port_mapping: PortMappingState,
    /// Which protocols for it the router answers; absent when it is not to be asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port_mapping_protocols: Option<MappingProtocols>,
    /// Where this device may be reached directly, best first.
    pub candidates: Vec<OwnCandidate>,
    /// The relay that is nearest.
    pub home_relay: Option<String>,
    /// Every relay.
    pub relays: Vec<RelayCheck>,
}

/// Which protocols the router answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MappingProtocols {
    /// Port Control Protocol.
    pub pcp: MappingProtocol,
    /// NAT Port Mapping Protocol.
    pub nat_pmp: MappingProtocol,
    /// The Internet Gateway Device of UPnP.
    pub upnp: MappingProtocol,
}

/// What the router answered by one of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MappingProtocol {
    /// Whether it did.
    pub answers: bool,
    /// Its outer address, if it told it. PCP tells it with a port: absent unless the port that is open was opened by PCP.
    pub external_address: Option<Ipv4Addr>,
}

impl From<Answer> for MappingProtocol {
    fn from(answer: Answer) -> Self {
        Self {
            answers: answer.is_spoken,
            external_address: answer.outer,
        }
    }
}

/// How far IPv6 works.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ipv6 {
    /// A relay is reached over it.
    Works,
    /// There is an address, and no relay is reached over it.
    AddressOnly,
    /// There is no address.
    None,
}

/// How a NAT maps one inner socket to outer ports, in RFC 4787's words.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NatMapping {
    /// Not measured: that takes a relay that is reached by UDP over IPv4 and has a second port, or two of them.
    Unknown,
    /// One outer port whoever is talked to.
    EndpointIndependent,
    /// Another outer port for another destination.
    EndpointDependent,
}

/// From whom a NAT or a firewall lets something in to a port that has written to somebody, in RFC 4787's words.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NatFiltering {
    /// Not measured: that takes a relay on another machine that is reached by UDP over IPv4 and has a second port.
    Unknown,
    /// From anybody.
    EndpointIndependent,
    /// From the addresses that were written to.
    AddressDependent,
    /// One of the two above; to tell which takes relays at two addresses.
    AtMostAddressDependent,
    /// From the addresses and ports that were written to.
    AddressAndPortDependent,
}

impl From<Option<Filtering>> for NatFiltering {
    fn from(measured: Option<Filtering>) -> Self {
        match measured {
            None => Self::Unknown,
            Some(Filtering::EndpointIndependent) => Self::EndpointIndependent,
            Some(Filtering::AddressDependent) => Self::AddressDependent,
            Some(Filtering::AtMostAddressDependent) => Self::AtMostAddressDependent,
            Some(Filtering::AddressAndPortDependent) => Self::AddressAndPortDependent,
        }
    }
}

/// The kind of a candidate that the router opened.
const MAPPED: &str = "mapped";

/// An address at which this device may be reached.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OwnCandidate {
    /// `local` (of an interface), `reflexive` (as a relay or a peer sees it) or `mapped` (opened by the router).
    pub kind: String,
    /// The address.
    pub address: SocketAddr,
}

/// A relay, as this device reaches it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RelayCheck {
    /// What it is called.
    pub name: String,
    /// Whether it passes on what this device sends.
    pub up: bool,
    /// How it is reached: `udp` or `websocket`; absent while it is not.
    pub transport: Option<String>,
    /// How long it took to answer last, in milliseconds.
    pub rtt_ms: Option<f64>,
    /// This device's address as it sees it.
    pub observed: Option<SocketAddr>,
    /// Whether it said that it stops soon.
    pub draining: bool,
}

/// Tells what is known of the networks around this device.
pub(super) async fn netcheck(State(state): State<LocalState>) -> Response {
    let Some(sidecar) = state.sidecar.get() else {
        return refuse_unlinked();
    };
    let membership = sidecar.membership();
    let surroundings = membership.mesh().surroundings().await;
    let netmap = membership.follow().borrow().clone();
    let relays = netmap.as_ref().map_or(&[][..], |netmap| &netmap.relays);
    let port_mapping = state.board.read().port_mapping;
    let ports = stun_ports(relays).await;
    let (filtering, spoken) = tokio::join!(filtering::measure(&ports), spoken(port_mapping));
    let name = |relay| membership.relay_name(relay);
    let measured = Measured {
        filtering: filtering.into(),
        port_mapping,
        spoken,
    };
    Json(Netcheck::new(&surroundings, measured, name)).into_response()
}

/// Asks the router what it speaks, unless it is not to be asked.
async fn spoken(port_mapping: PortMappingState) -> Option<Spoken> {
    if port_mapping == PortMappingState::Off {
        return None;
    }
    Some(match Router::find().await {
        Some(router) => Spoken::by(router).await,
        None => Spoken::default(),
    })
}

/// What is not known of the mesh.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Measured {
    /// How the NAT filters.
    pub filtering: NatFiltering,
    /// Whether the router opened a port.
    pub port_mapping: PortMappingState,
    /// What it speaks, if it was asked.
    pub spoken: Option<Spoken>,
}

impl Measured {
    fn protocols(self, candidates: &[OwnCandidate]) -> Option<MappingProtocols> {
        let spoken = self.spoken?;
        let mut pcp = MappingProtocol::from(spoken.pcp);
        if self.port_mapping == PortMappingState::Pcp {
            let mapped = candidates.iter().find(|candidate| candidate.kind == MAPPED);
            pcp.external_address = mapped.and_then(|mapped| match mapped.address.ip() {
                IpAddr::V4(outer) => Some(outer),
                IpAddr::V6(_) => None,
            });
        }
        Some(MappingProtocols {
            pcp,
            nat_pmp: spoken.nat_pmp.into(),
            upnp: spoken.upnp.into(),
        })
    }
}

/// Returns where relays answer STUN, as far as each has two ports of one address.
async fn stun_ports(relays: &[RelayRecord]) -> Vec<StunPorts> {
    let mut ports = Vec::new();
    for record in relays {
        let point = RelayPoint::resolve(record).await;
        let pair = |first: &SocketAddr| {
            let mut seconds = point.stun.iter();
            let second = seconds.find(|second| second.ip() == first.ip())?;
            Some(StunPorts {
                first: *first,
                second: *second,
            })
        };
        ports.extend(point.udp.iter().filter_map(pair));
    }
    ports
}

impl Netcheck {
    /// Words what the mesh knows.
    #[must_use]
    pub fn new(surroundings: &Surroundings, measured: Measured, name: impl Fn(RelayId) -> String) -> Self {
        let relays = &surroundings.relays;
        let candidates = candidates(surroundings);
        let by_udp = || relays.iter().filter(|relay| relay.is_up && !relay.is_stream);
        let is_blocked = surroundings.mapping == Mapping::Blocked;
        let is_known = is_blocked || by_udp().next().is_some();
        let seen: Vec<SocketAddr> = by_udp().filter_map(|relay| relay.observed).collect();
        let locals: Vec<IpAddr> = surroundings.local.iter().map(SocketAddr::ip).collect();
        Self {
            udp: is_known.then_some(!is_blocked),
            ipv6: ipv6(&seen, &locals),
            nat: nat(&seen, &locals),
            mapping: match surroundings.mapping {
                Mapping::EndpointIndependent => NatMapping::EndpointIndependent,
                Mapping::EndpointDependent => NatMapping::EndpointDependent,
                Mapping::Unknown | Mapping::Blocked => NatMapping::Unknown,
            },
            filtering: measured.filtering,
            port_mapping: measured.port_mapping,
            port_mapping_protocols: measured.protocols(&candidates),
            candidates,
            home_relay: surroundings.home.map(&name),
            relays: relays
                .iter()
                .map(|relay| RelayCheck::new(relay, name(relay.id)))
                .collect(),
        }
    }
}

impl RelayCheck {
    fn new(relay: &RelayView, name: String) -> Self {
        let transport = if relay.is_stream { "websocket" } else { "udp" };
        Self {
            name,
            up: relay.is_up,
            transport: relay.is_up.then(|| transport.to_owned()),
            rtt_ms: relay.rtt.filter(|_| relay.is_up).map(in_ms),
            observed: relay.observed.filter(|_| relay.is_up),
            draining: relay.is_draining,
        }
    }
}

fn candidates(surroundings: &Surroundings) -> Vec<OwnCandidate> {
    let candidates = surroundings.candidates.iter();
    let worded = candidates.map(|candidate| OwnCandidate {
        kind: match candidate.kind {
            CandidateKind::Local => "local",
            CandidateKind::Mapped => MAPPED,
            CandidateKind::Reflexive | CandidateKind::Seen => "reflexive",
        }
        .to_owned(),
        address: candidate.address,
    });
    worded.collect()
}

fn ipv6(seen: &[SocketAddr], locals: &[IpAddr]) -> Ipv6 {
    if seen.iter().any(SocketAddr::is_ipv6) {
        Ipv6::Works
    } else if locals.iter().any(IpAddr::is_ipv6) {
        Ipv6::AddressOnly
    } else {
        Ipv6::None
    }
}

/// A relay on this very machine sees what no NAT was asked for.
fn nat(seen: &[SocketAddr], locals: &[IpAddr]) -> Option<bool> {
    let mut outside = seen.iter().filter(|seen| !seen.ip().is_loopback()).peekable();
    outside.peek()?;
    Some(outside.any(|seen| !locals.contains(&seen.ip())))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mesh::probe::Candidate;
    use types::NodePrivateKey;

    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    fn relay(number: u8, is_stream: bool, observed: &str) -> RelayView {
        RelayView {
            id: RelayId(NodePrivateKey::from_random([number; 32]).public()),
            is_up: true,
            is_stream,
            observed: Some(at(observed)),
            observed_besides: None,
            rtt: Some(Duration::from_micros(12_345)),
            is_draining: false,
        }
    }

    fn check(mapping: Mapping, local: &[&str], relays: Vec<RelayView>) -> Netcheck {
        let surroundings = Surroundings {
            mapping,
            local: local.iter().map(|text| at(text)).collect(),
            candidates: vec![Candidate {
                kind: CandidateKind::Reflexive,
                address: at("203.0.113.7:5000"),
            }],
            home: relays.first().map(|relay| relay.id),
            relays,
        };
        let measured = Measured {
            filtering: None.into(),
            port_mapping: PortMappingState::Pcp,
            spoken: None,
        };
        Netcheck::new(&surroundings, measured, |_| "near".to_owned())
    }

    #[test]
    fn what_relays_see_tells_of_nat_udp_and_ipv6() {
        let seen = || vec![relay(1, false, "203.0.113.7:5000")];
        let behind = check(
            Mapping::EndpointDependent,
            &["192.168.1.2:5000", "[2001:db8::1]:5000"],
            seen(),
        );
        assert_eq!(
            (behind.udp, behind.nat, behind.mapping, behind.ipv6),
            (
                Some(true),
                Some(true),
                NatMapping::EndpointDependent,
                Ipv6::AddressOnly
            )
        );
        assert_eq!(behind.home_relay.as_deref(), Some("near"));
        assert_eq!(behind.relays[0].rtt_ms, Some(12.345));
        let open = check(Mapping::EndpointIndependent, &["203.0.113.7:5000"], seen());
        assert_eq!((open.nat, open.ipv6), (Some(false), Ipv6::None));
        let six = check(Mapping::Unknown, &[], vec![relay(1, false, "[2001:db8::1]:5000")]);
        assert_eq!((six.ipv6, six.nat), (Ipv6::Works, Some(true)));
    }

    #[test]
    fn what_was_not_measured_is_not_claimed() {
        let alone = check(Mapping::Unknown, &[], Vec::new());
        assert_eq!(
            (alone.udp, alone.nat, alone.mapping, alone.home_relay),
            (None, None, NatMapping::Unknown, None)
        );
        let streams = vec![relay(1, true, "203.0.113.7:443")];
        let blocked = check(Mapping::Blocked, &[], streams);
        assert_eq!((blocked.udp, blocked.nat), (Some(false), None));
        assert_eq!(blocked.relays[0].transport.as_deref(), Some("websocket"));
        let mut down = relay(1, false, "203.0.113.7:5000");
        down.is_up = false;
        let down = check(Mapping::Unknown, &[], vec![down]);
        assert_eq!(down.udp, None);
        let relay = &down.relays[0];
        assert_eq!(
            (&relay.transport, relay.rtt_ms, relay.observed),
            (&None, None, None)
        );
    }

    #[test]
    fn a_relay_on_this_machine_says_nothing_of_a_nat() {
        let near = check(
            Mapping::Unknown,
            &["192.168.1.2:5000"],
            vec![relay(1, false, "127.0.0.1:5000")],
        );
        assert_eq!((near.udp, near.nat), (Some(true), None));
    }
}
