//! The route of the control stream. It is open: the node proves itself by its key inside.

use axum::extract::State;
use axum::extract::ws::WebSocketUpgrade;
use axum::response::Response;
use axum::routing::get;
use mesh::control_stream::NOISE_MESSAGE_MAX;

use super::{Routes, Shared};
use crate::stream;

pub(super) fn register(routes: Routes) -> Routes {
    routes.apart("GET", "/v1/runmesh/control", get(open))
}

/// A node's control stream: a WebSocket of binary frames, encrypted inside for the node's key.
async fn open(State(app): State<Shared>, upgrade: WebSocketUpgrade) -> Response {
    upgrade
        .max_message_size(NOISE_MESSAGE_MAX)
        .max_frame_size(NOISE_MESSAGE_MAX)
        .on_upgrade(move |socket| stream::run(app, socket))
}
