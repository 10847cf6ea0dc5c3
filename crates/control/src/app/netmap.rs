//! What each node may know: its netmap, computed from the store by the default policy.
//!
//! Default policy: a device sees the platform's node of its org, and the other devices of its owner; nothing else.

use api::nodes::{ControlConfig, InterfaceConfig, NodeConfig, PeerConfig};
use runs::protocol::ORCHESTRATOR_PORT;
use types::netmap::{OrchestratorRecord, SelfRecord};
use types::{AllowedIp, MESH_MTU, MeshAddresses, Netmap, NodeKind, PeerRecord};

use super::{App, relays};
use crate::store::nodes::NodeRow;
use crate::store::{self, Conn, StoreError};

/// Computes the netmap of a node that may take part; `None` when its org is gone.
pub(crate) async fn of_node(app: &App, conn: &mut Conn, row: &NodeRow) -> Result<Option<Netmap>, StoreError> {
    // The generation first: a change between the two reads makes the map newer than it says, and is followed by another.
    let generation = store::orgs::generation(conn, row.node.org_id).await?;
    let Some(org) = store::orgs::find(conn, row.node.org_id).await? else {
        return Ok(None);
    };
    let platform = store::nodes::platform(conn, org.id).await?;
    let mut peers: Vec<PeerRecord> = platform.iter().map(|row| platform_peer(app, row)).collect();
    if let Some(owner) = row.node.owner_user_id {
        let siblings = store::nodes::owned(conn, org.id, owner).await?;
        peers.extend(
            siblings
                .iter()
                .filter(|peer| peer.node.id != row.node.id)
                .map(device_peer),
        );
    }
    Ok(Some(Netmap {
        generation,
        org_id: org.id,
        org_name: org.name,
        org_signing_key: org.signing_key.public(),
        node: SelfRecord {
            id: row.node.id,
            name: row.name.clone(),
            public_key: row.node.public_key,
            addresses: MeshAddresses {
                mesh_ip4: row.node.mesh_ip4,
                mesh_ip6: row.node.mesh_ip6,
            },
        },
        peers,
        relays: app.relays.records().to_vec(),
        filter: None,
        orchestrator: platform.map(|row| OrchestratorRecord {
            node_id: row.node.id,
            port: ORCHESTRATOR_PORT,
        }),
    }))
}

/// Computes what the API shows of the netmap of a node that may take part; `None` when its org is gone.
pub(crate) async fn config(
    app: &App,
    conn: &mut Conn,
    row: &NodeRow,
) -> Result<Option<NodeConfig>, StoreError> {
    let Some(map) = of_node(app, conn, row).await? else {
        return Ok(None);
    };
    let peers = map.peers.into_iter().map(|peer| PeerConfig {
        id: peer.id,
        name: peer.name.to_string(),
        kind: peer.kind,
        public_key: peer.public_key,
        allowed_ips: peer.allowed_ips,
        endpoints: peer.endpoints,
        home_relay: None,
    });
    Ok(Some(NodeConfig {
        generation: map.generation,
        org_id: map.org_id,
        org_name: map.org_name.to_string(),
        org_signing_key: map.org_signing_key,
        interface: InterfaceConfig {
            addresses: vec![
                AllowedIp::host(row.node.mesh_ip4.into()),
                AllowedIp::host(row.node.mesh_ip6.into()),
            ],
            mtu: MESH_MTU as u32,
            dns: Vec::new(),
        },
        peers: peers.collect(),
        relays: map.relays.into_iter().map(relays::config).collect(),
        control: ControlConfig {
            url: app.config.control_url(),
            public_key: app.keys.noise.public(),
        },
    }))
}

/// Writes a configuration as a `wg-quick` file without the private key, which only the device has.
pub(crate) fn wg_quick(config: &NodeConfig) -> String {
    let list = |blocks: &[AllowedIp]| {
        let texts: Vec<String> = blocks.iter().map(ToString::to_string).collect();
        texts.join(", ")
    };
    let mut text = format!(
        "# RunMesh, organization {}, generation {}.\n[Interface]\n\
         # PrivateKey = put the device's own key here; it never leaves the device.\n\
         Address = {}\nMTU = {}\n",
        config.org_name,
        config.generation.0,
        list(&config.interface.addresses),
        config.interface.mtu
    );
    for peer in &config.peers {
        text.push_str(&format!(
            "\n[Peer]\n# {}\nPublicKey = {}\nAllowedIPs = {}\n",
            peer.name,
            peer.public_key,
            list(&peer.allowed_ips)
        ));
        if let Some(endpoint) = peer.endpoints.first() {
            text.push_str(&format!("Endpoint = {endpoint}\nPersistentKeepalive = 25\n"));
        }
    }
    text
}

/// IPv4 addresses repeat between orgs, so that the platform, which is in all of them, has IPv6 only.
fn platform_peer(app: &App, row: &NodeRow) -> PeerRecord {
    PeerRecord {
        id: row.node.id,
        name: row.name.clone(),
        kind: NodeKind::Platform,
        public_key: row.node.public_key,
        allowed_ips: vec![AllowedIp::host(row.node.mesh_ip6.into())],
        endpoints: app.platform.endpoints(),
    }
}

fn device_peer(row: &NodeRow) -> PeerRecord {
    PeerRecord {
        id: row.node.id,
        name: row.name.clone(),
        kind: row.node.kind,
        public_key: row.node.public_key,
        allowed_ips: vec![
            AllowedIp::host(row.node.mesh_ip4.into()),
            AllowedIp::host(row.node.mesh_ip6.into()),
        ],
        endpoints: row.endpoints.clone(),
    }
}
