//! The ports of this device that are exposed or forwarded: as long as a command runs, or kept in the background until they
//! are taken back, over every restart of the daemon.
//!
//! Who has which port is decided in `entries`; what is kept stands in `ports.json` (`kept_file`) before anybody is told
//! that it is kept, and is gone from there before anybody is told that it is not.

mod entries;
mod keeping;
mod kept_file;
mod port;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use self::entries::{Entries, Entry};
pub use self::entries::{KEPT_MAX, KeepError, TakeBackError, Taken};
pub use self::keeping::NotOpened;
use self::keeping::{Keeping, Opened};
use self::kept_file::Owner;
use self::port::Claim;
pub use self::port::{Port, Which};
use crate::link_state::Pinned;
use crate::reach::Reach;
use crate::reach::forward::Failed;
use crate::state_dir::{StateDir, StateDirError};

/// Why a port is not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another port has its place.
    #[error(transparent)]
    Taken(#[from] Taken),
    /// It cannot be kept.
    #[error(transparent)]
    Keep(#[from] KeepError),
    /// It is kept already, and is not open yet.
    #[error("{port} in the background, but not yet: {reason}")]
    Waits {
        /// The port.
        port: Port,
        /// Why it is not open.
        reason: String,
    },
    /// It cannot be listened on.
    #[error(transparent)]
    NotOpened(#[from] NotOpened),
    /// It cannot be written down; it is not open.
    #[error(transparent)]
    State(#[from] StateDirError),
    /// The daemon is.
    #[error(transparent)]
    Stopping(#[from] Stopping),
}

/// The daemon is stopping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the node is stopping")]
pub struct Stopping;

/// Why a port is not taken back.
#[derive(Debug, thiserror::Error)]
pub enum EndError {
    /// There is nothing to take back.
    #[error(transparent)]
    TakeBack(#[from] TakeBackError),
    /// It cannot be written down; it stays.
    #[error(transparent)]
    State(#[from] StateDirError),
    /// The daemon is stopping.
    #[error(transparent)]
    Stopping(#[from] Stopping),
}

/// A port, and how it gets on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortStatus {
    /// The port.
    #[serde(flatten)]
    pub port: Port,
    /// Whether it is kept in the background; else it ends with the command that asked for it.
    pub background: bool,
    /// Whether connections get through, as far as this device knows.
    pub state: PortState,
    /// Why they do not, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The last connection that led nowhere; of ports in the background only, since commands are told each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failed: Option<Failed>,
}

/// Whether a port is open.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PortState {
    /// It is.
    Open,
    /// It is tried again: its place is taken, or the netmap does not name the node that it leads to.
    Waiting,
}

/// The ports of this device.
pub struct Ports {
    reach: Reach,
    state_dir: Arc<StateDir>,
    owner: Owner,
    set_aside: Option<String>,
    entries: Held,
    /// Whether nothing is opened any more; held by whoever changes something.
    is_stopping: tokio::sync::Mutex<bool>,
}

type Held = Arc<Mutex<Entries<Keeping>>>;

impl Ports {
    /// Opens what is kept for this node.
    pub(crate) async fn open(reach: Reach, state_dir: Arc<StateDir>, pinned: &Pinned) -> Self {
        let owner = Owner::from(pinned);
        let kept = kept_file::read(&state_dir, owner);
        let mut entries = Entries::default();
        for port in kept.ports {
            let keeping = Keeping::start(port.clone(), reach.clone()).await;
            entries.insert(port, Some(keeping));
        }
        Self {
            reach,
            state_dir,
            owner,
            set_aside: kept.set_aside,
            entries: Arc::new(Mutex::new(entries)),
            is_stopping: tokio::sync::Mutex::new(false),
        }
    }

    /// Says why what was kept is not, if its file could not be believed when the daemon started.
    #[must_use]
    pub fn set_aside(&self) -> Option<String> {
        self.set_aside.clone()
    }

    /// Returns every port, exposed ones first.
    #[must_use]
    pub fn list(&self) -> Vec<PortStatus> {
        lock(&self.entries)
            .iter()
            .map(|entry| self.status(entry))
            .collect()
    }

    fn status(&self, entry: &Entry<Keeping>) -> PortStatus {
        let progress = entry.kept.as_ref().map(Keeping::progress).unwrap_or_default();
        let leads_nowhere = || match &entry.port {
            Port::Exposed { .. } => None,
            Port::Forwarded { target, .. } => self.reach.place(target).err().map(|error| error.to_string()),
        };
        let reason = progress.waits_because.or_else(leads_nowhere);
        PortStatus {
            port: entry.port.clone(),
            background: entry.kept.is_some(),
            state: match reason {
                None => PortState::Open,
                Some(_) => PortState::Waiting,
            },
            reason,
            last_failed: progress.last_failed,
        }
    }

    /// Opens a port that has its place for as long as the hold lives, and names it as it is now.
    pub(crate) async fn hold(&self, wanted: Port) -> Result<(Port, Opened, Hold), OpenError> {
        let _turn = self.turn().await?;
        let (port, opened) = self.open_free(wanted).await?;
        lock(&self.entries).insert(port.clone(), None);
        let hold = Hold {
            claim: port.claim(),
            entries: self.entries.clone(),
        };
        Ok((port, opened, hold))
    }

    /// Opens a port and keeps it in the background until it is taken back; one that is kept already stays as it is. Names the
    /// port as it is now. It is on disk when this returns.
    pub(crate) async fn keep(&self, wanted: Port) -> Result<Port, OpenError> {
        let _turn = self.turn().await?;
        let wanted = {
            let entries = lock(&self.entries);
            let wanted = entries.like(&wanted).cloned().unwrap_or(wanted);
            if let Some(keeping) = entries.keeper(&wanted)? {
                return match keeping.progress().waits_because {
                    None => Ok(wanted),
                    Some(reason) => Err(OpenError::Waits { port: wanted, reason }),
                };
            }
            wanted
        };
        let (port, opened) = self.open_free(wanted).await?;
        let mut kept = self.kept();
        kept.push(port.clone());
        kept_file::write(&self.state_dir, self.owner, kept)?;
        lock(&self.entries).insert(port.clone(), Some(Keeping::of(opened)));
        Ok(port)
    }

    /// Takes ports back that are kept in the background, and returns them; what they carry is cut. On disk they are gone when
    /// this returns.
    pub(crate) async fn take_back(&self, which: &Which) -> Result<Vec<Port>, EndError> {
        let _turn = self.turn().await?;
        let ended = lock(&self.entries).meant(which)?;
        let mut kept = self.kept();
        kept.retain(|port| !ended.contains(port));
        kept_file::write(&self.state_dir, self.owner, kept)?;
        self.close(&ended).await;
        Ok(ended)
    }

    /// Closes everything that is kept, and opens nothing any more; on disk it stays.
    pub(crate) async fn stop(&self) {
        *self.is_stopping.lock().await = true;
        self.close(&self.kept()).await;
    }

    /// Waits until nobody else changes anything.
    async fn turn(&self) -> Result<tokio::sync::MutexGuard<'_, bool>, Stopping> {
        let is_stopping = self.is_stopping.lock().await;
        if *is_stopping {
            return Err(Stopping);
        }
        Ok(is_stopping)
    }

    async fn open_free(&self, wanted: Port) -> Result<(Port, Opened), OpenError> {
        lock(&self.entries).check_free(&wanted.claim())?;
        let opened = Opened::open(&wanted, &self.reach).await?;
        let port = opened.named(wanted);
        // Whoever asks for any free port does not get one for which another waits.
        lock(&self.entries).check_free(&port.claim())?;
        Ok((port, opened))
    }

    fn kept(&self) -> Vec<Port> {
        lock(&self.entries).kept().cloned().collect()
    }

    /// Closes what is kept, all of it also when this is dropped before its end.
    async fn close(&self, ports: &[Port]) {
        let closing: Vec<Keeping> = {
            let mut entries = lock(&self.entries);
            let removed = ports.iter().filter_map(|port| entries.remove(&port.claim()));
            removed.filter_map(|entry| entry.kept).collect()
        };
        for keeping in closing {
            keeping.end().await;
        }
    }
}

/// Gives a port's place back when it is dropped.
pub(crate) struct Hold {
    claim: Claim,
    entries: Held,
}

impl Drop for Hold {
    fn drop(&mut self) {
        lock(&self.entries).remove(&self.claim);
    }
}

fn lock(entries: &Held) -> MutexGuard<'_, Entries<Keeping>> {
    entries.lock().unwrap_or_else(PoisonError::into_inner)
}
