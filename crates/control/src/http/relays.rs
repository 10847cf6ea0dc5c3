//! Routes of relays.

use api::relays::Relays;
use api::{Scope, Success};
use axum::extract::State;
use utoipa_axum::routes;

use super::respond::Reply;
use super::{Routes, Shared};
use crate::app::{Access, AppError, Caller, relays};

pub(super) fn register(routes: Routes) -> Routes {
    routes.add(Access::Scope(Scope::RunmeshRead), routes!(list))
}

/// The relays that nodes are given, and the key that signs their tickets.
#[utoipa::path(get, path = "/v1/runmesh/relays", tag = "nodes", operation_id = "listRelays",
    responses((status = 200, body = Success<Relays>)))]
async fn list(State(app): State<Shared>, caller: Caller) -> Result<Reply<Relays>, AppError> {
    Ok(Reply::ok(relays::list(&app, &caller)))
}
