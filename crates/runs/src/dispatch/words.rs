//! The words of the dispatch machine: what happens to a run, what follows, what it waits for, why it ends.

use types::{Fence, RunStatus};

use crate::protocol::{AppendRefusal, OfferRefusal, OpenRunState};

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
