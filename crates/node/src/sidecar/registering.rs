//! Runs that this device starts itself: asked for at the orchestrator, executed like any other (contract §5,
//! `origin: "device"`).

use std::collections::BTreeMap;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use runs::protocol::ToOrchestrator;
use tokio::sync::oneshot;
use tokio::time::timeout;
use types::{Attempt, Fence, RunId, RunOrder};

use super::Sidecar;
use crate::journal_keeper::Offered;
use crate::policy::Origin;

/// How long an app on the device waits for its run to be registered.
const REGISTER_TIMEOUT: Duration = Duration::from_secs(20);

#[derive(Default)]
pub(super) struct Registering {
    next: u64,
    waiting: BTreeMap<u64, oneshot::Sender<Result<Registered, RegisterError>>>,
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
        let request = {
            let mut registering = self.registering();
            registering.next += 1;
            let request = registering.next;
            registering.waiting.insert(request, reply);
            request
        };
        let message = ToOrchestrator::Register {
            request,
            agent: registration.agent,
            prompt: registration.prompt,
            thread_id: registration.thread_id,
            idempotency_key: registration.idempotency_key,
        };
        if !self.board.read().sidecar.connected || self.answers.try_send(message).is_err() {
            self.registering().waiting.remove(&request);
            return Err(RegisterError::Offline);
        }
        let answer = timeout(REGISTER_TIMEOUT, answer).await;
        self.registering().waiting.remove(&request);
        match answer {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(RegisterError::Offline),
            Err(_) => Err(RegisterError::TimedOut),
        }
    }

    /// The orchestrator registered a run: it is taken like an offer, but needs no ticket, since this device asked.
    pub(crate) async fn registered(self: Arc<Self>, request: u64, order: RunOrder, fence: Fence) {
        let Some(reply) = self.registering().waiting.remove(&request) else {
            // Nobody waits any more; the run is executed nonetheless, for it was asked for.
            return self.take_registered(order, fence).await;
        };
        let registered = Registered {
            run_id: order.run_id,
            thread_id: order.thread_id,
            rollout_id: order.rollout_id,
        };
        self.take_registered(order, fence).await;
        drop(reply.send(Ok(registered)));
    }

    async fn take_registered(self: Arc<Self>, order: RunOrder, fence: Fence) {
        let run_id = order.run_id;
        match self.journal.offer(order.clone(), Attempt(1), fence).await {
            Ok(Offered::Taken) => self.begin(order, Attempt(1), fence, Origin::Device),
            Ok(Offered::Known) => {}
            Ok(Offered::Refused(reason, _)) => {
                tracing::warn!(%run_id, ?reason, "a registered run was not taken")
            }
            Err(error) => tracing::error!(%run_id, %error, "a registered run was not taken"),
        }
    }

    pub(crate) fn register_refused(&self, request: u64, code: String, message: String) {
        if let Some(reply) = self.registering().waiting.remove(&request) {
            drop(reply.send(Err(RegisterError::Refused { code, message })));
        }
    }

    fn registering(&self) -> MutexGuard<'_, Registering> {
        self.registering.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
