//! The control plane's own keys: made at first start, kept as 0600 files in the data directory.

use std::io;
use std::path::Path;

use net::key_file;
use types::{NodePrivateKey, NodePublicKey, SigningPrivateKey};

/// The keys of one control plane.
#[derive(Clone, Debug)]
pub(crate) struct ControlKeys {
    /// The Noise static key of the control stream; nodes pin its public half at link.
    pub(crate) noise: NodePrivateKey,
    /// The WireGuard key of the platform's node, one for all orgs.
    pub(crate) platform: NodePrivateKey,
    /// The key of the relay that runs beside the control plane.
    pub(crate) relay: NodePrivateKey,
    /// The key that signs relay tickets; every relay knows its public half.
    pub(crate) relay_tickets: SigningPrivateKey,
}

impl ControlKeys {
    /// Reads the keys, or makes them when they are not there.
    pub(crate) fn open(data_dir: &Path) -> io::Result<Self> {
        Ok(Self {
            noise: key_file::open(&data_dir.join("control.key"))?,
            platform: key_file::open(&data_dir.join("platform.key"))?,
            relay: key_file::open(&data_dir.join("relay.key"))?,
            relay_tickets: key_file::open(&data_dir.join("relay-tickets.key"))?,
        })
    }

    /// Tells whether a key is one of these, so that no node can have it.
    pub(crate) fn include(&self, key: &NodePublicKey) -> bool {
        let own = [&self.platform, &self.noise, &self.relay];
        own.iter().any(|own| own.public() == *key)
    }
}
