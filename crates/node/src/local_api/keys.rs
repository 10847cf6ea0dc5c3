//! The key of this node, changed on request.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use types::{NodePublicKey, Timestamp};

use super::{LocalState, refuse, refuse_unlinked};
use crate::keyring::RotateError;

/// A key that took the place of another.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyRotated {
    /// The key in force.
    pub public_key: NodePublicKey,
    /// Until when the key before is taken.
    pub previous_until: Option<Timestamp>,
}

pub(super) async fn rotate(State(state): State<LocalState>) -> Response {
    if state.sidecar.get().is_none() {
        return refuse_unlinked();
    }
    match state.keyring.rotate().await {
        Ok(view) => Json(KeyRotated {
            public_key: view.current,
            previous_until: view.previous_until,
        })
        .into_response(),
        Err(error) => {
            let code = match &error {
                RotateError::State(_) => "internal_error",
                RotateError::Refused(_) => "conflict",
                RotateError::Pending => "device_offline",
            };
            refuse(code, &error.to_string())
        }
    }
}
