//! Ports that are forwarded or exposed as long as whoever asked stays connected.
//!
//! The answer is one [`PortEvent`] after another, each a line of JSON: first where it listens, then what led nowhere. When
//! the connection ends, so does the port, and what it carries is cut.

use std::net::SocketAddr;

use axum::extract::State;
use axum::response::Response;
use mesh::proxy::Target;
use net::ListenError;
use serde::{Deserialize, Serialize};
use types::NodeName;

use super::lines::lines;
use super::{Body, LocalState, reach, refuse, refuse_target, refuse_unlinked};
use crate::reach::ReachError;
use crate::reach::expose::Exposure;
use crate::reach::forward::{Failed, Forward, ForwardError};

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

impl From<Failed> for PortEvent {
    fn from(Failed { from, reason }: Failed) -> Self {
        Self::Failed { from, reason }
    }
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
            return refuse("bad_request", &message);
        }
    };
    match Forward::open(reach, request.local, target).await {
        Ok(forward) => {
            let listening = PortEvent::Listening {
                address: forward.address(),
                node: forward.place().name.clone(),
                target: forward.place().address,
            };
            lines(listening, &state.shutdown, |failures| forward.serve(failures))
        }
        Err(ForwardError::Target(error)) => refuse_target(&error),
        Err(error) => refuse("conflict", &error.to_string()),
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
            lines(exposed, &state.shutdown, |failures| exposure.serve(failures))
        }
        Err(error @ ListenError::BadPort) => refuse("bad_request", &error.to_string()),
        Err(error) => refuse("conflict", &error.to_string()),
    }
}
