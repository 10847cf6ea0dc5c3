//! The netmap: the whole state one node should have, with a generation, and the one check every peer record passes.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::address::{AllowedIp, MeshAddresses};
use crate::filter::PacketFilter;
use crate::ids::{NodeId, OrgId};
use crate::keys::{NodePublicKey, SigningPublicKey};
use crate::names::{NodeName, OrgName};
use crate::node::NodeKind;
use crate::policy::KeyLife;
use crate::relay::{RELAYS_MAX, RelayRecord};

/// The most peers one netmap may name.
pub const PEERS_MAX: usize = 100_000;

/// The most endpoints one peer record may name.
pub const ENDPOINTS_MAX: usize = 16;

/// The most allowed IPs one peer record may name.
pub const ALLOWED_IPS_MAX: usize = 16;

/// The longest address of a relay's WebSocket.
pub const RELAY_URL_LEN_MAX: usize = 512;

/// The longest endpoint text: a 253-byte host name, a colon and a port.
pub const ENDPOINT_LEN_MAX: usize = 259;

/// A number that rises with every change of a node's netmap; a node never goes back to a lower one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(pub u64);

/// The whole intended state of one node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Netmap {
    /// Which state this is.
    pub generation: Generation,
    /// The org that admitted the node.
    pub org_id: OrgId,
    /// The org's name, the middle of every mesh name.
    pub org_name: OrgName,
    /// The key with which the org's tickets and records are signed; pinned by the node at link.
    pub org_signing_key: SigningPublicKey,
    /// The node itself.
    pub node: SelfRecord,
    /// Every node it may talk to; shared, since the netmaps of an org name the same nodes over and over.
    #[serde(with = "shared")]
    pub peers: Vec<Arc<PeerRecord>>,
    /// The relays that carry what cannot go directly.
    #[serde(default)]
    pub relays: Vec<RelayRecord>,
    /// What peers may open towards the node; absent from a control plane that knows no policy, and then they may everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<PacketFilter>,
    /// Where the orchestrator listens inside the mesh; absent while the org has none.
    pub orchestrator: Option<OrchestratorRecord>,
}

/// What a node is told of itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SelfRecord {
    /// Its id.
    pub id: NodeId,
    /// Its name.
    pub name: NodeName,
    /// Its public key, as the control plane knows it.
    pub public_key: NodePublicKey,
    /// Its mesh addresses.
    #[serde(flatten)]
    pub addresses: MeshAddresses,
    /// When its key expires; absent when it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_life: Option<KeyLife>,
}

/// One node that another may talk to.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerRecord {
    /// Its id.
    pub id: NodeId,
    /// Its name.
    pub name: NodeName,
    /// What it is.
    pub kind: NodeKind,
    /// Its public key.
    pub public_key: NodePublicKey,
    /// The addresses it may send from.
    pub allowed_ips: Vec<AllowedIp>,
    /// Where it may be reached: `ip:port` or `host:port`, best first.
    pub endpoints: Vec<String>,
}

/// Where the orchestrator listens inside the mesh.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OrchestratorRecord {
    /// The platform node, which is also among the peers.
    pub node_id: NodeId,
    /// The TCP port on its IPv6 mesh address.
    pub port: u16,
}

/// Why a netmap was refused. A refused netmap changes nothing: the node keeps the one it has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetmapError {
    /// It is not newer than the one the node has.
    #[error("generation {offered} is not newer than {current}", offered = .offered.0, current = .current.0)]
    Stale {
        /// What the node has.
        current: Generation,
        /// What was offered.
        offered: Generation,
    },
    /// It is meant for another key.
    #[error("it is meant for another node key")]
    NotOurs,
    /// More peers than [`PEERS_MAX`].
    #[error("it names {0} peers, more than {PEERS_MAX}")]
    TooManyPeers(usize),
    /// A peer record fails the check, with the peer's name and the reason.
    #[error("peer {name}: {reason}")]
    BadPeer {
        /// The peer's name.
        name: NodeName,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A relay record fails the check.
    #[error("a relay: {0}")]
    BadRelay(&'static str),
    /// The packet filter fails the check.
    #[error("the packet filter: {0}")]
    BadFilter(&'static str),
    /// The orchestrator is no platform peer of the map.
    #[error("the orchestrator is not among its platform peers")]
    OrchestratorMissing,
}

impl Netmap {
    /// Checks the whole map for the node with key `own`, which has `current`: the one gate to a node's state.
    pub fn verify(&self, own: &NodePublicKey, current: Option<Generation>) -> Result<(), NetmapError> {
        if self.node.public_key != *own {
            return Err(NetmapError::NotOurs);
        }
        if let Some(current) = current
            && self.generation <= current
        {
            return Err(NetmapError::Stale {
                current,
                offered: self.generation,
            });
        }
        if self.peers.len() > PEERS_MAX {
            return Err(NetmapError::TooManyPeers(self.peers.len()));
        }
        self.verify_peers(own)?;
        self.verify_relays().map_err(NetmapError::BadRelay)?;
        self.verify_orchestrator()
    }

    fn verify_peers(&self, own: &NodePublicKey) -> Result<(), NetmapError> {
        let mut gate = PeerGate::for_node(self, own);
        for peer in &self.peers {
            gate.admit(peer).map_err(|reason| NetmapError::BadPeer {
                name: peer.name.clone(),
                reason,
            })?;
        }
        let filter = self.filter.as_ref();
        filter
            .map_or(Ok(()), |filter| filter.verify(&gate.blocks))
            .map_err(NetmapError::BadFilter)
    }

    fn verify_relays(&self) -> Result<(), &'static str> {
        if self.relays.len() > RELAYS_MAX {
            return Err("there are more than 16");
        }
        let mut ids = BTreeSet::new();
        for relay in &self.relays {
            if !ids.insert(relay.id) {
                return Err("its key is named twice");
            }
            check_endpoints(&relay.endpoints)?;
            check_endpoints(&relay.stun_endpoints)?;
            let is_url = |url: &String| {
                let has_scheme = url.starts_with("wss://") || url.starts_with("ws://");
                has_scheme && url.len() <= RELAY_URL_LEN_MAX && url.bytes().all(|b| b.is_ascii_graphic())
            };
            if !relay.url.iter().all(is_url) {
                return Err("its address is no WebSocket URL");
            }
        }
        Ok(())
    }

    fn verify_orchestrator(&self) -> Result<(), NetmapError> {
        let Some(orchestrator) = &self.orchestrator else {
            return Ok(());
        };
        let is_platform = |p: &Arc<PeerRecord>| p.id == orchestrator.node_id && p.kind == NodeKind::Platform;
        if self.peers.iter().any(is_platform) && orchestrator.port != 0 {
            Ok(())
        } else {
            Err(NetmapError::OrchestratorMissing)
        }
    }
}

/// What has been admitted so far, so that no two peers share a key, an id, a name or an address.
struct PeerGate {
    keys: BTreeSet<NodePublicKey>,
    ids: BTreeSet<NodeId>,
    names: BTreeSet<NodeName>,
    blocks: BTreeSet<AllowedIp>,
}

impl PeerGate {
    fn for_node(map: &Netmap, own: &NodePublicKey) -> Self {
        let own_blocks = [
            AllowedIp::host(map.node.addresses.mesh_ip4.into()),
            AllowedIp::host(map.node.addresses.mesh_ip6.into()),
        ];
        Self {
            keys: BTreeSet::from([*own]),
            ids: BTreeSet::from([map.node.id]),
            names: BTreeSet::from([map.node.name.clone()]),
            blocks: BTreeSet::from(own_blocks),
        }
    }

    fn admit(&mut self, peer: &PeerRecord) -> Result<(), &'static str> {
        if !self.keys.insert(peer.public_key) {
            return Err("its key is taken");
        }
        if !self.ids.insert(peer.id) {
            return Err("its id is taken");
        }
        if !self.names.insert(peer.name.clone()) {
            return Err("its name is taken");
        }
        if peer.allowed_ips.is_empty() || peer.allowed_ips.len() > ALLOWED_IPS_MAX {
            return Err("it must have 1 to 16 allowed IPs");
        }
        check_endpoints(&peer.endpoints)?;
        for block in &peer.allowed_ips {
            if !block.is_host() {
                return Err("an allowed IP is not a single address");
            }
            if !self.blocks.insert(*block) {
                return Err("an address is taken");
            }
        }
        Ok(())
    }
}

fn check_endpoints(endpoints: &[String]) -> Result<(), &'static str> {
    if endpoints.len() > ENDPOINTS_MAX {
        return Err("it has more than 16 endpoints");
    }
    for endpoint in endpoints {
        let printable = endpoint.bytes().all(|b| b.is_ascii_graphic());
        let port = endpoint.rsplit_once(':').map(|(_, port)| port);
        let port: Option<u16> = port.and_then(|p| p.parse().ok());
        if endpoint.len() > ENDPOINT_LEN_MAX || !printable || matches!(port, None | Some(0)) {
            return Err("an endpoint is not host:port");
        }
    }
    Ok(())
}

/// Shared records as JSON: the records.
mod shared {
    use super::{Arc, PeerRecord};
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(
        records: &[Arc<PeerRecord>],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(records.iter().map(Arc::as_ref))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<Arc<PeerRecord>>, D::Error> {
        let records = Vec::<PeerRecord>::deserialize(deserializer)?;
        Ok(records.into_iter().map(Arc::new).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::{host_ip4, node_ip6};
    use crate::filter::FilterRule;
    use crate::keys::{NodePrivateKey, SigningPrivateKey};

    fn key(seed: u8) -> NodePublicKey {
        NodePrivateKey::from_random([seed; 32]).public()
    }

    fn peer(seed: u8) -> PeerRecord {
        let org = OrgId::from_random([1; 16]);
        let id = NodeId::from_random([seed; 16]);
        PeerRecord {
            id,
            name: format!("peer-{seed}").parse().expect("label"),
            kind: NodeKind::Platform,
            public_key: key(seed),
            allowed_ips: vec![AllowedIp::host(node_ip6(org, id).into())],
            endpoints: vec!["192.0.2.1:51820".to_owned()],
        }
    }

    fn relay() -> RelayRecord {
        RelayRecord {
            id: crate::relay::RelayId(key(8)),
            name: "near".parse().expect("label"),
            endpoints: vec!["192.0.2.1:3478".to_owned()],
            url: Some("wss://relay.example/v1/relay".to_owned()),
            stun_endpoints: vec!["192.0.2.1:3479".to_owned()],
        }
    }

    fn netmap() -> Netmap {
        let org_id = OrgId::from_random([1; 16]);
        let id = NodeId::from_random([1; 16]);
        Netmap {
            generation: Generation(5),
            org_id,
            org_name: "acme".parse().expect("label"),
            org_signing_key: SigningPrivateKey::from_random([1; 32]).public(),
            node: SelfRecord {
                id,
                name: "self".parse().expect("label"),
                public_key: key(1),
                addresses: MeshAddresses {
                    mesh_ip4: host_ip4(1).expect("in range"),
                    mesh_ip6: node_ip6(org_id, id),
                },
                key_life: None,
            },
            peers: vec![Arc::new(peer(2)), Arc::new(peer(3))],
            relays: vec![relay()],
            filter: Some(PacketFilter {
                rules: vec![FilterRule {
                    from: peer(2).allowed_ips,
                    to: vec!["tcp:7420".parse().expect("ports")],
                }],
            }),
            orchestrator: Some(OrchestratorRecord {
                node_id: peer(2).id,
                port: 7420,
            }),
        }
    }

    fn check_bad_peer(spoil: impl Fn(&mut PeerRecord), expected: &str) {
        let mut map = netmap();
        spoil(Arc::make_mut(&mut map.peers[1]));
        match map.verify(&key(1), None) {
            Err(NetmapError::BadPeer { reason, .. }) => assert_eq!(reason, expected),
            other => panic!("{expected}: {other:?}"),
        }
    }

    #[test]
    fn a_good_map_passes_and_survives_json() {
        let map = netmap();
        assert_eq!(map.verify(&key(1), Some(Generation(4))), Ok(()));
        let text = serde_json::to_string(&map).expect("serializes");
        assert_eq!(serde_json::from_str::<Netmap>(&text).expect("own text"), map);
    }

    #[test]
    fn a_map_never_goes_backwards_or_to_another_key() {
        let map = netmap();
        for current in [5, 6] {
            let current = Generation(current);
            let offered = Generation(5);
            assert_eq!(
                map.verify(&key(1), Some(current)),
                Err(NetmapError::Stale { current, offered })
            );
        }
        assert_eq!(map.verify(&key(9), None), Err(NetmapError::NotOurs));
    }

    #[test]
    fn peers_that_clash_are_refused() {
        check_bad_peer(|p| p.public_key = key(1), "its key is taken");
        check_bad_peer(|p| p.public_key = key(2), "its key is taken");
        check_bad_peer(|p| p.id = peer(2).id, "its id is taken");
        check_bad_peer(|p| p.name = peer(2).name, "its name is taken");
        check_bad_peer(|p| p.allowed_ips = peer(2).allowed_ips, "an address is taken");
        let own = AllowedIp::host(netmap().node.addresses.mesh_ip6.into());
        check_bad_peer(|p| p.allowed_ips = vec![own], "an address is taken");
    }

    #[test]
    fn peers_beyond_their_limits_are_refused() {
        check_bad_peer(|p| p.allowed_ips.clear(), "it must have 1 to 16 allowed IPs");
        let all: AllowedIp = "::/0".parse().expect("block");
        check_bad_peer(
            |p| p.allowed_ips = vec![all],
            "an allowed IP is not a single address",
        );
        let many = vec!["192.0.2.1:1".to_owned(); 17];
        check_bad_peer(|p| p.endpoints.clone_from(&many), "it has more than 16 endpoints");
        for bad in [
            "",
            "host",
            "host:0",
            "host:65536",
            "a b:1",
            "a\n:1",
            &"a".repeat(260),
        ] {
            check_bad_peer(
                |p| p.endpoints = vec![bad.to_owned()],
                "an endpoint is not host:port",
            );
        }
    }

    #[test]
    fn relays_that_cannot_be_are_refused() {
        let check = |spoil: &dyn Fn(&mut Vec<RelayRecord>), expected: &'static str| {
            let mut map = netmap();
            spoil(&mut map.relays);
            assert_eq!(map.verify(&key(1), None), Err(NetmapError::BadRelay(expected)));
        };
        check(&|relays| relays.push(relay()), "its key is named twice");
        check(&|relays| relays.resize(17, relay()), "there are more than 16");
        check(
            &|relays| relays[0].stun_endpoints = vec!["nowhere".to_owned()],
            "an endpoint is not host:port",
        );
        check(
            &|relays| relays[0].endpoints = vec!["nowhere".to_owned()],
            "an endpoint is not host:port",
        );
        for bad in [
            "http://relay.example",
            "wss://relay example",
            &format!("wss://{}", "a".repeat(600)),
        ] {
            check(
                &|relays| relays[0].url = Some(bad.to_owned()),
                "its address is no WebSocket URL",
            );
        }
    }

    #[test]
    fn a_filter_speaks_of_peers_and_may_be_missing() {
        let mut map = netmap();
        map.filter.as_mut().expect("a filter").rules[0].from = peer(4).allowed_ips;
        let refused = NetmapError::BadFilter("a rule names an address of no peer");
        assert_eq!(map.verify(&key(1), None), Err(refused));
        map.filter = None;
        assert_eq!(map.verify(&key(1), None), Ok(()));
        let older = serde_json::to_string(&map).expect("serializes");
        assert!(!older.contains("filter"));
        assert_eq!(serde_json::from_str::<Netmap>(&older).expect("own text"), map);
    }

    #[test]
    fn the_orchestrator_must_be_a_platform_peer() {
        let mut map = netmap();
        Arc::make_mut(&mut map.peers[0]).kind = NodeKind::Device;
        assert_eq!(map.verify(&key(1), None), Err(NetmapError::OrchestratorMissing));
    }
}
