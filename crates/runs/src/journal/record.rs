//! What one journal entry says. How entries become bytes is [`super::codec`]; what they add up to is [`super::Journal`].

use serde::{Deserialize, Serialize};
use types::{Attempt, EventDraft, Fence, RunId, RunOrder};

/// One fact in the sidecar's journal. Facts are only ever added; compaction writes the same facts anew.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", rename_all_fields = "camelCase")]
pub enum Record {
    /// An offer was taken. Nothing was spawned yet.
    Accepted {
        /// What to do.
        order: Box<RunOrder>,
        /// Which attempt.
        attempt: Attempt,
        /// The fence of the offer.
        fence: Fence,
        /// The number of the next event; above 1 only after compaction dropped events that the store has.
        first: u64,
    },
    /// The runner is about to be spawned; from here on the attempt counts as started, whatever happens.
    Started {
        /// The run.
        run_id: RunId,
    },
    /// Something happened in the run.
    Event {
        /// The run.
        run_id: RunId,
        /// Its number in the attempt: from 1, without gaps.
        number: u64,
        /// What happened.
        draft: EventDraft,
    },
    /// The run is over; its last event stands before this record.
    Ended {
        /// The run.
        run_id: RunId,
    },
    /// The store has every event below `next`.
    Acknowledged {
        /// The run.
        run_id: RunId,
        /// The number the store expects next.
        next: u64,
    },
    /// The run is over and stored, or was taken from this node. Only its highest fence is remembered.
    Forgotten {
        /// The run.
        run_id: RunId,
        /// Offers with this fence or a lower one are stale.
        fence: Fence,
    },
}

impl Record {
    /// Returns the run that the record is about.
    #[must_use]
    pub fn run_id(&self) -> RunId {
        match self {
            Self::Accepted { order, .. } => order.run_id,
            Self::Started { run_id }
            | Self::Event { run_id, .. }
            | Self::Ended { run_id }
            | Self::Acknowledged { run_id, .. }
            | Self::Forgotten { run_id, .. } => *run_id,
        }
    }
}
