//! The orchestrator's side of one run, from the queue to its end.
//!
//! [`RunState`] is what the store keeps of a run; [`RunState::step`] takes one input and says what the state is then and
//! what must be done. The store does both in one transaction: it loads the state, steps, writes the state and the
//! events that [`Effect::End`] asks for, commits, and only then are messages sent. Losing a message after the commit is
//! harmless, since everything that was not answered is said again ([`Deadline`], [`Input::Hello`]).
//!
//! ```text
//!            Offer            Accepted          run_started        run_completed
//!  Queued ──────────▶ Offered ─────────▶ Accepted ─────────▶ Running ──────────────▶ Ended(completed|failed|cancelled)
//!    │ ▲   Refused, │                       │                  │
//!    │ └────────────┘ session gone          └──── journal lost, away too long ────▶ Ended(lost)
//!    └── queue TTL ─▶ Ended(expired)
//! ```
//!
//! - Every `Offer` has a fence of its own, one higher than any before. A repeated offer has the same fence.
//! - An offer that was not answered before the session went may be held by the sidecar: its next `Hello` says so, and
//!   only if it does not is there another offer.
//! - What was accepted is never offered again, started or not: a sidecar that lost its journal has lost the run.
//! - A device that is away suspends its runs; that is no failure until [`LOST_AFTER`].
//! - `Ended` is final.
//! - A refusal is the device's, not the run's: what stands behind a refused run in its queue waits with it, so that runs
//!   are taken in the order of the queue ([`Places`]).
//!
//! Deadlines are wall-clock times, because they outlive the process that set them.

mod places;
mod step;
mod words;

use std::time::Duration;

use types::{Attempt, Fence, RunStatus, Timestamp};

pub use places::Places;
pub use step::Step;
pub use words::{Deadline, Effect, EndReason, Input};

/// How long a run waits for its device before it expires, by default.
pub const QUEUE_TTL: Duration = Duration::from_secs(24 * 3600);

/// How long an offer may stay unanswered before it is said again.
pub const OFFER_TIMEOUT: Duration = Duration::from_secs(10);

/// How often one offer is said before the session counts as dead.
pub const OFFER_SENDS_MAX: u32 = 3;

/// The most unanswered offers to one device.
pub const OFFERS_OPEN_MAX: usize = 8;

/// How long a refused offer waits before the next, doubled with every refusal up to [`RETRY_MAX`].
pub const RETRY_MIN: Duration = Duration::from_secs(2);

/// The longest wait between a refused offer and the next.
pub const RETRY_MAX: Duration = Duration::from_secs(300);

/// How often an offer may be refused for its ticket or its fence before the run fails.
pub const DISPUTES_MAX: u32 = 5;

/// How long a device may be away with a run that it took: a week's closed laptop is no failure.
pub const LOST_AFTER: Duration = Duration::from_secs(7 * 24 * 3600);

/// How long a connected device may take to end a run that was cancelled.
pub const CANCEL_TIMEOUT: Duration = Duration::from_secs(300);

/// Where a run stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Waits for its device, or for its turn there.
    Queued,
    /// Offered, not answered.
    Offered,
    /// In the journal of its device.
    Accepted,
    /// Its runner was started.
    Running,
    /// Over, with the final status.
    Ended(RunStatus),
}

/// What the store keeps of a run for its dispatch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RunState {
    /// Where it stands.
    pub phase: Phase,
    /// The device started it itself.
    pub registered: bool,
    /// How many times it was offered afresh.
    pub attempt: Attempt,
    /// The fence of the newest offer; 0 before the first.
    pub fence: Fence,
    /// The number of the next event under that fence.
    pub next: u64,
    /// How often the present offer was said; in `Queued` 0, unless it was refused and the wait after that is not over.
    pub sends: u32,
    /// How many offers were refused.
    pub refusals: u32,
    /// In `Queued` the earliest time of the next offer, in `Offered` when the offer was last said.
    pub offer_at: Timestamp,
    /// When it expires if nobody takes it.
    pub queue_until: Timestamp,
    /// Since when its end is wished for, or since its device heard so after being away.
    pub cancel_at: Option<Timestamp>,
    /// Since when its device has no session.
    pub away_since: Option<Timestamp>,
}

impl RunState {
    /// A run that waits for its device until `queue_until`.
    #[must_use]
    pub fn queued(now: Timestamp, queue_until: Timestamp) -> Self {
        Self {
            phase: Phase::Queued,
            registered: false,
            attempt: Attempt(0),
            fence: Fence(0),
            next: 1,
            sends: 0,
            refusals: 0,
            offer_at: now,
            queue_until,
            cancel_at: None,
            away_since: None,
        }
    }

    /// A run that its device started itself and holds already.
    #[must_use]
    pub fn registered(now: Timestamp) -> Self {
        Self {
            phase: Phase::Accepted,
            registered: true,
            attempt: Attempt(1),
            fence: Fence(1),
            sends: 1,
            ..Self::queued(now, now)
        }
    }

    /// Returns the status that the API shows.
    #[must_use]
    pub fn status(&self) -> RunStatus {
        match self.phase {
            Phase::Queued => RunStatus::Queued,
            Phase::Accepted if self.registered => RunStatus::Registered,
            Phase::Offered | Phase::Accepted => RunStatus::Dispatched,
            Phase::Running => RunStatus::Running,
            Phase::Ended(status) => status,
        }
    }

    /// Tells whether the run is over.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Ended(_))
    }

    /// Returns what the run waits for next and until when; `None` when only a message can move it.
    #[must_use]
    pub fn deadline(&self) -> Option<(Timestamp, Deadline)> {
        let away = self
            .away_since
            .map(|since| (since + LOST_AFTER, Deadline::DeviceAway));
        let cancel = self.cancel_at.filter(|_| self.away_since.is_none());
        let cancel = cancel.map(|at| (at + CANCEL_TIMEOUT, Deadline::CancelTimeout));
        match self.phase {
            Phase::Queued if self.sends > 0 && self.offer_at < self.queue_until => {
                Some((self.offer_at, Deadline::Retry))
            }
            Phase::Queued => Some((self.queue_until, Deadline::QueueTtl)),
            Phase::Offered => Some((self.offer_at + OFFER_TIMEOUT, Deadline::OfferTimeout)),
            Phase::Accepted | Phase::Running => [away, cancel].into_iter().flatten().min(),
            Phase::Ended(_) => None,
        }
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
