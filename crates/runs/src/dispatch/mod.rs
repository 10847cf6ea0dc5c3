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
//!
//! Deadlines are wall-clock times, because they outlive the process that set them.

use std::time::Duration;

use types::{Attempt, Fence, RunStatus, Timestamp};

use crate::protocol::{AppendRefusal, OfferRefusal, OpenRunState};

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
    /// How often the present offer was said.
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

/// What happens to a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Input {
    /// Its device is connected and it is the run's turn.
    Offer,
    /// Its device opened a session; how the run stands in the device's journal, if it does.
    Hello(Option<(Fence, OpenRunState)>),
    /// The session of its device is gone.
    Disconnected,
    /// Its device took an offer.
    Accepted(Fence),
    /// Its device did not take an offer.
    Refused(Fence, OfferRefusal),
    /// Events were stored (`append::decide` said so), and what they contained.
    Stored {
        /// The number expected next.
        next: u64,
        /// `run_started` was among them.
        started: bool,
        /// The status in `run_completed`, if it was among them.
        ended: Option<RunStatus>,
    },
    /// Events that break the rules were refused for ever, under the fence that counts.
    InvalidEvents,
    /// Somebody wishes its end.
    Cancel,
    /// Its device was shut out.
    DeviceRevoked,
    /// Time passed.
    Tick,
}

/// Why the control plane ends a run that its device did not end. The text goes into `run_completed`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EndReason {
    /// Nobody took it in time.
    QueueTtl,
    /// Cancelled before its device took it.
    CancelledBeforeStart,
    /// Cancelled, and its device did not say that it stopped.
    CancelUnconfirmed,
    /// Its device came back without it.
    JournalLost,
    /// Its device stayed away.
    DeviceAway,
    /// Its device was shut out.
    DeviceRevoked,
    /// Its device sent events that break the rules.
    InvalidEvents,
    /// Its device refused it, and why.
    Refused(OfferRefusal),
}

impl EndReason {
    /// Returns the `reason` of `run_completed`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::QueueTtl => "queue_ttl",
            Self::CancelledBeforeStart => "cancelled_before_start",
            Self::CancelUnconfirmed => "cancel_unconfirmed",
            Self::JournalLost => "journal_lost",
            Self::DeviceAway => "device_away",
            Self::DeviceRevoked => "device_revoked",
            Self::InvalidEvents => "invalid_events",
            Self::Refused(OfferRefusal::BadTicket) => "bad_ticket",
            Self::Refused(OfferRefusal::StaleFence) => "stale_fence",
            Self::Refused(OfferRefusal::Policy) => "policy",
            Self::Refused(OfferRefusal::RunnerMissing) => "runner_missing",
            Self::Refused(OfferRefusal::Busy) => "busy",
            Self::Refused(OfferRefusal::JournalFull) => "journal_full",
        }
    }
}

/// What must be done after a step, in this order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// In the same transaction: store `run_completed` with this status and reason.
    End(RunStatus, EndReason),
    /// Send `Offer` with the state's attempt and fence.
    Offer,
    /// Send `Cancel`.
    Cancel,
    /// Send `Appended` with this fence and number.
    Appended(Fence, u64),
    /// Send `AppendRefused` with this fence.
    Refuse(Fence, AppendRefusal),
    /// Close the session: the sidecar does not answer.
    CloseSession,
}

/// What a run waits for, and when the wait is over.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Deadline {
    /// Nobody took the run: it expires. Without it a queue would grow for ever.
    QueueTtl,
    /// A refused run may be offered again. A device that is busy is not asked all the time.
    Retry,
    /// The offer was not answered: it is said again, and then the session is given up.
    OfferTimeout,
    /// The device is away with the run: it is lost. Without it the thread would wait for ever.
    DeviceAway,
    /// The device was told to stop and does not say that it did.
    CancelTimeout,
}

/// The outcome of one input.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Step {
    /// The state from now on.
    pub state: RunState,
    /// What must be done.
    pub effects: Vec<Effect>,
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
            Phase::Queued if self.refusals > 0 && self.offer_at < self.queue_until => {
                Some((self.offer_at, Deadline::Retry))
            }
            Phase::Queued => Some((self.queue_until, Deadline::QueueTtl)),
            Phase::Offered => Some((self.offer_at + OFFER_TIMEOUT, Deadline::OfferTimeout)),
            Phase::Accepted | Phase::Running => [away, cancel].into_iter().flatten().min(),
            Phase::Ended(_) => None,
        }
    }

    /// Takes one input. An ended run stays as it is.
    #[must_use]
    pub fn step(&self, input: Input, now: Timestamp) -> Step {
        let mut step = Step {
            state: self.clone(),
            effects: Vec::new(),
        };
        match input {
            Input::Hello(held) => step.hello(held, now),
            Input::Accepted(fence) => step.accepted(fence),
            _ if self.is_over() => {}
            Input::Offer => step.offer(now),
            Input::Disconnected => step.disconnected(now),
            Input::Refused(fence, reason) => step.refused(fence, reason, now),
            Input::Stored { next, started, ended } => step.stored(next, started, ended),
            Input::Cancel => step.cancel(now),
            Input::InvalidEvents => step.end(RunStatus::Failed, EndReason::InvalidEvents),
            Input::DeviceRevoked => step.end(RunStatus::Failed, EndReason::DeviceRevoked),
            Input::Tick => step.tick(now),
        }
        step
    }
}

impl Step {
    fn offer(&mut self, now: Timestamp) {
        let state = &mut self.state;
        if state.phase != Phase::Queued || now < state.offer_at || now >= state.queue_until {
            return;
        }
        state.phase = Phase::Offered;
        state.attempt.0 += 1;
        state.fence.0 += 1;
        state.next = 1;
        state.sends = 1;
        state.offer_at = now;
        state.away_since = None;
        self.effects.push(Effect::Offer);
    }

    fn hello(&mut self, held: Option<(Fence, OpenRunState)>, now: Timestamp) {
        let state = &mut self.state;
        state.away_since = None;
        if let Some((fence, _)) = held
            && fence != state.fence
        {
            // A higher one than was ever given out means that this store went back in time; later offers must pass it.
            state.fence = state.fence.max(fence);
            self.effects.push(Effect::Refuse(fence, AppendRefusal::Fenced));
            return self.not_held(now);
        }
        match (state.phase, held) {
            (Phase::Ended(_), None) => {}
            (Phase::Ended(_), Some((fence, OpenRunState::Ended))) => {
                // It may only lack the acknowledgement of its last events.
                self.effects.push(Effect::Appended(fence, state.next));
            }
            (Phase::Ended(_), Some((fence, _))) => {
                self.effects.push(Effect::Refuse(fence, AppendRefusal::RunEnded));
            }
            (_, None) => self.not_held(now),
            (phase, Some((fence, _))) => {
                if phase != Phase::Running {
                    state.phase = Phase::Accepted;
                }
                self.effects.push(Effect::Appended(fence, state.next));
                self.repeat_cancel(now);
            }
        }
    }

    /// The device is back and does not hold the run.
    fn not_held(&mut self, now: Timestamp) {
        match self.state.phase {
            Phase::Queued | Phase::Offered if self.state.cancel_at.is_some() => {
                self.end(RunStatus::Cancelled, EndReason::CancelledBeforeStart);
            }
            Phase::Queued => {}
            Phase::Offered => self.requeue(now),
            Phase::Accepted | Phase::Running => self.end(RunStatus::Lost, EndReason::JournalLost),
            Phase::Ended(_) => {}
        }
    }

    fn repeat_cancel(&mut self, now: Timestamp) {
        if self.state.cancel_at.is_some() {
            self.state.cancel_at = Some(now);
            self.effects.push(Effect::Cancel);
        }
    }

    fn disconnected(&mut self, now: Timestamp) {
        match self.state.phase {
            // It waits anyhow; noting it would be a write for each run of a long queue.
            Phase::Queued => {}
            Phase::Offered => self.requeue(now),
            _ => drop(self.state.away_since.get_or_insert(now)),
        }
    }

    fn requeue(&mut self, offer_at: Timestamp) {
        self.state.phase = Phase::Queued;
        self.state.offer_at = offer_at;
    }

    fn accepted(&mut self, fence: Fence) {
        if fence != self.state.fence {
            return self.effects.push(Effect::Refuse(fence, AppendRefusal::Fenced));
        }
        match self.state.phase {
            Phase::Queued | Phase::Offered => {
                self.state.phase = Phase::Accepted;
                if self.state.cancel_at.is_some() {
                    self.effects.push(Effect::Cancel);
                }
            }
            Phase::Accepted | Phase::Running => {}
            // A late copy; whether the sidecar still holds it, its next append or `Hello` tells.
            Phase::Ended(_) if self.state.next > 1 => {}
            Phase::Ended(_) => self.effects.push(Effect::Refuse(fence, AppendRefusal::RunEnded)),
        }
    }

    fn refused(&mut self, fence: Fence, reason: OfferRefusal, now: Timestamp) {
        let state = &mut self.state;
        let is_open = state.phase == Phase::Offered || (state.phase == Phase::Accepted && state.registered);
        if fence != state.fence || !is_open {
            return;
        }
        state.refusals += 1;
        if state.cancel_at.is_some() {
            return self.end(RunStatus::Cancelled, EndReason::CancelledBeforeStart);
        }
        let is_final = match reason {
            OfferRefusal::Policy | OfferRefusal::RunnerMissing => true,
            OfferRefusal::BadTicket | OfferRefusal::StaleFence => state.refusals >= DISPUTES_MAX,
            OfferRefusal::Busy | OfferRefusal::JournalFull => false,
        };
        // The device that asked for the run itself is told no, not asked again.
        if is_final || state.registered {
            return self.end(RunStatus::Failed, EndReason::Refused(reason));
        }
        let doubled = RETRY_MIN.saturating_mul(1 << (state.refusals - 1).min(16));
        self.requeue(now + doubled.min(RETRY_MAX));
    }

    fn stored(&mut self, next: u64, started: bool, ended: Option<RunStatus>) {
        self.state.next = next;
        if let Some(status) = ended {
            self.state.phase = Phase::Ended(status);
        } else if started {
            self.state.phase = Phase::Running;
        } else if matches!(self.state.phase, Phase::Queued | Phase::Offered) {
            self.state.phase = Phase::Accepted;
        }
    }

    fn cancel(&mut self, now: Timestamp) {
        match self.state.phase {
            // An offer that was never answered may be held; then the next `Hello` meets an ended run.
            Phase::Queued => self.end(RunStatus::Cancelled, EndReason::CancelledBeforeStart),
            _ => {
                self.state.cancel_at.get_or_insert(now);
                self.effects.push(Effect::Cancel);
            }
        }
    }

    fn tick(&mut self, now: Timestamp) {
        let Some((_, deadline)) = self.state.deadline().filter(|(at, _)| now >= *at) else {
            return;
        };
        match deadline {
            Deadline::QueueTtl => self.end(RunStatus::Expired, EndReason::QueueTtl),
            Deadline::Retry if now >= self.state.queue_until => {
                self.end(RunStatus::Expired, EndReason::QueueTtl);
            }
            Deadline::Retry => {}
            Deadline::OfferTimeout if self.state.sends >= OFFER_SENDS_MAX => {
                self.effects.push(Effect::CloseSession);
                self.disconnected(now);
            }
            Deadline::OfferTimeout => {
                self.state.sends += 1;
                self.state.offer_at = now;
                self.effects.push(Effect::Offer);
            }
            Deadline::DeviceAway => self.end(RunStatus::Lost, EndReason::DeviceAway),
            Deadline::CancelTimeout => self.end(RunStatus::Cancelled, EndReason::CancelUnconfirmed),
        }
    }

    fn end(&mut self, status: RunStatus, reason: EndReason) {
        // A connected sidecar that holds the run must stop it; one that is away hears it from its next `Hello`.
        if matches!(self.state.phase, Phase::Accepted | Phase::Running) {
            let fence = self.state.fence;
            self.effects.push(Effect::Refuse(fence, AppendRefusal::RunEnded));
        }
        self.state.phase = Phase::Ended(status);
        self.effects.insert(0, Effect::End(status, reason));
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
