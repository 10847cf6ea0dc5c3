//! The policy in force: the file as it stands now, read again when it changed.

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

type Stamp = (SystemTime, u64);

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
            .and_then(|meta| Ok((meta.modified()?, meta.len())))
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
