//! Probes: what two of our nodes say to each other inside their WireGuard session to find and prove paths.
//!
//! A probe is the content of a data message whose first byte is zero, where an IP packet has its version: so it is sealed,
//! numbered and never replayed, and no other WireGuard would take it for a packet. It travels to the endpoint that is
//! asked about, whatever path data takes meanwhile. Padding may follow, and is ignored. Integers are big endian.
//!
//! | type | name | layout |
//! |---|---|---|
//! | 1 | Ping | zero 1, type 1, reserved 2, transaction 12 |
//! | 2 | Pong | zero 1, type 1, reserved 2, transaction 12, address the Ping came from 18 (zeros when through a relay) |
//! | 3 | Candidates | zero 1, type 1, count 1, mapping 1, then for each: kind 1, address 18 |
//! | 4 | Guess | zero 1, type 1, step 1, reserved 1, seconds 2 (zero in an offer) |
//!
//! An address is 16 bytes of IPv6 (IPv4 mapped into it) and a port. Mapping: how the sender's NAT maps, in RFC 4787's
//! words: 0 not known, 1 endpoint-independent, 2 endpoint-dependent; 3: the sender has no UDP at all. Step of a Guess: 0,
//! the sender's sockets are open towards you, guess their ports; 1, not now, ask again after so many seconds.

use std::net::SocketAddr;

use crate::relay::frame::{ADDRESS_LEN, address, parse_address};

/// The most candidates one message names.
pub const CANDIDATES_MAX: usize = 16;

const PING: u8 = 1;
const PONG: u8 = 2;
const CANDIDATES: u8 = 3;
const GUESS: u8 = 4;
const OFFER: u8 = 0;
const LATER: u8 = 1;
const HEADER_LEN: usize = 4;
const TRANSACTION_LEN: usize = 12;

/// What ties a Pong to its Ping; 12 random bytes, known to nobody else.
pub type Transaction = [u8; TRANSACTION_LEN];

/// Where a candidate address comes from; the first is tried first where nothing else decides.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum CandidateKind {
    /// An address of an interface of the node's.
    Local,
    /// The node's address as a relay sees it.
    Reflexive,
    /// A port that the node's router opened for it.
    Mapped,
    /// The address that a probe came from.
    Seen,
}

/// One address at which a node may be reached.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Candidate {
    /// Where it comes from.
    pub kind: CandidateKind,
    /// The address.
    pub address: SocketAddr,
}

/// How a NAT maps one inner socket to outer ports (RFC 4787, section 4.1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Mapping {
    /// Not measured.
    #[default]
    Unknown,
    /// One outer port whoever is talked to; also no NAT at all.
    EndpointIndependent,
    /// Another outer port for another destination.
    EndpointDependent,
    /// No datagram comes back from anywhere.
    Blocked,
}

/// A probe.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Probe {
    /// Are you there?
    Ping(Transaction),
    /// I am, and saw you at this address; none when the Ping came through a relay.
    Pong(Transaction, Option<SocketAddr>),
    /// Where I may be reached.
    Candidates(Mapping, Vec<Candidate>),
    /// My NAT gives every destination another port, and many of my sockets have sent to you: guess one of the ports.
    GuessOffer,
    /// Not now; ask again after so many seconds.
    GuessLater(u16),
}

/// Tells whether the content of a data message is meant as a probe.
#[must_use]
pub fn is_probe(content: &[u8]) -> bool {
    content.first() == Some(&0)
}

impl Probe {
    /// Writes the probe. Candidates beyond [`CANDIDATES_MAX`] are left out.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Ping(transaction) => [&[0, PING, 0, 0], transaction.as_slice()].concat(),
            Self::Pong(transaction, seen) => {
                let seen = seen.map_or([0; ADDRESS_LEN], address);
                [&[0, PONG, 0, 0], transaction.as_slice(), &seen].concat()
            }
            Self::Candidates(mapping, candidates) => {
                let count = candidates.len().min(CANDIDATES_MAX);
                let mut bytes = vec![0, CANDIDATES, count as u8, *mapping as u8];
                for candidate in &candidates[..count] {
                    bytes.push(candidate.kind as u8);
                    bytes.extend(address(candidate.address));
                }
                bytes
            }
            Self::GuessOffer => vec![0, GUESS, OFFER, 0, 0, 0],
            Self::GuessLater(seconds) => [&[0, GUESS, LATER, 0], seconds.to_be_bytes().as_slice()].concat(),
        }
    }

    /// Reads a probe; `None` when it is malformed or of a newer kind. Candidates that cannot be addresses of a host are
    /// left out.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (header, body) = bytes.split_at_checked(HEADER_LEN)?;
        match header[..2] {
            [0, PING] => Some(Self::Ping(*body.first_chunk()?)),
            [0, PONG] => {
                let (transaction, rest) = body.split_first_chunk()?;
                let seen = parse_address(rest.first_chunk()?);
                Some(Self::Pong(*transaction, is_usable(seen).then_some(seen)))
            }
            [0, CANDIDATES] => {
                let count = usize::from(header[2]);
                let list = body.get(..count * (1 + ADDRESS_LEN))?;
                if count > CANDIDATES_MAX {
                    return None;
                }
                let candidates = list.chunks_exact(1 + ADDRESS_LEN).filter_map(candidate);
                Some(Self::Candidates(mapping(header[3]), candidates.collect()))
            }
            [0, GUESS] => {
                let seconds = u16::from_be_bytes(*body.first_chunk()?);
                match header[2] {
                    OFFER => Some(Self::GuessOffer),
                    LATER => Some(Self::GuessLater(seconds)),
                    _ => None,
                }
            }
            _ => None,
        }
    }
}

/// Tells whether a datagram can be sent to an address and reach one host.
#[must_use]
pub fn is_usable(address: SocketAddr) -> bool {
    let ip = address.ip();
    let is_broadcast = matches!(ip, std::net::IpAddr::V4(ip) if ip.is_broadcast() || ip.octets()[0] == 0);
    address.port() != 0 && !ip.is_unspecified() && !ip.is_multicast() && !is_broadcast
}

fn candidate(bytes: &[u8]) -> Option<Candidate> {
    let (kind, rest) = bytes.split_first()?;
    let kind = match kind {
        0 => CandidateKind::Local,
        1 => CandidateKind::Reflexive,
        2 => CandidateKind::Mapped,
        _ => CandidateKind::Seen,
    };
    let address = parse_address(rest.first_chunk()?);
    is_usable(address).then_some(Candidate { kind, address })
}

fn mapping(byte: u8) -> Mapping {
    match byte {
        1 => Mapping::EndpointIndependent,
        2 => Mapping::EndpointDependent,
        3 => Mapping::Blocked,
        _ => Mapping::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn place(text: &str) -> SocketAddr {
        text.parse().expect("address")
    }

    fn check(probe: Probe, bytes: &[u8]) {
        assert_eq!(probe.encode(), bytes);
        assert_eq!(Probe::decode(bytes).as_ref(), Some(&probe));
        let padded = [bytes, &[0; 15]].concat();
        assert_eq!(Probe::decode(&padded), Some(probe));
        assert!(is_probe(bytes));
    }

    #[test]
    fn the_bytes_are_pinned() {
        check(
            Probe::Ping([7; 12]),
            &[0, 1, 0, 0, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7],
        );
        let mut pong = vec![0, 2, 0, 0, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7];
        let relayed = [pong.clone(), vec![0; 18]].concat();
        pong.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 1, 1, 2]);
        check(Probe::Pong([7; 12], Some(place("192.0.2.1:258"))), &pong);
        check(Probe::Pong([7; 12], None), &relayed);
        let candidates = vec![Candidate {
            kind: CandidateKind::Reflexive,
            address: place("192.0.2.1:258"),
        }];
        let bytes = [
            0, 3, 1, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 1, 1, 2,
        ];
        check(Probe::Candidates(Mapping::EndpointDependent, candidates), &bytes);
        check(Probe::GuessOffer, &[0, 4, 0, 0, 0, 0]);
        check(Probe::GuessLater(258), &[0, 4, 1, 0, 1, 2]);
        assert_eq!(Probe::decode(&[0, 4, 2, 0, 0, 0]), None);
    }

    #[test]
    fn addresses_that_reach_no_single_host_are_left_out() {
        let bad = [
            "0.0.0.0:1",
            "0.1.2.3:1",
            "255.255.255.255:1",
            "224.0.0.1:1",
            "[ff02::1]:1",
            "[::]:1",
            "192.0.2.1:0",
        ];
        for text in bad {
            let address = place(text);
            assert!(!is_usable(address), "{text}");
            let kind = CandidateKind::Local;
            let probe = Probe::Candidates(Mapping::Unknown, vec![Candidate { kind, address }]);
            let read = Probe::decode(&probe.encode());
            assert_eq!(read, Some(Probe::Candidates(Mapping::Unknown, vec![])), "{text}");
        }
    }

    #[test]
    fn too_many_candidates_are_cut_by_us_and_refused_from_others() {
        let one = Candidate {
            kind: CandidateKind::Local,
            address: place("192.0.2.1:1"),
        };
        let probe = Probe::Candidates(Mapping::Unknown, vec![one; 20]);
        let mut bytes = probe.encode();
        assert_eq!(
            Probe::decode(&bytes),
            Some(Probe::Candidates(Mapping::Unknown, vec![one; 16]))
        );
        bytes[2] = 17;
        bytes.extend([0; 19]);
        assert_eq!(Probe::decode(&bytes), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_probe_or_nothing(bytes in prop::collection::vec(any::<u8>(), 0..400), kind in 0_u8..6) {
            let _ = Probe::decode(&bytes);
            let mut near = [vec![0, kind], bytes].concat();
            let _ = Probe::decode(&near);
            near.truncate(near.len().min(17));
            let _ = Probe::decode(&near);
        }
    }
}
