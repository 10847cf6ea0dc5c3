//! A netmap's packet filter, made ready to be asked for every packet: the longest block of the source, then its ports.

use std::collections::BTreeMap;
use std::net::IpAddr;

use prefix_trie::PrefixMap;
use types::{AllowedIp, PacketFilter, PortRange, Ports};

use super::packet::{Content, Packet};

/// Which ports are open to whom.
#[derive(Debug)]
pub(super) struct Rules {
    ip4: PrefixMap<(u32, u8), usize>,
    ip6: PrefixMap<(u128, u8), usize>,
    sets: Vec<PortSet>,
}

#[derive(Debug, Default)]
struct PortSet {
    all: bool,
    icmp: bool,
    tcp: Vec<PortRange>,
    udp: Vec<PortRange>,
}

impl Rules {
    /// A block gets what its own rules allow and what those of every wider block do, so that one look-up is enough.
    pub(super) fn compile(filter: &PacketFilter) -> Self {
        let mut of_block: BTreeMap<AllowedIp, Vec<usize>> = BTreeMap::new();
        for (number, rule) in filter.rules.iter().enumerate() {
            for block in &rule.from {
                of_block.entry(*block).or_default().push(number);
            }
        }
        let mut ip4: PrefixMap<(u32, u8), usize> = PrefixMap::new();
        let mut ip6: PrefixMap<(u128, u8), usize> = PrefixMap::new();
        let mut numbers: Vec<Vec<usize>> = Vec::new();
        let mut known: BTreeMap<Vec<usize>, usize> = BTreeMap::new();
        let mut blocks: Vec<(AllowedIp, Vec<usize>)> = of_block.into_iter().collect();
        // Wider blocks first: the longest of those already there holds what all of them allow.
        blocks.sort_by_key(|(block, _)| block.prefix_len());
        for (block, mut rules) in blocks {
            let wider = match block.address() {
                IpAddr::V4(ip) => ip4
                    .get_lpm(&(ip.to_bits(), block.prefix_len()))
                    .map(|(_, set)| *set),
                IpAddr::V6(ip) => ip6
                    .get_lpm(&(ip.to_bits(), block.prefix_len()))
                    .map(|(_, set)| *set),
            };
            rules.extend(wider.into_iter().flat_map(|set| &numbers[set]));
            rules.sort_unstable();
            rules.dedup();
            let set = *known.entry(rules).or_insert_with_key(|rules| {
                numbers.push(rules.clone());
                numbers.len() - 1
            });
            match block.address() {
                IpAddr::V4(ip) => ip4.insert((ip.to_bits(), block.prefix_len()), set),
                IpAddr::V6(ip) => ip6.insert((ip.to_bits(), block.prefix_len()), set),
            };
        }
        let sets = numbers.iter().map(|rules| {
            let ports = rules.iter().flat_map(|number| &filter.rules[*number].to);
            PortSet::of(ports.copied().collect())
        });
        Self {
            ip4,
            ip6,
            sets: sets.collect(),
        }
    }

    /// Tells whether a rule lets a packet in.
    pub(super) fn allow(&self, packet: &Packet) -> bool {
        let set = match packet.source {
            IpAddr::V4(ip) => self.ip4.get_lpm(&(ip.to_bits(), 32)).map(|(_, set)| set),
            IpAddr::V6(ip) => self.ip6.get_lpm(&(ip.to_bits(), 128)).map(|(_, set)| set),
        };
        set.is_some_and(|set| self.sets[*set].allows(&packet.content))
    }
}

impl PortSet {
    fn of(ports: Vec<Ports>) -> Self {
        let mut set = Self::default();
        for ports in Ports::merged(ports) {
            match ports {
                Ports::All => set.all = true,
                Ports::Icmp => set.icmp = true,
                Ports::Tcp(range) => set.tcp.push(range),
                Ports::Udp(range) => set.udp.push(range),
            }
        }
        set
    }

    fn allows(&self, content: &Content) -> bool {
        self.all
            || match content {
                Content::Tcp { destination, .. } => holds(&self.tcp, *destination),
                Content::Udp { destination, .. } => holds(&self.udp, *destination),
                Content::EchoRequest { .. } => self.icmp,
                Content::EchoReply { .. } | Content::Error { .. } | Content::Icmp | Content::Other => false,
            }
    }
}

/// The ranges are in order and none touches another.
fn holds(ranges: &[PortRange], port: u16) -> bool {
    let behind = ranges.partition_point(|range| range.first() <= port);
    behind > 0 && ranges[behind - 1].contains(port)
}
