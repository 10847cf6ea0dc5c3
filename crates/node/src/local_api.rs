//! The local API: HTTP over a unix socket in the state directory, for the command line and for apps on this device.
//! Only root and the daemon's own user get in, whatever the file's mode says.
//!
//! | method | path | answer |
//! |---|---|---|
//! | GET | `/status` | [`Status`] |
//! | GET | `/netcheck` | [`Netcheck`] |
//! | GET | `/log` | [`Log`] |
//! | POST | `/pings` | [`PingEvent`] lines until every ping has an answer or none, for a [`PingRequest`] ([`pings`]) |
//! | POST | `/runs` | [`RunStarted`], for a [`StartRun`] (contract §5, `origin: "device"`) |
//! | POST | `/key` | [`KeyRotated`]: the node has made itself another key, and it is in force ([`keys`]) |
//! | POST | `/shutdown` | nothing; the daemon stops in good order |
//! | GET | `/ports` | [`PortList`] |
//! | POST | `/forwards` | [`PortEvent`] lines as long as the connection lasts, for a [`ForwardRequest`] ([`ports`]); one line for one in the background |
//! | POST | `/exposed` | the same for an [`ExposeRequest`] |
//! | DELETE | `/forwards` | [`PortsEnded`] for an [`EndForward`] |
//! | DELETE | `/exposed` | [`PortsEnded`] for an [`EndExposure`] |
//!
//! A no is a [`LocalError`] in the contract's envelope, whatever the reason: `{"error":{"code":…,"message":…}}`.

pub mod keys;
mod lines;
pub mod netcheck;
pub mod pings;
pub mod ports;

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use api::ErrorCode;
use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, FromRequest, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use net::clock::Clock;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::net::unix::SocketAddr;
use tokio::net::{UnixListener, UnixStream};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use types::{AgentSlug, RolloutId, RunId, RunStatus, ThreadId};
/// The words of paths, for those who read what this API answers.
pub use types::{PathKind, PathReason};

use crate::keyring::Keyring;
pub use crate::local_api::keys::KeyRotated;
pub use crate::local_api::netcheck::Netcheck;
pub use crate::local_api::pings::{PingEvent, PingRequest};
pub use crate::local_api::ports::{
    EndExposure, EndForward, ExposeRequest, ForwardRequest, PortEvent, PortList, PortsEnded,
};
use crate::log_tail::LogTail;
use crate::ports::Ports;
use crate::reach::{Reach, ReachError};
use crate::sidecar::{RegisterError, Registration, Sidecar};
use crate::status::{Status, StatusBoard, Traffic};

/// The socket's name in the state directory.
pub const SOCKET: &str = "runmesh.sock";

/// The largest request, in bytes: a prompt and its envelope.
const BODY_BYTES_MAX: usize = 320 * 1024;

/// Starts a run of an agent that is bound to this device.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StartRun {
    /// The agent's slug.
    pub agent: AgentSlug,
    /// What is asked.
    pub prompt: String,
    /// The thread to go on with; a new one by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thread_id: Option<ThreadId>,
    /// The same key within a day answers with the same run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
}

/// A run that this device executes now.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunStarted {
    /// The run.
    pub run_id: RunId,
    /// Its thread.
    pub thread_id: ThreadId,
    /// The rollout of that thread.
    pub rollout_id: RolloutId,
    /// Always `registered`.
    pub status: RunStatus,
}

/// The end of the daemon's log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Log {
    /// Its last lines, the oldest first: at most [`crate::log_tail::BYTES_MAX`] bytes.
    pub lines: Vec<String>,
}

/// A no, as it stands on the wire.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LocalErrorEnvelope {
    /// What went wrong.
    pub error: LocalError,
}

/// A no.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LocalError {
    /// One of the contract's error codes.
    pub code: String,
    /// Why.
    pub message: String,
}

/// What the handlers know.
#[derive(Clone)]
pub struct LocalState {
    /// The daemon's status.
    pub board: StatusBoard,
    /// The sidecar, once the device is a node.
    pub sidecar: Arc<OnceLock<Arc<Sidecar>>>,
    /// Its ports, from then on, too.
    pub ports: Arc<OnceLock<Arc<Ports>>>,
    /// The node's keys.
    pub keyring: Arc<Keyring>,
    /// The end of the log.
    pub log: LogTail,
    /// Stops the daemon.
    pub shutdown: CancellationToken,
}

/// Binds the socket; one that an earlier daemon left is replaced, since the state directory's lock is held.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serves the local API until `until` is cancelled.
pub async fn serve(listener: UnixListener, state: LocalState, until: CancellationToken) {
    let router = Router::new()
        .route("/status", get(status))
        .route("/netcheck", get(netcheck::netcheck))
        .route("/log", get(log))
        .route("/pings", post(pings::ping))
        .route("/runs", post(start_run))
        .route("/key", post(keys::rotate))
        .route("/shutdown", post(shut_down))
        .route("/ports", get(ports::list))
        .route("/forwards", post(ports::forward).delete(ports::end_forward))
        .route("/exposed", post(ports::expose).delete(ports::end_exposure))
        .fallback(nothing_there)
        .method_not_allowed_fallback(other_method)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(state);
    let served = axum::serve(OwnUserOnly(listener), router).with_graceful_shutdown(until.cancelled_owned());
    if let Err(error) = served.await {
        tracing::error!(%error, "the local API has stopped");
    }
}

async fn status(State(state): State<LocalState>) -> Json<Status> {
    let mut status = state.board.read();
    let now = Clock::new().now().wall;
    status.key_in_danger = status.key_life.is_some_and(|life| life.is_in_danger(now));
    if let Some(sidecar) = state.sidecar.get() {
        let counters = sidecar.membership().mesh().counters().await;
        status.traffic = Some(Traffic::from(&counters));
    }
    Json(status)
}

async fn log(State(state): State<LocalState>) -> Json<Log> {
    let lines = state.log.lines();
    Json(Log { lines })
}

async fn start_run(State(state): State<LocalState>, Body(request): Body<StartRun>) -> Response {
    let Some(sidecar) = state.sidecar.get() else {
        return refuse_unlinked();
    };
    let registration = Registration {
        agent: request.agent,
        prompt: request.prompt,
        thread_id: request.thread_id,
        idempotency_key: request.idempotency_key,
    };
    match sidecar.register(registration).await {
        Ok(registered) => Json(RunStarted {
            run_id: registered.run_id,
            thread_id: registered.thread_id,
            rollout_id: registered.rollout_id,
            status: RunStatus::Registered,
        })
        .into_response(),
        Err(RegisterError::Refused { code, message }) => refuse(&code, &message),
        Err(error @ RegisterError::TooMany) => refuse("rate_limited", &error.to_string()),
        Err(error) => refuse("device_offline", &error.to_string()),
    }
}

/// A time in milliseconds, to the microsecond.
fn in_ms(time: Duration) -> f64 {
    time.as_micros() as f64 / 1000.0
}

async fn shut_down(State(state): State<LocalState>) -> StatusCode {
    state.shutdown.cancel();
    StatusCode::ACCEPTED
}

fn refuse(code: &str, message: &str) -> Response {
    let error = LocalError {
        code: code.to_owned(),
        message: message.to_owned(),
    };
    (status_of(code), Json(LocalErrorEnvelope { error })).into_response()
}

/// The contract's status of a code. One that only a newer control plane knows says that it disagrees.
fn status_of(code: &str) -> StatusCode {
    let known = ErrorCode::ALL.iter().find(|known| known.as_str() == code);
    let status = known.and_then(|known| StatusCode::from_u16(known.status()).ok());
    status.unwrap_or(StatusCode::CONFLICT)
}

fn refuse_unlinked() -> Response {
    refuse("device_offline", "this device is not linked yet")
}

fn reach(state: &LocalState) -> Option<Reach> {
    let sidecar = state.sidecar.get()?;
    Some(Reach::new(sidecar.membership().clone()))
}

fn refuse_target(error: &ReachError) -> Response {
    let code = match error {
        ReachError::Unknown { .. } => "not_found",
        ReachError::NoNetmap | ReachError::Stopped => "device_offline",
        _ => "bad_request",
    };
    refuse(code, &error.to_string())
}

/// A JSON body; one that cannot be read is answered in the envelope.
struct Body<T>(T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        match Json::from_request(request, state).await {
            Ok(Json(value)) => Ok(Self(value)),
            Err(rejection) => Err(refuse_body(&rejection)),
        }
    }
}

fn refuse_body(rejection: &JsonRejection) -> Response {
    let code = match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => "payload_too_large",
        StatusCode::UNSUPPORTED_MEDIA_TYPE => "unsupported_media_type",
        _ => "bad_request",
    };
    refuse(code, &rejection.body_text())
}

async fn nothing_there() -> Response {
    refuse("not_found", "there is no such path in the local API")
}

async fn other_method() -> Response {
    refuse("method_not_allowed", "the path is there, the method is not")
}

/// Hands out only connections whose other end is root or this user, as the kernel says.
struct OwnUserOnly(UnixListener);

impl axum::serve::Listener for OwnUserOnly {
    type Io = UnixStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (UnixStream, SocketAddr) {
        loop {
            match self.0.accept().await {
                Ok((stream, address)) if is_trusted(&stream) => return (stream, address),
                Ok(_) => tracing::warn!("another user was turned away from the local API"),
                Err(error) => {
                    tracing::warn!(%error, "the local API cannot accept");
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

fn is_trusted(stream: &UnixStream) -> bool {
    let own = rustix::process::geteuid().as_raw();
    stream
        .peer_cred()
        .is_ok_and(|peer| peer.uid() == 0 || peer.uid() == own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_no_has_the_status_that_the_contract_gives_its_code() {
        for code in ErrorCode::ALL {
            assert_eq!(status_of(code.as_str()).as_u16(), code.status(), "{code}");
        }
        assert_eq!(status_of("brand_new"), StatusCode::CONFLICT);
    }
}
