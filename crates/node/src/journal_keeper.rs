//! The one thread that owns the journal: it takes decisions in turn, writes those that came together with one fsync,
//! commits them and only then answers. Reading is open to all, under a short lock.
//!
//! Its queue has no limit of its own, but every run has at most one append, start or end under way, and offers wait for
//! their answer, so it never holds more than a few entries per run.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use runs::journal::{Journal, JournalError, OfferDecision, Record, Write};
use runs::protocol::{OfferRefusal, OpenRunState};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};
use types::{Attempt, EventDraft, Fence, RunId, RunOrder};

use crate::journal_file::{JournalFile, OpenError};
use crate::runner::executor::SinkError;

/// One write takes no more decisions once it has this many bytes of events.
const ROUND_BYTES_MAX: usize = 4 * 1024 * 1024;

/// One write takes no more than this many decisions.
const ROUND_COMMANDS_MAX: usize = 256;

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

/// A handle on the journal.
#[derive(Clone)]
pub struct JournalKeeper {
    journal: Arc<Mutex<Journal>>,
    commands: mpsc::UnboundedSender<Command>,
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
        file.write(&recovered, true).map_err(|source| OpenError::Io {
            path: path.to_owned(),
            source,
        })?;
        journal.commit(recovered);
        let (commands, receiver) = mpsc::unbounded_channel();
        let (changed, changes) = watch::channel(0);
        let journal = Arc::new(Mutex::new(journal));
        let keeper = Keeper {
            journal: journal.clone(),
            file,
            commands: receiver,
            waiting: Vec::new(),
            changed,
        };
        let spawned = std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || keeper.run());
        spawned.map_err(|source| OpenError::Io {
            path: path.to_owned(),
            source,
        })?;
        let handle = Self {
            journal,
            commands,
            changes,
        };
        Ok((handle, interrupted))
    }

    /// Looks at the journal; the guard must not be held across an await.
    pub fn look(&self) -> MutexGuard<'_, Journal> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Takes note that everything below `next` is stored.
    pub fn acknowledge(&self, run_id: RunId, fence: Fence, next: u64) {
        // When the keeper is gone the process is ending, and a lost acknowledgement costs a resend only.
        let _ = self.commands.send(Command::Acknowledge(run_id, fence, next));
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
        let _ = self.commands.send(Command::Append(append));
        answer
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, KeeperError> {
        let (reply, answer) = oneshot::channel();
        self.commands
            .send(command(reply))
            .map_err(|_| KeeperError::Closed)?;
        answer.await.unwrap_or(Err(KeeperError::Closed))
    }
}

/// The length of an event as JSON, in bytes.
#[must_use]
pub fn json_len(event: &EventDraft) -> usize {
    struct Counter(usize);
    impl io::Write for Counter {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut counter = Counter(0);
    serde_json::to_writer(&mut counter, event).map_or(usize::MAX, |()| counter.0)
}

/// Answers one decision after its write.
type Answer = Box<dyn FnOnce(Result<(), &str>, &mut Vec<Record>) + Send>;

/// Decisions that are written together; each about another run, since each was taken in the same state.
#[derive(Default)]
struct Round {
    records: Vec<Record>,
    answers: Vec<Answer>,
    runs: BTreeSet<RunId>,
    bytes: usize,
    sync: bool,
}

struct Keeper {
    journal: Arc<Mutex<Journal>>,
    file: JournalFile,
    commands: mpsc::UnboundedReceiver<Command>,
    /// Appends for which there is no room until something is acknowledged.
    waiting: Vec<Append>,
    changed: watch::Sender<u64>,
}

impl Keeper {
    fn run(mut self) {
        while let Some(first) = self.commands.blocking_recv() {
            let mut round = Round::default();
            self.take(first, &mut round);
            for _ in 1..ROUND_COMMANDS_MAX {
                let Ok(next) = self.commands.try_recv() else { break };
                self.take(next, &mut round);
            }
            self.write(round);
            self.retry_waiting();
            self.compact();
        }
    }

    fn look(&self) -> MutexGuard<'_, Journal> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&mut self, command: Command, round: &mut Round) {
        let run_id = match &command {
            Command::Offer(order, ..) => order.run_id,
            Command::Append(append) => append.run_id,
            Command::Start(run_id, ..) | Command::End(run_id, ..) => *run_id,
            Command::Acknowledge(run_id, ..) | Command::Forget(run_id, ..) => *run_id,
        };
        if !round.runs.insert(run_id) || round.bytes > ROUND_BYTES_MAX {
            self.write(std::mem::take(round));
            round.runs.insert(run_id);
        }
        match command {
            Command::Offer(order, attempt, fence, reply) => self.offer(&order, attempt, fence, reply, round),
            Command::Append(append) => self.append(append, round),
            Command::Start(run_id, fence, payload, reply) => {
                let decided = self.look().start(run_id, fence, payload);
                round.decided(decided, reply);
            }
            Command::End(run_id, fence, payload, reply) => {
                let decided = self.look().end(run_id, fence, payload);
                round.decided(decided, reply);
            }
            Command::Forget(run_id, fence, reply) => {
                let decided = self.look().forget(run_id, fence);
                round.decided(decided, reply);
            }
            Command::Acknowledge(run_id, fence, next) => match self.look().acknowledge(run_id, fence, next) {
                Ok(write) => round.records.extend(write.records),
                Err(error) => tracing::debug!(%run_id, %error, "an acknowledgement was not for us"),
            },
        }
    }

    fn offer(
        &self,
        order: &RunOrder,
        attempt: Attempt,
        fence: Fence,
        reply: Reply<Offered>,
        round: &mut Round,
    ) {
        match self.look().offer(order, attempt, fence) {
            OfferDecision::Known => drop(reply.send(Ok(Offered::Known))),
            OfferDecision::Refuse(refusal) => {
                let why = match refusal {
                    OfferRefusal::StaleFence => "A later offer of this run was seen already.",
                    _ => "The device holds as many runs as it can.",
                };
                drop(reply.send(Ok(Offered::Refused(refusal, why.to_owned()))));
            }
            OfferDecision::Take(write) => {
                round.sync = true;
                round.records.extend(write.records);
                round.answers.push(Box::new(move |written, _| {
                    let answer = match written {
                        Ok(()) => Ok(Offered::Taken),
                        Err(reason) => Err(KeeperError::Unwritable(reason.to_owned())),
                    };
                    drop(reply.send(answer));
                }));
            }
        }
    }

    fn append(&mut self, append: Append, round: &mut Round) {
        let Append {
            run_id,
            fence,
            events,
            bytes,
            reply,
        } = append;
        // The rules take the events; they are needed again if there is no room.
        let decided = self.look().append(run_id, fence, events.clone());
        match decided {
            Ok(write) => {
                round.sync = true;
                round.bytes += bytes;
                round.records.extend(write.records);
                round.answers.push(Box::new(move |written, records| {
                    let answer = written.map_err(|reason| SinkError::Unwritable {
                        reason: reason.to_owned(),
                        events: take_events(records, run_id),
                    });
                    drop(reply.send(answer));
                }));
            }
            Err(JournalError::Full) => self.waiting.push(Append {
                run_id,
                fence,
                events,
                bytes,
                reply,
            }),
            Err(error) => {
                tracing::warn!(%run_id, %error, "the journal does not take events");
                drop(reply.send(Err(SinkError::Closed)));
            }
        }
    }

    fn write(&mut self, round: Round) {
        let mut write = Write {
            records: round.records,
        };
        let written = self
            .file
            .write(&write, round.sync)
            .map_err(|error| error.to_string());
        match &written {
            Ok(()) if !write.records.is_empty() => {
                self.look().commit(write);
                write = Write::default();
                self.changed.send_modify(|count| *count += 1);
            }
            Ok(()) => {}
            Err(reason) => tracing::error!(reason, "the journal cannot be written"),
        }
        for answer in round.answers {
            answer(
                written.as_ref().copied().map_err(String::as_str),
                &mut write.records,
            );
        }
    }

    fn retry_waiting(&mut self) {
        for append in std::mem::take(&mut self.waiting) {
            let mut round = Round::default();
            self.append(append, &mut round);
            self.write(round);
        }
    }

    fn compact(&mut self) {
        let journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        if journal.wants_compaction(self.file.len())
            && let Err(error) = self.file.compact(&journal)
        {
            tracing::warn!(%error, "the journal cannot be compacted; it goes on growing");
            drop(journal);
            // A full disk would otherwise be asked again after every write.
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Round {
    fn decided(&mut self, decided: Result<Write, JournalError>, reply: Reply<()>) {
        match decided {
            Ok(write) => {
                self.sync = true;
                self.records.extend(write.records);
                self.answers.push(Box::new(move |written, _| {
                    let answer = written.map_err(|reason| KeeperError::Unwritable(reason.to_owned()));
                    drop(reply.send(answer));
                }));
            }
            Err(error) => drop(reply.send(Err(error.into()))),
        }
    }
}

fn take_events(records: &mut Vec<Record>, run: RunId) -> Vec<EventDraft> {
    let mut events = Vec::new();
    records.retain_mut(|record| match record {
        Record::Event { run_id, draft, .. } if *run_id == run => {
            events.push(draft.clone());
            false
        }
        _ => true,
    });
    events
}

#[cfg(test)]
mod tests;
