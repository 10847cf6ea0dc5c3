//! Netmap deltas: what is different between two netmaps of one node, and how it becomes the second again.
//!
//! A delta names the generation that it starts from, and is applied to that one or to none. What comes out passes the same
//! gate as a whole netmap ([`super::InForce`]). Peers are told apart by their ids and stand in the order of them.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Generation, Netmap, NetmapError, PEERS_MAX, PeerChange, PeerRecord, Peers, SelfRecord, shared};
use crate::address::AllowedIp;
use crate::filter::{FilterChange, PacketFilter};
use crate::ids::{NodeId, OrgId};
use crate::relay::RelayRecord;

/// About how many bytes of JSON a peer's record takes.
const RECORD_BYTES: usize = 500;

/// About how many bytes of JSON an id takes, or an address block.
const WORD_BYTES: usize = 35;

/// What makes one netmap of a node out of an earlier one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetmapDelta {
    /// Which netmap it makes.
    pub generation: Generation,
    /// Out of which one; of any other it makes none.
    pub from: Generation,
    /// The org.
    pub org_id: OrgId,
    /// The node whose netmaps they are.
    pub node_id: NodeId,
    /// How many peers there are afterwards.
    pub peer_count: usize,
    /// Peers that are new, or known and not as before, by id.
    #[serde(default, with = "shared", skip_serializing_if = "Vec::is_empty")]
    pub upserted: Vec<Arc<PeerRecord>>,
    /// Peers that are no more, by id. What the packet filter said of them goes with them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removed: Vec<NodeId>,
    /// The node itself, if it is not as before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<SelfRecord>,
    /// All relays, if they are not as before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relays: Option<Vec<RelayRecord>>,
    /// What else is different in the packet filter.
    #[serde(default, skip_serializing_if = "FilterChange::is_empty")]
    pub filter: FilterChange,
}

/// What lies between two netmaps of a node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Difference {
    /// Nothing but the number of the generation.
    None,
    /// What a delta says.
    Delta(Box<NetmapDelta>),
    /// More than a delta can say, or so much that the whole netmap is shorter.
    Whole,
}

impl Difference {
    /// Compares two netmaps, both with their peers in the order of ids. Records that are shared are not looked at.
    #[must_use]
    pub fn between(old: &Netmap, new: &Netmap) -> Self {
        let frame = |map: &Netmap| (map.org_id, map.org_signing_key, map.node.id);
        let is_told = frame(old) == frame(new)
            && (&old.org_name, &old.orchestrator) == (&new.org_name, &new.orchestrator)
            && old.filter.is_some() == new.filter.is_some();
        let (before, after) = (old.peers.in_one_piece(), new.peers.in_one_piece());
        if !is_told || !is_ascending(&before) || !is_ascending(&after) {
            return Self::Whole;
        }
        let changes = PeerChanges::between(&before, &after);
        let filter = match (&old.filter, &new.filter) {
            (Some(old), Some(new)) => FilterChange::between(old.without(&changes.gone), new),
            _ => FilterChange::default(),
        };
        let delta = NetmapDelta {
            generation: new.generation,
            from: old.generation,
            org_id: new.org_id,
            node_id: new.node.id,
            peer_count: new.peers.len(),
            upserted: changes.upserted,
            removed: changes.removed,
            node: (old.node != new.node).then(|| new.node.clone()),
            relays: (old.relays != new.relays).then(|| new.relays.clone()),
            filter,
        };
        if delta.says_nothing() {
            Self::None
        } else if delta.weight() >= weight(&new.peers, new.filter.as_deref()) {
            Self::Whole
        } else {
            Self::Delta(Box::new(delta))
        }
    }
}

impl NetmapDelta {
    fn says_nothing(&self) -> bool {
        let peers = self.upserted.is_empty() && self.removed.is_empty();
        peers && self.node.is_none() && self.relays.is_none() && self.filter.is_empty()
    }

    fn weight(&self) -> usize {
        let words = self.removed.len() + self.filter.blocks();
        self.upserted.len() * RECORD_BYTES + words * WORD_BYTES
    }

    /// Tells whether it says something of a peer. It must be in order.
    pub(super) fn names(&self, id: NodeId) -> bool {
        let is_upserted = self.upserted.binary_search_by_key(&id, |peer| peer.id).is_ok();
        is_upserted || self.removed.binary_search(&id).is_ok()
    }

    /// Checks what can be told without looking at a peer, but for whether those of `current` are in order.
    fn fits(&self, current: &Netmap) -> Result<(), NetmapError> {
        if (self.org_id, self.node_id) != (current.org_id, current.node.id) {
            return Err(NetmapError::NotOurs);
        }
        if self.from != current.generation {
            return Err(NetmapError::Gap {
                current: current.generation,
                from: self.from,
            });
        }
        if self.upserted.len() > PEERS_MAX {
            return Err(NetmapError::TooManyPeers(self.upserted.len()));
        }
        if !is_ascending(&self.upserted) || !self.removed.is_sorted_by(|a, b| a < b) {
            return Err(NetmapError::BadDelta("its peers are out of order"));
        }
        if !self.filter.is_in_order() {
            return Err(NetmapError::BadDelta("its filter is out of order"));
        }
        Ok(())
    }
}

/// What a delta made of a netmap, not checked yet.
pub(super) struct Made {
    pub(super) map: Netmap,
    pub(super) changes: Vec<PeerChange>,
    pub(super) blocks: BTreeSet<AllowedIp>,
}

impl Netmap {
    /// Makes what a delta leads to. The peers must be in the order of ids, and the filter canonical.
    pub(super) fn unchecked(&self, delta: &NetmapDelta) -> Result<Made, NetmapError> {
        delta.fits(self)?;
        let mut gone = Gone::default();
        let mut peers = self.peers.clone();
        let mut changes = Vec::with_capacity(delta.removed.len() + delta.upserted.len());
        for id in &delta.removed {
            let removed = peers.remove(*id);
            let removed = removed.ok_or(NetmapError::BadDelta("it removes a peer that is not there"))?;
            gone.lost(&removed, None);
            changes.push(PeerChange {
                before: Some(removed),
                after: None,
            });
        }
        for record in &delta.upserted {
            let before = peers.put(Arc::clone(record));
            before.iter().for_each(|before| gone.lost(before, Some(record)));
            changes.push(PeerChange {
                before,
                after: Some(Arc::clone(record)),
            });
        }
        if peers.len() != delta.peer_count {
            return Err(NetmapError::BadDelta(
                "it came upon other peers than it was made for",
            ));
        }
        let (filter, blocks) = match &self.filter {
            None if delta.filter.is_empty() => (None, BTreeSet::new()),
            None => return Err(NetmapError::BadDelta("it changes a filter that is not there")),
            Some(filter) => {
                let (filter, blocks) = delta.filter.applied(filter, &gone.blocks);
                (Some(filter), blocks)
            }
        };
        let map = Self {
            generation: delta.generation,
            node: delta.node.as_ref().unwrap_or(&self.node).clone(),
            peers,
            relays: delta.relays.as_ref().unwrap_or(&self.relays).clone(),
            filter,
            org_id: self.org_id,
            org_name: self.org_name.clone(),
            org_signing_key: self.org_signing_key,
            orchestrator: self.orchestrator.clone(),
        };
        Ok(Made { map, changes, blocks })
    }
}

pub(super) fn is_ascending(peers: &[Arc<PeerRecord>]) -> bool {
    peers.is_sorted_by(|a, b| a.id < b.id)
}

fn weight(peers: &Peers, filter: Option<&PacketFilter>) -> usize {
    let blocks: usize = filter.map_or(0, |filter| filter.rules.iter().map(|rule| rule.from.len()).sum());
    peers.len() * RECORD_BYTES + blocks * WORD_BYTES
}

/// The addresses that no peer has any more.
#[derive(Debug, Default)]
struct Gone {
    blocks: BTreeSet<AllowedIp>,
}

impl Gone {
    fn lost(&mut self, old: &PeerRecord, new: Option<&Arc<PeerRecord>>) {
        let stays = |block: &AllowedIp| new.is_some_and(|new| new.allowed_ips.contains(block));
        let lost = old.allowed_ips.iter().filter(|block| !stays(block));
        self.blocks.extend(lost.copied());
    }
}

#[derive(Debug, Default)]
struct PeerChanges {
    upserted: Vec<Arc<PeerRecord>>,
    removed: Vec<NodeId>,
    gone: BTreeSet<AllowedIp>,
}

impl PeerChanges {
    fn between(old: &[Arc<PeerRecord>], new: &[Arc<PeerRecord>]) -> Self {
        let (mut upserted, mut removed, mut gone) = (Vec::new(), Vec::new(), Gone::default());
        let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
        loop {
            let order = match (old.peek(), new.peek()) {
                (None, None) => break,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(before), Some(after)) => before.id.cmp(&after.id),
            };
            let before = old.next_if(|_| order != Ordering::Greater);
            let after = new.next_if(|_| order != Ordering::Less);
            match (before, after) {
                (Some(before), Some(after)) if Arc::ptr_eq(before, after) || before == after => {}
                (Some(before), None) => {
                    removed.push(before.id);
                    gone.lost(before, None);
                }
                (before, Some(after)) => {
                    before.iter().for_each(|before| gone.lost(before, Some(after)));
                    upserted.push(Arc::clone(after));
                }
                (None, None) => break,
            }
        }
        Self {
            upserted,
            removed,
            gone: gone.blocks,
        }
    }
}

#[cfg(test)]
mod tests;
