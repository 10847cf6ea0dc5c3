//! What all peers of a tunnel have in common: our keys, randomness, indices, the way out, events and counters.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use rand_chacha::ChaCha20Rng;
use rand_core::{Rng as _, SeedableRng as _};
use types::{NodePrivateKey, NodePublicKey};

use super::TunnelEvent;
use super::counters::{Counters, DropReason};
use super::handshake::Identity;
use super::message::INITIATION_LEN;
use super::outbox::Outbox;
use super::peers::PeerId;
use super::timers::JITTER_MAX;
use crate::endpoint::Endpoint;

/// How many events wait at most for a caller that does not collect them.
pub const EVENTS_MAX: usize = 16_384;

/// How many calls wait at most for a caller that does not collect them.
pub const CALLS_WAITING_MAX: usize = 64;

pub(crate) struct Shared {
    pub(crate) identity: Identity,
    /// Another key that is ours for a while.
    other: Option<Identity>,
    pub(crate) rng: ChaCha20Rng,
    /// Who is meant by the receiver index of a datagram.
    indices: BTreeMap<u32, PeerId>,
    pub(crate) outbox: Outbox,
    /// Initiations for everybody on our links.
    calls: VecDeque<[u8; INITIATION_LEN]>,
    pub(crate) events: VecDeque<TunnelEvent>,
    pub(crate) counters: Counters,
    pub(crate) mtu: usize,
}

impl Shared {
    pub(crate) fn new(private_key: NodePrivateKey, seed: [u8; 32]) -> Self {
        Self {
            identity: Identity::new(private_key),
            other: None,
            rng: ChaCha20Rng::from_seed(seed),
            indices: BTreeMap::new(),
            outbox: Outbox::default(),
            calls: VecDeque::new(),
            events: VecDeque::new(),
            counters: Counters::default(),
            mtu: types::MESH_MTU,
        }
    }

    pub(crate) fn set_keys(&mut self, current: NodePrivateKey, other: Option<NodePrivateKey>) {
        self.identity = Identity::new(current);
        let other = other.map(Identity::new);
        self.other = other.filter(|other| other.public != self.identity.public);
    }

    pub(crate) fn is_own_key(&self, key: &NodePublicKey) -> bool {
        let other = self.other.as_ref().map(|other| other.public);
        self.identity.public == *key || other == Some(*key)
    }

    pub(crate) fn has_other_key(&self) -> bool {
        self.other.is_some()
    }

    /// Returns which of our keys a peer is greeted with; the current one when there is no other.
    pub(crate) fn speaking_as(&self, other: bool) -> &Identity {
        self.other.as_ref().filter(|_| other).unwrap_or(&self.identity)
    }

    /// Returns which of our keys a handshake message is meant for, by its first MAC; the current one when for neither.
    pub(crate) fn addressed(&self, message: &[u8]) -> &Identity {
        let other = self.other.as_ref();
        let is_meant = |other: &&Identity| other.mac_keys.accepts(message);
        other.filter(is_meant).unwrap_or(&self.identity)
    }

    /// Tells whether a handshake message is meant for one of our keys, by its first MAC.
    pub(crate) fn is_addressed(&self, message: &[u8]) -> bool {
        self.addressed(message).mac_keys.accepts(message)
    }

    /// Draws the seed of one handshake.
    pub(crate) fn seed(&mut self) -> [u8; 32] {
        let mut seed = [0; 32];
        self.rng.fill_bytes(&mut seed);
        seed
    }

    /// Draws a span below [`JITTER_MAX`].
    pub(crate) fn jitter(&mut self) -> Duration {
        JITTER_MAX * (self.rng.next_u32() >> 16) / (1 << 16)
    }

    /// Draws an index that is not in use, and notes whose it is.
    pub(crate) fn take_index(&mut self, peer: PeerId) -> u32 {
        loop {
            let index = self.rng.next_u32();
            if let std::collections::btree_map::Entry::Vacant(entry) = self.indices.entry(index) {
                entry.insert(peer);
                return index;
            }
        }
    }

    pub(crate) fn free_indices(&mut self, indices: impl IntoIterator<Item = u32>) {
        for index in indices {
            self.indices.remove(&index);
        }
    }

    pub(crate) fn whose_index(&self, index: u32) -> Option<PeerId> {
        self.indices.get(&index).copied()
    }

    /// Makes a handshake message or cookie reply ready to send.
    pub(crate) fn transmit(&mut self, destination: Endpoint, bytes: &[u8]) {
        match self.outbox.append(destination, bytes.len()) {
            Some(out) => out.extend_from_slice(bytes),
            None => self.counters.drop_for(DropReason::OutboxFull),
        }
    }

    /// Makes an initiation ready to be sent to everybody on our links.
    pub(crate) fn call(&mut self, initiation: [u8; INITIATION_LEN]) {
        if self.calls.len() < CALLS_WAITING_MAX {
            self.calls.push_back(initiation);
        } else {
            self.counters.drop_for(DropReason::OutboxFull);
        }
    }

    pub(crate) fn take_call(&mut self) -> Option<[u8; INITIATION_LEN]> {
        self.calls.pop_front()
    }

    pub(crate) fn event(&mut self, event: TunnelEvent) {
        if self.events.len() >= EVENTS_MAX {
            self.events.pop_front();
            self.counters.drop_for(DropReason::EventsFull);
        }
        self.events.push_back(event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_has_one_owner_until_it_is_freed() {
        let mut shared = Shared::new(NodePrivateKey::from_random([1; 32]), [2; 32]);
        let first = shared.take_index(PeerId(1));
        let second = shared.take_index(PeerId(2));
        assert_ne!(first, second);
        assert_eq!(shared.whose_index(first), Some(PeerId(1)));
        shared.free_indices([first]);
        assert_eq!(shared.whose_index(first), None);
        assert_eq!(shared.whose_index(second), Some(PeerId(2)));
    }

    #[test]
    fn jitter_stays_below_its_limit_and_varies() {
        let mut shared = Shared::new(NodePrivateKey::from_random([1; 32]), [2; 32]);
        let spans: Vec<_> = (0..100).map(|_| shared.jitter()).collect();
        assert!(spans.iter().all(|span| *span < JITTER_MAX));
        assert!(spans.iter().max() > spans.iter().min());
    }
}
