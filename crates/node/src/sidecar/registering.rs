//! Runs that this device starts itself: asked for at the orchestrator, executed like any other (contract §5,
//! `origin: "device"`).

use std::collections::BTreeMap;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use runs::protocol::{OfferRefusal, ToOrchestrator};
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;
use types::{Attempt, Fence, RunId, RunOrder};

use super::{Offer, Sidecar};
use crate::policy::{Origin, Refusal};

/// How long an app on the device waits for its run to be registered.
const REGISTER_TIMEOUT: Duration = Duration::from_secs(20);

/// How many wishes are remembered whose answer is late; of more the oldest are forgotten, and their runs refused.
const LATE_MAX: usize = 64;

/// How many apps may wait for an answer at once; one more is told to come back.
const WAITING_MAX: usize = 256;

type Reply = oneshot::Sender<Result<Registered, RegisterError>>;

/// What apps on this device wait for. Each wish is said once in every session with the orchestrator until it is
/// answered, since an answer may be lost with its session; its idempotency key makes one run of it.
#[derive(Default)]
pub(super) struct Registering {
    last: u64,
    /// By request. What the orchestrator registers must be what was asked for: policy is milder with a device's own runs.
    wishes: BTreeMap<u64, Wish>,
}

struct Wish {
    registration: Registration,
    /// Nobody waits any more once this is `None`.
    reply: Option<Reply>,
}

impl Registering {
    /// Takes a wish up; `None` when too many wait already.
    fn wish(&mut self, registration: Registration, reply: Reply) -> Option<u64> {
        let waiting = self.wishes.values().filter(|wish| wish.reply.is_some()).count();
        if waiting >= WAITING_MAX {
            return None;
        }
        self.last += 1;
        let wish = Wish {
            registration,
            reply: Some(reply),
        };
        self.wishes.insert(self.last, wish);
        Some(self.last)
    }

    /// Returns the first wish after a request for whose answer somebody waits, as it is said to the orchestrator.
    fn after(&self, request: u64) -> Option<(u64, ToOrchestrator)> {
        let mut later = self.wishes.range(request + 1..);
        let (&request, wish) = later.find(|(_, wish)| wish.reply.is_some())?;
        let wish = wish.registration.clone();
        let message = ToOrchestrator::Register {
            request,
            agent: wish.agent,
            prompt: wish.prompt,
            thread_id: wish.thread_id,
            idempotency_key: wish.idempotency_key,
        };
        Some((request, message))
    }

    /// Nobody waits for the answer any more; when it comes its run is executed nonetheless, for it was asked for.
    fn late(&mut self, request: u64) {
        if let Some(wish) = self.wishes.get_mut(&request) {
            wish.reply = None;
        }
        let late = |(_, wish): &(&u64, &Wish)| wish.reply.is_none();
        if self.wishes.iter().filter(late).count() > LATE_MAX
            && let Some((&oldest, _)) = self.wishes.iter().find(late)
        {
            self.wishes.remove(&oldest);
        }
    }
}

impl Wish {
    fn fits(&self, order: &RunOrder) -> bool {
        self.registration.agent == order.agent_slug
            && self.registration.prompt == order.prompt
            && self
                .registration
                .thread_id
                .is_none_or(|thread_id| thread_id == order.thread_id)
    }
}

/// A run that an app on this device starts.
#[derive(Clone, Debug)]
pub struct Registration {
    /// The agent, which must be bound to this device.
    pub agent: types::AgentSlug,
    /// What is asked.
    pub prompt: String,
    /// The thread to go on with.
    pub thread_id: Option<types::ThreadId>,
    /// The same key within a day answers with the same run.
    pub idempotency_key: Option<String>,
}

/// A run that was registered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Registered {
    /// The run.
    pub run_id: RunId,
    /// Its thread.
    pub thread_id: types::ThreadId,
    /// The rollout of that thread.
    pub rollout_id: types::RolloutId,
}

/// Why a run was not registered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegisterError {
    /// There is no session with the orchestrator.
    #[error("this device is not connected to the orchestrator")]
    Offline,
    /// As many wait as may.
    #[error("{WAITING_MAX} runs of this device wait for the orchestrator's answer already")]
    TooMany,
    /// The orchestrator did not answer in time; the run may have been registered nonetheless.
    #[error("the orchestrator did not answer in time; ask again with the same idempotency key")]
    TimedOut,
    /// The orchestrator said no.
    #[error("{message}")]
    Refused {
        /// One of the contract's error codes.
        code: String,
        /// Why.
        message: String,
    },
}

impl Sidecar {
    /// Asks the orchestrator for a run of this device's own; again in the next session when this one breaks meanwhile.
    pub async fn register(&self, mut registration: Registration) -> Result<Registered, RegisterError> {
        if !self.board.read().sidecar.connected {
            return Err(RegisterError::Offline);
        }
        registration
            .idempotency_key
            .get_or_insert_with(|| format!("device-{:032x}", u128::from_le_bytes(net::random::bytes())));
        let (reply, answer) = oneshot::channel();
        let wish = self.registering().wish(registration, reply);
        let request = wish.ok_or(RegisterError::TooMany)?;
        self.wished.send_replace(request);
        match timeout(REGISTER_TIMEOUT, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(RegisterError::Offline),
            Err(_) => {
                self.registering().late(request);
                Err(RegisterError::TimedOut)
            }
        }
    }

    /// The orchestrator registered a run: it is taken like an offer, and must be what this device asked for. Whoever waits
    /// is told what ticket, policy and journal say.
    pub(crate) async fn registered(self: Arc<Self>, request: u64, run_id: RunId, offer: Offer) {
        let fence = offer.fence;
        let asked_for = |order: &RunOrder| {
            let registering = self.registering();
            let wish = registering.wishes.get(&request);
            wish.is_some_and(|wish| wish.fits(order))
        };
        let admitted = self
            .admit(run_id, &offer)
            .and_then(|order| match asked_for(&order) {
                true => Ok(order),
                false => Err(Refusal {
                    reason: OfferRefusal::Policy,
                    message: "this device did not ask for that run".to_owned(),
                }),
            });
        let taken = match admitted {
            Ok(order) => self.take_registered(order, fence).await,
            Err(refusal) => Err(refusal),
        };
        let answer = taken.map_err(|refusal| {
            tracing::warn!(%run_id, reason = ?refusal.reason, refusal.message, "a registered run was not taken");
            self.refuse(run_id, fence, refusal.reason, refusal.message.clone());
            RegisterError::Refused {
                code: code(refusal.reason).to_owned(),
                message: refusal.message,
            }
        });
        self.answer(request, answer);
    }

    async fn take_registered(self: &Arc<Self>, order: RunOrder, fence: Fence) -> Result<Registered, Refusal> {
        let registered = Registered {
            run_id: order.run_id,
            thread_id: order.thread_id,
            rollout_id: order.rollout_id,
        };
        let _slot = self.slots.take(order.run_id);
        // The same key again: the run is here already, or over and gone.
        let known = self.journal.look().state(order.run_id).is_some();
        if !known {
            self.permit(&order, Origin::Device, self.others(order.run_id))?;
        }
        match self.take(&order, Attempt(1), fence).await {
            Ok(true) => self.begin(order, Attempt(1), fence, Origin::Device),
            Ok(false) => {}
            // It was held once, so it was executed.
            Err(refusal) if refusal.reason == OfferRefusal::StaleFence => {}
            Err(refusal) => return Err(refusal),
        }
        Ok(registered)
    }

    fn refuse(&self, run_id: RunId, fence: Fence, reason: OfferRefusal, message: String) {
        let refused = ToOrchestrator::Refused {
            run_id,
            fence,
            reason,
            message,
        };
        // Should it not leave, the next session's `Hello` shows that the run is not here.
        let _ = self.answers.try_send(refused);
    }

    pub(crate) fn register_refused(&self, request: u64, code: String, message: String) {
        self.answer(request, Err(RegisterError::Refused { code, message }));
    }

    /// The wish is over, and whoever still waits is told how.
    fn answer(&self, request: u64, answer: Result<Registered, RegisterError>) {
        let wish = self.registering().wishes.remove(&request);
        if let Some(reply) = wish.and_then(|wish| wish.reply) {
            drop(reply.send(answer));
        }
    }

    /// Follows the number of the last wish.
    pub(super) fn follow_wishes(&self) -> watch::Receiver<u64> {
        self.wished.subscribe()
    }

    /// Returns the first wish after a request that is still to be said in a session that has come so far.
    pub(super) fn wish_after(&self, request: u64) -> Option<(u64, ToOrchestrator)> {
        self.registering().after(request)
    }

    fn registering(&self) -> MutexGuard<'_, Registering> {
        self.registering.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The contract's error code for a no of this device's own.
fn code(reason: OfferRefusal) -> &'static str {
    match reason {
        OfferRefusal::Policy => "forbidden",
        OfferRefusal::JournalFull => "internal_error",
        _ => "conflict",
    }
}
