//! Taking peers out of a node that has a thousand, as a revocation does at every node.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use mesh::tunnel::Mobility;
use mesh::{Mesh, MeshPeer};
use types::{AllowedIp, Monotonic, NodePrivateKey, Now, Timestamp};

const PEERS: u32 = 1000;

fn key(number: u32) -> NodePrivateKey {
    let mut bytes = [7; 32];
    bytes[8..12].copy_from_slice(&number.to_le_bytes());
    NodePrivateKey::from_random(bytes)
}

#[test]
fn one_of_a_thousand_peers_goes_in_well_under_a_millisecond_and_leaves_nothing() {
    let now = Now {
        mono: Monotonic::from_start(Duration::from_secs(1)),
        wall: Timestamp::from_unix_ms(1_800_000_000_000),
    };
    let mut mesh = Mesh::new(key(0), [1; 32]);
    let keys: Vec<_> = (1..=PEERS).map(|number| key(number).public()).collect();
    for (number, key) in (1..).zip(&keys) {
        let ip = Ipv4Addr::from(u32::from(Ipv4Addr::new(100, 64, 0, 0)) + number);
        let peer = MeshPeer {
            public_key: *key,
            preshared_key: None,
            allowed_ips: vec![AllowedIp::host(IpAddr::V4(ip))],
            endpoints: vec![(Ipv4Addr::new(198, 51, 100, 7), 41_641).into()],
            relays: Vec::new(),
            mobility: Mobility::Managed,
            persistent_keepalive: None,
        };
        mesh.upsert_peer(peer, now);
        // A handshake is under way with each, and a packet waits.
        mesh.send_packets(key, &[&[0x45; 40]], now).expect("a peer");
    }
    while mesh.poll_output().is_some() {}
    let begin = Instant::now();
    for key in &keys {
        assert!(mesh.remove_peer(key));
    }
    let took = begin.elapsed();
    eprintln!("{PEERS} peers removed in {took:?}");
    // A thousand times what it takes: a walk over all peers for each would show.
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert_eq!(mesh.poll_timeout(), None);
    assert!(mesh.poll_output().is_none());
    assert!(
        keys.iter()
            .all(|key| mesh.path(key).is_none() && mesh.peer_status(key).is_none())
    );
}
