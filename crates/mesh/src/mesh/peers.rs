//! The managed peers of a mesh: their paths, the relays at which they are said to be, and who is due first.

use std::collections::{BTreeMap, BTreeSet};

use types::{Monotonic, NodePublicKey, RelayId};

use crate::paths::{PathTimer, PeerPaths};

struct Entry {
    paths: PeerPaths,
    homes: Vec<RelayId>,
    due: Option<Monotonic>,
}

#[derive(Default)]
pub(super) struct Peers {
    all: BTreeMap<NodePublicKey, Box<Entry>>,
    due: BTreeSet<(Monotonic, NodePublicKey)>,
}

impl Peers {
    pub(super) fn keys(&self) -> Vec<NodePublicKey> {
        self.all.keys().copied().collect()
    }

    pub(super) fn get(&self, key: &NodePublicKey) -> Option<&PeerPaths> {
        self.all.get(key).map(|entry| &entry.paths)
    }

    pub(super) fn get_mut(&mut self, key: &NodePublicKey) -> Option<&mut PeerPaths> {
        self.all.get_mut(key).map(|entry| &mut entry.paths)
    }

    /// Returns the peer whose key has these bytes.
    pub(super) fn whose_bytes(&self, key: &[u8; 32]) -> Option<NodePublicKey> {
        self.all.get_key_value(key).map(|(key, _)| *key)
    }

    /// Returns the relays at which a peer is found best; empty when that is not known.
    pub(super) fn homes(&self, key: &NodePublicKey) -> &[RelayId] {
        self.all.get(key).map_or(&[], |entry| &entry.homes)
    }

    pub(super) fn upsert(
        &mut self,
        key: NodePublicKey,
        make: impl FnOnce() -> PeerPaths,
        homes: Vec<RelayId>,
    ) {
        let entry = self.all.entry(key).or_insert_with(|| {
            Box::new(Entry {
                paths: make(),
                homes: Vec::new(),
                due: None,
            })
        });
        entry.homes = homes;
    }

    pub(super) fn remove(&mut self, key: &NodePublicKey) {
        if let Some(due) = self.all.remove(key).and_then(|entry| entry.due) {
            self.due.remove(&(due, *key));
        }
    }

    /// A peer goes by another key from now on; whoever had that one must be gone.
    pub(super) fn rename(&mut self, old: &NodePublicKey, new: NodePublicKey) {
        let Some(entry) = self.all.remove(old) else {
            return;
        };
        if let Some(due) = entry.due {
            self.due.remove(&(due, *old));
            self.due.insert((due, new));
        }
        self.all.insert(new, entry);
    }

    /// Notes anew when a peer's paths are due.
    pub(super) fn reschedule(&mut self, key: &NodePublicKey) {
        let Some(entry) = self.all.get_mut(key) else {
            return;
        };
        let due = entry.paths.poll_timeout().map(|(due, _)| due);
        let before = std::mem::replace(&mut entry.due, due);
        if before == due {
            return;
        }
        if let Some(before) = before {
            self.due.remove(&(before, *key));
        }
        if let Some(due) = due {
            self.due.insert((due, *key));
        }
    }

    pub(super) fn first_due(&self) -> Option<(Monotonic, PathTimer)> {
        let (_, key) = self.due.first()?;
        self.get(key)?.poll_timeout()
    }

    /// Returns a peer whose paths are due; it is not returned again before it was rescheduled.
    pub(super) fn take_due(&mut self, now: Monotonic) -> Option<NodePublicKey> {
        let (due, key) = *self.due.first().filter(|(due, _)| *due <= now)?;
        self.due.remove(&(due, key));
        if let Some(entry) = self.all.get_mut(&key) {
            entry.due = None;
        }
        Some(key)
    }
}
