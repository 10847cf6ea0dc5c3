//! The policy in force: the file as it stands now, read again when it changed.

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use super::{Policy, load};

/// Reads `policy.toml` when it changed since the last look. While it has an error there is no policy, so no run.
#[derive(Debug)]
pub struct PolicyStore {
    path: PathBuf,
    last: Mutex<Look>,
}

/// When it was written, how long it is, and who owns it and may write it.
type Stamp = (SystemTime, u64, u32, u32);

/// The file's stamp and what it said then.
type Look = (Option<Stamp>, Result<Arc<Policy>, String>);

impl PolicyStore {
    /// Starts with whatever the file says.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        let last = Mutex::new((None, Err("the policy file was not read yet".to_owned())));
        Self { path, last }
    }

    /// Returns the policy, or why there is none.
    pub fn current(&self) -> Result<Arc<Policy>, String> {
        let stamp = std::fs::metadata(&self.path)
            .and_then(|meta| Ok((meta.modified()?, meta.len(), meta.uid(), meta.mode())))
            .ok();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        // An erroneous file is read every time: the folder it misses may have come.
        if stamp.is_none() || last.0 != stamp || last.1.is_err() {
            *last = (
                stamp,
                load(&self.path).map(Arc::new).map_err(|error| error.to_string()),
            );
        }
        last.1.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, set_permissions};
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_file_that_others_may_write_is_in_force_only_as_long_as_they_may_not() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("policy.toml");
        std::fs::write(&path, "").expect("written");
        let store = PolicyStore::new(path.clone());
        let under = |mode| {
            set_permissions(&path, Permissions::from_mode(mode)).expect("own file");
            store.current()
        };
        under(0o644).expect("readable by others is no harm");
        for mode in [0o646, 0o664, 0o622] {
            let refused = under(mode).expect_err("others may write it");
            assert!(refused.contains("others may write it (mode"), "{refused}");
            assert!(refused.contains("policy.toml"), "{refused}");
        }
        under(0o600).expect("the owner's alone again");
    }

    #[test]
    fn a_file_of_another_user_is_never_in_force() {
        if !rustix::process::geteuid().is_root() {
            // Only root can give files away.
            return;
        }
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("policy.toml");
        std::fs::write(&path, "").expect("written");
        let store = PolicyStore::new(path.clone());
        store.current().expect("our own");
        std::os::unix::fs::chown(&path, Some(65534), None).expect("given away");
        let refused = store.current().expect_err("another user's");
        assert!(
            refused.contains("belongs to another user (id 65534)"),
            "{refused}"
        );
    }
}
