//! One step of a run: an input and the time in, the new state and what must be done out.

use types::{Fence, RunStatus, Timestamp};

use super::{
    DISPUTES_MAX, Deadline, Effect, EndReason, Input, OFFER_SENDS_MAX, Phase, RETRY_MAX, RETRY_MIN, RunState,
};
use crate::protocol::{AppendRefusal, OfferRefusal, OpenRunState};

/// The outcome of one input.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Step {
    /// The state from now on.
    pub state: RunState,
    /// What must be done.
    pub effects: Vec<Effect>,
}

impl RunState {
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
            Phase::Offered => self.withdraw(now),
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
            Phase::Offered => self.withdraw(now),
            _ => drop(self.state.away_since.get_or_insert(now)),
        }
    }

    /// Takes an offer back that nobody answered.
    fn withdraw(&mut self, now: Timestamp) {
        self.state.phase = Phase::Queued;
        self.state.offer_at = now;
        self.state.sends = 0;
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
        state.phase = Phase::Queued;
        state.offer_at = now + doubled.min(RETRY_MAX);
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
            // It may be offered, and its device may still have no place: it must not stay due all the while.
            Deadline::Retry => self.state.sends = 0,
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
