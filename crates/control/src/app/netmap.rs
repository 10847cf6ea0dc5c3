//! What each node may know: its netmap, computed from the store by the org's policy.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use api::nodes::{ControlConfig, InterfaceConfig, NodeConfig, PeerConfig};
use runs::protocol::ORCHESTRATOR_PORT;
use types::netmap::{OrchestratorRecord, SelfRecord};
use types::{
    AllowedIp, MESH_MTU, MeshAddresses, Netmap, NodeId, NodeKind, NodeStatus, PacketFilter, PeerRecord,
};

use super::reach::{Reach, blocks};
use super::{App, relays};
use crate::store::nodes::NodeRow;
use crate::store::{self, Conn, StoreError};

/// How many peers are looked up one by one before it is cheaper to read the org's nodes at once.
const FINDS_MAX: usize = 64;

/// Computes the netmap of a node that may take part; `None` when its org is gone.
pub(crate) async fn of_node(app: &App, conn: &mut Conn, row: &NodeRow) -> Result<Option<Netmap>, StoreError> {
    // The generation first: a change between the two reads makes the map newer than it says, and is followed by another.
    let generation = store::orgs::generation(conn, row.node.org_id).await?;
    let Some(org) = store::orgs::find(conn, row.node.org_id).await? else {
        return Ok(None);
    };
    let reach = app.reaches.of(conn, org.id).await?;
    let rows = seen(conn, &reach, row).await?;
    let peers: Vec<PeerRecord> = rows.iter().map(|peer| peer_record(app, peer)).collect();
    let filter = filter_among(&peers, reach.evaluation.filter(row.node.id));
    let platform = rows.iter().find(|peer| peer.node.kind == NodeKind::Platform);
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
        filter: Some(filter),
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
        if let Some(endpoint) = most_reachable(&peer.endpoints) {
            text.push_str(&format!("Endpoint = {endpoint}\nPersistentKeepalive = 25\n"));
        }
    }
    text
}

/// A plain WireGuard knows one endpoint of each peer, and hardly a network is without IPv4: a public address of that family
/// if there is one, else the first.
fn most_reachable(endpoints: &[String]) -> Option<&String> {
    let is_public_v4 = |endpoint: &&String| match endpoint.parse().map(|address: SocketAddr| address.ip()) {
        Ok(IpAddr::V4(ip)) => {
            // 100.64.0.0/10 lies between a provider and its customers (RFC 6598).
            let is_shared = ip.octets()[0] == 100 && (64..128).contains(&ip.octets()[1]);
            !(is_shared || ip.is_private() || ip.is_link_local() || ip.is_loopback())
        }
        Ok(IpAddr::V6(_)) | Err(_) => false,
    };
    endpoints.iter().find(is_public_v4).or(endpoints.first())
}

/// The rows of those that a node sees.
async fn seen(conn: &mut Conn, reach: &Reach, row: &NodeRow) -> Result<Vec<NodeRow>, StoreError> {
    let nodes = reach.evaluation.nodes();
    let ids: Vec<NodeId> = reach
        .evaluation
        .peers(row.node.id)
        .map(|number| nodes[number].id)
        .collect();
    let org = row.node.org_id;
    if ids.len() > FINDS_MAX {
        let ids: BTreeSet<NodeId> = ids.into_iter().collect();
        let mut rows = store::nodes::in_org(conn, org).await?;
        rows.retain(|peer| ids.contains(&peer.node.id));
        return Ok(rows);
    }
    let mut rows = Vec::new();
    for id in ids {
        let found = store::nodes::find(conn, org, id).await?;
        rows.extend(found.filter(|peer| peer.node.status != NodeStatus::Revoked));
    }
    Ok(rows)
}

/// Leaves out of a filter who has gone since it was worked out: a netmap names addresses of its peers only.
fn filter_among(peers: &[PeerRecord], mut filter: PacketFilter) -> PacketFilter {
    let known: BTreeSet<AllowedIp> = peers.iter().flat_map(|peer| &peer.allowed_ips).copied().collect();
    for rule in &mut filter.rules {
        rule.from
            .retain(|block| block.prefix_len() == 0 || known.contains(block));
    }
    filter.rules.retain(|rule| !rule.from.is_empty());
    filter
}

fn peer_record(app: &App, row: &NodeRow) -> PeerRecord {
    let is_platform = row.node.kind == NodeKind::Platform;
    PeerRecord {
        id: row.node.id,
        name: row.name.clone(),
        kind: row.node.kind,
        public_key: row.node.public_key,
        allowed_ips: blocks(row),
        endpoints: if is_platform {
            app.platform.endpoints()
        } else {
            row.endpoints.clone()
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_names_a_public_address_of_ipv4_before_others() {
        let chosen = |endpoints: &[&str]| {
            let endpoints: Vec<_> = endpoints.iter().map(|text| (*text).to_owned()).collect();
            most_reachable(&endpoints).cloned().unwrap_or_default()
        };
        let all = [
            "[2001:db8::1]:1",
            "192.168.1.2:1",
            "100.64.0.2:1",
            "203.0.113.7:1",
        ];
        assert_eq!(chosen(&all), "203.0.113.7:1");
        assert_eq!(chosen(&all[..3]), "[2001:db8::1]:1");
        assert_eq!(chosen(&["mesh.example.com:7421"]), "mesh.example.com:7421");
        assert_eq!(chosen(&[]), "");
    }
}
