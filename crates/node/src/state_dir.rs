//! The state directory: what the node keeps between starts, and the lock that keeps a second daemon out.
//!
//! | file | what |
//! |---|---|
//! | `node.key` | the X25519 private key, base64, mode 0600 |
//! | `next.key`, `previous.key` | the key to be and the key that was, while it is being changed ([`crate::keyring`]) |
//! | `signing.key` | the Ed25519 private key, base64, mode 0600 |
//! | `link.json` | how far the link is, and what was pinned at approval ([`crate::link_state`]) |
//! | `netmap.json`, `netmap.log` | the last netmap that was written whole, and what came upon it since (`crate::netmap_file`) |
//! | `sessions.json` | which agent session belongs to which thread |
//! | `ports.json` | which ports are kept in the background ([`crate::ports`]) |
//! | `policy.toml` | what the owner allows ([`crate::policy`]) |
//! | `journal` | runs and events the control plane has not acknowledged ([`crate::journal_file`]) |
//! | `runmesh.sock` | the local API |
//! | `lock` | held while a daemon runs |

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use types::keys::KeyError;
use types::{NodePrivateKey, SigningPrivateKey};
use zeroize::Zeroizing;

/// What the node keeps there, and does not start without believing. `ports.json` is missing: when it cannot be believed the
/// node goes on without.
const FILES: [&str; 11] = [
    "node.key",
    "next.key",
    "previous.key",
    "signing.key",
    "link.json",
    "netmap.json",
    "netmap.log",
    "sessions.json",
    "policy.toml",
    "journal",
    "lock",
];

/// The largest state file that is read, in bytes.
const FILE_BYTES_MAX: u64 = types::control::MESSAGE_BYTES_MAX as u64;

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateDirError {
    /// Another daemon holds the lock.
    #[error("another runmesh daemon is using {0}; stop it, or choose another --state-dir")]
    InUse(PathBuf),
    /// The directory, or a file of the node's in it, belongs to another user.
    #[error("{0} belongs to another user; choose another --state-dir")]
    ForeignOwner(PathBuf),
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A key file does not hold a key.
    #[error("{path} holds no key: it {source}; restore it, or delete it to become a new node")]
    BadKey {
        /// The file.
        path: PathBuf,
        /// Why.
        source: KeyError,
    },
    /// A file that must be JSON is not.
    #[error("{path} cannot be read: {source}; restore it, or delete it to link again")]
    BadJson {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
}

/// An open state directory; the lock is held as long as this lives.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    _lock: File,
}

impl StateDir {
    /// Opens the directory, making it with mode 0700 if missing, and takes its lock.
    pub fn open(path: &Path) -> Result<Self, StateDirError> {
        let at = |source| StateDirError::Io {
            path: path.to_owned(),
            source,
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(at)?;
        let path = fs::canonicalize(path).map_err(at)?;
        check_owner(&path)?;
        let meta = fs::metadata(&path).map_err(at)?;
        if meta.mode() & 0o077 != 0 {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).map_err(at)?;
        }
        // Only now, since from here on nobody else can put one there.
        for name in FILES {
            check_owner(&path.join(name))?;
        }
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path.join("lock"))
            .map_err(at)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path, _lock: lock }),
            Err(fs::TryLockError::WouldBlock) => Err(StateDirError::InUse(path)),
            Err(fs::TryLockError::Error(source)) => Err(at(source)),
        }
    }

    /// Returns the directory's canonical path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the path of a file in the directory.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Reads the node key, making it at the first start.
    pub fn node_key(&self) -> Result<NodePrivateKey, StateDirError> {
        let path = self.file("node.key");
        let text = read_or_make_key(&path, |random| NodePrivateKey::from_random(random).to_base64())?;
        NodePrivateKey::from_base64(text.trim()).map_err(|source| StateDirError::BadKey { path, source })
    }

    /// Reads the signing key, making it at the first start.
    pub fn signing_key(&self) -> Result<SigningPrivateKey, StateDirError> {
        let path = self.file("signing.key");
        let text = read_or_make_key(&path, |random| SigningPrivateKey::from_random(random).to_base64())?;
        SigningPrivateKey::from_base64(text.trim()).map_err(|source| StateDirError::BadKey { path, source })
    }

    /// Reads a file that holds a secret, and closes it to others; `None` if there is none.
    pub(crate) fn read_secret(&self, name: &str) -> Result<Option<Zeroizing<String>>, StateDirError> {
        let path = self.file(name);
        let read = || {
            let Some(bytes) = read_if_there(&path)? else {
                return Ok(None);
            };
            close_to_others(&path)?;
            Ok(Some(Zeroizing::new(String::from_utf8(bytes).unwrap_or_default())))
        };
        read().map_err(|source| StateDirError::Io {
            path: path.clone(),
            source,
        })
    }

    /// Writes a file that holds a secret, mode 0600: after a crash either the old or the new one is there, whole.
    pub(crate) fn write_secret(&self, name: &str, text: &str) -> Result<(), StateDirError> {
        let path = self.file(name);
        write_atomically(&path, text.as_bytes()).map_err(|source| StateDirError::Io { path, source })
    }

    /// Reads a JSON file; `None` if there is none.
    pub fn read_json<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, StateDirError> {
        peek_json(&self.path, name)
    }

    /// Reads a file of the node's; `None` if there is none.
    pub(crate) fn read_bytes(&self, name: &str) -> Result<Option<Vec<u8>>, StateDirError> {
        let path = self.file(name);
        read_if_there(&path).map_err(|source| StateDirError::Io { path, source })
    }

    /// Writes a JSON file so that after a crash either the old or the new one is there, whole, and returns its length in bytes.
    pub fn write_json<T: Serialize>(&self, name: &str, value: &T) -> Result<u64, StateDirError> {
        let path = self.file(name);
        let bytes = serde_json::to_vec(value).map_err(|source| StateDirError::BadJson {
            path: path.clone(),
            source,
        })?;
        write_atomically(&path, &bytes).map_err(|source| StateDirError::Io { path, source })?;
        Ok(bytes.len() as u64)
    }

    /// Removes a file; one that is not there is removed already.
    pub fn remove(&self, name: &str) -> Result<(), StateDirError> {
        let path = self.file(name);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(StateDirError::Io { path, source })
            }
            _ => Ok(()),
        }
    }
}

/// Reads a JSON file of a state directory without taking its lock, as whoever only looks does; `None` if there is none.
pub fn peek_json<T: DeserializeOwned>(dir: &Path, name: &str) -> Result<Option<T>, StateDirError> {
    let path = dir.join(name);
    let Some(bytes) = read_if_there(&path).map_err(|source| StateDirError::Io {
        path: path.clone(),
        source,
    })?
    else {
        return Ok(None);
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|source| StateDirError::BadJson { path, source })
}

/// Writes a file with mode 0600 beside `path`, syncs it, and moves it over `path`.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    drop(file);
    fs::rename(&temporary, path)?;
    sync_parent(path)
}

/// What another user owns that user can change at any time, also while it is closed to others. What is not there is
/// nobody's.
fn check_owner(path: &Path) -> Result<(), StateDirError> {
    match fs::metadata(path) {
        Ok(meta) if meta.uid() != rustix::process::geteuid().as_raw() => {
            Err(StateDirError::ForeignOwner(path.to_owned()))
        }
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(StateDirError::Io {
            path: path.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}

/// Who beside this user could have written a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum OpenTo {
    /// The user of this id, whose it is.
    #[error("it belongs to another user (id {0})")]
    Owner(u32),
    /// Whom its mode lets.
    #[error("others may write it (mode {0:04o})")]
    Others(u32),
}

/// Tells who beside this user could have written a file; root can in any case.
pub(crate) fn open_to(meta: &fs::Metadata) -> Option<OpenTo> {
    let own = rustix::process::geteuid().as_raw();
    if meta.uid() != own && meta.uid() != 0 {
        return Some(OpenTo::Owner(meta.uid()));
    }
    let mode = meta.mode() & 0o777;
    (mode & 0o022 != 0).then_some(OpenTo::Others(mode))
}

/// Makes the directory entry of `path` itself durable.
pub(crate) fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

fn read_if_there(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

fn read_or_make_key<T: std::ops::Deref<Target = String> + From<String>>(
    path: &Path,
    make: impl FnOnce([u8; 32]) -> T,
) -> Result<T, StateDirError> {
    let at = |source| StateDirError::Io {
        path: path.to_owned(),
        source,
    };
    if let Some(bytes) = read_if_there(path).map_err(at)? {
        close_to_others(path).map_err(at)?;
        let text = String::from_utf8(bytes).unwrap_or_default();
        return Ok(T::from(text));
    }
    let key = make(net::random::bytes::<32>());
    write_atomically(path, key.as_bytes()).map_err(at)?;
    Ok(key)
}

/// A key that others may read is no secret: they are shut out, and the owner is told that they may have read it.
fn close_to_others(path: &Path) -> io::Result<()> {
    let mode = fs::metadata(path)?.mode() & 0o777;
    if mode & 0o077 != 0 {
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        tracing::warn!(
            path = %path.display(),
            "a private key had mode {mode:04o} and has 0600 now; if others may have read it, revoke this node and link \
             it anew with a fresh state directory"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_made_once_and_only_their_owner_can_read_them() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("state");
        let state = StateDir::open(&path).expect("opens");
        let key = state.node_key().expect("made").public();
        assert_eq!(state.node_key().expect("read").public(), key);
        let signing = state.signing_key().expect("made").public();
        assert_eq!(state.signing_key().expect("read").public(), signing);
        for name in ["node.key", "signing.key"] {
            let mode = fs::metadata(state.file(name)).expect("there").mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
        assert_eq!(fs::metadata(&path).expect("there").mode() & 0o777, 0o700);
    }

    #[test]
    fn a_directory_open_to_others_is_closed() {
        let dir = tempfile::tempdir().expect("temporary directory");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("own directory");
        StateDir::open(dir.path()).expect("opens");
        assert_eq!(fs::metadata(dir.path()).expect("there").mode() & 0o777, 0o700);
    }

    #[test]
    fn a_file_of_another_user_is_not_believed() {
        if !rustix::process::geteuid().is_root() {
            // Only root can give files away.
            return;
        }
        for name in FILES {
            let dir = tempfile::tempdir().expect("temporary directory");
            drop(StateDir::open(dir.path()).expect("opens"));
            let path = dir.path().join(name);
            fs::write(&path, "").expect("written");
            std::os::unix::fs::chown(&path, Some(65534), None).expect("given away");
            match StateDir::open(dir.path()) {
                Err(StateDirError::ForeignOwner(found)) => assert!(found.ends_with(name)),
                other => panic!("{name}: {other:?}"),
            }
        }
    }

    #[test]
    fn two_daemons_cannot_share_a_directory() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let first = StateDir::open(dir.path()).expect("opens");
        assert!(matches!(StateDir::open(dir.path()), Err(StateDirError::InUse(_))));
        drop(first);
        StateDir::open(dir.path()).expect("free again");
    }

    #[test]
    fn a_damaged_key_is_an_error_and_is_not_replaced() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let state = StateDir::open(dir.path()).expect("opens");
        fs::write(state.file("node.key"), "rubbish").expect("writes");
        assert!(matches!(state.node_key(), Err(StateDirError::BadKey { .. })));
        assert_eq!(fs::read(state.file("node.key")).expect("there"), b"rubbish");
    }

    #[test]
    fn a_key_that_others_may_read_is_closed_to_them_and_stays_the_same() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let state = StateDir::open(dir.path()).expect("opens");
        let key = state.node_key().expect("made").public();
        let path = state.file("node.key");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("own file");
        assert_eq!(state.node_key().expect("read").public(), key);
        assert_eq!(fs::metadata(&path).expect("there").mode() & 0o777, 0o600);
    }

    #[test]
    fn whoever_only_looks_needs_no_lock() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let state = StateDir::open(dir.path()).expect("opens");
        state.write_json("x.json", &3).expect("writes");
        assert_eq!(peek_json::<u8>(dir.path(), "x.json").expect("there"), Some(3));
        assert_eq!(
            peek_json::<u8>(&dir.path().join("none"), "x.json").expect("none"),
            None
        );
    }

    #[test]
    fn json_files_are_replaced_whole() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let state = StateDir::open(dir.path()).expect("opens");
        assert_eq!(state.read_json::<Vec<u8>>("x.json").expect("none"), None);
        state.write_json("x.json", &vec![1, 2]).expect("writes");
        state.write_json("x.json", &vec![3]).expect("writes");
        assert_eq!(state.read_json("x.json").expect("there"), Some(vec![3]));
        state.remove("x.json").expect("removes");
        state.remove("x.json").expect("removes what is gone");
    }
}
