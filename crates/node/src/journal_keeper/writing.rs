//! The one thread that owns the journal: it takes decisions in turn, writes those that came together with one fsync,
//! commits them and only then answers.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use runs::journal::{Journal, JournalError, OfferDecision, Record, Write};
use runs::protocol::OfferRefusal;
use tokio::sync::{mpsc, watch};
use types::{Attempt, EventDraft, Fence, RunId, RunOrder};

use super::{Append, COMMANDS_MAX, Command, JournalKeeper, KeeperError, Offered, Reply, Shared, lock};
use crate::journal_file::JournalFile;
use crate::runner::executor::SinkError;

/// One write takes no more decisions once it has this many bytes of events.
const ROUND_BYTES_MAX: usize = 4 * 1024 * 1024;

/// One write takes no more than this many decisions.
const ROUND_COMMANDS_MAX: usize = 256;

/// Answers one decision after its write.
type Answer = Box<dyn FnOnce(Result<(), &str>, &mut Vec<Record>) + Send>;

/// Decisions that are written together; each about another run, since each was taken in the same state.
#[derive(Default)]
pub(super) struct Round {
    records: Vec<Record>,
    answers: Vec<Answer>,
    runs: BTreeSet<RunId>,
    bytes: usize,
    sync: bool,
}

pub(super) struct Keeper {
    shared: Arc<Mutex<Shared>>,
    pub(super) file: JournalFile,
    commands: mpsc::Receiver<Command>,
    /// Appends for which there is no room until something is acknowledged.
    waiting: Vec<Append>,
    changed: watch::Sender<u64>,
}

impl Keeper {
    /// Makes the owner of a journal, and the first handle on it; nothing is answered before [`Keeper::run`].
    pub(super) fn new(file: JournalFile, journal: Journal) -> (Self, JournalKeeper) {
        let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
        let (changed, changes) = watch::channel(0);
        let shared = Arc::new(Mutex::new(Shared {
            journal,
            file: file.reader(),
        }));
        let handle = JournalKeeper {
            shared: shared.clone(),
            commands,
            changes,
        };
        let keeper = Self {
            shared,
            file,
            commands: receiver,
            waiting: Vec::new(),
            changed,
        };
        (keeper, handle)
    }

    /// Works until the last handle is gone.
    pub(super) fn run(mut self) {
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

    fn look(&self) -> MutexGuard<'_, Shared> {
        lock(&self.shared)
    }

    pub(super) fn take(&mut self, command: Command, round: &mut Round) {
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

    pub(super) fn write(&mut self, round: Round) {
        let mut write = Write {
            records: round.records,
        };
        let written = self
            .file
            .write(&write.records, round.sync)
            .map_err(|error| error.to_string());
        match &written {
            Ok(places) if !places.is_empty() => {
                self.look().commit_at(std::mem::take(&mut write), places);
                self.changed.send_modify(|count| *count += 1);
            }
            Ok(_) => {}
            Err(reason) => tracing::error!(reason, "the journal cannot be written"),
        }
        for answer in round.answers {
            let written = written.as_ref().map(drop).map_err(String::as_str);
            answer(written, &mut write.records);
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
        let content = {
            let shared = self.look();
            if !shared.wants_compaction(self.file.len()) {
                return;
            }
            shared.compacted()
        };
        // Not under the lock, so that nobody who looks waits for the disk.
        match self.file.compact(content) {
            Ok(journal) => {
                let file = self.file.reader();
                *self.look() = Shared { journal, file };
            }
            Err(error) => {
                tracing::warn!(%error, "the journal cannot be compacted; it goes on growing");
                // A full disk would otherwise be asked again after every write.
                std::thread::sleep(Duration::from_millis(100));
            }
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
