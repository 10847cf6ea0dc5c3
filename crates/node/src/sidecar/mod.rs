//! The sidecar: takes runs from the orchestrator, has them executed, and brings every event of them back.
//!
//! Here is what happens to a run on this device, from its offer to its terminal event. The stream to the orchestrator is
//! [`session`]; what stands on disk is [`crate::journal_keeper`]; what may run is [`crate::policy`].

mod offer;
mod registering;
mod resumable;
pub mod session;
mod slots;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use net::clock::Clock;
use runs::protocol::{OfferRefusal, OpenRunState, ToOrchestrator};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::sleep;
use tokio_util::task::TaskTracker;
use types::{Attempt, EventDraft, Fence, LiveType, RunId, RunOrder, RunStatus, Timestamp};

use crate::config::OnTalk;
use crate::journal_keeper::{JournalKeeper, KeeperError, Offered};
use crate::membership::Membership;
use crate::policy::store::PolicyStore;
use crate::policy::{Environment, Origin, Permit, Refusal};
use crate::runner::Ending;
use crate::runner::asked::{Asked, variables};
use crate::runner::executor::{Job, Limits, Sink, SinkError, Stop, execute};
use crate::runner::process::kill_marked;
use crate::state_dir::StateDir;
use crate::status::{RunSummary, StatusBoard};
use crate::talk::Talk;
use offer::Offer;
use registering::Registering;
use resumable::Resumable;
use slots::Slots;

pub use registering::{RegisterError, Registered, Registration};

/// Live frames that wait for the stream; what comes on top is not shown.
const LIVE_QUEUE: usize = 512;

/// Answers that wait for the stream.
const ANSWER_QUEUE: usize = 512;

/// Between two attempts to write a terminal event to a disk that is full.
const END_RETRY: Duration = Duration::from_secs(1);

/// What a run on this device needs to be stopped, and shown.
struct Active {
    fence: Fence,
    stop: watch::Sender<Option<Stop>>,
    runner: String,
    status: RunStatus,
    order: Box<RunOrder>,
}

/// The sidecar's state; shared by its tasks.
pub struct Sidecar {
    membership: Arc<Membership>,
    journal: JournalKeeper,
    policy: Arc<PolicyStore>,
    own_env: Environment,
    state_dir: Arc<StateDir>,
    resumable: Resumable,
    active: Mutex<BTreeMap<RunId, Active>>,
    slots: Slots,
    tasks: TaskTracker,
    answers: mpsc::Sender<ToOrchestrator>,
    live: mpsc::Sender<ToOrchestrator>,
    registering: Mutex<Registering>,
    /// The number of the last wish for a run of this device's own.
    wished: watch::Sender<u64>,
    board: StatusBoard,
    on_talk: OnTalk,
    closing: watch::Sender<bool>,
}

/// What the stream to the orchestrator sends for the sidecar.
pub struct Outbox {
    pub(crate) answers: mpsc::Receiver<ToOrchestrator>,
    pub(crate) live: mpsc::Receiver<ToOrchestrator>,
}

/// What a sidecar is made of.
pub struct Parts {
    /// The netmap in force.
    pub membership: Arc<Membership>,
    /// The journal.
    pub journal: JournalKeeper,
    /// What the owner allows.
    pub policy: Arc<PolicyStore>,
    /// The daemon's environment.
    pub own_env: Environment,
    /// Where sessions that can be resumed are kept.
    pub state_dir: Arc<StateDir>,
    /// Where runs are shown.
    pub board: StatusBoard,
    /// Who is told.
    pub on_talk: OnTalk,
}

impl Sidecar {
    /// Makes a sidecar; nothing happens before [`Sidecar::recover`] and [`session::keep_up`].
    #[must_use]
    pub fn new(parts: Parts) -> (Arc<Self>, Outbox) {
        let (answers, answers_out) = mpsc::channel(ANSWER_QUEUE);
        let (live, live_out) = mpsc::channel(LIVE_QUEUE);
        let sidecar = Self {
            membership: parts.membership,
            journal: parts.journal,
            policy: parts.policy,
            own_env: parts.own_env,
            resumable: Resumable::read(&parts.state_dir),
            state_dir: parts.state_dir,
            active: Mutex::new(BTreeMap::new()),
            slots: Slots::default(),
            tasks: TaskTracker::new(),
            answers,
            live,
            registering: Mutex::default(),
            wished: watch::Sender::new(0),
            board: parts.board,
            on_talk: parts.on_talk,
            closing: watch::Sender::new(false),
        };
        let outbox = Outbox {
            answers: answers_out,
            live: live_out,
        };
        (Arc::new(sidecar), outbox)
    }

    /// Goes on after a start: kills what interrupted runs left behind, and starts what was accepted and not started.
    pub fn recover(self: &Arc<Self>, interrupted: &[RunId]) {
        for run_id in interrupted {
            let killed = kill_marked(*run_id);
            tracing::warn!(%run_id, killed, "a run was interrupted by the end of the last daemon");
        }
        let journal = self.journal.look();
        let waiting: Vec<_> = journal
            .to_start()
            .map(|(order, attempt, fence)| (order.clone(), attempt, fence))
            .collect();
        drop(journal);
        for (order, attempt, fence) in waiting {
            self.begin(order, attempt, fence, Origin::Org);
        }
        self.show();
    }

    /// Decides on an offer and answers it.
    pub(crate) async fn offered(self: Arc<Self>, run_id: RunId, offer: Offer) {
        let fence = offer.fence;
        // Held until the run is under way, so that offers that are decided at the same time see one another.
        let _slot = self.slots.take(run_id);
        let answer = match self.decide(run_id, &offer).await {
            Ok((order, is_new)) => {
                if is_new {
                    self.begin(order, offer.attempt, fence, Origin::Org);
                }
                ToOrchestrator::Accepted { run_id, fence }
            }
            Err(refusal) => {
                tracing::info!(%run_id, reason = ?refusal.reason, refusal.message, "offer refused");
                ToOrchestrator::Refused {
                    run_id,
                    fence,
                    reason: refusal.reason,
                    message: refusal.message,
                }
            }
        };
        // A full queue means a stream that is stuck: the offer will be repeated on the next one.
        let _ = self.answers.try_send(answer);
    }

    /// Checks ticket, policy and journal, in this order; returns the order, and `true` when it is new to this device.
    async fn decide(&self, run_id: RunId, offer: &Offer) -> Result<(RunOrder, bool), Refusal> {
        let order = self.admit(run_id, offer)?;
        let known = self
            .journal
            .look()
            .state(run_id)
            .is_some_and(|(held, _)| held == offer.fence);
        if !known {
            self.permit(&order, Origin::Org, self.others(run_id))?;
        }
        let is_new = self.take(&order, offer.attempt, offer.fence).await?;
        Ok((order, is_new))
    }

    /// Writes an order to the journal; `true` when it is new to this device.
    async fn take(&self, order: &RunOrder, attempt: Attempt, fence: Fence) -> Result<bool, Refusal> {
        match self.journal.offer(order.clone(), attempt, fence).await {
            Ok(Offered::Taken) => Ok(true),
            Ok(Offered::Known) => Ok(false),
            Ok(Offered::Refused(reason, message)) => Err(Refusal { reason, message }),
            Err(error) => Err(Refusal {
                reason: OfferRefusal::JournalFull,
                message: error.to_string(),
            }),
        }
    }

    fn admit(&self, run_id: RunId, offer: &Offer) -> Result<RunOrder, Refusal> {
        let own_keys = self.membership.keyring().held();
        offer.admit(run_id, self.membership.pinned(), &own_keys, now())
    }

    /// Counts the runs that are under way or about to be, without this one.
    fn others(&self, run_id: RunId) -> usize {
        let mut others = self.slots.taken();
        others.extend(self.active().keys());
        others.remove(&run_id);
        others.len()
    }

    /// Returns how many runs the owner's policy takes at a time; `None` while its file has an error.
    fn places(&self) -> Option<u32> {
        let policy = self.policy.current().ok()?;
        u32::try_from(policy.concurrent_runs_max).ok()
    }

    /// Asks the policy; `running` is how many runs count against its limit.
    fn permit(&self, order: &RunOrder, origin: Origin, running: usize) -> Result<Permit, Refusal> {
        let policy = self.policy.current();
        self.board
            .change(|status| status.policy_error = policy.as_ref().err().cloned());
        let policy = policy.map_err(|message| Refusal {
            reason: OfferRefusal::Policy,
            message: format!("this device's policy file has an error: {message}"),
        })?;
        policy.permit(order, origin, running, &self.own_env)
    }

    /// Executes an accepted run in a task of its own.
    fn begin(self: &Arc<Self>, order: RunOrder, attempt: Attempt, fence: Fence, origin: Origin) {
        let (stop, stopped) = watch::channel(None);
        if *self.closing.borrow() {
            // It stays accepted and is started by the next daemon.
            return;
        }
        let active = Active {
            fence,
            stop,
            runner: order
                .runner
                .as_ref()
                .map_or_else(|| "default".to_owned(), |spec| spec.name().to_owned()),
            status: RunStatus::Dispatched,
            order: Box::new(order.clone()),
        };
        self.active().insert(order.run_id, active);
        self.show();
        let sidecar = self.clone();
        self.tasks.spawn(async move {
            let run_id = order.run_id;
            sidecar.execute(order, attempt, fence, origin, stopped).await;
            let mut active = sidecar.active();
            // A later offer of the same run may have taken its place.
            if active.get(&run_id).is_some_and(|active| active.fence == fence) {
                active.remove(&run_id);
            }
            drop(active);
            sidecar.show();
        });
    }

    async fn execute(
        &self,
        order: RunOrder,
        attempt: Attempt,
        fence: Fence,
        origin: Origin,
        stopped: watch::Receiver<Option<Stop>>,
    ) {
        let run_id = order.run_id;
        // What was accepted counted then: a limit that was lowered since stops no run that was promised.
        let ending = match self.permit(&order, origin, 0) {
            Err(refusal) => Ending::failed(word(refusal.reason), refusal.message),
            Ok(_) if *stopped.borrow() == Some(Stop::Cancelled) => Ending::cancelled(),
            // It stays accepted: the next daemon starts it.
            Ok(_) if *stopped.borrow() == Some(Stop::Shutdown) => return,
            Ok(permit) => match self.start(&order, attempt, fence, &permit).await {
                Ok(()) => self.run(order, fence, permit, stopped).await,
                Err(KeeperError::Unwritable(reason)) => Ending::failed("journal_full", reason),
                Err(error) => {
                    tracing::warn!(%run_id, %error, "a run was not started");
                    return;
                }
            },
        };
        self.end(run_id, fence, ending).await;
    }

    async fn start(
        &self,
        order: &RunOrder,
        attempt: Attempt,
        fence: Fence,
        permit: &Permit,
    ) -> Result<(), KeeperError> {
        let payload = json!({
            "runner": permit.runner.name,
            "runnerType": permit.runner.runner_type.as_str(),
            "folder": permit.folder.display().to_string(),
            "attempt": attempt,
            "nodeId": self.membership.pinned().node_id,
        });
        self.journal.start(order.run_id, fence, payload).await?;
        if let Some(active) = self.active().get_mut(&order.run_id) {
            active.status = RunStatus::Running;
            active.runner.clone_from(&permit.runner.name);
        }
        self.show();
        let summary = format!(
            "{} with {} in {}",
            order.run_id,
            permit.runner.name,
            permit.folder.display()
        );
        (self.on_talk)(&Talk::RunStarted { summary });
        Ok(())
    }

    async fn run(
        &self,
        order: RunOrder,
        fence: Fence,
        mut permit: Permit,
        stopped: watch::Receiver<Option<Stop>>,
    ) -> Ending {
        permit.env.extend(variables(&order));
        let sink = RunSink {
            run_id: order.run_id,
            fence,
            journal: self.journal.clone(),
            live: self.live.clone(),
        };
        let key = resumable::Key {
            thread_id: order.thread_id,
            rollout_id: order.rollout_id,
            runner: permit.runner.name.clone(),
            folder: permit.folder.clone(),
        };
        let job = Job {
            run_id: order.run_id,
            asked: Asked::of(&order),
            prompt: order.prompt,
            system_prompt: order.system_prompt,
            resume: self.resumable.find(&key),
            limits: Limits::for_run(permit.run_time_max),
            permit,
        };
        let outcome = execute(job, stopped, &sink).await;
        if let Some(session) = outcome.session {
            self.resumable.keep(&self.state_dir, key, session);
        }
        outcome.ending
    }

    /// Writes the terminal event, for as long as it takes while the disk is full.
    async fn end(&self, run_id: RunId, fence: Fence, ending: Ending) {
        let summary = format!(
            "{run_id} {}{}",
            ending.status,
            ending
                .message
                .as_ref()
                .map(|message| format!(": {message}"))
                .unwrap_or_default()
        );
        (self.on_talk)(&Talk::RunEnded { summary });
        let mut closing = self.closing.subscribe();
        loop {
            match self.journal.end(run_id, fence, ending.payload()).await {
                Err(KeeperError::Unwritable(reason)) => {
                    tracing::error!(%run_id, reason, "the end of a run cannot be written; trying again");
                    // At the end of the process the next start writes it as interrupted.
                    if *closing.borrow_and_update() {
                        return;
                    }
                    tokio::select! { () = sleep(END_RETRY) => {}, _ = closing.changed() => {} }
                }
                Err(error) => return tracing::info!(%run_id, %error, "a run ended that is no longer ours"),
                Ok(()) => return,
            }
        }
    }

    /// Asks for a run to be stopped. One that is not under way needs nothing.
    pub(crate) fn cancel(&self, run_id: RunId) {
        self.stop(run_id, Stop::Cancelled);
    }

    fn stop(&self, run_id: RunId, stop: Stop) {
        if let Some(active) = self.active().get(&run_id) {
            active
                .stop
                .send_if_modified(|said| said.is_none() && said.replace(stop).is_none());
        }
    }

    /// The run was taken from this node: stops it and forgets it.
    pub(crate) async fn taken_away(&self, run_id: RunId, fence: Fence) {
        if self
            .active()
            .get(&run_id)
            .is_some_and(|active| active.fence == fence)
        {
            self.stop(run_id, Stop::TakenAway);
        }
        if let Err(error) = self.journal.forget(run_id, fence).await {
            tracing::debug!(%run_id, %error, "nothing to forget");
        }
        self.show();
    }

    /// Stops every run and waits until each has its terminal event on disk.
    pub async fn stop_all(&self, stop: Stop) {
        self.closing.send_replace(true);
        let running: Vec<RunId> = self.active().keys().copied().collect();
        for run_id in running {
            self.stop(run_id, stop);
        }
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Waits until the orchestrator has acknowledged everything of the runs that ended.
    pub async fn acknowledged(&self) {
        let mut changes = self.journal.changes();
        loop {
            let pending = self
                .journal
                .look()
                .open_runs()
                .iter()
                .any(|run| run.state == OpenRunState::Ended);
            if !pending || changes.changed().await.is_err() {
                return;
            }
        }
    }

    pub(crate) fn journal(&self) -> &JournalKeeper {
        &self.journal
    }

    pub(crate) fn membership(&self) -> &Arc<Membership> {
        &self.membership
    }

    pub(crate) fn board(&self) -> &StatusBoard {
        &self.board
    }

    pub(crate) fn on_talk(&self) -> &OnTalk {
        &self.on_talk
    }

    /// Shows the runs as they are now.
    pub(crate) fn show(&self) {
        let active = self.active();
        let runs = active.values().map(|active| RunSummary {
            run_id: active.order.run_id,
            thread_id: active.order.thread_id,
            status: active.status,
            runner: active.runner.clone(),
        });
        let runs: Vec<RunSummary> = runs.collect();
        drop(active);
        let journal = self.journal.look();
        let (held, unsent_bytes) = (journal.open_runs().len(), journal.unsent_bytes());
        drop(journal);
        self.board.change(|status| {
            status.runs = runs;
            status.journal_runs = held;
            status.journal_bytes = unsent_bytes;
        });
    }

    fn active(&self) -> MutexGuard<'_, BTreeMap<RunId, Active>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The `reason` of a run that was accepted and may not start.
fn word(reason: OfferRefusal) -> &'static str {
    match reason {
        OfferRefusal::RunnerMissing => "runner_missing",
        _ => "policy",
    }
}

fn now() -> Timestamp {
    Clock::new().now().wall
}

/// Where one run's events go: to the journal, and live ones to the stream if there is room.
struct RunSink {
    run_id: RunId,
    fence: Fence,
    journal: JournalKeeper,
    live: mpsc::Sender<ToOrchestrator>,
}

impl Sink for RunSink {
    fn append(&self, events: Vec<EventDraft>) -> oneshot::Receiver<Result<(), SinkError>> {
        self.journal.append(self.run_id, self.fence, events)
    }

    fn live(&self, live_type: LiveType, payload: Value) {
        let _ = self.live.try_send(ToOrchestrator::Live {
            run_id: self.run_id,
            fence: self.fence,
            live_type,
            payload,
        });
    }
}
