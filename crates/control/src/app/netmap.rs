//! What each node may know: its netmap, cut from the org's roster by the org's policy.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use api::nodes::{ControlConfig, InterfaceConfig, NodeConfig, PeerConfig};
use types::netmap::Difference;
use types::{AllowedIp, Generation, MESH_MTU, Netmap, NodeId, NodeKind, OrgId, PeerRecord};

use super::roster::Roster;
use super::{App, AppError, relays};
use crate::store::nodes::NodeRow;
use crate::store::{Conn, StoreError};

/// Returns the roster of an org as it is now.
pub(crate) async fn now(app: &App, org: OrgId) -> Result<Arc<Roster>, AppError> {
    let mut conn = app.store.read().await?;
    Ok(app.rosters.current(&app.reaches, &mut conn, org).await?)
}

/// Returns the roster of an org at a committed generation or newer.
pub(crate) async fn at_least(app: &App, org: OrgId, generation: Generation) -> Result<Arc<Roster>, AppError> {
    Ok(app.rosters.at_least(&app.reaches, org, generation).await?)
}

/// Says how the netmap of a node differs from the one at an earlier generation, which it has; `None` when the node may not
/// take part. What is no longer known of the earlier one, or was never given by this process, is told whole.
pub(crate) fn difference(
    app: &App,
    roster: &Roster,
    (org, id): (OrgId, NodeId),
    base: Option<Generation>,
) -> Option<Difference> {
    let earlier = base.and_then(|base| app.rosters.exactly(org, base));
    match earlier {
        Some(earlier) => roster.since(&earlier, id),
        None => roster.has(id).then_some(Difference::Whole),
    }
}

/// Returns the whole netmap of a node; `None` when the node may not take part.
pub(crate) fn whole(app: &App, roster: &Roster, id: NodeId) -> Option<Netmap> {
    roster.netmap(id, app.relays.records())
}

/// Says what the API shows of the netmap of a node, the platform first and others by name; `None` when the node may not take
/// part.
pub(crate) async fn config(
    app: &App,
    conn: &mut Conn,
    row: &NodeRow,
) -> Result<Option<NodeConfig>, StoreError> {
    let roster = app.rosters.current(&app.reaches, conn, row.node.org_id).await?;
    let Some(map) = whole(app, &roster, row.node.id) else {
        return Ok(None);
    };
    let in_order = |peer: &Arc<PeerRecord>| (peer.kind != NodeKind::Platform, peer.name.clone());
    let mut peers: Vec<_> = map.peers.iter().collect();
    peers.sort_by_cached_key(|peer| in_order(peer));
    let peers = peers.into_iter().map(|peer| PeerConfig {
        id: peer.id,
        name: peer.name.to_string(),
        kind: peer.kind,
        public_key: peer.public_key,
        allowed_ips: peer.allowed_ips.clone(),
        endpoints: peer.endpoints.clone(),
        home_relay: peer.home_relay,
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
