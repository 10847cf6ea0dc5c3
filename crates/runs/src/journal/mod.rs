//! The sidecar's journal: which runs this node answered for, and which of their events are not stored yet.
//!
//! Pure rules. The file is the shell's: every method that changes something takes `&self` and returns a [`Write`]; the
//! shell encodes it with [`encode`], appends it to the file, calls fsync, and only then commits it ([`Journal::commit_at`]) and acts
//! (answers the offer, spawns the runner, sends the events). When the write fails the shell does not commit, and nothing
//! has happened. One task owns the journal, so between a decision and its commit there is no other decision.
//!
//! | step | call | after the commit |
//! |---|---|---|
//! | process start | [`Decoder`] and [`Journal::replay`] frame by frame, cut the file to `intact_len`, [`Journal::recover`] | `Hello` with [`Journal::open_runs`] |
//! | `Offer`, `Registered` | [`Journal::offer`] | answer `Accepted` or `Refused` |
//! | before the spawn | [`Journal::start`] | spawn; refused means: do not spawn |
//! | something happened | [`Journal::append`] | send [`Journal::unsent`] |
//! | the runner is gone, or never came | [`Journal::end`] | send [`Journal::unsent`] |
//! | `Appended` | [`Journal::acknowledge`] (no fsync needed) | send [`Journal::unsent`] from there |
//! | `AppendRefused` | [`Journal::forget`] | stop the runner |
//! | the file is large | [`Journal::wants_compaction`], [`Journal::compacted`] | write a new file, fsync, rename |
//!
//! The rules that carry DESIGN §7: an accepted run stands in the file before anyone is told; `run_started` is in the same
//! write as the mark that it was started, and so is `run_completed` with the mark that it ended; a run that was started
//! and not ended when the process died is never started again, but gets `run_completed` with reason `interrupted`.
//!
//! Events that wait for their acknowledgement stay in the file: the journal knows where, and keeps only the first
//! [`WINDOW_BYTES`] in memory, so that a node whose control plane is away does not grow with what its runs say.
//!
//! Not here: policy and tickets (the shell checks both before [`Journal::offer`]), and the file itself.

mod codec;
mod decisions;
mod held;
mod record;

use std::collections::{BTreeMap, VecDeque};

use types::{Attempt, EventDraft, Fence, RunId, RunOrder};

use crate::protocol::{OpenRun, OpenRunState};
use decisions::contradiction;
use held::{Held, Weight};

pub use codec::{DecodeError, Decoder, Encoded, Frame, HEADER, Misplaced, Place, Tail, encode};
pub use decisions::{JournalError, OfferDecision, Write};
pub use held::json_len;
pub use record::Record;

/// The most runs a journal holds at once; further offers are refused as busy.
pub const OPEN_RUNS_MAX: usize = 256;

/// The most bytes of events, as JSON, that wait for their acknowledgement; what comes on top is refused as
/// [`JournalError::Full`], except the one event that ends a run.
pub const UNSENT_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// The most bytes of those events that are held in memory; what comes on top is read from the file when its turn comes.
///
/// Two batches: while the orchestrator keeps up, nothing is read back.
pub const WINDOW_BYTES: u64 = 2 * BATCH_BYTES_MAX;

/// How many forgotten runs are remembered by their fence, so that a late copy of an old offer starts nothing.
///
/// The ticket of an offer is good for minutes (`types::ticket`), so this need only cover the runs of some minutes.
pub const FORGOTTEN_MAX: usize = 4096;

/// One batch for an append stays below this many bytes unless a single event is larger.
pub const BATCH_BYTES_MAX: u64 = 512 * 1024;

/// Below this size a journal file is never compacted.
pub const COMPACT_FILE_BYTES_MIN: u64 = 1024 * 1024;

/// What the sidecar answered for, as the sum of its records.
#[derive(Clone, PartialEq, Debug)]
pub struct Journal {
    runs: BTreeMap<RunId, Held>,
    forgotten: BTreeMap<RunId, Fence>,
    /// Oldest first; says which of `forgotten` goes first.
    forgotten_order: VecDeque<RunId>,
    weight: Weight,
    window_bytes: u64,
}

impl Default for Journal {
    fn default() -> Self {
        Self::with_window(WINDOW_BYTES)
    }
}

/// Events of one attempt that the store does not have yet.
#[derive(Clone, PartialEq, Debug)]
pub struct Unsent {
    /// The fence to send them with.
    pub fence: Fence,
    /// The number of the first one.
    pub first: u64,
    /// The events: at most [`APPEND_EVENTS_MAX`](types::event::APPEND_EVENTS_MAX), and below [`BATCH_BYTES_MAX`] unless one alone is larger.
    pub events: Vec<Waiting>,
}

impl Unsent {
    /// Returns the events if none of them has to be read from the file.
    pub fn in_memory(self) -> Result<Vec<EventDraft>, Self> {
        if self
            .events
            .iter()
            .any(|event| matches!(event, Waiting::InFile(_)))
        {
            return Err(self);
        }
        let here = |event| match event {
            Waiting::Here(draft) => Some(draft),
            Waiting::InFile(_) => None,
        };
        Ok(self.events.into_iter().filter_map(here).collect())
    }
}

/// An event that waits for its acknowledgement.
#[derive(Clone, PartialEq, Debug)]
pub enum Waiting {
    /// In memory.
    Here(EventDraft),
    /// To be read from the file, and opened with [`Place::event`].
    InFile(Place),
}

/// One write of a compacted file.
#[derive(Clone, PartialEq, Debug)]
pub enum Rewrite {
    /// These records.
    Records(Vec<Record>),
    /// These events of a run, of which some have to be read from the old file: [`numbered`] makes records of them.
    Events(RunId, Unsent),
}

/// Makes records of events of a run, the first of which has the number `first`.
#[must_use]
pub fn numbered(run_id: RunId, first: u64, drafts: Vec<EventDraft>) -> Vec<Record> {
    let record = |(number, draft)| Record::Event {
        run_id,
        number,
        draft,
    };
    (first..).zip(drafts).map(record).collect()
}

impl Journal {
    /// Makes an empty journal that keeps at most `window_bytes` of events in memory.
    #[must_use]
    pub fn with_window(window_bytes: u64) -> Self {
        Self {
            runs: BTreeMap::new(),
            forgotten: BTreeMap::new(),
            forgotten_order: VecDeque::new(),
            weight: Weight::default(),
            window_bytes,
        }
    }

    /// Adds up the records of a file, frame by frame from its first to its last.
    pub fn replay(&mut self, frame: Frame) -> Result<(), JournalError> {
        for (record, place) in frame.records.into_iter().zip(frame.places) {
            self.apply(record, place)?;
        }
        Ok(())
    }

    /// Makes a write count in a journal that has no file, such as a model's: everything stays in memory.
    ///
    /// # Panics
    ///
    /// As [`Journal::commit_at`].
    pub fn commit(&mut self, write: Write) {
        self.window_bytes = u64::MAX;
        let encoded = encode(&write.records, 0).expect("what a journal decides fits into a frame");
        self.commit_at(write, &encoded.places);
    }

    /// Makes a write count, once it is on disk; `places` is where [`encode`] put its records.
    ///
    /// # Panics
    ///
    /// When the write was not decided by this journal in its present state, or a record has no place.
    pub fn commit_at(&mut self, write: Write, places: &[Place]) {
        assert_eq!(write.records.len(), places.len(), "every record has a place");
        for (record, place) in write.records.into_iter().zip(places) {
            self.apply(record, *place)
                .expect("a write is committed in the state that decided it");
        }
    }

    /// Returns what `Hello` reports: every run that is not forgotten.
    #[must_use]
    pub fn open_runs(&self) -> Vec<OpenRun> {
        let open = |(run_id, held): (&RunId, &Held)| OpenRun {
            run_id: *run_id,
            rollout_id: held.order.rollout_id,
            fence: held.fence,
            state: held.state,
        };
        self.runs.iter().map(open).collect()
    }

    /// Returns the runs that were accepted and may still be started, in the order of their ids.
    pub fn to_start(&self) -> impl Iterator<Item = (&RunOrder, Attempt, Fence)> {
        let accepted = self.runs.values().filter(|h| h.state == OpenRunState::Accepted);
        accepted.map(|held| (&*held.order, held.attempt, held.fence))
    }

    /// Returns the fence and the state under which a run is held.
    #[must_use]
    pub fn state(&self, run_id: RunId) -> Option<(Fence, OpenRunState)> {
        self.runs.get(&run_id).map(|held| (held.fence, held.state))
    }

    /// Returns the next batch to append, from number `from` on or from the first one the store has not acknowledged,
    /// whichever is later. `None` when there is nothing.
    #[must_use]
    pub fn unsent(&self, run_id: RunId, from: u64) -> Option<Unsent> {
        self.runs.get(&run_id).and_then(|held| held.unsent(from))
    }

    /// Returns how many bytes of events wait for their acknowledgement.
    #[must_use]
    pub fn unsent_bytes(&self) -> u64 {
        self.weight.bytes
    }

    /// Tells whether a file of `file_bytes` is mostly dead weight, so that writing it anew is worth it.
    #[must_use]
    pub fn wants_compaction(&self, file_bytes: u64) -> bool {
        file_bytes > COMPACT_FILE_BYTES_MIN && file_bytes / 4 > self.weight.bytes
    }

    /// Returns the writes, of a bounded size each, that together make the same journal in the fewest records: the
    /// content of the new file. It counts once it is on disk and [`Journal::replay`]ed in place of this one.
    #[must_use]
    pub fn compacted(&self) -> Vec<Rewrite> {
        let forgotten = self.forgotten_order.iter().map(|run_id| Record::Forgotten {
            run_id: *run_id,
            fence: self.forgotten[run_id],
        });
        let mut writes = vec![Rewrite::Records(forgotten.collect())];
        for (run_id, held) in &self.runs {
            writes.push(Rewrite::Records(held.accepted()));
            let mut from = held.first;
            while let Some(batch) = held.unsent(from) {
                from = batch.first + batch.events.len() as u64;
                writes.push(Rewrite::Events(*run_id, batch));
            }
            if held.state == OpenRunState::Ended {
                let run_id = *run_id;
                writes.push(Rewrite::Records(vec![Record::Ended { run_id }]));
            }
        }
        writes
    }

    fn apply(&mut self, record: Record, place: Place) -> Result<(), JournalError> {
        let run_id = record.run_id();
        match record {
            Record::Accepted {
                order,
                attempt,
                fence,
                first,
            } => self.apply_accepted(Held::new(order, attempt, fence, first)),
            Record::Forgotten { fence, .. } => {
                self.apply_forgotten(run_id, fence);
                Ok(())
            }
            other => {
                let held = self.runs.get_mut(&run_id);
                let held = held.ok_or_else(|| contradiction(run_id, "is mentioned before it is accepted"))?;
                let before = held.weight();
                let room = self.window_bytes.saturating_sub(self.weight.in_memory);
                held.apply(other, place, room)?;
                self.weight.exchange(before, held.weight());
                Ok(())
            }
        }
    }

    fn apply_accepted(&mut self, held: Held) -> Result<(), JournalError> {
        let run_id = held.order.run_id;
        if self.runs.contains_key(&run_id) {
            return Err(contradiction(run_id, "is accepted twice"));
        }
        if self
            .forgotten
            .get(&run_id)
            .is_some_and(|known| held.fence <= *known)
        {
            return Err(contradiction(run_id, "is accepted under a stale fence"));
        }
        self.runs.insert(run_id, held);
        Ok(())
    }

    fn apply_forgotten(&mut self, run_id: RunId, fence: Fence) {
        if let Some(held) = self.runs.remove(&run_id) {
            self.weight.exchange(held.weight(), Weight::default());
        }
        if let Some(known) = self.forgotten.get_mut(&run_id) {
            *known = fence.max(*known);
        } else {
            self.forgotten.insert(run_id, fence);
            self.forgotten_order.push_back(run_id);
        }
        if self.forgotten_order.len() > FORGOTTEN_MAX
            && let Some(oldest) = self.forgotten_order.pop_front()
        {
            self.forgotten.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests;
