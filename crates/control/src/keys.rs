//! The control plane's own keys: made at first start, kept as 0600 files in the data directory.

use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use types::NodePrivateKey;

use crate::secrets;

/// The keys of one control plane.
#[derive(Clone, Debug)]
pub(crate) struct ControlKeys {
    /// The Noise static key of the control stream; nodes pin its public half at link.
    pub(crate) noise: NodePrivateKey,
    /// The WireGuard key of the platform's node, one for all orgs.
    pub(crate) platform: NodePrivateKey,
}

impl ControlKeys {
    /// Reads the keys, or makes them when they are not there.
    pub(crate) fn open(data_dir: &Path) -> io::Result<Self> {
        Ok(Self {
            noise: open(&data_dir.join("control.key"))?,
            platform: open(&data_dir.join("platform.key"))?,
        })
    }
}

fn open(path: &Path) -> io::Result<NodePrivateKey> {
    match std::fs::read_to_string(path) {
        Ok(text) => {
            if path.metadata()?.permissions().mode() & 0o077 != 0 {
                return Err(io::Error::other(format!(
                    "{} can be read by others: chmod 600 it",
                    path.display()
                )));
            }
            NodePrivateKey::from_base64(text.trim())
                .map_err(|error| io::Error::other(format!("{} {error}", path.display())))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => make(path),
        Err(error) => Err(error),
    }
}

/// Writes a new key beside its place and moves it there, so that no half key is ever found.
fn make(path: &Path) -> io::Result<NodePrivateKey> {
    let key = NodePrivateKey::from_random(secrets::bytes());
    let draft = path.with_extension("key.new");
    let mut options = std::fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&draft)?;
    file.write_all(key.to_base64().as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    std::fs::rename(&draft, path)?;
    if let Some(parent) = path.parent() {
        std::fs::File::open(parent)?.sync_all()?;
    }
    Ok(key)
}
