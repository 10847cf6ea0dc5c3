//! The netmap that a node has in force, with what makes a change cost what it says, and not what the netmap is long: whose
//! every key, name and address is, and pieces of the list of peers that the netmap before and the one after share.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::delta::Made;
use super::gate::Taken;
use super::{Netmap, NetmapDelta, NetmapError, PeerRecord, Pins};
use crate::address::AllowedIp;
use crate::ids::NodeId;
use crate::keys::NodePublicKey;

/// A netmap that has passed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InForce {
    map: Arc<Netmap>,
    taken: Taken,
    /// Whether the peers are in the order of ids.
    is_ascending: bool,
    /// Whether the filter is written in the one way.
    is_canonical: bool,
}

/// What a delta makes of a netmap in force. It has passed, and is not in force yet.
#[derive(Clone, Debug)]
pub struct Amended {
    map: Arc<Netmap>,
    changes: Vec<PeerChange>,
    blocks: BTreeSet<AllowedIp>,
    taken: Option<Taken>,
}

/// One peer that is not as before.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerChange {
    /// What it was; absent when it is new.
    pub before: Option<Arc<PeerRecord>>,
    /// What it is; absent when it is no more.
    pub after: Option<Arc<PeerRecord>>,
}

impl PeerChange {
    /// Returns whose change it is.
    #[must_use]
    pub fn id(&self) -> Option<NodeId> {
        let record = self.after.as_ref().or(self.before.as_ref());
        record.map(|record| record.id)
    }
}

impl InForce {
    /// Checks a whole netmap as [`Netmap::verify`] does.
    pub fn new(mut map: Netmap, pins: &Pins, current: Option<&Self>) -> Result<Self, NetmapError> {
        let taken = map.admit(pins, current.map(|current| current.map.as_ref()))?;
        map.peers.cut();
        Ok(Self {
            taken,
            is_ascending: map.peers.is_ascending(),
            is_canonical: map.filter.as_ref().is_none_or(|filter| filter.is_canonical()),
            map: Arc::new(map),
        })
    }

    /// Returns the netmap.
    #[must_use]
    pub fn map(&self) -> &Arc<Netmap> {
        &self.map
    }

    /// Finds a peer by its key.
    #[must_use]
    pub fn of_key(&self, key: &NodePublicKey) -> Option<&Arc<PeerRecord>> {
        let id = self.taken.of_key(key)?;
        if self.is_ascending {
            self.map.peers.of_id(id)
        } else {
            self.map.peers.iter().find(|peer| peer.id == id)
        }
    }

    /// Says which peers are not as in the netmap before.
    #[must_use]
    pub fn changes_since(&self, before: Option<&Self>) -> Vec<PeerChange> {
        let known = before.into_iter().flat_map(|before| &before.map.peers);
        let mut known: BTreeMap<NodeId, &Arc<PeerRecord>> = known.map(|peer| (peer.id, peer)).collect();
        let mut changes = Vec::new();
        for peer in &self.map.peers {
            let before = known.remove(&peer.id);
            if !before.is_some_and(|before| Arc::ptr_eq(before, peer) || before == peer) {
                changes.push(PeerChange {
                    before: before.cloned(),
                    after: Some(Arc::clone(peer)),
                });
            }
        }
        changes.extend(known.into_values().map(|gone| PeerChange {
            before: Some(Arc::clone(gone)),
            after: None,
        }));
        changes
    }

    /// Makes the netmap that a delta leads to, and checks it as a whole one is. After a refusal the whole netmap must be asked
    /// for.
    ///
    /// The work grows with what the delta says, and by the logarithm with the netmap; but a filter of which something
    /// changes is copied, and with a delta that says something of the node itself every peer is looked at.
    pub fn amended(&self, delta: &NetmapDelta, pins: &Pins) -> Result<Amended, NetmapError> {
        if !self.is_ascending {
            let out_of_order = "it came upon a netmap that is out of order";
            return Err(NetmapError::BadDelta(out_of_order));
        }
        let made = if self.is_canonical {
            self.map.unchecked(delta)
        } else {
            self.canonical().unchecked(delta)
        };
        let Made { map, changes, blocks } = made?;
        let taken = if delta.node.is_some() {
            // Every peer is to be held against the other self.
            Some(map.admit(pins, Some(&self.map))?)
        } else {
            map.verify_amended((&self.map, &self.taken), delta, pins)?;
            None
        };
        Ok(Amended {
            map: Arc::new(map),
            changes,
            blocks,
            taken,
        })
    }

    /// Puts what a delta made of this netmap into force.
    pub fn put(&mut self, amended: Amended) {
        debug_assert!(
            amended.map.generation > self.map.generation,
            "it was made of another"
        );
        self.map = amended.map;
        self.is_canonical = true;
        if let Some(taken) = amended.taken {
            self.taken = taken;
            return;
        }
        for before in amended.changes.iter().filter_map(|change| change.before.as_ref()) {
            self.taken.release(before);
        }
        for after in amended.changes.iter().filter_map(|change| change.after.as_ref()) {
            self.taken.take(after);
        }
    }

    fn canonical(&self) -> Netmap {
        let mut map = Netmap::clone(&self.map);
        let filter = map.filter.as_deref().cloned();
        map.filter = filter.map(|filter| Arc::new(filter.canonical()));
        map
    }
}

impl Amended {
    /// Returns the netmap.
    #[must_use]
    pub fn map(&self) -> &Arc<Netmap> {
        &self.map
    }

    /// Returns the peers that are not as before.
    #[must_use]
    pub fn changes(&self) -> &[PeerChange] {
        &self.changes
    }

    /// Returns the blocks of which the packet filter says something else than before, if any.
    #[must_use]
    pub fn filter_blocks(&self) -> &BTreeSet<AllowedIp> {
        &self.blocks
    }
}
