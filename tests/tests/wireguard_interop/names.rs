//! A foreign node asks for names by UDP, at an address of ours inside the tunnel.

use std::net::IpAddr;
use std::process::Command;
use std::sync::Arc;

use e2e::processes::in_search_path;
use mesh::MeshPeer;
use mesh::dns::{Asker, Transport, Zone, answer};
use mesh::tunnel::{Mobility, PresharedKey};
use net::{MeshNet, MeshNetConfig};
use types::netmap::SelfRecord;
use types::{
    AllowedIp, Generation, MeshAddresses, Netmap, NodeId, NodeKind, OrgId, PeerRecord, SigningPrivateKey,
};

use crate::lab::lab;
use crate::ours::{OUR_IP, PSK, THEIR_IP, our_key, their_key};

fn zone() -> Zone {
    let peer = |number: u8, name: &str, address: IpAddr| PeerRecord {
        id: NodeId::from_random([number; 16]),
        name: name.parse().expect("a label"),
        kind: NodeKind::Device,
        public_key: their_key().public(),
        allowed_ips: vec![AllowedIp::host(address)],
        endpoints: Vec::new(),
        home_relay: None,
        signatures: Vec::new(),
    };
    Zone::new(&Netmap {
        generation: Generation(1),
        org_id: OrgId::from_random([9; 16]),
        org_name: "home".parse().expect("a label"),
        org_signing_key: SigningPrivateKey::from_random([7; 32]).public(),
        node: SelfRecord {
            id: NodeId::from_random([1; 16]),
            name: "ours".parse().expect("a label"),
            public_key: our_key().public(),
            addresses: MeshAddresses {
                mesh_ip4: OUR_IP,
                mesh_ip6: "fd00::1".parse().expect("an address"),
            },
            key_life: None,
        },
        peers: vec![
            Arc::new(peer(2, "theirs", THEIR_IP.into())),
            Arc::new(peer(3, "secret", IpAddr::from([100, 64, 0, 3]))),
        ]
        .into(),
        relays: Vec::new(),
        filter: None,
        orchestrator: None,
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_node_is_told_of_us_and_itself_inside_the_tunnel() {
    let Some(mut lab) = lab(2).expect("the lab") else {
        return;
    };
    if !in_search_path("dig") {
        return e2e::skipped::skipped("the program `dig` is missing");
    }
    let mesh = MeshNet::start(MeshNetConfig {
        private_key: our_key(),
        listen: (lab.our_place, 0).into(),
    })
    .expect("it starts");
    lab.start(Some(mesh.local_addr())).expect("wireguard-go");
    let peer = MeshPeer {
        public_key: their_key().public(),
        preshared_key: Some(PresharedKey::from_bytes(PSK)),
        allowed_ips: vec![AllowedIp::host(THEIR_IP.into())],
        endpoints: vec![lab.their_place],
        relays: Vec::new(),
        mobility: Mobility::Roams,
        persistent_keepalive: None,
    };
    mesh.upsert_peer(peer, vec![OUR_IP.into()]).await;
    let zone = zone();
    let responder = Arc::new(move |from: std::net::SocketAddr, message: &[u8]| {
        answer(Some(&zone), message, Asker::Peer(from.ip()), Transport::Udp)
    });
    mesh.respond(53, responder).await;
    let dig = |words: &str| {
        let mut command: Command = lab.command("dig");
        command.arg(format!("@{OUR_IP}")).args(words.split(' '));
        let output = command.output().expect("dig");
        String::from_utf8(output.stdout).expect("UTF-8").trim().to_owned()
    };
    tokio::task::block_in_place(|| {
        assert_eq!(dig("+short ours.home.mesh.internal"), OUR_IP.to_string());
        assert_eq!(dig("+short theirs.home.mesh.internal"), THEIR_IP.to_string());
        let reverse = format!("+short -x {THEIR_IP}");
        assert_eq!(dig(&reverse), "theirs.home.mesh.internal.");
        for hidden in ["secret.home.mesh.internal", "-x 100.64.0.3", "example.com"] {
            let said = dig(hidden);
            assert!(said.contains("status: REFUSED"), "{said}");
        }
    });
}
