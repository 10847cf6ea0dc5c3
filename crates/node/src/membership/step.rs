//! What becomes different when a netmap comes into force.

use std::collections::BTreeSet;
use std::sync::Arc;

use types::netmap::PeerChange;
use types::{AllowedIp, Netmap, NodePublicKey, PeerRecord};

/// What a netmap changes that has been checked.
pub(super) struct Step {
    pub(super) before: Option<Arc<Netmap>>,
    pub(super) netmap: Arc<Netmap>,
    pub(super) changes: Vec<PeerChange>,
    /// The blocks of which the packet filter says something else; `None` when that is not known. Then the netmap came whole; one
    /// that a delta made is in the order of ids.
    pub(super) blocks: Option<BTreeSet<AllowedIp>>,
}

impl Step {
    /// Returns the peers that are new or not as before.
    pub(super) fn records(&self) -> impl Iterator<Item = &Arc<PeerRecord>> {
        self.changes.iter().filter_map(|change| change.after.as_ref())
    }

    /// Returns the keys that those had which are not as before.
    pub(super) fn keys_before(&self) -> impl Iterator<Item = NodePublicKey> {
        let before = self.changes.iter().filter_map(|change| change.before.as_ref());
        before.map(|record| record.public_key)
    }
}
