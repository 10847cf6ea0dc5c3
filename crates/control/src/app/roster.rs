//! An org's nodes at one generation: what every netmap of that generation is cut from.

use std::sync::Arc;

use runs::protocol::ORCHESTRATOR_PORT;
use types::netmap::{Difference, OrchestratorRecord, Peers, SelfRecord};
use types::policy::{KeyLife, NodeKeyRules};
use types::{
    Generation, MeshAddresses, Netmap, NodeId, NodeKind, OrgId, OrgName, PacketFilter, PeerRecord,
    RelayRecord, SigningPrivateKey, SigningPublicKey,
};

use super::reach::{Reach, Reaches, blocks};
use crate::store::nodes::NodeRow;
use crate::store::{self, Conn, StoreError};

/// The nodes of an org that may take part, and who sees whom, exactly as they are at one generation.
#[derive(Debug)]
pub(crate) struct Roster {
    pub(crate) generation: Generation,
    pub(crate) reach: Arc<Reach>,
    org_id: OrgId,
    org_name: OrgName,
    org_signing_key: SigningPublicKey,
    /// By id, as in the evaluation: a place there is the place here.
    seats: Vec<Seat>,
}

/// One node, as others and itself are told of it.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) record: Arc<PeerRecord>,
    addresses: MeshAddresses,
    key_life: Option<KeyLife>,
}

/// What a roster is read with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Readings<'a> {
    pub(crate) reaches: &'a Reaches,
    /// Where the platform's nodes are reached.
    pub(crate) endpoints: &'a [String],
    /// An earlier roster of the org, whose records serve again where nothing changed.
    pub(crate) before: Option<&'a Roster>,
}

impl Roster {
    /// Reads an org as it is now; `None` when it changed meanwhile, and what was read is of no one moment.
    pub(crate) async fn read(
        conn: &mut Conn,
        org: OrgId,
        with: Readings<'_>,
    ) -> Result<Option<Self>, StoreError> {
        let generation = store::orgs::generation(conn, org).await?;
        let topology = store::orgs::topology(conn, org).await?;
        let column = "org_id";
        let row = store::orgs::find(conn, org).await?;
        let row = row.ok_or(StoreError::Unreadable { column })?;
        let rows = store::nodes::in_org(conn, org).await?;
        let reach = match with.reaches.exactly(org, topology) {
            Some(known) => known,
            None => Arc::new(Reach::work_out(conn, org, topology, &rows).await?),
        };
        // Whatever a node can see raises the generation in the same write.
        if store::orgs::generation(conn, org).await? != generation {
            return Ok(None);
        }
        with.reaches.keep(org, &reach);
        let keys = (&row.signing_key, &reach.node_keys);
        let seats = rows.iter().map(|node| Seat::new(node, keys, with)).collect();
        Ok(Some(Self {
            generation,
            reach,
            org_id: org,
            org_name: row.name,
            org_signing_key: row.signing_key.public(),
            seats,
        }))
    }

    /// Returns how many nodes it holds.
    pub(crate) fn len(&self) -> usize {
        self.seats.len()
    }

    /// Tells whether a node may take part.
    pub(crate) fn has(&self, id: NodeId) -> bool {
        self.seat(id).is_some()
    }

    /// Returns the netmap of a node; `None` when the node may not take part.
    pub(crate) fn netmap(&self, id: NodeId, relays: &[RelayRecord]) -> Option<Netmap> {
        let filter = self.reach.evaluation.filter(id);
        self.netmap_with(id, relays, filter)
    }

    /// Says how the netmap of a node differs from the one that an earlier roster of this process gave; `None` when the node
    /// may not take part.
    pub(crate) fn since(&self, earlier: &Self, id: NodeId) -> Option<Difference> {
        // Relays are the same as long as the process lives. So is all that filters say of who is as before: working that out
        // would cost more than all the rest.
        let same = Arc::ptr_eq(&self.reach, &earlier.reach);
        let changes = (!same)
            .then(|| self.reach.changes_since(&earlier.reach))
            .flatten();
        let changes = changes.filter(|changes| !changes.include(id));
        let cut = |roster: &Self| {
            let evaluation = &roster.reach.evaluation;
            let filter = match &changes {
                _ if same => PacketFilter::default(),
                Some(changes) => evaluation.filter_among(id, changes),
                None => evaluation.filter(id),
            };
            roster.netmap_with(id, &[], filter)
        };
        let new = cut(self)?;
        Some(cut(earlier).map_or(Difference::Whole, |old| Difference::between(&old, &new)))
    }

    fn netmap_with(&self, id: NodeId, relays: &[RelayRecord], filter: PacketFilter) -> Option<Netmap> {
        let own = self.seat(id)?;
        let peers = self.reach.evaluation.peers(id);
        let peers: Peers = peers.map(|place| Arc::clone(&self.seats[place].record)).collect();
        let platform = peers.iter().find(|peer| peer.kind == NodeKind::Platform);
        let orchestrator = platform.map(|peer| OrchestratorRecord {
            node_id: peer.id,
            port: ORCHESTRATOR_PORT,
        });
        Some(Netmap {
            generation: self.generation,
            org_id: self.org_id,
            org_name: self.org_name.clone(),
            org_signing_key: self.org_signing_key,
            node: SelfRecord {
                id,
                name: own.record.name.clone(),
                public_key: own.record.public_key,
                addresses: own.addresses,
                key_life: own.key_life,
            },
            peers,
            relays: relays.to_vec(),
            filter: Some(Arc::new(filter)),
            orchestrator,
        })
    }

    pub(super) fn seat(&self, id: NodeId) -> Option<&Seat> {
        let place = self.seats.binary_search_by_key(&id, |seat| seat.record.id).ok()?;
        Some(&self.seats[place])
    }
}

impl Seat {
    fn new(row: &NodeRow, (org_key, rules): (&SigningPrivateKey, &NodeKeyRules), with: Readings<'_>) -> Self {
        let mut record = record(row, with.endpoints);
        let before = with.before.and_then(|roster| roster.seat(record.id));
        match before.filter(|seat| seat.record.says_the_same(&record)) {
            Some(seat) => record.signatures.clone_from(&seat.record.signatures),
            None => record.sign(row.node.org_id, org_key),
        }
        let same = before.filter(|seat| *seat.record == record);
        Self {
            record: same.map_or_else(|| Arc::new(record), |seat| Arc::clone(&seat.record)),
            addresses: MeshAddresses {
                mesh_ip4: row.node.mesh_ip4,
                mesh_ip6: row.node.mesh_ip6,
            },
            key_life: row.node.key_expires_at.map(|expires_at| KeyLife {
                expires_at,
                rotate_at: rules.rotate_at(expires_at, &row.node.public_key),
            }),
        }
    }
}

fn record(row: &NodeRow, platform: &[String]) -> PeerRecord {
    let is_platform = row.node.kind == NodeKind::Platform;
    let endpoints = if is_platform { platform } else { &row.endpoints };
    PeerRecord {
        id: row.node.id,
        name: row.name.clone(),
        kind: row.node.kind,
        public_key: row.node.public_key,
        allowed_ips: blocks(row),
        endpoints: endpoints.to_vec(),
        home_relay: row.node.home_relay,
        signatures: Vec::new(),
    }
}
