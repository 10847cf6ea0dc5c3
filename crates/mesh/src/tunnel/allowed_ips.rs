//! Which peer an address belongs to: the longest prefix wins.

use std::net::IpAddr;

use prefix_trie::PrefixMap;
use types::AllowedIp;

use super::peers::PeerId;

/// Every block of every peer.
#[derive(Default)]
pub(crate) struct AllowedIps {
    ip4: PrefixMap<(u32, u8), PeerId>,
    ip6: PrefixMap<(u128, u8), PeerId>,
}

impl AllowedIps {
    /// Gives a block to a peer, taking it from the one that had it.
    pub(crate) fn insert(&mut self, block: AllowedIp, peer: PeerId) {
        match block.address() {
            IpAddr::V4(ip) => self.ip4.insert((ip.to_bits(), block.prefix_len()), peer),
            IpAddr::V6(ip) => self.ip6.insert((ip.to_bits(), block.prefix_len()), peer),
        };
    }

    /// Takes a block from a peer, if it still has it.
    pub(crate) fn remove(&mut self, block: AllowedIp, peer: PeerId) {
        match block.address() {
            IpAddr::V4(ip) => remove_from(&mut self.ip4, &(ip.to_bits(), block.prefix_len()), peer),
            IpAddr::V6(ip) => remove_from(&mut self.ip6, &(ip.to_bits(), block.prefix_len()), peer),
        }
    }

    /// Returns the peer whose block holds `address`, of several the longest.
    pub(crate) fn lookup(&self, address: IpAddr) -> Option<PeerId> {
        match address {
            IpAddr::V4(ip) => self.ip4.get_lpm(&(ip.to_bits(), 32)).map(|(_, peer)| *peer),
            IpAddr::V6(ip) => self.ip6.get_lpm(&(ip.to_bits(), 128)).map(|(_, peer)| *peer),
        }
    }
}

fn remove_from<P: prefix_trie::Prefix>(map: &mut PrefixMap<P, PeerId>, block: &P, peer: PeerId) {
    if map.get(block) == Some(&peer) {
        map.remove(block);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn block(text: &str) -> AllowedIp {
        text.parse().expect("a block")
    }

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn the_longest_prefix_wins() {
        let mut table = AllowedIps::default();
        let (wide, narrow) = (PeerId(1), PeerId(2));
        for (text, peer) in [
            ("0.0.0.0/0", wide),
            ("100.64.0.7/32", narrow),
            ("fd00::/48", wide),
            ("fd00::7/128", narrow),
        ] {
            table.insert(block(text), peer);
        }
        assert_eq!(table.lookup(address("100.64.0.7")), Some(narrow));
        assert_eq!(table.lookup(address("100.64.0.8")), Some(wide));
        assert_eq!(table.lookup(address("fd00::7")), Some(narrow));
        assert_eq!(table.lookup(address("fd00::8")), Some(wide));
        assert_eq!(table.lookup(address("fd01::8")), None);
    }

    #[test]
    fn a_block_has_one_owner() {
        let mut table = AllowedIps::default();
        table.insert(block("10.0.0.0/8"), PeerId(1));
        table.insert(block("10.0.0.0/8"), PeerId(2));
        table.remove(block("10.0.0.0/8"), PeerId(1));
        assert_eq!(table.lookup(address("10.1.2.3")), Some(PeerId(2)));
        table.remove(block("10.0.0.0/8"), PeerId(2));
        assert_eq!(table.lookup(address("10.1.2.3")), None);
    }

    proptest! {
        #[test]
        fn lookup_agrees_with_a_search_of_all_blocks(
            blocks in prop::collection::vec((any::<u32>(), 0_u8..=32, 0_usize..4, any::<bool>()), 1..30),
            probes in prop::collection::vec(any::<u32>(), 1..20),
        ) {
            let mut table = AllowedIps::default();
            let mut all: Vec<(AllowedIp, PeerId)> = Vec::new();
            for (bits, len, peer, keep) in blocks {
                let masked = bits & u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0);
                let block = AllowedIp::new(std::net::Ipv4Addr::from(masked).into(), len).expect("masked");
                let peer = PeerId(peer);
                table.insert(block, peer);
                all.retain(|(other, _)| *other != block);
                if keep {
                    all.push((block, peer));
                } else {
                    table.remove(block, peer);
                }
            }
            let inside = all.iter().map(|(block, _)| block.address()).collect::<Vec<_>>();
            let probes = probes.into_iter().map(|bits| IpAddr::from(std::net::Ipv4Addr::from(bits)));
            for probe in probes.chain(inside) {
                let matching = all.iter().filter(|(block, _)| block.contains(probe));
                let expected = matching.max_by_key(|(block, _)| block.prefix_len()).map(|(_, peer)| *peer);
                prop_assert_eq!(table.lookup(probe), expected);
            }
        }
    }
}
