//! One node: an engine and its device, until the standard input ends.

use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context as _, Result};
use mesh::MeshPeer;
use mesh::tunnel::Mobility;
use net::tun::plan::Plan;
use net::tun::{HostNetwork, Tun, TunName};
use net::{MeshNet, MeshNetConfig};
use types::{AllowedIp, NodePrivateKey};

const PORT: u16 = 51_820;

fn key(number: u8) -> NodePrivateKey {
    NodePrivateKey::from_random([number; 32])
}

fn inside(number: u8) -> IpAddr {
    Ipv4Addr::new(100, 64, 0, number).into()
}

pub(crate) fn run(number: u8) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let _mesh = runtime.block_on(start(number, 3 - number))?;
    // The thread of the engine does the rest.
    std::io::stdin()
        .read_to_end(&mut Vec::new())
        .context("wait for the end")?;
    Ok(())
}

async fn start(number: u8, other: u8) -> Result<MeshNet> {
    let tun = Tun::open(&TunName::default())?;
    let mut network = HostNetwork::of(&tun).await?;
    let place = |number: u8| SocketAddr::from((Ipv4Addr::new(10, 199, 0, number), PORT));
    let config = MeshNetConfig {
        private_key: key(number),
        listen: place(number),
    };
    let (mesh, _) = MeshNet::start_with_host(config, tun)?;
    let peer = MeshPeer {
        public_key: key(other).public(),
        preshared_key: None,
        allowed_ips: vec![AllowedIp::host(inside(other))],
        endpoints: vec![place(other)],
        relays: Vec::new(),
        mobility: Mobility::Roams,
        persistent_keepalive: None,
    };
    mesh.upsert_peer(peer, vec![inside(number)]).await;
    let plan = Plan {
        addresses: [inside(number)].into(),
        routes: [inside(other)].into(),
    };
    network.become_as(plan).await?;
    Ok(mesh)
}
