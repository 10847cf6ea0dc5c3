//! By which numbers a relay and one of its clients name other clients: eight bytes of header instead of a key.

use std::collections::BTreeMap;

use types::NodePublicKey;

use super::ClientNumber;

/// How many numbers of others a client remembers; when they are more, it starts anew.
const NUMBERS_MAX: usize = 16_384;

/// The numbers of others at this relay.
#[derive(Default)]
pub(super) struct Numbers {
    by_key: BTreeMap<NodePublicKey, ClientNumber>,
    by_number: BTreeMap<ClientNumber, NodePublicKey>,
}

impl Numbers {
    pub(super) fn of(&self, peer: &NodePublicKey) -> Option<ClientNumber> {
        self.by_key.get(peer).copied()
    }

    pub(super) fn whose(&self, number: ClientNumber) -> Option<NodePublicKey> {
        self.by_number.get(&number).copied()
    }

    pub(super) fn learn(&mut self, number: ClientNumber, peer: NodePublicKey) {
        if self.of(&peer) == Some(number) {
            return;
        }
        if self.by_key.len() >= NUMBERS_MAX {
            *self = Self::default();
        }
        if let Some(before) = self.by_key.insert(peer, number) {
            self.by_number.remove(&before);
        }
        if let Some(before) = self
            .by_number
            .insert(number, peer)
            .filter(|before| *before != peer)
        {
            self.by_key.remove(&before);
        }
    }

    pub(super) fn forget(&mut self, number: ClientNumber) -> Option<NodePublicKey> {
        let peer = self.by_number.remove(&number)?;
        self.by_key.remove(&peer);
        Some(peer)
    }
}
