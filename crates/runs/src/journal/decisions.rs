//! What the journal decides: each answer names the records that must be on disk before it counts.

use serde_json::json;
use types::event::{APPEND_BYTES_MAX, APPEND_EVENTS_MAX, EVENT_BYTES_MAX};
use types::{Attempt, EventDraft, EventType, Fence, RunId, RunOrder};

use super::held::{Held, json_len};
use super::{Journal, OPEN_RUNS_MAX, Record, UNSENT_BYTES_MAX};
use crate::protocol::{OfferRefusal, OpenRunState};

/// Records that belong into one frame: all of them count or none does.
#[derive(Clone, PartialEq, Debug, Default)]
#[must_use = "write it to the file, call fsync and commit it"]
pub struct Write {
    /// The records, in order.
    pub records: Vec<Record>,
}

/// What to answer to an offer.
#[derive(Clone, PartialEq, Debug)]
pub enum OfferDecision {
    /// Take it: write and commit, answer `Accepted`, then start it.
    Take(Write),
    /// It is the same offer again: answer `Accepted`, start nothing.
    Known,
    /// Answer `Refused`.
    Refuse(OfferRefusal),
}

/// Why a journal does not take something.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JournalError {
    /// The run was never accepted, or is forgotten, or a later offer replaced this one.
    #[error("the journal does not hold {0} under this fence")]
    NotHeld(RunId),
    /// The run was started before; it must not be started again.
    #[error("{0} was started already")]
    AlreadyStarted(RunId),
    /// Nothing may follow the end of a run, and nothing but the end may stand before its start.
    #[error("{0} is not under way")]
    NotUnderWay(RunId),
    /// `run_started` and `run_completed` are written by `start` and `end` only.
    #[error("{0} is written by the journal itself")]
    ReservedType(EventType),
    /// One event is larger than the contract allows.
    #[error("an event may have {EVENT_BYTES_MAX} bytes of JSON; this one has {0}")]
    EventTooLarge(usize),
    /// More events in one call than one append may carry.
    #[error("one append may carry {APPEND_EVENTS_MAX} events; this one has {0}")]
    TooManyEvents(usize),
    /// More bytes in one call than one append may carry.
    #[error("one append may carry {APPEND_BYTES_MAX} bytes; this one has {0}")]
    TooManyBytes(u64),
    /// Too much waits for its acknowledgement.
    #[error("{UNSENT_BYTES_MAX} bytes of events wait to be stored; no more are taken")]
    Full,
    /// The store claims to have events that were never written.
    #[error("the store acknowledged event {acknowledged} of {run_id}, but only {written} were written")]
    AcknowledgedTooMuch {
        /// The run.
        run_id: RunId,
        /// The last number the store claims to have.
        acknowledged: u64,
        /// The last number written.
        written: u64,
    },
    /// A record contradicts those before it: the file was not written by these rules.
    #[error("the journal contradicts itself: {0}")]
    Contradiction(String),
}

impl Journal {
    /// Decides on an offer whose ticket and policy the shell has checked.
    #[must_use]
    pub fn offer(&self, order: &RunOrder, attempt: Attempt, fence: Fence) -> OfferDecision {
        let run_id = order.run_id;
        if self.forgotten.get(&run_id).is_some_and(|known| fence <= *known) {
            return OfferDecision::Refuse(OfferRefusal::StaleFence);
        }
        let mut records = Vec::new();
        if let Some(held) = self.runs.get(&run_id) {
            if fence == held.fence {
                return OfferDecision::Known;
            }
            if fence < held.fence {
                return OfferDecision::Refuse(OfferRefusal::StaleFence);
            }
            // A later offer means that nobody waits for the earlier one; but what was started must be stopped first.
            if held.state == OpenRunState::Started {
                return OfferDecision::Refuse(OfferRefusal::Busy);
            }
            let fence = held.fence;
            records.push(Record::Forgotten { run_id, fence });
        } else if self.runs.len() >= OPEN_RUNS_MAX {
            return OfferDecision::Refuse(OfferRefusal::Busy);
        }
        records.push(Record::Accepted {
            order: Box::new(order.clone()),
            attempt,
            fence,
            first: 1,
        });
        OfferDecision::Take(Write { records })
    }

    /// Decides whether the runner may be spawned: once, after the write. `payload` goes into `run_started`.
    pub fn start(
        &self,
        run_id: RunId,
        fence: Fence,
        payload: serde_json::Value,
    ) -> Result<Write, JournalError> {
        let held = self.held(run_id, fence)?;
        if held.state != OpenRunState::Accepted {
            return Err(JournalError::AlreadyStarted(run_id));
        }
        let started = event(EventType::RunStarted, payload);
        let mut records = vec![Record::Started { run_id }];
        records.extend(held.numbered(vec![started]));
        Ok(Write { records })
    }

    /// Takes events of a run that is under way, and numbers them.
    pub fn append(
        &self,
        run_id: RunId,
        fence: Fence,
        drafts: Vec<EventDraft>,
    ) -> Result<Write, JournalError> {
        let held = self.held(run_id, fence)?;
        if held.state != OpenRunState::Started {
            return Err(JournalError::NotUnderWay(run_id));
        }
        if drafts.len() > APPEND_EVENTS_MAX {
            return Err(JournalError::TooManyEvents(drafts.len()));
        }
        let mut bytes = 0;
        for draft in &drafts {
            if matches!(draft.event_type, EventType::RunStarted | EventType::RunCompleted) {
                return Err(JournalError::ReservedType(draft.event_type));
            }
            bytes += check_size(draft)?;
        }
        if bytes > APPEND_BYTES_MAX as u64 {
            return Err(JournalError::TooManyBytes(bytes));
        }
        if self.weight.bytes + bytes > UNSENT_BYTES_MAX {
            return Err(JournalError::Full);
        }
        let records = held.numbered(drafts);
        Ok(Write { records })
    }

    /// Ends a run, started or not. `payload` goes into `run_completed`: `status`, and `reason` unless it completed.
    pub fn end(
        &self,
        run_id: RunId,
        fence: Fence,
        payload: serde_json::Value,
    ) -> Result<Write, JournalError> {
        let held = self.held(run_id, fence)?;
        if held.state == OpenRunState::Ended {
            return Err(JournalError::NotUnderWay(run_id));
        }
        let completed = event(EventType::RunCompleted, payload);
        check_size(&completed)?;
        let mut records = held.numbered(vec![completed]);
        records.push(Record::Ended { run_id });
        Ok(Write { records })
    }

    /// Takes note that the store has every event below `next`; forgets the run when that was all of it.
    ///
    /// A lost acknowledgement costs a resend only, so this write needs no fsync of its own.
    pub fn acknowledge(&self, run_id: RunId, fence: Fence, next: u64) -> Result<Write, JournalError> {
        let held = self.held(run_id, fence)?;
        if next > held.next() {
            return Err(JournalError::AcknowledgedTooMuch {
                run_id,
                acknowledged: next - 1,
                written: held.next() - 1,
            });
        }
        let mut records = Vec::new();
        if held.state == OpenRunState::Ended && next == held.next() {
            records.push(Record::Forgotten { run_id, fence });
        } else if next > held.first {
            records.push(Record::Acknowledged { run_id, next });
        }
        Ok(Write { records })
    }

    /// Drops a run that was taken from this node: its events will never be stored.
    pub fn forget(&self, run_id: RunId, fence: Fence) -> Result<Write, JournalError> {
        self.held(run_id, fence)?;
        let records = vec![Record::Forgotten { run_id, fence }];
        Ok(Write { records })
    }

    /// Ends every run that was started and not ended: to be called once after [`Journal::replay`], since whatever ran
    /// it died with the process that wrote the file.
    pub fn recover(&self) -> Write {
        let interrupted = self.runs.iter().filter(|(_, h)| h.state == OpenRunState::Started);
        let records = interrupted.flat_map(|(run_id, held)| {
            let payload = json!({
                "status": "failed",
                "reason": "interrupted",
                "message": "The node stopped while the run was under way.",
            });
            let mut records = held.numbered(vec![event(EventType::RunCompleted, payload)]);
            records.push(Record::Ended { run_id: *run_id });
            records
        });
        let records = records.collect();
        Write { records }
    }

    fn held(&self, run_id: RunId, fence: Fence) -> Result<&Held, JournalError> {
        let held = self.runs.get(&run_id).filter(|held| held.fence == fence);
        held.ok_or(JournalError::NotHeld(run_id))
    }
}

pub(super) fn event(event_type: EventType, payload: serde_json::Value) -> EventDraft {
    EventDraft {
        event_type,
        payload,
        client_event_id: None,
    }
}

fn check_size(draft: &EventDraft) -> Result<u64, JournalError> {
    let len = json_len(draft);
    if len > EVENT_BYTES_MAX {
        return Err(JournalError::EventTooLarge(len));
    }
    Ok(len as u64)
}

pub(super) fn contradiction(run_id: RunId, what: &str) -> JournalError {
    JournalError::Contradiction(format!("{run_id} {what}"))
}
