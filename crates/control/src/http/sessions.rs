//! Routes of sessions.

use api::sessions::{Session, SessionsQuery};
use api::{Scope, Success, schema};
use axum::extract::State;
use types::SessionId;
use utoipa_axum::routes;

use super::extract::{Id, Params};
use super::respond::Reply;
use super::{Routes, Shared};
use crate::app::{Access, AppError, Caller, Page, sessions};

pub(super) fn register(routes: Routes) -> Routes {
    routes
        .add(Access::Scope(Scope::OrgRead), routes!(list))
        .add(Access::Scope(Scope::OrgWrite), routes!(end))
}

/// List signed-in browsers, newest first.
#[utoipa::path(get, path = "/v1/sessions", tag = "sessions", operation_id = "listSessions",
    params(SessionsQuery), responses((status = 200, body = api::Page<Session>)))]
async fn list(
    State(app): State<Shared>,
    caller: Caller,
    Params(query): Params<SessionsQuery>,
) -> Result<Page<Session>, AppError> {
    sessions::list(&app, &caller, &query).await
}

/// Sign a browser out.
///
/// Its token is good for nothing from then on, and what is open with it is cut.
#[utoipa::path(delete, path = "/v1/sessions/{id}", tag = "sessions", operation_id = "endSession",
    params(("id" = inline(schema::Id), Path)), responses((status = 200, body = Success<Session>)))]
async fn end(
    State(app): State<Shared>,
    caller: Caller,
    Id(id): Id<SessionId>,
) -> Result<Reply<Session>, AppError> {
    sessions::end(&app, &caller, id).await.map(Reply::ok)
}
