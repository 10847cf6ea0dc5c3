//! Private keys that a server keeps: one 0600 file each, base64, made at first use.

use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use types::keys::KeyError;
use types::{NodePrivateKey, SigningPrivateKey};

use crate::random;

/// A key that a file keeps as base64.
pub trait KeptKey: Sized {
    /// Makes a key from 32 bytes of the operating system's randomness.
    fn from_random(bytes: [u8; 32]) -> Self;
    /// Reads what `write` wrote.
    fn read(text: &str) -> Result<Self, KeyError>;
    /// Writes the key as base64.
    fn write(&self, to: &mut impl io::Write) -> io::Result<()>;
}

impl KeptKey for NodePrivateKey {
    fn from_random(bytes: [u8; 32]) -> Self {
        Self::from_random(bytes)
    }

    fn read(text: &str) -> Result<Self, KeyError> {
        Self::from_base64(text)
    }

    fn write(&self, to: &mut impl io::Write) -> io::Result<()> {
        to.write_all(self.to_base64().as_bytes())
    }
}

impl KeptKey for SigningPrivateKey {
    fn from_random(bytes: [u8; 32]) -> Self {
        Self::from_random(bytes)
    }

    fn read(text: &str) -> Result<Self, KeyError> {
        Self::from_base64(text)
    }

    fn write(&self, to: &mut impl io::Write) -> io::Result<()> {
        to.write_all(self.to_base64().as_bytes())
    }
}

/// Reads a key, or makes it when there is none. One that others can read is refused.
pub fn open<K: KeptKey>(path: &Path) -> io::Result<K> {
    match std::fs::read_to_string(path) {
        Ok(text) => {
            if path.metadata()?.permissions().mode() & 0o077 != 0 {
                return Err(io::Error::other(format!(
                    "{} can be read by others: chmod 600 it",
                    path.display()
                )));
            }
            K::read(text.trim()).map_err(|error| io::Error::other(format!("{} {error}", path.display())))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => make(path),
        Err(error) => Err(error),
    }
}

/// Writes a new key beside its place and moves it there, so that no half key is ever found.
fn make<K: KeptKey>(path: &Path) -> io::Result<K> {
    let key = K::from_random(random::bytes());
    let draft = path.with_extension("key.new");
    let mut options = std::fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&draft)?;
    key.write(&mut file)?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    std::fs::rename(&draft, path)?;
    if let Some(parent) = path.parent() {
        std::fs::File::open(parent)?.sync_all()?;
    }
    Ok(key)
}
