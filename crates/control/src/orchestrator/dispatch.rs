//! One write of dispatch: runs are stepped, what follows is stored with them, and messages leave after the commit.

use std::collections::BTreeSet;
use std::sync::Arc;

use api::activity::{ResourceType, Severity};
use runs::dispatch::{Effect, EndReason, Input, Phase};
use runs::protocol::ToSidecar;
use serde_json::{Map, json};
use types::names::is_unprintable;
use types::ticket::TICKET_LIFETIME;
use types::{
    EventDraft, EventType, NodeId, RunStatus, RunTicket, SealedOrder, SignedRunTicket, ThreadEvent, ThreadId,
    Timestamp,
};

use super::{Orchestrator, history};
use crate::app::activity::Happening;
use crate::app::{Actor, App, activity};
use crate::live::{Notice, Watchers};
use crate::store::events::Place;
use crate::store::runs::RunRow;
use crate::store::{self, StoreError, Turn};

/// The longest explanation of a device that goes into a thread, in characters.
const SAID_CHARS_MAX: usize = 1000;

/// A write under way; dropped before [`DispatchTx::commit`] it has changed and sent nothing.
pub(crate) struct DispatchTx<'a> {
    app: &'a App,
    pub(crate) tx: Turn,
    pub(crate) now: Timestamp,
    news: News,
    /// Devices whose queue may have moved.
    moved: BTreeSet<NodeId>,
    /// Why the device refuses, in its own words.
    said: Option<String>,
}

/// What is told after the commit.
#[derive(Default)]
struct News {
    out: Vec<(NodeId, ToSidecar)>,
    stored: Vec<(ThreadId, u64)>,
    close: Vec<NodeId>,
    /// The last events of threads that are gone.
    gone: Vec<ThreadEvent>,
}

impl<'a> DispatchTx<'a> {
    /// Begins a write; waits for the one before it.
    pub(crate) async fn begin(app: &'a App) -> Result<Self, StoreError> {
        Ok(Self {
            app,
            tx: app.store.turn().await?,
            now: app.clock.wall(),
            news: News::default(),
            moved: BTreeSet::new(),
            said: None,
        })
    }

    /// Steps a run and stores what follows.
    pub(crate) async fn advance(&mut self, run: &mut RunRow, input: Input) -> Result<(), StoreError> {
        let before = run.state.phase;
        let step = run.state.step(input, self.now);
        if step.state == run.state && step.effects.is_empty() {
            return Ok(());
        }
        run.state = step.state;
        for effect in step.effects {
            self.effect(run, effect).await?;
        }
        if let Input::Stored { started: true, .. } = input {
            // One batch may bring the start and the end, and overtake the answer to the offer.
            run.accepted_at = run.accepted_at.or(Some(self.now));
            run.started_at = run.started_at.or(Some(self.now));
        }
        self.note_phase(run, before).await?;
        store::runs::save(&mut self.tx, run).await
    }

    /// Appends events and remembers to tell the watchers.
    pub(crate) async fn append(
        &mut self,
        place: Place,
        drafts: &[EventDraft],
    ) -> Result<store::events::Numbered, StoreError> {
        let numbered = store::events::append(&mut self.tx, place, drafts, self.now).await?;
        self.news.stored.push((place.thread, numbered.last));
        Ok(numbered)
    }

    /// Notes why a device refuses, in its own words, for the thread of the run that this ends.
    pub(crate) fn device_said(&mut self, words: &str) {
        self.said = Some(clean(words, SAID_CHARS_MAX)).filter(|words| !words.is_empty());
    }

    /// Queues a message for a device, to leave after the commit.
    pub(crate) fn send(&mut self, node: NodeId, message: ToSidecar) {
        self.news.out.push((node, message));
    }

    /// Tells whoever watches a thread, after the commit, that it is gone: this is its last event.
    pub(crate) fn end_watching(&mut self, last: ThreadEvent) {
        self.news.gone.push(last);
    }

    /// Notes that a device's queue may have moved, so that the commit offers what can be offered.
    pub(crate) fn moved(&mut self, node: NodeId) {
        self.moved.insert(node);
    }

    /// Offers a device what it may be offered now, when it is connected.
    pub(crate) async fn offer_waiting(&mut self, node: NodeId) -> Result<(), StoreError> {
        if !self.app.orchestrator.is_connected(node) {
            return Ok(());
        }
        let places = self.app.orchestrator.places(node);
        let runs = store::runs::offerable(&mut self.tx, node, places, self.now).await?;
        for mut run in runs {
            self.advance(&mut run, Input::Offer).await?;
        }
        Ok(())
    }

    /// Makes the write durable, then tells devices and watchers, in the order of the writes.
    pub(crate) async fn commit(mut self) -> Result<(), StoreError> {
        for node in std::mem::take(&mut self.moved) {
            self.offer_waiting(node).await?;
        }
        let (watchers, orchestrator) = (Arc::clone(&self.app.watchers), Arc::clone(&self.app.orchestrator));
        let news = self.news;
        self.tx.finish(move || news.tell(&watchers, &orchestrator)).await
    }

    async fn effect(&mut self, run: &mut RunRow, effect: Effect) -> Result<(), StoreError> {
        let (run_id, node) = (run.id, run.node);
        match effect {
            Effect::End(status, reason) => self.end(run, status, reason).await?,
            Effect::Offer => self.offer(run).await?,
            Effect::Cancel => self.send(node, ToSidecar::Cancel { run_id }),
            Effect::Appended(fence, next) => self.send(node, ToSidecar::Appended { run_id, fence, next }),
            Effect::Refuse(fence, reason) => self.send(
                node,
                ToSidecar::AppendRefused {
                    run_id,
                    fence,
                    reason,
                },
            ),
            Effect::CloseSession => self.news.close.push(node),
        }
        Ok(())
    }

    async fn offer(&mut self, run: &RunRow) -> Result<(), StoreError> {
        if let Some((order, ticket)) = self.signed(run).await? {
            let offer = ToSidecar::Offer {
                run_id: run.id,
                order,
                attempt: run.state.attempt,
                fence: run.state.fence,
                ticket,
            };
            self.send(run.node, offer);
        }
        Ok(())
    }

    /// Makes the order of a run and the ticket that goes with it; `None` when device or org are gone.
    pub(crate) async fn signed(
        &mut self,
        run: &RunRow,
    ) -> Result<Option<(SealedOrder, SignedRunTicket)>, StoreError> {
        let device = store::runs::device(&mut self.tx, run.node).await?;
        let org = store::orgs::find(&mut self.tx, run.org).await?;
        let (Some(device), Some(org)) = (device, org) else {
            return Ok(None);
        };
        let order = SealedOrder::seal(&history::order(&mut self.tx, run).await?);
        let ticket = RunTicket {
            org_id: run.org,
            agent_id: run.agent,
            node_key: device.public_key,
            run_id: run.id,
            attempt: run.state.attempt,
            fence: run.state.fence,
            limits: run.spec.limits,
            order: order.digest(),
            expires_at: self.now + TICKET_LIFETIME,
        };
        let ticket = ticket.sign(&org.signing_key);
        Ok(Some((order, ticket)))
    }

    /// Writes the end that no device wrote.
    async fn end(
        &mut self,
        run: &mut RunRow,
        status: RunStatus,
        reason: EndReason,
    ) -> Result<(), StoreError> {
        let said = self
            .said
            .take()
            .filter(|_| matches!(reason, EndReason::Refused(_)));
        let message = said.unwrap_or_else(|| explain(reason).to_owned());
        run.outcome.reason = Some(reason.as_str().to_owned());
        run.outcome.message = Some(message.clone());
        let completed = EventDraft {
            event_type: EventType::RunCompleted,
            payload: json!({ "status": status.as_str(), "reason": reason.as_str(), "message": message }),
            client_event_id: None,
        };
        self.append(place(run), &[completed]).await?;
        Ok(())
    }

    /// Notes the times of a run, and what people see of it.
    async fn note_phase(&mut self, run: &mut RunRow, before: Phase) -> Result<(), StoreError> {
        // An offer takes a place of its device's queue, and frees none.
        if run.state.phase == before || run.state.phase == Phase::Offered {
            return Ok(());
        }
        self.moved.insert(run.node);
        match run.state.phase {
            Phase::Queued | Phase::Offered => {}
            Phase::Accepted => run.accepted_at = run.accepted_at.or(Some(self.now)),
            Phase::Running => self.tell(run, "agent.run.started", Severity::Info).await?,
            Phase::Ended(status) => {
                run.completed_at = Some(self.now);
                if matches!(before, Phase::Accepted | Phase::Running) {
                    store::runs::hasten(&mut self.tx, run.node, self.now).await?;
                }
                let (event_type, severity) = ended(status);
                self.tell(run, event_type, severity).await?;
            }
        }
        Ok(())
    }

    async fn tell(
        &mut self,
        run: &RunRow,
        event_type: &'static str,
        severity: Severity,
    ) -> Result<(), StoreError> {
        let happening = Happening {
            actor: Actor::device(run.node, Some(run.owner)),
            resource: (ResourceType::Agent, run.agent.to_string()),
            event_type,
            severity,
            status: Some(run.state.status().as_str()),
            title: format!("{}: {}", run.agent_slug, run.state.status()),
            attributes: Map::from_iter([("reason".to_owned(), json!(run.outcome.reason))]),
            thread: Some(run.thread),
            run: Some(run.id),
            node: Some(run.node),
        };
        activity::record(self.app, &mut self.tx, run.org, happening).await
    }
}

impl News {
    fn tell(self, watchers: &Watchers, orchestrator: &Orchestrator) {
        for (thread, last) in self.stored {
            watchers.publish(thread, Notice::Stored(last));
        }
        for last in self.gone {
            watchers.end(last);
        }
        for (node, message) in self.out {
            orchestrator.send(node, message);
        }
        for node in self.close {
            orchestrator.disconnect(node);
        }
    }
}

/// Makes peer-made text one short line that can be shown anywhere.
pub(crate) fn clean(text: &str, chars_max: usize) -> String {
    let spaced = text.chars().map(|c| if c.is_whitespace() { ' ' } else { c });
    let printable: String = spaced.filter(|c| !is_unprintable(*c)).take(chars_max).collect();
    printable.trim().to_owned()
}

/// Where the events of a run go.
pub(crate) fn place(run: &RunRow) -> Place {
    Place {
        thread: run.thread,
        rollout: run.rollout,
        run: Some(run.id),
    }
}

fn ended(status: RunStatus) -> (&'static str, Severity) {
    match status {
        RunStatus::Completed => ("agent.run.completed", Severity::Success),
        RunStatus::Cancelled => ("agent.run.cancelled", Severity::Warning),
        RunStatus::Expired => ("agent.run.expired", Severity::Warning),
        RunStatus::Lost => ("agent.run.lost", Severity::Error),
        RunStatus::Failed
        | RunStatus::Registered
        | RunStatus::Queued
        | RunStatus::Dispatched
        | RunStatus::Running => ("agent.run.failed", Severity::Error),
    }
}

fn explain(reason: EndReason) -> &'static str {
    use runs::protocol::OfferRefusal as Refusal;
    match reason {
        EndReason::QueueTtl => "The device did not come online before the run's time in the queue was over.",
        EndReason::CancelledBeforeStart => "The run was cancelled before it started.",
        EndReason::CancelUnconfirmed => {
            "The run was cancelled, and the device did not confirm that it stopped."
        }
        EndReason::JournalLost => "The device came back without the run: its journal was lost.",
        EndReason::DeviceAway => "The device went away with the run and did not come back.",
        EndReason::DeviceRevoked => "The device was revoked.",
        EndReason::InvalidEvents => {
            "The device sent events that break the rules, or more than a run may have."
        }
        EndReason::Refused(Refusal::BadTicket) => {
            "The device did not accept the run's ticket; is its clock right?"
        }
        EndReason::Refused(Refusal::StaleFence) => "The device knows a later offer of the run.",
        EndReason::Refused(Refusal::Policy) => "The device's own policy forbids the run.",
        EndReason::Refused(Refusal::RunnerMissing) => "The runner's program is not on the device.",
        EndReason::Refused(Refusal::Busy) => "The device is busy.",
        EndReason::Refused(Refusal::JournalFull) => "The device cannot write its journal: its disk is full.",
    }
}
