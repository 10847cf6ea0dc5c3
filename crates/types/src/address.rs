//! Mesh addresses: an org's IPv6 /48, a node's /128 in it, an IPv4 address in 100.64.0.0/10, and allowed IPs.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest, Sha256};

use crate::ids::{NodeId, OrgId};

/// How many IPv4 addresses an org can hand out: 100.64.0.1 to 100.127.255.254 (RFC 6598's block without its ends).
pub const IP4_HOSTS_MAX: u32 = (1 << 22) - 2;

/// The largest IP packet inside the mesh, in bytes: of our own stacks, and of the configurations that other WireGuards get.
///
/// It is the least that IPv6 allows (RFC 8200 section 5), so that both families fit; and with what is put around it (32 of
/// WireGuard, at most 40 of a relay, 8 of UDP, 40 of IPv6: 1400 bytes) it passes every ordinary path whole: PPPoE's 1492, a
/// tunnel around the whole device, Ethernet. The 1420 that WireGuard tools take for themselves leaves no room for a relay:
/// each full packet would go in two fragments, which many NATs and firewalls drop. One value at both ends of every
/// connection also means that neither learns of the other's smaller one by losing packets.
pub const MESH_MTU: usize = 1280;

/// The two addresses of a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MeshAddresses {
    /// Unique within the org, in 100.64.0.0/10 (RFC 6598).
    pub mesh_ip4: Ipv4Addr,
    /// Unique everywhere: a unique local address (RFC 4193) in the org's /48.
    pub mesh_ip6: Ipv6Addr,
}

/// Returns the org's IPv6 prefix: `fd` and 40 bits of the SHA-256 of its id (RFC 4193 section 3.2), as a /48.
#[must_use]
pub fn org_prefix(org: OrgId) -> AllowedIp {
    let digest = Sha256::digest(org.as_bytes());
    let mut octets = [0; 16];
    octets[0] = 0xfd;
    octets[1..6].copy_from_slice(&digest[..5]);
    AllowedIp {
        address: IpAddr::V6(Ipv6Addr::from(octets)),
        prefix_len: 48,
    }
}

/// Returns a node's IPv6 address: the org's prefix and 80 bits of the SHA-256 of the node's id.
///
/// 80 bits make a clash within one org as unlikely as a guessed session token; the store's uniqueness catches it anyway.
#[must_use]
pub fn node_ip6(org: OrgId, node: NodeId) -> Ipv6Addr {
    let IpAddr::V6(prefix) = org_prefix(org).address else {
        unreachable!("an org's prefix is IPv6")
    };
    let digest = Sha256::digest(node.as_bytes());
    let mut octets = prefix.octets();
    octets[6..].copy_from_slice(&digest[..10]);
    Ipv6Addr::from(octets)
}

/// Returns the IPv4 address of an org's host number, from 1 to [`IP4_HOSTS_MAX`]; `None` outside that range.
#[must_use]
pub fn host_ip4(host_number: u32) -> Option<Ipv4Addr> {
    let base = u32::from(Ipv4Addr::new(100, 64, 0, 0));
    (1..=IP4_HOSTS_MAX)
        .contains(&host_number)
        .then(|| Ipv4Addr::from(base + host_number))
}

/// An address block that a peer may send from: an address and a prefix length, host bits zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AllowedIp {
    address: IpAddr,
    prefix_len: u8,
}

/// A text that is no address block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is not an address block such as 100.64.0.1/32, with all host bits zero")]
pub struct AllowedIpError;

impl AllowedIp {
    /// Makes a block; refuses a prefix longer than the address and host bits that are not zero.
    pub fn new(address: IpAddr, prefix_len: u8) -> Result<Self, AllowedIpError> {
        let block = Self { address, prefix_len };
        let bits: u8 = if address.is_ipv4() { 32 } else { 128 };
        (prefix_len <= bits && block.masked(address) == address)
            .then_some(block)
            .ok_or(AllowedIpError)
    }

    /// Makes the block of this prefix length that holds `address`; `None` when an address has not so many bits.
    #[must_use]
    pub fn covering(address: IpAddr, prefix_len: u8) -> Option<Self> {
        let block = Self { address, prefix_len };
        Self::new(block.masked(address), prefix_len).ok()
    }

    /// Makes the block that holds one address only.
    #[must_use]
    pub fn host(address: IpAddr) -> Self {
        let prefix_len = if address.is_ipv4() { 32 } else { 128 };
        Self { address, prefix_len }
    }

    /// Returns the two blocks that hold every address, of IPv4 and of IPv6.
    #[must_use]
    pub fn everywhere() -> [Self; 2] {
        let block = |address: IpAddr| Self {
            address,
            prefix_len: 0,
        };
        [
            block(Ipv4Addr::UNSPECIFIED.into()),
            block(Ipv6Addr::UNSPECIFIED.into()),
        ]
    }

    /// Returns the first address.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Returns how many leading bits are fixed.
    #[must_use]
    pub fn prefix_len(&self) -> u8 {
        self.prefix_len
    }

    /// Tells whether `address` lies in the block.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4() && self.masked(address) == self.address
    }

    /// Tells whether the block holds one address only.
    #[must_use]
    pub fn is_host(&self) -> bool {
        self.prefix_len == if self.address.is_ipv4() { 32 } else { 128 }
    }

    /// Tells whether the two blocks share an address.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.address) || other.contains(self.address)
    }

    fn masked(&self, address: IpAddr) -> IpAddr {
        match address {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix_len));
                Ipv4Addr::from(u32::from(v4) & mask.unwrap_or(0)).into()
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix_len));
                Ipv6Addr::from(u128::from(v6) & mask.unwrap_or(0)).into()
            }
        }
    }
}

impl FromStr for AllowedIp {
    type Err = AllowedIpError;

    fn from_str(text: &str) -> Result<Self, AllowedIpError> {
        let (address, len) = text.split_once('/').ok_or(AllowedIpError)?;
        let address = address.parse().map_err(|_| AllowedIpError)?;
        if len.starts_with('+') {
            return Err(AllowedIpError);
        }
        Self::new(address, len.parse().map_err(|_| AllowedIpError)?)
    }
}

impl fmt::Display for AllowedIp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_len)
    }
}

impl fmt::Debug for AllowedIp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for AllowedIp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for AllowedIp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_lives_in_its_orgs_prefix_and_nowhere_else() {
        let org = OrgId::from_random([1; 16]);
        let other = OrgId::from_random([2; 16]);
        let ip = node_ip6(org, NodeId::from_random([3; 16]));
        assert!(org_prefix(org).contains(ip.into()));
        assert!(!org_prefix(other).contains(ip.into()));
        assert_eq!(ip.octets()[0], 0xfd);
    }

    #[test]
    fn host_numbers_cover_the_shared_block_without_its_ends() {
        assert_eq!(host_ip4(0), None);
        assert_eq!(host_ip4(1), Some(Ipv4Addr::new(100, 64, 0, 1)));
        assert_eq!(host_ip4(IP4_HOSTS_MAX), Some(Ipv4Addr::new(100, 127, 255, 254)));
        assert_eq!(host_ip4(IP4_HOSTS_MAX + 1), None);
    }

    #[test]
    fn blocks_are_canonical() {
        for good in ["0.0.0.0/0", "100.64.0.1/32", "fd00::/8", "::/0", "::1/128"] {
            assert_eq!(good.parse::<AllowedIp>().expect(good).to_string(), good);
        }
        for bad in [
            "",
            "100.64.0.1",
            "100.64.0.1/33",
            "100.64.0.1/24",
            "fd00::1/8",
            "::/129",
            "1/+1",
            "::/+1",
        ] {
            assert!(bad.parse::<AllowedIp>().is_err(), "{bad}");
        }
    }

    #[test]
    fn containment_and_overlap() {
        let block = |text: &str| text.parse::<AllowedIp>().expect("block");
        assert!(block("100.64.0.0/10").contains(Ipv4Addr::new(100, 127, 0, 1).into()));
        assert!(!block("100.64.0.0/10").contains(Ipv4Addr::new(100, 128, 0, 1).into()));
        assert!(!block("0.0.0.0/0").contains(Ipv6Addr::LOCALHOST.into()));
        assert!(block("0.0.0.0/0").overlaps(&block("1.2.3.4/32")));
        assert!(block("1.2.3.4/32").overlaps(&block("0.0.0.0/0")));
        assert!(!block("1.2.3.4/32").overlaps(&block("1.2.3.5/32")));
    }
}
