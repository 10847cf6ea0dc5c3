//! What a mesh leaves behind. Alone in its process, since it counts the process's descriptors.
#![cfg(target_os = "linux")]

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use mesh::MeshPeer;
use mesh::tunnel::Mobility;
use net::{MeshNet, MeshNetConfig, random};
use tokio::io::AsyncReadExt as _;
use types::{AllowedIp, NodePrivateKey};

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("procfs").count()
}

fn start() -> (MeshNet, MeshPeer, std::net::IpAddr) {
    let private_key = NodePrivateKey::from_random(random::bytes());
    let public_key = private_key.public();
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let mesh = MeshNet::start(MeshNetConfig { private_key, listen }).expect("starts");
    let address = Ipv6Addr::from_bits(u128::from_be_bytes(random::bytes()) >> 8 | 0xfd << 120).into();
    let config = MeshPeer {
        public_key,
        preshared_key: None,
        allowed_ips: vec![AllowedIp::host(address)],
        endpoints: vec![mesh.local_addr()],
        relays: Vec::new(),
        mobility: Mobility::Roams,
        persistent_keepalive: None,
    };
    (mesh, config, address)
}

#[tokio::test]
async fn meshes_that_were_shut_down_or_dropped_leave_no_descriptor() {
    let before = descriptors();
    for round in 0..20 {
        let ((a, as_a, a_address), (b, as_b, b_address)) = (start(), start());
        a.upsert_peer(as_b.clone(), vec![a_address]).await;
        b.upsert_peer(as_a, vec![b_address]).await;
        let mut listener = b.listen(80).await.expect("listens");
        let connect = a.connect(as_b.public_key, (b_address, 80).into());
        let mut stream = connect.await.expect("connects");
        let mut accepted = listener.accept().await.expect("accepts");
        assert!(descriptors() > before);
        if round % 2 == 0 {
            a.shutdown().await;
        }
        drop(a);
        // The other end learns of it, and what is left of the stopped mesh is an error.
        let _ = accepted.read(&mut [0]).await;
        assert!(stream.read(&mut [0]).await.is_err());
        b.shutdown().await;
        assert!(listener.accept().await.is_err());
    }
    // A dropped mesh closes its socket after its streams have failed.
    let guard = Instant::now() + Duration::from_secs(30);
    while descriptors() != before {
        assert!(Instant::now() < guard, "{} of {before}", descriptors());
        std::thread::yield_now();
    }
}
