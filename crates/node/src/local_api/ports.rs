//! Ports that are forwarded or exposed as long as whoever asked stays connected.
//!
//! The answer is one [`PortEvent`] after another, each a line of JSON: first where it listens, then what led nowhere. When
//! the connection ends, so does the port, and what it carries is cut.

use std::convert::Infallible;
use std::net::SocketAddr;

use axum::body::Body as AnswerBody;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use futures_util::stream;
use mesh::proxy::Target;
use net::ListenError;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use types::NodeName;

use super::{Body, LocalState, refuse, refuse_unlinked};
use crate::reach::expose::Exposure;
use crate::reach::forward::{Failed, Forward, ForwardError};
use crate::reach::{Reach, ReachError};

/// How many failures may wait to be told; more are not told.
const EVENTS_MAX: usize = 64;

/// Asks for a local port that leads to a port of another node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ForwardRequest {
    /// Where to listen on this device; port 0 takes a free one.
    pub local: SocketAddr,
    /// `NODE:PORT`, where the node is a name, a full name or a mesh address.
    pub target: String,
}

/// Asks for a port of this device to be offered in the mesh.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExposeRequest {
    /// The port on this device's loopback.
    pub port: u16,
    /// The port in the mesh; the same by default.
    #[serde(default, rename = "as", skip_serializing_if = "Option::is_none")]
    pub offered: Option<u16>,
}

/// What there is to tell of a port.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case", rename_all_fields = "camelCase")]
pub enum PortEvent {
    /// A forwarded port listens.
    Listening {
        /// Where.
        address: SocketAddr,
        /// The node that it leads to, as it is called now.
        node: NodeName,
        /// The mesh address and port that it leads to, as things are now.
        target: SocketAddr,
    },
    /// An exposed port can be reached.
    Exposed {
        /// This node's full name.
        name: String,
        /// Its mesh addresses, each with the port.
        addresses: Vec<SocketAddr>,
    },
    /// A connection led nowhere.
    Failed {
        /// Who asked for it: a program on this device, or the node of that name.
        from: String,
        /// Why.
        reason: String,
    },
}

/// Forwards a port.
pub(super) async fn forward(
    State(state): State<LocalState>,
    Body(request): Body<ForwardRequest>,
) -> Response {
    let Some(reach) = reach(&state) else {
        return refuse_unlinked();
    };
    let target: Target = match request.target.parse() {
        Ok(target) => target,
        Err(error) => {
            let message = format!("the target {error}");
            return refuse(StatusCode::BAD_REQUEST, "bad_request", &message);
        }
    };
    match Forward::open(reach, request.local, target).await {
        Ok(forward) => {
            let listening = PortEvent::Listening {
                address: forward.address(),
                node: forward.place().name.clone(),
                target: forward.place().address,
            };
            tell(listening, &state.shutdown, |failures| forward.serve(failures))
        }
        Err(ForwardError::Target(error)) => refuse_target(&error),
        Err(error) => refuse(StatusCode::CONFLICT, "conflict", &error.to_string()),
    }
}

/// Exposes a port.
pub(super) async fn expose(State(state): State<LocalState>, Body(request): Body<ExposeRequest>) -> Response {
    let Some(reach) = reach(&state) else {
        return refuse_unlinked();
    };
    let Some(own) = reach.own() else {
        return refuse_target(&ReachError::NoNetmap);
    };
    let offered = request.offered.unwrap_or(request.port);
    match Exposure::open(reach, request.port, offered).await {
        Ok(exposure) => {
            let addresses = own.addresses.iter();
            let exposed = PortEvent::Exposed {
                name: own.name,
                addresses: addresses
                    .map(|ip| SocketAddr::new(*ip, exposure.offered()))
                    .collect(),
            };
            tell(exposed, &state.shutdown, |failures| exposure.serve(failures))
        }
        Err(error @ ListenError::BadPort) => {
            refuse(StatusCode::BAD_REQUEST, "bad_request", &error.to_string())
        }
        Err(error) => refuse(StatusCode::CONFLICT, "conflict", &error.to_string()),
    }
}

fn reach(state: &LocalState) -> Option<Reach> {
    let sidecar = state.sidecar.get()?;
    Some(Reach::new(sidecar.membership().clone()))
}

fn refuse_target(error: &ReachError) -> Response {
    let (status, code) = match error {
        ReachError::Unknown { .. } => (StatusCode::NOT_FOUND, "not_found"),
        ReachError::NoNetmap | ReachError::Stopped => (StatusCode::CONFLICT, "device_offline"),
        _ => (StatusCode::BAD_REQUEST, "bad_request"),
    };
    refuse(status, code, &error.to_string())
}

/// Answers with events as they come; when nobody reads the answer any more, or the daemon stops, the port's task ends.
fn tell<F>(
    first: PortEvent,
    stop: &CancellationToken,
    serve: impl FnOnce(mpsc::Sender<Failed>) -> F,
) -> Response
where
    F: Future<Output = ()> + Send + 'static,
{
    let (failures, failed) = mpsc::channel(EVENTS_MAX);
    let (serving, stop) = (serve(failures), stop.clone());
    let serving = tokio::spawn(async move {
        stop.run_until_cancelled(serving).await;
    });
    let state = (Some(first), failed, AbortOnDropHandle::new(serving));
    let lines = stream::unfold(state, |(first, mut failed, serving)| async move {
        let event = match first {
            Some(first) => first,
            None => {
                let Failed { from, reason } = failed.recv().await?;
                PortEvent::Failed { from, reason }
            }
        };
        let mut line = serde_json::to_vec(&event).ok()?;
        line.push(b'\n');
        Some((Ok::<_, Infallible>(line), (None, failed, serving)))
    });
    (
        [(CONTENT_TYPE, "application/x-ndjson")],
        AnswerBody::from_stream(lines),
    )
        .into_response()
}
