//! What a target means: which peer of the netmap it names, and at which address. Nothing is asked of any other network.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use mesh::proxy::{Host, Target};
use types::names::node_of_mesh_name;
use types::{MeshNameError, Netmap, NodeName, NodePublicKey, PeerRecord};

use super::ReachError;

/// Where a target is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// Whose it is.
    pub peer: NodePublicKey,
    /// What that node is called.
    pub name: NodeName,
    /// The mesh address and port.
    pub address: SocketAddr,
}

/// Finds a target in a netmap.
pub(super) fn find(netmap: &Netmap, target: &Target) -> Result<Place, ReachError> {
    let peer = peer(netmap, &target.host)?;
    let address = match &target.host {
        Host::Ip(address) => Some(*address),
        Host::Name(_) => address_of(peer),
    };
    let node = || peer.name.clone();
    let address = address.ok_or_else(|| ReachError::NoAddress { node: node() })?;
    Ok(Place {
        peer: peer.public_key,
        name: peer.name.clone(),
        address: SocketAddr::new(address, target.port),
    })
}

/// Finds the peer that a host names in a netmap.
pub(super) fn peer<'a>(netmap: &'a Netmap, host: &Host) -> Result<&'a PeerRecord, ReachError> {
    match host {
        Host::Ip(address) => of_address(netmap, *address, || host.to_string()),
        Host::Name(name) => of_name(netmap, name),
    }
}

fn of_name<'a>(netmap: &'a Netmap, name: &str) -> Result<&'a PeerRecord, ReachError> {
    let host = || name.to_owned();
    let node = node_of_mesh_name(name, &netmap.org_name)
        .map_err(|reason| ReachError::NotOfTheMesh { host: host(), reason })?;
    if node == netmap.node.name {
        return Err(ReachError::ThisDevice { host: host() });
    }
    let peer = netmap.peers.iter().find(|peer| peer.name == node);
    peer.map(Arc::as_ref)
        .ok_or_else(|| ReachError::Unknown { host: host() })
}

fn of_address(
    netmap: &Netmap,
    address: IpAddr,
    host: impl Fn() -> String,
) -> Result<&PeerRecord, ReachError> {
    let own = netmap.node.addresses;
    if address == own.mesh_ip4 || address == own.mesh_ip6 {
        return Err(ReachError::ThisDevice { host: host() });
    }
    // No two peers share an address, so any that has it is the one.
    let has_it = |peer: &&Arc<PeerRecord>| peer.allowed_ips.iter().any(|block| block.contains(address));
    if let Some(peer) = netmap.peers.iter().find(has_it) {
        return Ok(peer.as_ref());
    }
    Err(if is_of_the_mesh(netmap, address) {
        ReachError::Unknown { host: host() }
    } else {
        ReachError::NotOfTheMesh {
            host: host(),
            reason: MeshNameError::NotOfTheMesh,
        }
    })
}

/// Tells whether some node of the org could have the address.
fn is_of_the_mesh(netmap: &Netmap, address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.octets()[0] == 100 && address.octets()[1] & 0xc0 == 64,
        IpAddr::V6(_) => types::address::org_prefix(netmap.org_id).contains(address),
    }
}

/// The peer's own IPv6 address, or its IPv4 address where it has no other.
fn address_of(peer: &PeerRecord) -> Option<IpAddr> {
    let hosts = || peer.allowed_ips.iter().filter(|block| block.is_host());
    let mut addresses = hosts().map(types::AllowedIp::address);
    let any = hosts().map(types::AllowedIp::address).next();
    addresses.find(IpAddr::is_ipv6).or(any)
}

#[cfg(test)]
mod tests {
    use types::netmap::SelfRecord;
    use types::{
        AllowedIp, Generation, MeshAddresses, NodeId, NodeKind, NodePrivateKey, OrgId, SigningPrivateKey,
    };

    use super::*;

    fn key(seed: u8) -> NodePublicKey {
        NodePrivateKey::from_random([seed; 32]).public()
    }

    fn peer(seed: u8, name: &str, blocks: &[&str]) -> Arc<PeerRecord> {
        let blocks = blocks.iter().map(|block| block.parse().expect("a block"));
        Arc::new(PeerRecord {
            id: NodeId::from_random([seed; 16]),
            name: name.parse().expect("a label"),
            kind: NodeKind::Device,
            public_key: key(seed),
            allowed_ips: blocks.collect(),
            endpoints: Vec::new(),
            home_relay: None,
            signatures: Vec::new(),
        })
    }

    fn org() -> OrgId {
        OrgId::from_random([9; 16])
    }

    fn in_org(number: u16) -> IpAddr {
        let IpAddr::V6(prefix) = types::address::org_prefix(org()).address() else {
            panic!("it is an IPv6 prefix");
        };
        let mut segments = prefix.segments();
        segments[7] = number;
        IpAddr::from(segments)
    }

    fn netmap() -> Netmap {
        let ip6 = AllowedIp::host(in_org(2)).to_string();
        let IpAddr::V6(own) = in_org(1) else {
            panic!("it is an IPv6 address");
        };
        Netmap {
            generation: Generation(1),
            org_id: org(),
            org_name: "home".parse().expect("a label"),
            org_signing_key: SigningPrivateKey::from_random([7; 32]).public(),
            node: SelfRecord {
                id: NodeId::from_random([1; 16]),
                name: "here".parse().expect("a label"),
                public_key: key(1),
                addresses: MeshAddresses {
                    mesh_ip4: [100, 64, 0, 1].into(),
                    mesh_ip6: own,
                },
                key_life: None,
            },
            peers: vec![
                peer(2, "laptop", &["100.64.0.2/32", &ip6]),
                peer(3, "old", &["10.0.0.0/8", "100.64.0.3/32"]),
                peer(4, "router", &["192.168.7.0/24"]),
            ]
            .into(),
            relays: Vec::new(),
            filter: None,
            orchestrator: None,
        }
    }

    fn find_text(text: &str) -> Result<(String, SocketAddr), ReachError> {
        let target = text.parse().expect("a target");
        find(&netmap(), &target).map(|place| (place.name.to_string(), place.address))
    }

    #[test]
    fn a_node_is_found_by_name_in_full_and_by_address() {
        let by_name = SocketAddr::new(in_org(2), 80);
        for (text, node, address) in [
            ("laptop:80", "laptop", by_name),
            ("LAPTOP.home.mesh.internal.:80", "laptop", by_name),
            (
                "100.64.0.2:80",
                "laptop",
                "100.64.0.2:80".parse().expect("an address"),
            ),
            ("old:22", "old", "100.64.0.3:22".parse().expect("an address")),
            ("10.1.2.3:22", "old", "10.1.2.3:22".parse().expect("an address")),
        ] {
            assert_eq!(find_text(text), Ok((node.to_owned(), address)), "{text}");
        }
        let text = format!("[{}]:80", in_org(2));
        assert_eq!(find_text(&text), Ok(("laptop".to_owned(), by_name)));
    }

    #[test]
    fn what_is_not_of_the_mesh_is_told_from_what_is_not_known() {
        for text in [
            "example.com:80",
            "laptop.work.mesh.internal:80",
            "127.0.0.1:80",
            "[::1]:80",
            "8.8.8.8:53",
        ] {
            let error = find_text(text).expect_err(text);
            assert!(
                matches!(error, ReachError::NotOfTheMesh { .. }),
                "{text}: {error}"
            );
        }
        let unknown = format!("[{}]:80", in_org(77));
        for text in [
            "nobody:80",
            "localhost:80",
            "nobody.home.mesh.internal:80",
            "100.64.0.77:80",
            &unknown,
        ] {
            let error = find_text(text).expect_err(text);
            assert!(matches!(error, ReachError::Unknown { .. }), "{text}: {error}");
        }
        let own = format!("[{}]:80", in_org(1));
        for text in ["here:80", "here.home.mesh.internal:80", "100.64.0.1:80", &own] {
            let error = find_text(text).expect_err(text);
            assert!(matches!(error, ReachError::ThisDevice { .. }), "{text}: {error}");
        }
        let error = find_text("router:80").expect_err("it has no address of its own");
        assert!(matches!(error, ReachError::NoAddress { .. }), "{error}");
    }
}
