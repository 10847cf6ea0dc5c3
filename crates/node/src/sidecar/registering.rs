//! Runs that this device starts itself: asked for at the orchestrator, executed like any other (contract §5,
//! `origin: "device"`).

use std::collections::BTreeMap;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use runs::protocol::{OfferRefusal, ToOrchestrator};
use tokio::sync::oneshot;
use tokio::time::timeout;
use types::{Attempt, Fence, RunId, RunOrder};

use super::{Offer, Sidecar};
use crate::policy::{Origin, Refusal};

/// How long an app on the device waits for its run to be registered.
const REGISTER_TIMEOUT: Duration = Duration::from_secs(20);

/// How many wishes are remembered whose answer is late; of more the oldest are forgotten, and their runs refused.
const LATE_MAX: usize = 64;

type Reply = oneshot::Sender<Result<Registered, RegisterError>>;

#[derive(Default)]
pub(super) struct Registering {
    next: u64,
    /// By request. What the orchestrator registers must be what was asked for: policy is milder with a device's own runs.
    wishes: BTreeMap<u64, Wish>,
}

struct Wish {
    agent: types::AgentSlug,
    prompt: String,
    thread_id: Option<types::ThreadId>,
    /// Nobody waits any more once this is `None`.
    reply: Option<Reply>,
}

impl Registering {
    fn wish(&mut self, registration: &Registration, reply: Reply) -> u64 {
        self.next += 1;
        let wish = Wish {
            agent: registration.agent.clone(),
            prompt: registration.prompt.clone(),
            thread_id: registration.thread_id,
            reply: Some(reply),
        };
        self.wishes.insert(self.next, wish);
        self.next
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
        self.agent == order.agent_slug
            && self.prompt == order.prompt
            && self
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
    /// Asks the orchestrator for a run of this device's own.
    pub async fn register(&self, registration: Registration) -> Result<Registered, RegisterError> {
        let (reply, answer) = oneshot::channel();
        let request = self.registering().wish(&registration, reply);
        let message = ToOrchestrator::Register {
            request,
            agent: registration.agent,
            prompt: registration.prompt,
            thread_id: registration.thread_id,
            idempotency_key: registration.idempotency_key,
        };
        if !self.board.read().sidecar.connected || self.answers.try_send(message).is_err() {
            self.registering().wishes.remove(&request);
            return Err(RegisterError::Offline);
        }
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
        let wish = self.registering().wishes.remove(&request);
        let asked_for = |order: &RunOrder| wish.as_ref().is_some_and(|wish| wish.fits(order));
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
        if let Some(reply) = wish.and_then(|wish| wish.reply) {
            drop(reply.send(answer));
        }
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
        let wish = self.registering().wishes.remove(&request);
        if let Some(reply) = wish.and_then(|wish| wish.reply) {
            drop(reply.send(Err(RegisterError::Refused { code, message })));
        }
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
