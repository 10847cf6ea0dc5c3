//! A netmap's packet filter, made ready to be asked for every packet: the longest block of the source, then its ports.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use prefix_trie::PrefixMap;
use types::{AllowedIp, FilterRule, PacketFilter, PortRange, Ports};

use super::packet::{Content, Packet};

/// How many sets of ports may come up by changes before all rules are compiled anew: sets that are used no longer stay until
/// then.
pub(super) const NEW_SETS_MAX: usize = 256;

/// Which ports are open to whom.
#[derive(Debug, Default)]
pub(super) struct Rules {
    ip4: PrefixMap<(u32, u8), usize>,
    ip6: PrefixMap<(u128, u8), usize>,
    sets: Vec<PortSet>,
    /// The number of each set, by its ports.
    known: BTreeMap<Vec<Ports>, usize>,
    sets_compiled: usize,
}

#[derive(Debug, Default)]
struct PortSet {
    /// What it was made of.
    ports: Vec<Ports>,
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
        let mut compiled = Self::default();
        // By the numbers of rules and the set of a wider block: most blocks share them, and ports are then merged once.
        let mut merged: BTreeMap<(Vec<usize>, Option<usize>), usize> = BTreeMap::new();
        let mut blocks: Vec<(AllowedIp, Vec<usize>)> = of_block.into_iter().collect();
        // Wider blocks first: the longest of those already there holds what all of them allow.
        blocks.sort_by_key(|(block, _)| block.prefix_len());
        for (block, numbers) in blocks {
            let wider = compiled.wider(&block);
            let set = match merged.get(&(numbers.clone(), wider)) {
                Some(set) => *set,
                None => {
                    let rules = numbers.iter().map(|number| &filter.rules[*number]);
                    let set = compiled.set_of(rules, wider);
                    merged.insert((numbers, wider), set);
                    set
                }
            };
            compiled.put(&block, set);
        }
        compiled.sets_compiled = compiled.sets.len();
        compiled
    }

    /// Becomes what a filter in the canonical form says, which says something else than before of these blocks and of no other.
    pub(super) fn change(&mut self, filter: &PacketFilter, blocks: &BTreeSet<AllowedIp>) {
        let is_small = blocks.iter().all(AllowedIp::is_host)
            && self.sets.len() < self.sets_compiled + NEW_SETS_MAX
            && blocks.len().saturating_mul(filter.rules.len()) <= self.ip4.len() + self.ip6.len();
        if !is_small {
            *self = Self::compile(filter);
            return;
        }
        for block in blocks {
            let rules: Vec<_> = filter.rules.iter().filter(|rule| rule.names(block)).collect();
            if rules.is_empty() {
                self.remove(block);
                continue;
            }
            let wider = self.wider(block);
            let set = self.set_of(rules.into_iter(), wider);
            self.put(block, set);
        }
    }

    /// Returns the set of the longest block that is wider than this one.
    fn wider(&self, block: &AllowedIp) -> Option<usize> {
        let len = block.prefix_len().checked_sub(1)?;
        match block.address() {
            IpAddr::V4(ip) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0);
                self.ip4.get_lpm(&(ip.to_bits() & mask, len)).map(|(_, set)| *set)
            }
            IpAddr::V6(ip) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
                self.ip6.get_lpm(&(ip.to_bits() & mask, len)).map(|(_, set)| *set)
            }
        }
    }

    /// Returns the number of the set of what some rules allow, and a wider block's set.
    fn set_of<'a>(&mut self, rules: impl Iterator<Item = &'a FilterRule>, wider: Option<usize>) -> usize {
        let mut ports: Vec<Ports> = rules.flat_map(|rule| &rule.to).copied().collect();
        ports.extend(wider.iter().flat_map(|set| &self.sets[*set].ports));
        let ports = Ports::merged(ports);
        *self.known.entry(ports).or_insert_with_key(|ports| {
            self.sets.push(PortSet::of(ports.clone()));
            self.sets.len() - 1
        })
    }

    fn put(&mut self, block: &AllowedIp, set: usize) {
        match block.address() {
            IpAddr::V4(ip) => self.ip4.insert((ip.to_bits(), block.prefix_len()), set),
            IpAddr::V6(ip) => self.ip6.insert((ip.to_bits(), block.prefix_len()), set),
        };
    }

    fn remove(&mut self, block: &AllowedIp) {
        match block.address() {
            IpAddr::V4(ip) => self.ip4.remove(&(ip.to_bits(), block.prefix_len())),
            IpAddr::V6(ip) => self.ip6.remove(&(ip.to_bits(), block.prefix_len())),
        };
    }

    #[cfg(test)]
    pub(super) fn sets_len(&self) -> usize {
        self.sets.len()
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
    /// Makes the set of merged ports.
    fn of(ports: Vec<Ports>) -> Self {
        let mut set = Self::default();
        for ports in &ports {
            match ports {
                Ports::All => set.all = true,
                Ports::Icmp => set.icmp = true,
                Ports::Tcp(range) => set.tcp.push(*range),
                Ports::Udp(range) => set.udp.push(*range),
            }
        }
        Self { ports, ..set }
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
