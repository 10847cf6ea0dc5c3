//! One session with one sidecar (`runs::protocol`), over any stream; who the sidecar is, the caller knows.

use std::sync::Arc;
use std::time::Duration;

use api::ErrorCode;
use mesh::frame::{Decoder, encode_within};
use runs::append::{self, AppendDecision, Stored};
use runs::dispatch::{Input, Phase};
use runs::journal::OPEN_RUNS_MAX;
use runs::protocol::{AppendRefusal, FRAME_BYTES_MAX, OpenRun, PROTOCOL_VERSION, ToOrchestrator, ToSidecar};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use types::event::{APPEND_EVENTS_MAX, CLIENT_EVENT_ID_LEN_MAX, EVENT_BYTES_MAX};
use types::{EventDraft, EventType, Fence, LiveEvent, LiveType, NodeId, RunId, RunStatus};

use super::SessionId;
use super::dispatch::{DispatchTx, clean, place};
use super::live_budget::LiveBudget;
use crate::app::{App, runs as app_runs};
use crate::limits::{Buckets, Quota};
use crate::live::Notice;
use crate::store::runs::RunRow;
use crate::store::{self, StoreError};

/// How long a new session may take to say `Hello`.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a session may be silent; the sidecar pings three times in this time.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);

/// How long one frame may take to be written.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// The largest first message: a full journal's runs, and room.
const HELLO_BYTES_MAX: usize = 128 * 1024;

/// The most events of one attempt; a sidecar's own limit is lower.
const RUN_EVENTS_MAX: u64 = 50_000;

/// How many runs a device may start itself at once, and how often one more.
const REGISTERS: Quota = Quota {
    burst: 60,
    every: Duration::from_secs(1),
};

/// The largest result that stands in a run, and the largest account of what it used, in bytes of JSON.
const RESULT_BYTES_MAX: usize = 128 * 1024;
const USAGE_BYTES_MAX: usize = 8 * 1024;

/// The largest payload of a live frame; larger ones are dropped.
const LIVE_BYTES_MAX: usize = 64 * 1024;

/// How much one read takes; each of ten thousand sessions has such a buffer.
const READ_BYTES: usize = 8 * 1024;

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error("the stream failed: {0}")]
    Stream(#[from] std::io::Error),
    #[error("a frame is too long: {0}")]
    Frame(#[from] mesh::frame::FrameError),
    #[error("a message cannot be read: {0}")]
    Unreadable(serde_json::Error),
    #[error("the sidecar was silent for too long")]
    Silent,
    #[error("the first message was no Hello, or it named too many runs")]
    NoHello,
    #[error("the store failed: {0}")]
    Store(#[from] StoreError),
}

/// Speaks with the sidecar of `node` until the stream or the session ends.
pub(crate) async fn run<S>(app: Arc<App>, node: NodeId, stream: S, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (reader, writer) = tokio::io::split(stream);
    let mut reader = Reader {
        stream: reader,
        decoder: Decoder::new(HELLO_BYTES_MAX),
        buffer: vec![0; READ_BYTES],
    };
    let close = stop.child_token();
    let session = app.orchestrator.next_session();
    let ended = tokio::select! {
        () = close.cancelled() => Ok(()),
        ended = speak(&app, (node, session), &mut reader, (writer, close.clone())) => ended,
    };
    close.cancel();
    if let Err(error) = ended {
        tracing::info!(%node, %error, "a sidecar's session ended");
    }
    if let Err(error) = gone(&app, node, session).await {
        tracing::error!(%node, %error, "a sidecar's absence was not noted");
    }
}

async fn speak<R: AsyncRead + Unpin, W: AsyncWrite + Unpin + Send + 'static>(
    app: &Arc<App>,
    (node, session): (NodeId, SessionId),
    reader: &mut Reader<R>,
    (writer, close): (W, CancellationToken),
) -> Result<(), SessionError> {
    let hello = tokio::time::timeout(HELLO_TIMEOUT, reader.next()).await;
    let hello = hello.map_err(|_| SessionError::NoHello)??;
    let Some(ToOrchestrator::Hello { open_runs, version }) = hello else {
        return Err(SessionError::NoHello);
    };
    // Nothing may come before the welcome, so nothing is lost by a new decoder, now for whole appends.
    if open_runs.len() > OPEN_RUNS_MAX || !reader.decoder.is_at_boundary() {
        return Err(SessionError::NoHello);
    }
    reader.decoder = Decoder::new(FRAME_BYTES_MAX);
    tracing::info!(%node, version, open_runs = open_runs.len(), "a sidecar connected");
    greet(app, (node, session), open_runs, (writer, close)).await?;
    let mut link = Link {
        app,
        node,
        session,
        live: None,
        budget: LiveBudget::default(),
        registers: Buckets::new(REGISTERS),
    };
    loop {
        let message = tokio::time::timeout(IDLE_TIMEOUT, reader.next()).await;
        match message.map_err(|_| SessionError::Silent)?? {
            Some(message) => link.take(message).await?,
            None => return Ok(()),
        }
        if !app.orchestrator.is_current(node, session) {
            return Ok(());
        }
    }
}

/// Makes the session the node's own and settles every run that either side thinks is open, in one write.
async fn greet<W: AsyncWrite + Unpin + Send + 'static>(
    app: &Arc<App>,
    (node, session): (NodeId, SessionId),
    open_runs: Vec<OpenRun>,
    (writer, close): (W, CancellationToken),
) -> Result<(), SessionError> {
    let mut dispatch = DispatchTx::begin(app).await?;
    dispatch.send(
        node,
        ToSidecar::Welcome {
            version: PROTOCOL_VERSION,
        },
    );
    let mut known = store::runs::open_of_node(&mut dispatch.tx, node).await?;
    for open in &open_runs {
        if known.iter().all(|run| run.id != open.run_id)
            && let Some(run) = run_of(&mut dispatch, node, open.run_id).await?
        {
            known.push(run);
        }
    }
    for mut run in known {
        let held = open_runs.iter().find(|open| open.run_id == run.id);
        let held = held.map(|open| (open.fence, open.state));
        dispatch.advance(&mut run, Input::Hello(held)).await?;
    }
    for open in open_runs {
        if run_of(&mut dispatch, node, open.run_id).await?.is_none() {
            refuse(
                &mut dispatch,
                node,
                (open.run_id, open.fence),
                AppendRefusal::NotFound,
            );
        }
    }
    dispatch.moved(node);
    // Before the commit, so that no other write can see the runs settled and the device still away, or the reverse.
    let queue = app.orchestrator.open(node, session, close.clone());
    tokio::spawn(write(queue, writer, close));
    Ok(dispatch.commit().await?)
}

/// Notes that a node has no session any more, unless it has a newer one.
async fn gone(app: &App, node: NodeId, session: SessionId) -> Result<(), StoreError> {
    let mut dispatch = DispatchTx::begin(app).await?;
    if !app.orchestrator.close(node, session) {
        return Ok(());
    }
    for mut run in store::runs::open_of_node(&mut dispatch.tx, node).await? {
        dispatch.advance(&mut run, Input::Disconnected).await?;
    }
    dispatch.commit().await?;
    // A session that was cut may be that of a device that was shut out.
    app.orchestrator.poke();
    Ok(())
}

/// The sidecar's side of an established session.
struct Link<'a> {
    app: &'a App,
    node: NodeId,
    session: SessionId,
    /// The run of the last live frame, and where its frames go, if anywhere.
    live: Option<(RunId, Fence, Option<types::ThreadId>)>,
    budget: LiveBudget,
    registers: Buckets,
}

impl Link<'_> {
    async fn take(&mut self, message: ToOrchestrator) -> Result<(), SessionError> {
        match message {
            ToOrchestrator::Hello { .. } => return Err(SessionError::NoHello),
            ToOrchestrator::Ping => self.app.orchestrator.send(self.node, ToSidecar::Pong),
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
                let wish = app_runs::DeviceRun {
                    agent,
                    prompt,
                    thread: thread_id,
                    key: idempotency_key,
                };
                if self.registers.take("", self.app.clock.now().mono).is_err() {
                    let refused = ToSidecar::RegisterRefused {
                        request,
                        code: ErrorCode::RateLimited.as_str().to_owned(),
                        message: "this device starts runs too often".to_owned(),
                    };
                    self.app.orchestrator.send(self.node, refused);
                    return Ok(());
                }
                app_runs::register(self.app, self.node, request, wish).await?;
            }
        }
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

async fn store_events(
    dispatch: &mut DispatchTx<'_>,
    run: &mut RunRow,
    events: &[EventDraft],
    next: u64,
) -> Result<(), StoreError> {
    dispatch.append(place(run), events).await?;
    let started = events.iter().any(|e| e.event_type == EventType::RunStarted);
    let completed = events.iter().find(|e| e.event_type == EventType::RunCompleted);
    let ended = completed.map(|event| status_of(&event.payload));
    if let Some(event) = completed {
        outcome(dispatch, run, &event.payload).await?;
    }
    let stored = Input::Stored { next, started, ended };
    dispatch.advance(run, stored).await
}

/// Takes what came of a run out of its `run_completed`; its result is the last thing the agent said unless it says else.
async fn outcome(dispatch: &mut DispatchTx<'_>, run: &mut RunRow, payload: &Value) -> Result<(), StoreError> {
    let fits = |value: &&Value, max: usize| !value.is_null() && value.to_string().len() <= max;
    let field = |name: &str, max| payload.get(name).filter(|value| fits(value, max)).cloned();
    let text = |name: &str, max| {
        payload
            .get(name)
            .and_then(Value::as_str)
            .map(|text| clean(text, max))
    };
    run.outcome.reason = text("reason", 100);
    run.outcome.message = text("message", 2000);
    run.outcome.usage = field("usage", USAGE_BYTES_MAX);
    let iterations = payload.get("iterations").and_then(Value::as_u64);
    run.outcome.iterations = iterations.and_then(|n| u32::try_from(n).ok());
    run.outcome.result = field("result", RESULT_BYTES_MAX);
    if run.outcome.result.is_none() {
        let said = EventType::AssistantMessage;
        let last = store::events::last_of_run(&mut dispatch.tx, run.thread, run.id, said).await?;
        let text = last.and_then(|event| event.payload.get("text").cloned());
        run.outcome.result = text.filter(|text| fits(&text, RESULT_BYTES_MAX));
    }
    Ok(())
}

fn status_of(payload: &Value) -> RunStatus {
    match payload.get("status").and_then(Value::as_str) {
        Some("completed") => RunStatus::Completed,
        Some("cancelled") => RunStatus::Cancelled,
        _ => RunStatus::Failed,
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

/// A run of this node: any other is not there for it.
async fn run_of(
    dispatch: &mut DispatchTx<'_>,
    node: NodeId,
    run_id: RunId,
) -> Result<Option<RunRow>, StoreError> {
    let run = store::runs::get(&mut dispatch.tx, run_id).await?;
    Ok(run.filter(|run| run.node == node))
}

fn refuse(
    dispatch: &mut DispatchTx<'_>,
    node: NodeId,
    (run_id, fence): (RunId, Fence),
    reason: AppendRefusal,
) {
    let refused = ToSidecar::AppendRefused {
        run_id,
        fence,
        reason,
    };
    dispatch.send(node, refused);
}

struct Reader<R> {
    stream: R,
    decoder: Decoder,
    buffer: Vec<u8>,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    /// Returns the next message that this build knows; `None` at the end of the stream.
    async fn next(&mut self) -> Result<Option<ToOrchestrator>, SessionError> {
        loop {
            while let Some(frame) = self.decoder.next()? {
                match serde_json::from_slice(&frame) {
                    Ok(message) => return Ok(Some(message)),
                    Err(error) if !error.is_data() => return Err(SessionError::Unreadable(error)),
                    Err(error) => tracing::debug!(%error, "a message of an unknown type was skipped"),
                }
            }
            let len = self.stream.read(&mut self.buffer).await?;
            if len == 0 {
                return Ok(None);
            }
            self.decoder.push(&self.buffer[..len]);
        }
    }
}

async fn write<W: AsyncWrite + Unpin>(
    mut queue: mpsc::Receiver<ToSidecar>,
    mut writer: W,
    close: CancellationToken,
) {
    let writing = async {
        while let Some(message) = queue.recv().await {
            let json = serde_json::to_vec(&message).map_err(std::io::Error::other)?;
            let frame = encode_within(&json, FRAME_BYTES_MAX).map_err(std::io::Error::other)?;
            let written = tokio::time::timeout(WRITE_TIMEOUT, async {
                writer.write_all(&frame).await?;
                writer.flush().await
            });
            written.await.map_err(std::io::Error::other)??;
        }
        Ok::<(), std::io::Error>(())
    };
    tokio::select! {
        () = close.cancelled() => {}
        written = writing => {
            if let Err(error) = written {
                tracing::info!(%error, "a sidecar's session cannot be written");
            }
        }
    }
    close.cancel();
}
