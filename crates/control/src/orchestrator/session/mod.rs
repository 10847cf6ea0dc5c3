//! One session with one sidecar (`runs::protocol`), over any stream; who the sidecar is, the caller knows.
//!
//! Here is how a session begins and ends; [`link`] takes what comes in between, [`outcome`] stores its events.

mod framed;
mod link;
mod outcome;

use std::sync::Arc;
use std::time::Duration;

use runs::dispatch::Input;
use runs::journal::OPEN_RUNS_MAX;
use runs::protocol::{AppendRefusal, FRAME_BYTES_MAX, OpenRun, PROTOCOL_VERSION, ToOrchestrator, ToSidecar};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use types::{Fence, NodeId, RunId};

use self::framed::{Reader, write};
use self::link::Link;
use super::SessionId;
use super::dispatch::DispatchTx;
use crate::app::App;
use crate::store::runs::RunRow;
use crate::store::{self, StoreError};

/// How long a new session may take to say `Hello`.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a session may be silent; the sidecar pings three times in this time.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);

/// The largest first message: a full journal's runs, and room.
const HELLO_BYTES_MAX: usize = 128 * 1024;

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
    let mut reader = Reader::new(reader, HELLO_BYTES_MAX);
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
    let Some(ToOrchestrator::Hello {
        open_runs,
        version,
        places,
    }) = hello
    else {
        return Err(SessionError::NoHello);
    };
    // Nothing may come before the welcome, so nothing is lost by beginning anew, now for whole appends.
    if open_runs.len() > OPEN_RUNS_MAX || !reader.begin_anew(FRAME_BYTES_MAX) {
        return Err(SessionError::NoHello);
    }
    tracing::info!(%node, version, open_runs = open_runs.len(), "a sidecar connected");
    greet(app, (node, session), (open_runs, places), (writer, close)).await?;
    let mut link = Link::new(app, node, session);
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
    (open_runs, places): (Vec<OpenRun>, Option<u32>),
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
    let queue = app.orchestrator.open(node, session, places, close.clone());
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
