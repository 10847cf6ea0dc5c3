//! What the orchestrator and a sidecar say to each other on the dispatch session.
//!
//! The session is one TCP stream inside the mesh, from the sidecar to the orchestrator; the sender is known by its mesh
//! address, which the tunnel has checked, so there is no credential here. A message travels as a big-endian `u32` length
//! and that many bytes of JSON, at most [`FRAME_BYTES_MAX`]. Unknown fields are ignored, an unknown `type` is skipped.
//!
//! Three rules carry the durability (DESIGN §7):
//!
//! 1. An offer is answered only after the sidecar's journal holds it on disk; a runner is spawned only after the journal
//!    says so too. A run therefore starts at most once per attempt.
//! 2. Events are journaled, then appended as (run, fence, number): the numbers of one attempt start at 1 and have no
//!    gaps. A duplicate is acknowledged, a gap is answered with the number expected, a lower fence is refused for ever.
//! 3. What a run *is* follows from its events: `run_started` makes it running and `run_completed` ends it, in the same
//!    transaction that stores them. There is no second way to say it.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use types::event::APPEND_BYTES_MAX;
use types::{
    AgentSlug, Attempt, EventDraft, Fence, LiveType, RolloutId, RunId, SealedOrder, SignedRunTicket, ThreadId,
};

/// The TCP port of the orchestrator on the platform node's mesh address.
pub const ORCHESTRATOR_PORT: u16 = types::policy::DISPATCH_PORT;

/// The largest frame either side accepts: a full append and room for its envelope.
pub const FRAME_BYTES_MAX: usize = APPEND_BYTES_MAX + 64 * 1024;

/// What this build speaks; raised when a message changes its meaning.
pub const PROTOCOL_VERSION: u32 = 2;

/// From the orchestrator to a sidecar.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", rename_all_fields = "camelCase")]
pub enum ToSidecar {
    /// Answers `Hello`; only now may the sidecar send anything else.
    Welcome {
        /// The orchestrator's [`PROTOCOL_VERSION`].
        version: u32,
    },
    /// Asks the sidecar to execute a run. Repeated until answered; the same fence is the same offer.
    Offer {
        /// The run.
        run_id: RunId,
        /// What to do, as it was signed.
        order: SealedOrder,
        /// Which attempt.
        attempt: Attempt,
        /// The fence of this offer.
        fence: Fence,
        /// The leave to do it.
        ticket: SignedRunTicket,
    },
    /// Asks the sidecar to stop a run: a desired state, said again on every reconnect until the run has ended.
    Cancel {
        /// The run.
        run_id: RunId,
    },
    /// Every event of (run, fence) below `next` is stored for ever: the journal may forget them.
    Appended {
        /// The run.
        run_id: RunId,
        /// The fence the events came with.
        fence: Fence,
        /// The number the store expects next.
        next: u64,
    },
    /// An append was refused and will be for ever; the sidecar stops the attempt.
    AppendRefused {
        /// The run.
        run_id: RunId,
        /// The fence the events came with.
        fence: Fence,
        /// Why.
        reason: AppendRefusal,
    },
    /// Answers `Register`.
    Registered {
        /// The request it answers.
        request: u64,
        /// The run.
        run_id: RunId,
        /// What to do, at once and as the first attempt, as it was signed.
        order: SealedOrder,
        /// The fence of the lease that the device now holds.
        fence: Fence,
        /// The leave to do it.
        ticket: SignedRunTicket,
    },
    /// Answers `Register` with a no.
    RegisterRefused {
        /// The request it answers.
        request: u64,
        /// One of the contract's error codes.
        code: String,
        /// Why, for people.
        message: String,
    },
    /// Answers `Ping`.
    Pong,
    /// Asks whether the sidecar is still there, since something speaks against it; only its `Pong` proves that it is.
    Ping {
        /// A number that the answer repeats, so that what was on its way before proves nothing.
        number: u64,
    },
}

/// From a sidecar to the orchestrator.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", rename_all_fields = "camelCase")]
pub enum ToOrchestrator {
    /// The first message of a session.
    Hello {
        /// The sidecar's [`PROTOCOL_VERSION`].
        version: u32,
        /// Every run in its journal that is not over and acknowledged.
        open_runs: Vec<OpenRun>,
        /// How many runs it takes at a time, its own too; absent when it cannot say.
        #[serde(default)]
        places: Option<u32>,
    },
    /// The offer is in the journal, on disk.
    Accepted {
        /// The run.
        run_id: RunId,
        /// The fence of the offer.
        fence: Fence,
    },
    /// The offer will not be taken.
    Refused {
        /// The run.
        run_id: RunId,
        /// The fence of the offer.
        fence: Fence,
        /// Why.
        reason: OfferRefusal,
        /// Why, for people; it goes into the thread.
        message: String,
    },
    /// Events of one attempt, numbered from `first` without gaps.
    Append {
        /// The run.
        run_id: RunId,
        /// The fence of the lease under which they happened.
        fence: Fence,
        /// The number of the first one.
        first: u64,
        /// The events.
        events: Vec<EventDraft>,
    },
    /// Something to show to whoever watches, not to be stored.
    Live {
        /// The run.
        run_id: RunId,
        /// The fence of the lease.
        fence: Fence,
        /// What it shows.
        live_type: LiveType,
        /// The particulars, a JSON object.
        payload: Value,
    },
    /// The device starts a run of an agent bound to itself (contract §5, `origin: "device"`).
    Register {
        /// A number of the sidecar's choice that the answer repeats.
        request: u64,
        /// The agent.
        agent: AgentSlug,
        /// What is asked.
        prompt: String,
        /// The thread to go on with; absent for a new one.
        thread_id: Option<ThreadId>,
        /// The same key within a day answers with the same run.
        idempotency_key: Option<String>,
    },
    /// Keeps the session known to be alive.
    Ping {
        /// As in `Hello`, for its owner may have changed it since.
        #[serde(default)]
        places: Option<u32>,
    },
    /// Answers `Ping`.
    Pong {
        /// The number of the `Ping`.
        number: u64,
    },
}

/// A run that a sidecar still has in its journal.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OpenRun {
    /// The run.
    pub run_id: RunId,
    /// The rollout its events go to.
    pub rollout_id: RolloutId,
    /// The fence of the lease the sidecar holds.
    pub fence: Fence,
    /// How far it came.
    pub state: OpenRunState,
}

/// How far a run in a sidecar's journal came.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OpenRunState {
    /// On disk, not spawned.
    Accepted,
    /// Spawned, not over.
    Started,
    /// Over; events remain to be acknowledged.
    Ended,
}

/// Why a sidecar does not take an offer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OfferRefusal {
    /// The ticket is missing, forged, old or somebody else's.
    BadTicket,
    /// A later offer of the same run was seen already.
    StaleFence,
    /// The device's own policy forbids the runner, the folder or the caller.
    Policy,
    /// The runner's program is not on the device.
    RunnerMissing,
    /// As many runs as the device's policy allows are under way.
    Busy,
    /// The journal cannot be written: the disk is full or broken.
    JournalFull,
}

/// Why the store does not take an append.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AppendRefusal {
    /// A later lease exists.
    Fenced,
    /// The run is over already.
    RunEnded,
    /// The run is not this node's, or its thread is gone.
    NotFound,
    /// An event breaks a limit of the contract.
    Invalid,
}
