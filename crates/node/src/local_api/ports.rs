//! Ports that are forwarded or exposed: as long as whoever asked stays connected, or in the background.
//!
//! The answer is one [`PortEvent`] after another, each a line of JSON: first where it listens, then what led nowhere. When
//! the connection ends, so does the port, and what it carries is cut. Of a port in the background there is only the first
//! line, once it is on disk; it ends when it is taken back.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use mesh::proxy::{BadTarget, Target};
use net::ListenError;
use serde::{Deserialize, Serialize};
use types::NodeName;

use super::lines::lines;
use super::{Body, LocalState, reach, refuse, refuse_target, refuse_unlinked};
use crate::ports::{EndError, NotOpened, OpenError, Port, PortStatus, Ports, TakeBackError, Which};
use crate::reach::ReachError;
use crate::reach::forward::Failed;

/// Asks for a local port that leads to a port of another node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ForwardRequest {
    /// Where to listen on this device; port 0 takes a free one.
    pub local: SocketAddr,
    /// `NODE:PORT`, where the node is a name, a full name or a mesh address.
    pub target: String,
    /// Whether it is kept until it is taken back.
    #[serde(default, skip_serializing_if = "is_false")]
    pub background: bool,
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
    /// Whether it is kept until it is taken back.
    #[serde(default, skip_serializing_if = "is_false")]
    pub background: bool,
}

fn is_false(flag: &bool) -> bool {
    !flag
}

/// Asks for a forwarded port to be taken back that is kept in the background.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EndForward {
    /// Where it listens.
    pub local: SocketAddr,
    /// What it must lead to; anything when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

/// Asks for an exposed port to be taken back that is kept in the background.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EndExposure {
    /// The port on this device.
    pub port: u16,
    /// The port in the mesh; every one that it has when left out.
    #[serde(default, rename = "as", skip_serializing_if = "Option::is_none")]
    pub offered: Option<u16>,
}

/// The ports of this device.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortList {
    /// Each, exposed ones first.
    pub ports: Vec<PortStatus>,
    /// Why what was kept is not, if its file could not be believed when the daemon started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set_aside: Option<String>,
}

/// Ports that were kept in the background and are not any more.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortsEnded {
    /// Each.
    pub ended: Vec<Port>,
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

impl From<Failed> for PortEvent {
    fn from(Failed { from, reason }: Failed) -> Self {
        Self::Failed { from, reason }
    }
}

/// Lists ports.
pub(super) async fn list(State(state): State<LocalState>) -> Response {
    let Some(ports) = state.ports.get() else {
        return refuse_unlinked();
    };
    Json(PortList {
        ports: ports.list(),
        set_aside: ports.set_aside(),
    })
    .into_response()
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
        Err(error) => return refuse_text(error),
    };
    let place = match reach.place(&target) {
        Ok(place) => place,
        Err(error) => return refuse_target(&error),
    };
    let wanted = Port::Forwarded {
        local: request.local,
        target,
    };
    open(&state, wanted, request.background, |port| PortEvent::Listening {
        address: match port {
            Port::Forwarded { local, .. } => *local,
            Port::Exposed { .. } => request.local,
        },
        node: place.name,
        target: place.address,
    })
    .await
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
    let wanted = Port::Exposed {
        port: request.port,
        offered,
    };
    open(&state, wanted, request.background, |_| PortEvent::Exposed {
        addresses: own.addresses.map(|ip| SocketAddr::new(ip, offered)).to_vec(),
        name: own.name,
    })
    .await
}

/// Opens a port, and answers with what `first` says of it.
async fn open(
    state: &LocalState,
    wanted: Port,
    in_background: bool,
    first: impl FnOnce(&Port) -> PortEvent,
) -> Response {
    let Some(ports) = state.ports.get() else {
        return refuse_unlinked();
    };
    if in_background {
        return match ports.keep(wanted).await {
            Ok(port) => lines::<_, Failed, _>(first(&port), &state.shutdown, |_| std::future::ready(())),
            Err(error) => refuse_port(&error),
        };
    }
    match ports.hold(wanted).await {
        Ok((port, opened, hold)) => lines(first(&port), &state.shutdown, |failures| async move {
            let _hold = hold;
            opened.serve(failures).await;
        }),
        Err(error) => refuse_port(&error),
    }
}

fn refuse_port(error: &OpenError) -> Response {
    let code = match error {
        OpenError::NotOpened(NotOpened::InMesh(ListenError::BadPort)) => "bad_request",
        OpenError::NotOpened(_) | OpenError::Taken(_) | OpenError::Keep(_) | OpenError::Waits { .. } => {
            "conflict"
        }
        OpenError::State(_) => "internal_error",
        OpenError::Stopping(_) => "device_offline",
    };
    refuse(code, &error.to_string())
}

/// Takes a forwarded port back that is kept in the background.
pub(super) async fn end_forward(
    State(state): State<LocalState>,
    Body(request): Body<EndForward>,
) -> Response {
    let target = match request.target.map(|text| text.parse()).transpose() {
        Ok(target) => target,
        Err(error) => return refuse_text(error),
    };
    let local = request.local;
    end(state.ports.get(), &Which::Forwarded { local, target }).await
}

/// Takes an exposed port back that is kept in the background.
pub(super) async fn end_exposure(
    State(state): State<LocalState>,
    Body(request): Body<EndExposure>,
) -> Response {
    let EndExposure { port, offered } = request;
    end(state.ports.get(), &Which::Exposed { port, offered }).await
}

async fn end(ports: Option<&Arc<Ports>>, which: &Which) -> Response {
    let Some(ports) = ports else {
        return refuse_unlinked();
    };
    match ports.take_back(which).await {
        Ok(ended) => Json(PortsEnded { ended }).into_response(),
        Err(error) => {
            let code = match &error {
                EndError::TakeBack(TakeBackError::NotThere(_)) => "not_found",
                EndError::TakeBack(TakeBackError::OfCommand(_)) => "conflict",
                EndError::State(_) => "internal_error",
                EndError::Stopping(_) => "device_offline",
            };
            refuse(code, &error.to_string())
        }
    }
}

fn refuse_text(error: BadTarget) -> Response {
    refuse("bad_request", &format!("the target {error}"))
}
