//! What the names of an org mean to one node: made from its netmap, and so no more than the policy lets it see.
//!
//! Three kinds of zones: `<org>.mesh.internal`, the reverse of the org's IPv6 prefix, and the 64 of 100.64.0.0/10
//! (`64.100.in-addr.arpa` to `127.100.in-addr.arpa`). Everything outside is not ours to answer.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use types::names::MESH_ZONE;
use types::{AllowedIp, Netmap, NodeName, OrgName};

use super::Asker;
use super::reply::{Authority, Soa};

/// How many nibbles of a reverse name are the org's: its prefix has 48 bits.
const PREFIX_NIBBLES: usize = 12;

/// What an org's names mean to one node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Zone {
    org: OrgName,
    own: NodeName,
    serial: u32,
    prefix: Ipv6Addr,
    addresses: BTreeMap<NodeName, Vec<IpAddr>>,
    names: BTreeMap<IpAddr, NodeName>,
}

/// A name within one of the zones.
#[derive(Debug)]
pub(super) struct Place<'a> {
    /// How many labels stand below the zone's own name.
    pub(super) depth: usize,
    pub(super) found: Found<'a>,
}

/// What a name is.
#[derive(Debug)]
pub(super) enum Found<'a> {
    /// There is no such name, and none below it.
    Nothing,
    /// The name of the zone itself.
    Apex,
    /// Nothing by itself, but there may be names below it.
    Between,
    /// A node, with its addresses.
    Node(&'a [IpAddr]),
    /// The reverse name of an address: the full name of the node that has it.
    Name(String),
}

impl Zone {
    /// Makes it anew; a netmap is changed only as a whole.
    #[must_use]
    pub fn new(netmap: &Netmap) -> Self {
        let own = &netmap.node;
        let IpAddr::V6(prefix) = types::address::org_prefix(netmap.org_id).address() else {
            unreachable!("an org's prefix is IPv6")
        };
        let mut zone = Self {
            org: netmap.org_name.clone(),
            own: own.name.clone(),
            serial: u32::try_from(netmap.generation.0 & u64::from(u32::MAX)).expect("it is masked"),
            prefix,
            addresses: BTreeMap::new(),
            names: BTreeMap::new(),
        };
        zone.add(
            &own.name,
            [own.addresses.mesh_ip6.into(), own.addresses.mesh_ip4.into()],
        );
        for peer in &netmap.peers {
            let hosts = peer.allowed_ips.iter().filter(|block| block.is_host());
            zone.add(&peer.name, hosts.map(AllowedIp::address));
        }
        zone
    }

    /// Returns the zones, as names without a last dot: what a resolver must lead here.
    #[must_use]
    pub fn domains(&self) -> Vec<String> {
        let reverse_v4 = (64..128).map(|second| format!("{second}.100.in-addr.arpa"));
        let forward = format!("{}.{MESH_ZONE}", self.org);
        let nibbles: Vec<String> = self.prefix_nibbles().iter().rev().map(char::to_string).collect();
        let reverse_v6 = format!("{}.ip6.arpa", nibbles.join("."));
        [forward, reverse_v6].into_iter().chain(reverse_v4).collect()
    }

    fn add(&mut self, name: &NodeName, addresses: impl IntoIterator<Item = IpAddr>) {
        let known = self.addresses.entry(name.clone()).or_default();
        for address in addresses {
            known.push(address);
            self.names.insert(address, name.clone());
        }
    }

    /// Finds a name by its labels, the topmost last; `None` when it is not ours to answer, or not for this asker.
    pub(super) fn find(&self, labels: &[&[u8]], asker: Asker) -> Option<Place<'_>> {
        let place = self.place(labels)?;
        match asker {
            Asker::Host => Some(place),
            Asker::Peer(peer) => self.is_for(peer, labels, &place).then_some(place),
        }
    }

    /// Returns what says of a name with so many labels below its zone that there is nothing.
    pub(super) fn authority(&self, depth: usize) -> Authority {
        Authority {
            depth,
            soa: Soa {
                server: self.own.dns_name(&self.org),
                serial: self.serial,
            },
        }
    }

    /// Tells whether a name is that of this node or of the peer that asks.
    fn is_for(&self, peer: IpAddr, labels: &[&[u8]], place: &Place<'_>) -> bool {
        let may_know = |name: &NodeName| *name == self.own || self.names.get(&peer) == Some(name);
        match &place.found {
            Found::Node(_) => node_name(labels[0]).is_some_and(|name| may_know(&name)),
            Found::Name(full) => {
                let name = full.split('.').next().unwrap_or_default();
                name.parse().is_ok_and(|name| may_know(&name))
            }
            Found::Nothing | Found::Apex | Found::Between => false,
        }
    }

    fn place(&self, labels: &[&[u8]]) -> Option<Place<'_>> {
        if let Some(below) = below(labels, &["in-addr", "arpa"]) {
            return self.reverse_v4(below);
        }
        if let Some(below) = below(labels, &["ip6", "arpa"]) {
            return self.reverse_v6(below);
        }
        let below = below(below(labels, &["mesh", "internal"])?, &[self.org.as_str()])?;
        let found = match below {
            [] => Found::Apex,
            [label] => {
                let addresses = node_name(label).and_then(|name| self.addresses.get(&name));
                addresses.map_or(Found::Nothing, |addresses| Found::Node(addresses))
            }
            _ => Found::Nothing,
        };
        Some(Place {
            depth: below.len(),
            found,
        })
    }

    fn reverse_v4(&self, labels: &[&[u8]]) -> Option<Place<'_>> {
        let (below, [second, first]) = labels.split_last_chunk::<2>()?;
        let second = octet(second).filter(|second| (64..128).contains(second))?;
        if octet(first) != Some(100) {
            return None;
        }
        let found = match below {
            [] => Found::Apex,
            [third] => octet(third).map_or(Found::Nothing, |_| Found::Between),
            [fourth, third] => match (octet(third), octet(fourth)) {
                (Some(third), Some(fourth)) => {
                    self.named(Ipv4Addr::from([100, second, third, fourth]).into())
                }
                _ => Found::Nothing,
            },
            _ => Found::Nothing,
        };
        Some(Place {
            depth: below.len(),
            found,
        })
    }

    fn reverse_v6(&self, labels: &[&[u8]]) -> Option<Place<'_>> {
        let (below, prefix) = labels.split_at_checked(labels.len().checked_sub(PREFIX_NIBBLES)?)?;
        let ours = self.prefix_nibbles();
        let is_ours = prefix.iter().rev().zip(&ours);
        if !is_ours
            .into_iter()
            .all(|(label, nibble)| label.eq_ignore_ascii_case(&[*nibble as u8]))
        {
            return None;
        }
        let nibbles: Option<Vec<u8>> = labels.iter().rev().map(|label| nibble(label)).collect();
        let found = match (nibbles, below.len()) {
            (_, 0) => Found::Apex,
            (Some(nibbles), 20) => {
                let number = nibbles
                    .iter()
                    .fold(0_u128, |sum, nibble| sum << 4 | u128::from(*nibble));
                self.named(Ipv6Addr::from(number).into())
            }
            (Some(_), 1..20) => Found::Between,
            _ => Found::Nothing,
        };
        Some(Place {
            depth: below.len(),
            found,
        })
    }

    fn named(&self, address: IpAddr) -> Found<'_> {
        let name = self.names.get(&address);
        name.map_or(Found::Nothing, |name| Found::Name(name.dns_name(&self.org)))
    }

    /// The nibbles of the org's prefix, the first of them first.
    fn prefix_nibbles(&self) -> Vec<char> {
        let octets = self.prefix.octets();
        let nibbles = octets.iter().flat_map(|octet| [octet >> 4, octet & 0x0f]);
        let digits = nibbles.filter_map(|nibble| char::from_digit(u32::from(nibble), 16));
        digits.take(PREFIX_NIBBLES).collect()
    }
}

/// Returns what stands below a name, when it stands there.
fn below<'a, 'l>(labels: &'a [&'l [u8]], name: &[&str]) -> Option<&'a [&'l [u8]]> {
    let (below, top) = labels.split_at_checked(labels.len().checked_sub(name.len())?)?;
    let is_same = top
        .iter()
        .zip(name)
        .all(|(label, word)| label.eq_ignore_ascii_case(word.as_bytes()));
    is_same.then_some(below)
}

/// Reads a label that could be a node's, in upper or lower case.
fn node_name(label: &[u8]) -> Option<NodeName> {
    let text = std::str::from_utf8(label).ok()?;
    text.to_ascii_lowercase().parse().ok()
}

/// Reads a label of a reverse name of IPv4: decimal, without leading zeros.
fn octet(label: &[u8]) -> Option<u8> {
    let text = std::str::from_utf8(label).ok()?;
    let number = text.parse::<u8>().ok()?;
    (number.to_string() == text).then_some(number)
}

/// Reads a label of a reverse name of IPv6: one hexadecimal digit.
fn nibble(label: &[u8]) -> Option<u8> {
    let [digit] = label else {
        return None;
    };
    let value = char::from(*digit).to_digit(16)?;
    u8::try_from(value).ok()
}
