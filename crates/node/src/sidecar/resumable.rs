//! Which agent session belongs to which thread, so that the next run of a thread goes on where the last one stopped.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use types::{RolloutId, ThreadId};

use crate::state_dir::StateDir;

const FILE: &str = "sessions.json";

/// So many sessions are remembered; the oldest goes first.
const SESSIONS_MAX: usize = 512;

/// The longest session id that is kept, in bytes.
const SESSION_LEN_MAX: usize = 1024;

/// Whose session it is: a compacted thread begins a new one, since the old one remembers what was condensed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Key {
    pub(super) thread_id: ThreadId,
    pub(super) rollout_id: RolloutId,
    pub(super) runner: String,
    pub(super) folder: PathBuf,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Entry {
    #[serde(flatten)]
    key: Key,
    session: String,
}

/// The remembered sessions. Losing them costs an agent its memory, never a run.
#[derive(Debug)]
pub(super) struct Resumable {
    entries: Mutex<VecDeque<Entry>>,
}

impl Resumable {
    pub(super) fn read(state_dir: &StateDir) -> Self {
        let entries = state_dir.read_json(FILE).unwrap_or_else(|error| {
            tracing::warn!(%error, "the agents' sessions are forgotten");
            None
        });
        Self {
            entries: Mutex::new(entries.unwrap_or_default()),
        }
    }

    /// Finds the session of a rollout with the same runner in the same folder.
    pub(super) fn find(&self, key: &Key) -> Option<String> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let found = entries.iter().find(|entry| entry.key == *key);
        found.map(|entry| entry.session.clone())
    }

    pub(super) fn keep(&self, state_dir: &StateDir, key: Key, session: String) {
        if session.len() > SESSION_LEN_MAX {
            return;
        }
        let entries = {
            let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
            entries.retain(|entry| entry.key.thread_id != key.thread_id);
            entries.push_back(Entry { key, session });
            while entries.len() > SESSIONS_MAX {
                entries.pop_front();
            }
            entries.clone()
        };
        if let Err(error) = state_dir.write_json(FILE, &entries) {
            tracing::warn!(%error, "an agent's session cannot be kept");
        }
    }
}
