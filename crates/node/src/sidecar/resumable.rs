//! Which agent session belongs to which thread, so that the next run of a thread goes on where the last one stopped.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use types::ThreadId;

use crate::state_dir::StateDir;

const FILE: &str = "sessions.json";

/// So many sessions are remembered; the oldest goes first.
const SESSIONS_MAX: usize = 512;

/// The longest session id that is kept, in bytes.
const SESSION_LEN_MAX: usize = 1024;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    thread_id: ThreadId,
    runner: String,
    folder: PathBuf,
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

    /// Finds the session of a thread with the same runner in the same folder.
    pub(super) fn find(&self, thread_id: ThreadId, runner: &str, folder: &Path) -> Option<String> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let fits =
            |entry: &&Entry| entry.thread_id == thread_id && entry.runner == runner && entry.folder == folder;
        entries.iter().find(fits).map(|entry| entry.session.clone())
    }

    pub(super) fn keep(
        &self,
        state_dir: &StateDir,
        thread_id: ThreadId,
        runner: &str,
        folder: &Path,
        session: String,
    ) {
        if session.len() > SESSION_LEN_MAX {
            return;
        }
        let entries = {
            let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
            entries.retain(|entry| entry.thread_id != thread_id);
            entries.push_back(Entry {
                thread_id,
                runner: runner.to_owned(),
                folder: folder.to_owned(),
                session,
            });
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
