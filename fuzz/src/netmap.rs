//! The targets of netmaps: whole ones and deltas, through the gate that every peer record passes.

use std::collections::BTreeSet;
use std::sync::Arc;

use types::address::{host_ip4, node_ip6};
use types::netmap::{Difference, InForce, NetmapDelta, OrchestratorRecord, Pins, SelfRecord};
use types::{
    AllowedIp, FilterRule, Generation, MeshAddresses, Netmap, NodeId, NodeKind, NodePublicKey, OrgId,
    PacketFilter, PeerRecord, SigningPrivateKey,
};

/// Offers a whole netmap as JSON to a node that has one, and to one that has none.
///
/// The first byte chooses: 0, as it is; 1, with every record signed anew, so that what stands behind the signatures is
/// reached, too.
pub fn netmap(input: &[u8]) {
    let Some((mode, json)) = input.split_first() else {
        return;
    };
    let Ok(mut map) = serde_json::from_slice::<Netmap>(json) else {
        return;
    };
    if mode % 2 == 1 {
        let mut peers: Vec<_> = map.peers.iter().cloned().collect();
        sign_all(&mut peers);
        map.peers = peers.into();
    }
    let before = in_force();
    let alone = map.verify(&pins(), None);
    let after = map.verify(&pins(), Some(&before));
    if after.is_ok() {
        assert!(map.generation > before.generation && alone.is_ok());
    }
    if alone.is_ok() {
        check(&map);
    }
}

/// Offers a delta as JSON to a node that has a netmap; the first byte as in [`netmap`].
pub fn netmap_delta(input: &[u8]) {
    let Some((mode, json)) = input.split_first() else {
        return;
    };
    let Ok(mut delta) = serde_json::from_slice::<NetmapDelta>(json) else {
        return;
    };
    if mode % 2 == 1 {
        sign_all(&mut delta.upserted);
    }
    let before = in_force();
    let mut node = InForce::new(before.clone(), &pins(), None).expect("a good netmap");
    let Ok(amended) = node.amended(&delta, &pins()) else {
        return;
    };
    node.put(amended);
    let again = InForce::new(Netmap::clone(node.map()), &pins(), None);
    assert_eq!(again.as_ref(), Ok(&node), "each record passes by itself, too");
    let amended = node.map();
    assert_eq!(
        (delta.from, delta.generation),
        (before.generation, amended.generation)
    );
    check(amended);
    match Difference::between(&before, amended) {
        Difference::None => assert_eq!(amended.peers, before.peers),
        Difference::Delta(again) => {
            let node = InForce::new(before, &pins(), None).expect("a good netmap");
            let again = node.amended(&again, &pins()).expect("it fits");
            assert_eq!(again.map(), amended);
        }
        Difference::Whole => {}
    }
}

/// What holds of every netmap that a node has in force, said once more in other words.
fn check(map: &Netmap) {
    assert_eq!((map.node.public_key, map.org_id), (pins().own_key, pins().org_id));
    let own = map.node.addresses;
    let mut addresses: Vec<_> = map.peers.iter().flat_map(|peer| &peer.allowed_ips).collect();
    let own = [
        AllowedIp::host(own.mesh_ip4.into()),
        AllowedIp::host(own.mesh_ip6.into()),
    ];
    addresses.extend(&own);
    for (number, one) in addresses.iter().enumerate() {
        assert!(
            !addresses[..number].iter().any(|other| one.overlaps(other)),
            "two nodes share an address"
        );
    }
    let distinct = |texts: Vec<String>| texts.iter().collect::<BTreeSet<_>>().len() == texts.len();
    assert!(distinct(
        map.peers.iter().map(|peer| peer.public_key.to_string()).collect()
    ));
    assert!(distinct(
        map.peers.iter().map(|peer| peer.name.to_string()).collect()
    ));
    for peer in &map.peers {
        assert!(peer.is_signed(map.org_id, &map.org_signing_key) && peer.public_key != pins().own_key);
    }
    let text = serde_json::to_vec(map).expect("a netmap has only string keys");
    assert_eq!(serde_json::from_slice::<Netmap>(&text).as_ref().ok(), Some(map));
}

/// The netmap that the node has.
fn in_force() -> Netmap {
    let org_id = org();
    let id = NodeId::from_random([9; 16]);
    let peers: Vec<_> = (1..6).map(peer).collect();
    let rule = |peer: &PeerRecord, to: &str| FilterRule {
        from: peer.allowed_ips.clone(),
        to: vec![to.parse().expect("ports")],
    };
    let filter = PacketFilter {
        rules: vec![rule(&peers[1], "tcp:22"), rule(&peers[2], "*")],
    };
    Netmap {
        generation: Generation(7),
        org_id,
        org_name: "home".parse().expect("a label"),
        org_signing_key: org_key().public(),
        node: SelfRecord {
            id,
            name: "here".parse().expect("a label"),
            public_key: key(9),
            addresses: MeshAddresses {
                mesh_ip4: host_ip4(9).expect("in range"),
                mesh_ip6: node_ip6(org_id, id),
            },
            key_life: None,
        },
        orchestrator: Some(OrchestratorRecord {
            node_id: peers[0].id,
            port: 7420,
        }),
        peers: peers.into(),
        relays: Vec::new(),
        filter: Some(Arc::new(filter.canonical())),
    }
}

/// One of its peers; the first is the platform's.
fn peer(seed: u8) -> Arc<PeerRecord> {
    let id = NodeId::from_random([seed; 16]);
    let ip4 = host_ip4(u32::from(seed)).expect("in range");
    let mut peer = PeerRecord {
        id,
        name: format!("node-{seed}").parse().expect("a label"),
        kind: if seed == 1 {
            NodeKind::Platform
        } else {
            NodeKind::Device
        },
        public_key: key(seed),
        allowed_ips: vec![
            AllowedIp::host(ip4.into()),
            AllowedIp::host(node_ip6(org(), id).into()),
        ],
        endpoints: vec![format!("192.0.2.{seed}:4000")],
        home_relay: None,
        signatures: Vec::new(),
    };
    peer.sign(org(), &org_key());
    Arc::new(peer)
}

fn pins() -> Pins {
    Pins {
        own_key: key(9),
        org_id: org(),
        org_signing_key: org_key().public(),
    }
}

fn org() -> OrgId {
    OrgId::from_random([1; 16])
}

fn org_key() -> SigningPrivateKey {
    SigningPrivateKey::from_random([3; 32])
}

fn key(seed: u8) -> NodePublicKey {
    super::key(seed).public()
}

fn sign_all(peers: &mut [Arc<PeerRecord>]) {
    for peer in peers {
        Arc::make_mut(peer).sign(org(), &org_key());
    }
}
