//! A handle on the journal, which one thread owns (`writing`): what is to be decided goes to that thread through a
//! bounded queue and is answered when it is on disk. Looking at the journal is open to all, under a short lock.

mod writing;

use std::fs::File;
use std::io;
use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use runs::journal::{Journal, JournalError};
use runs::protocol::{OfferRefusal, OpenRunState};
use serde_json::Value;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot, watch};
use types::{Attempt, EventDraft, Fence, RunId, RunOrder};

use crate::journal_file::{JournalFile, OpenError, read_events};
use crate::runner::executor::SinkError;
use writing::Keeper;

pub use runs::journal::json_len;

/// Commands that wait for the thread. Whoever comes on top waits for room: a runner is not read from meanwhile, and
/// neither is the stream to the orchestrator.
const COMMANDS_MAX: usize = 256;

/// Why the journal did not do something.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeeperError {
    /// It would break a rule.
    #[error(transparent)]
    Rule(#[from] JournalError),
    /// The file cannot be written now; nothing has happened.
    #[error("the journal cannot be written: {0}")]
    Unwritable(String),
    /// The keeper has stopped.
    #[error("the journal is closed")]
    Closed,
}

/// What became of an offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Offered {
    /// It is on disk, for the first time.
    Taken,
    /// It was on disk before.
    Known,
    /// It is not taken.
    Refused(OfferRefusal, String),
}

type Reply<T> = oneshot::Sender<Result<T, KeeperError>>;

enum Command {
    Offer(Box<RunOrder>, Attempt, Fence, Reply<Offered>),
    Start(RunId, Fence, Value, Reply<()>),
    Append(Append),
    End(RunId, Fence, Value, Reply<()>),
    Acknowledge(RunId, Fence, u64),
    Forget(RunId, Fence, Reply<()>),
}

struct Append {
    run_id: RunId,
    fence: Fence,
    events: Vec<EventDraft>,
    bytes: usize,
    reply: oneshot::Sender<Result<(), SinkError>>,
}

/// The journal, and the file in which its events stand.
pub struct Shared {
    journal: Journal,
    file: Arc<File>,
}

impl Deref for Shared {
    type Target = Journal;

    fn deref(&self) -> &Journal {
        &self.journal
    }
}

impl DerefMut for Shared {
    fn deref_mut(&mut self) -> &mut Journal {
        &mut self.journal
    }
}

/// Events of one attempt to be sent.
#[derive(Clone, PartialEq, Debug)]
pub struct Batch {
    /// The fence to send them with.
    pub fence: Fence,
    /// The number of the first one.
    pub first: u64,
    /// The events.
    pub events: Vec<EventDraft>,
}

/// A handle on the journal.
#[derive(Clone)]
pub struct JournalKeeper {
    shared: Arc<Mutex<Shared>>,
    commands: mpsc::Sender<Command>,
    changes: watch::Receiver<u64>,
}

impl JournalKeeper {
    /// Opens the journal and gives every run that was under way its terminal event; returns those runs, too.
    pub fn open(path: &Path) -> Result<(Self, Vec<RunId>), OpenError> {
        let (mut file, mut journal) = JournalFile::open(path)?;
        let open = journal.open_runs();
        let started = open.iter().filter(|run| run.state == OpenRunState::Started);
        let interrupted: Vec<RunId> = started.map(|run| run.run_id).collect();
        let recovered = journal.recover();
        let at = |source| OpenError::Io {
            path: path.to_owned(),
            source,
        };
        let places = file.write(&recovered.records, true).map_err(at)?;
        journal.commit_at(recovered, &places);
        let (keeper, handle) = Keeper::new(file, journal);
        std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || keeper.run())
            .map_err(at)?;
        Ok((handle, interrupted))
    }

    /// Looks at the journal; the guard must not be held across an await.
    pub fn look(&self) -> MutexGuard<'_, Shared> {
        lock(&self.shared)
    }

    /// Returns the next events of a run to be sent, from number `from` on, if there are any.
    pub async fn unsent(&self, run_id: RunId, from: u64) -> io::Result<Option<Batch>> {
        let (unsent, file) = {
            let shared = self.look();
            let Some(unsent) = shared.unsent(run_id, from) else {
                return Ok(None);
            };
            // Taken under the lock: a compaction that follows moves the events into another file.
            (unsent, shared.file.clone())
        };
        let (fence, first) = (unsent.fence, unsent.first);
        let events = match unsent.in_memory() {
            Ok(events) => events,
            Err(unsent) => tokio::task::spawn_blocking(move || read_events(&file, unsent.events))
                .await
                .map_err(io::Error::other)??,
        };
        Ok(Some(Batch { fence, first, events }))
    }

    /// Follows every commit.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }

    /// Takes an offer; when this returns `Taken` it is on disk.
    pub async fn offer(
        &self,
        order: RunOrder,
        attempt: Attempt,
        fence: Fence,
    ) -> Result<Offered, KeeperError> {
        let command = |reply| Command::Offer(Box::new(order), attempt, fence, reply);
        self.ask(command).await
    }

    /// Marks a run as started; only after this may its runner be spawned.
    pub async fn start(&self, run_id: RunId, fence: Fence, payload: Value) -> Result<(), KeeperError> {
        self.ask(|reply| Command::Start(run_id, fence, payload, reply))
            .await
    }

    /// Ends a run, started or not.
    pub async fn end(&self, run_id: RunId, fence: Fence, payload: Value) -> Result<(), KeeperError> {
        self.ask(|reply| Command::End(run_id, fence, payload, reply))
            .await
    }

    /// Drops a run whose events nobody will ever take.
    pub async fn forget(&self, run_id: RunId, fence: Fence) -> Result<(), KeeperError> {
        self.ask(|reply| Command::Forget(run_id, fence, reply)).await
    }

    /// Takes note that everything below `next` is stored; returns as soon as there is room for the note.
    pub async fn acknowledge(&self, run_id: RunId, fence: Fence, next: u64) {
        // When the keeper is gone the process is ending, and a lost acknowledgement costs a resend only.
        let _ = self
            .commands
            .send(Command::Acknowledge(run_id, fence, next))
            .await;
    }

    /// Takes events; the answer comes when they are on disk, and not before there is room for them.
    #[must_use]
    pub fn append(
        &self,
        run_id: RunId,
        fence: Fence,
        events: Vec<EventDraft>,
    ) -> oneshot::Receiver<Result<(), SinkError>> {
        let (reply, answer) = oneshot::channel();
        let append = Append {
            run_id,
            fence,
            bytes: events.iter().map(json_len).sum(),
            events,
            reply,
        };
        // A dropped reply is an answer, too: closed.
        if let Err(TrySendError::Full(command)) = self.commands.try_send(Command::Append(append)) {
            let commands = self.commands.clone();
            // One for each run at most, since a run waits for its answer before it appends again.
            tokio::spawn(async move { commands.send(command).await.is_ok() });
        }
        answer
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, KeeperError> {
        let (reply, answer) = oneshot::channel();
        let sent = self.commands.send(command(reply)).await;
        sent.map_err(|_| KeeperError::Closed)?;
        answer.await.unwrap_or(Err(KeeperError::Closed))
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
