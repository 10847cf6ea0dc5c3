//! The netmap: the whole state one node should have, with a generation, and the one check every peer record passes.

mod delta;
mod gate;
mod in_force;
mod peers;
mod signed;

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
use crate::relay::{RELAYS_MAX, RelayId, RelayRecord};

pub use crate::filter::FilterChange;
use gate::Taken;

pub use delta::{Difference, NetmapDelta};
pub use in_force::{Amended, InForce, PeerChange};
pub use peers::Peers;
pub use signed::{RecordSignature, SIGNATURES_MAX};

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
    pub peers: Peers,
    /// The relays that carry what cannot go directly.
    #[serde(default)]
    pub relays: Vec<RelayRecord>,
    /// What peers may open towards the node; absent from a control plane that knows no policy, and then they may everything.
    #[serde(default, with = "shared_filter", skip_serializing_if = "Option::is_none")]
    pub filter: Option<Arc<PacketFilter>>,
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
    /// The relay at which it is found best; absent when that is not known. One that the map does not name is of no use, and
    /// does no harm.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub home_relay: Option<RelayId>,
    /// Who vouches for it, at most [`SIGNATURES_MAX`]; the org's key must.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signatures: Vec<RecordSignature>,
}

/// What a node pinned at link, by which it knows its netmaps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pins {
    /// The node's own key.
    pub own_key: NodePublicKey,
    /// Its org.
    pub org_id: OrgId,
    /// The key that signs every peer record.
    pub org_signing_key: SigningPublicKey,
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
    /// It is meant for another node.
    #[error("it is meant for another node")]
    NotOurs,
    /// It is another org's.
    #[error("it is another org's")]
    WrongOrg,
    /// The org's key is not the one that was pinned.
    #[error("its signing key is not the one pinned at approval")]
    WrongSigningKey,
    /// A delta starts from another netmap than the one the node has.
    #[error("it starts from generation {from}, and generation {current} is in force", from = .from.0, current = .current.0)]
    Gap {
        /// What the node has.
        current: Generation,
        /// What the delta starts from.
        from: Generation,
    },
    /// A delta that cannot be applied.
    #[error("{0}")]
    BadDelta(&'static str),
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
    /// Checks the whole map for a node that has `current`: the one gate to a node's state. A record that is in `current`
    /// exactly as it is here has passed with these pins, and who signed it is not asked again.
    pub fn verify(&self, pins: &Pins, current: Option<&Self>) -> Result<(), NetmapError> {
        self.admit(pins, current).map(drop)
    }

    /// Checks the whole map, and says what its peers have.
    fn admit(&self, pins: &Pins, current: Option<&Self>) -> Result<Taken, NetmapError> {
        self.verify_frame(pins, current)?;
        let taken = self.verify_peers(pins, current)?;
        self.verify_relays().map_err(NetmapError::BadRelay)?;
        self.verify_orchestrator()?;
        Ok(taken)
    }

    /// Checks what can be told without looking at a peer.
    fn verify_frame(&self, pins: &Pins, current: Option<&Self>) -> Result<(), NetmapError> {
        if self.node.public_key != pins.own_key {
            return Err(NetmapError::NotOurs);
        }
        if self.org_id != pins.org_id {
            return Err(NetmapError::WrongOrg);
        }
        if self.org_signing_key != pins.org_signing_key {
            return Err(NetmapError::WrongSigningKey);
        }
        if let Some(current) = current
            && self.generation <= current.generation
        {
            return Err(NetmapError::Stale {
                current: current.generation,
                offered: self.generation,
            });
        }
        if self.peers.len() > PEERS_MAX {
            return Err(NetmapError::TooManyPeers(self.peers.len()));
        }
        Ok(())
    }

    /// Tells whether a record is in the map exactly as it is; one that is out of order may be overlooked.
    fn has(&self, peer: &Arc<PeerRecord>) -> bool {
        let known = self.peers.of_id(peer.id);
        known.is_some_and(|known| Arc::ptr_eq(known, peer) || known == peer)
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
        // One that is out of order is overlooked at first.
        let is_found = self.peers.of_id(orchestrator.node_id).is_some_and(is_platform);
        if (is_found || self.peers.iter().any(is_platform)) && orchestrator.port != 0 {
            Ok(())
        } else {
            Err(NetmapError::OrchestratorMissing)
        }
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

/// A shared filter as JSON: the filter.
mod shared_filter {
    use super::{Arc, PacketFilter};
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    pub(super) fn serialize<S: Serializer>(
        filter: &Option<Arc<PacketFilter>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        filter.as_deref().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Arc<PacketFilter>>, D::Error> {
        Ok(Option::<PacketFilter>::deserialize(deserializer)?.map(Arc::new))
    }
}

#[cfg(test)]
mod tests;
