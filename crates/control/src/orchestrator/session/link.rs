//! What comes from a sidecar whose session is up: answers, events, live frames, wishes for runs.

use std::sync::Arc;
use std::time::Duration;

use api::ErrorCode;
use runs::append::{self, AppendDecision, Stored};
use runs::dispatch::{Input, Phase};
use runs::protocol::{AppendRefusal, ToOrchestrator, ToSidecar};
use serde_json::Value;
use types::event::{APPEND_EVENTS_MAX, CLIENT_EVENT_ID_LEN_MAX, EVENT_BYTES_MAX};
use types::{EventDraft, Fence, LiveEvent, LiveType, NodeId, RunId, ThreadId};

use super::outcome::store_events;
use super::{SessionError, refuse, run_of};
use crate::app::App;
use crate::app::runs::{self as app_runs, DeviceRun};
use crate::limits::{Buckets, Quota};
use crate::live::Notice;
use crate::orchestrator::SessionId;
use crate::orchestrator::dispatch::{DispatchTx, clean};
use crate::orchestrator::live_budget::LiveBudget;
use crate::store::runs::RunRow;
use crate::store::{self, StoreError};

/// The most events of one attempt; a sidecar's own limit is lower.
const RUN_EVENTS_MAX: u64 = 50_000;

/// How many runs a device may start itself at once, and how often one more.
const REGISTERS: Quota = Quota {
    burst: 60,
    every: Duration::from_secs(1),
};

/// The largest payload of a live frame; larger ones are dropped.
const LIVE_BYTES_MAX: usize = 64 * 1024;

/// The sidecar's side of an established session.
pub(super) struct Link<'a> {
    app: &'a App,
    node: NodeId,
    session: SessionId,
    /// The run of the last live frame, and where its frames go, if anywhere.
    live: Option<(RunId, Fence, Option<ThreadId>)>,
    budget: LiveBudget,
    registers: Buckets,
}

impl<'a> Link<'a> {
    pub(super) fn new(app: &'a App, node: NodeId, session: SessionId) -> Self {
        Self {
            app,
            node,
            session,
            live: None,
            budget: LiveBudget::default(),
            registers: Buckets::new(REGISTERS),
        }
    }

    /// Does what a message asks for.
    pub(super) async fn take(&mut self, message: ToOrchestrator) -> Result<(), SessionError> {
        match message {
            ToOrchestrator::Hello { .. } => return Err(SessionError::NoHello),
            ToOrchestrator::Ping { places } => {
                self.app.orchestrator.send(self.node, ToSidecar::Pong);
                let known = |places| self.app.orchestrator.set_places(self.node, self.session, places);
                if places.is_some_and(known) {
                    self.offer_waiting().await?;
                }
            }
            ToOrchestrator::Pong { number } => {
                if self.app.orchestrator.trust(self.node, self.session, number) {
                    self.offer_waiting().await?;
                }
            }
            ToOrchestrator::Accepted { run_id, fence } => {
                self.step(run_id, Input::Accepted(fence), None).await?
            }
            ToOrchestrator::Refused {
                run_id,
                fence,
                reason,
                message,
            } => {
                tracing::info!(run = %run_id, ?reason, message = %clean(&message, 200), "an offer was refused");
                self.step(run_id, Input::Refused(fence, reason), Some(&message))
                    .await?;
            }
            ToOrchestrator::Append {
                run_id,
                fence,
                first,
                events,
            } => self.append((run_id, fence), first, events).await?,
            ToOrchestrator::Live {
                run_id,
                fence,
                live_type,
                payload,
            } => self.live((run_id, fence), live_type, payload).await?,
            ToOrchestrator::Register {
                request,
                agent,
                prompt,
                thread_id,
                idempotency_key,
            } => {
                let wish = DeviceRun {
                    agent,
                    prompt,
                    thread: thread_id,
                    key: idempotency_key,
                };
                self.register(request, wish).await?;
            }
        }
        Ok(())
    }

    /// Its device may now be offered more than before.
    async fn offer_waiting(&self) -> Result<(), StoreError> {
        let mut dispatch = DispatchTx::begin(self.app).await?;
        dispatch.moved(self.node);
        dispatch.commit().await
    }

    async fn register(&self, request: u64, wish: DeviceRun) -> Result<(), StoreError> {
        if self.registers.take("", self.app.clock.now().mono).is_ok() {
            return app_runs::register(self.app, self.node, request, wish).await;
        }
        let refused = ToSidecar::RegisterRefused {
            request,
            code: ErrorCode::RateLimited.as_str().to_owned(),
            message: "this device starts runs too often".to_owned(),
        };
        self.app.orchestrator.send(self.node, refused);
        Ok(())
    }

    async fn step(&self, run_id: RunId, input: Input, words: Option<&str>) -> Result<(), SessionError> {
        let mut dispatch = DispatchTx::begin(self.app).await?;
        if let Some(words) = words {
            dispatch.device_said(words);
        }
        if !self.app.orchestrator.is_current(self.node, self.session) {
            return Ok(());
        }
        match run_of(&mut dispatch, self.node, run_id).await? {
            Some(mut run) => dispatch.advance(&mut run, input).await?,
            None => {
                if let Input::Accepted(fence) = input {
                    refuse(&mut dispatch, self.node, (run_id, fence), AppendRefusal::NotFound);
                }
            }
        }
        Ok(dispatch.commit().await?)
    }

    /// Stores events and says up to which number they are stored, or refuses them for ever.
    async fn append(
        &mut self,
        (run_id, fence): (RunId, Fence),
        first: u64,
        events: Vec<EventDraft>,
    ) -> Result<(), SessionError> {
        let mut dispatch = DispatchTx::begin(self.app).await?;
        if !self.app.orchestrator.is_current(self.node, self.session) {
            return Ok(());
        }
        let Some(mut run) = run_of(&mut dispatch, self.node, run_id).await? else {
            refuse(&mut dispatch, self.node, (run_id, fence), AppendRefusal::NotFound);
            return Ok(dispatch.commit().await?);
        };
        let stored = Stored {
            fence: run.state.fence,
            next: run.state.next,
            ended: run.state.is_over(),
            started: run.state.phase == Phase::Running,
        };
        let decision = if within_limits(&events) && stored.next <= RUN_EVENTS_MAX {
            append::decide(stored, fence, first, &events)
        } else {
            AppendDecision::Refuse(AppendRefusal::Invalid)
        };
        match decision {
            AppendDecision::Store { skip, next } => {
                store_events(&mut dispatch, &mut run, &events[skip..], next).await?;
                if run.state.is_over() {
                    self.live = None;
                }
                dispatch.send(self.node, ToSidecar::Appended { run_id, fence, next });
            }
            AppendDecision::Answer { next } => {
                dispatch.send(self.node, ToSidecar::Appended { run_id, fence, next });
            }
            AppendDecision::Refuse(reason) => {
                refuse(&mut dispatch, self.node, (run_id, fence), reason);
                // The sidecar stops and forgets the attempt, so nothing else would ever end it here.
                if reason == AppendRefusal::Invalid && fence == stored.fence {
                    dispatch.advance(&mut run, Input::InvalidEvents).await?;
                }
            }
        }
        Ok(dispatch.commit().await?)
    }

    async fn live(
        &mut self,
        (run_id, fence): (RunId, Fence),
        live_type: LiveType,
        payload: Value,
    ) -> Result<(), SessionError> {
        // The snapshot is the control plane's own frame.
        let bytes = payload.to_string().len();
        let fits = live_type != LiveType::Snapshot && bytes <= LIVE_BYTES_MAX;
        if !fits || !self.budget.take(bytes, self.app.clock.now().mono) {
            return Ok(());
        }
        let known = self.live.filter(|(id, held, _)| *id == run_id && *held == fence);
        let thread = match known {
            Some((_, _, thread)) => thread,
            None => {
                let run = store::runs::get(&mut *self.app.store.read().await?, run_id).await?;
                let ours = |run: &RunRow| run.node == self.node && run.state.fence == fence;
                let run = run.filter(ours).filter(|run| !run.state.is_over());
                let thread = run.map(|run| run.thread);
                self.live = Some((run_id, fence, thread));
                thread
            }
        };
        let Some(thread) = thread else { return Ok(()) };
        let event = LiveEvent {
            run_id,
            live_type,
            payload,
        };
        self.app.watchers.publish(thread, Notice::Live(Arc::new(event)));
        Ok(())
    }
}

fn within_limits(events: &[EventDraft]) -> bool {
    let fits = |event: &EventDraft| {
        let id_len = event.client_event_id.as_ref().map_or(0, String::len);
        event.payload.is_object()
            && id_len <= CLIENT_EVENT_ID_LEN_MAX
            && serde_json::to_vec(event).is_ok_and(|json| json.len() <= EVENT_BYTES_MAX)
    };
    events.len() <= APPEND_EVENTS_MAX && events.iter().all(fits)
}
