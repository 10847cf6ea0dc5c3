//! The table of peers: by number, by key, and by who has a timer due first.

use std::collections::{BTreeMap, BTreeSet};

use types::{Monotonic, NodePublicKey};

use super::peer::Peer;

/// A peer's place in the table; it may serve another peer after the first was removed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct PeerId(pub(crate) usize);

struct Slot {
    peer: Peer,
    /// Where the peer stands in `deadlines`.
    scheduled: Option<Monotonic>,
}

/// Every peer of a tunnel.
#[derive(Default)]
pub(crate) struct Peers {
    slots: Vec<Option<Slot>>,
    free: Vec<PeerId>,
    by_key: BTreeMap<NodePublicKey, PeerId>,
    deadlines: BTreeSet<(Monotonic, PeerId)>,
}

impl Peers {
    pub(crate) fn len(&self) -> usize {
        self.by_key.len()
    }

    pub(crate) fn find(&self, key: &NodePublicKey) -> Option<PeerId> {
        self.by_key.get(key).copied()
    }

    pub(crate) fn at(&self, id: PeerId) -> Option<&Peer> {
        self.slots.get(id.0)?.as_ref().map(|slot| &slot.peer)
    }

    pub(crate) fn at_mut(&mut self, id: PeerId) -> Option<&mut Peer> {
        self.slots.get_mut(id.0)?.as_mut().map(|slot| &mut slot.peer)
    }

    /// Adds the peer that `make` makes for its number; its key must not be in the table.
    pub(crate) fn add(&mut self, make: impl FnOnce(PeerId) -> Peer) -> PeerId {
        let id = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            PeerId(self.slots.len() - 1)
        });
        let peer = make(id);
        self.by_key.insert(peer.key, id);
        self.slots[id.0] = Some(Slot {
            peer,
            scheduled: None,
        });
        id
    }

    pub(crate) fn for_each(&mut self, act: impl FnMut(&mut Peer)) {
        let peers = self.slots.iter_mut().flatten();
        peers.map(|slot| &mut slot.peer).for_each(act);
    }

    /// A peer is found by another key from now on, which must not be in the table.
    pub(crate) fn rename(&mut self, old: &NodePublicKey, new: NodePublicKey) -> Option<PeerId> {
        let id = self.by_key.remove(old)?;
        self.by_key.insert(new, id);
        Some(id)
    }

    pub(crate) fn remove(&mut self, key: &NodePublicKey) -> Option<Peer> {
        let id = self.by_key.remove(key)?;
        let slot = self.slots[id.0].take()?;
        if let Some(due) = slot.scheduled {
            self.deadlines.remove(&(due, id));
        }
        self.free.push(id);
        Some(slot.peer)
    }

    /// Notes when a peer's first timer is due; to be called whenever its timers may have changed.
    pub(crate) fn reschedule(&mut self, id: PeerId) {
        let Some(slot) = self.slots.get_mut(id.0).and_then(Option::as_mut) else {
            return;
        };
        let due = slot.peer.timers.earliest().map(|(due, _)| due);
        let before = std::mem::replace(&mut slot.scheduled, due);
        if before == due {
            return;
        }
        if let Some(before) = before {
            self.deadlines.remove(&(before, id));
        }
        if let Some(due) = due {
            self.deadlines.insert((due, id));
        }
    }

    /// Returns whose timer is due first, and when.
    pub(crate) fn first_due(&self) -> Option<(Monotonic, PeerId)> {
        self.deadlines.first().copied()
    }
}
