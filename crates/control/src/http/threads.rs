//! Routes of threads; three of them stand at the agent-scoped paths, too.

use api::activity::{Activity, ActivityQuery};
use api::page::PageQuery;
use api::threads::{
    AgentQuery, CompactThread, Compacted, PatchThread, Rollout, Thread, ThreadQuery, ThreadSnapshot,
    ThreadsQuery,
};
use api::{ErrorEnvelope, Scope, Success, schema};
use axum::extract::State;
use axum::http::StatusCode;
use types::ThreadId;
use utoipa_axum::routes;

use super::extract::{Body, Id, Params};
use super::respond::Reply;
use super::routes::Second;
use super::{Routes, Shared};
use crate::app::{Access, AppError, Caller, Page, threads};

const OF_AGENT: Second = Second {
    path: "/v1/run/threads",
    tag: "runs",
    suffix: "OfAgent",
};

const ONE_OF_AGENT: Second = Second {
    path: "/v1/run/threads/{id}",
    ..OF_AGENT
};

pub(super) fn register(routes: Routes) -> Routes {
    routes
        .add_twice(Access::Scope(Scope::AgentRead), routes!(list), &OF_AGENT)
        .add_twice(Access::Scope(Scope::AgentRead), routes!(find), &ONE_OF_AGENT)
        .add(Access::Scope(Scope::AgentWrite), routes!(patch))
        .add_twice(Access::Scope(Scope::AgentWrite), routes!(delete), &ONE_OF_AGENT)
        .add(Access::Scope(Scope::AgentWrite), routes!(compact))
        .add(Access::Scope(Scope::AgentRead), routes!(rollouts))
        .add(Access::Scope(Scope::ActivityRead), routes!(activity))
}

/// List threads, newest first.
#[utoipa::path(get, path = "/v1/threads", tag = "threads", operation_id = "listThreads",
    params(ThreadsQuery), responses((status = 200, body = api::Page<Thread>),
    (status = 404, description = "There is no such agent.", body = ErrorEnvelope)))]
async fn list(
    State(app): State<Shared>,
    caller: Caller,
    Params(query): Params<ThreadsQuery>,
) -> Result<Page<Thread>, AppError> {
    threads::list(&app, &caller, &query).await
}

/// A thread as its events add up.
#[utoipa::path(get, path = "/v1/threads/{id}", tag = "threads", operation_id = "getThread",
    params(("id" = inline(schema::ThreadId), Path), ThreadQuery), responses((status = 200, body = Success<ThreadSnapshot>)))]
async fn find(
    State(app): State<Shared>,
    caller: Caller,
    Id(id): Id<ThreadId>,
    Params(query): Params<ThreadQuery>,
) -> Result<Reply<ThreadSnapshot>, AppError> {
    threads::snapshot(&app, &caller, id, &query).await.map(Reply::ok)
}

/// Rename a thread, or put it away.
#[utoipa::path(patch, path = "/v1/threads/{id}", tag = "threads", operation_id = "patchThread",
    params(("id" = inline(schema::ThreadId), Path)), request_body = PatchThread,
    responses((status = 200, body = Success<Thread>)))]
async fn patch(
    State(app): State<Shared>,
    caller: Caller,
    Id(id): Id<ThreadId>,
    Body(change): Body<PatchThread>,
) -> Result<Reply<Thread>, AppError> {
    threads::patch(&app, &caller, id, change).await.map(Reply::ok)
}

/// Delete a thread with its events, rollouts and runs.
#[utoipa::path(delete, path = "/v1/threads/{id}", tag = "threads", operation_id = "deleteThread",
    params(("id" = inline(schema::ThreadId), Path), AgentQuery), responses((status = 204)))]
async fn delete(
    State(app): State<Shared>,
    caller: Caller,
    Id(id): Id<ThreadId>,
    Params(query): Params<AgentQuery>,
) -> Result<StatusCode, AppError> {
    threads::delete(&app, &caller, id, query.agent.as_deref()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Begin a new rollout.
#[utoipa::path(post, path = "/v1/threads/{id}/compact", tag = "threads", operation_id = "compactThread",
    params(("id" = inline(schema::ThreadId), Path)), request_body = Option<CompactThread>,
    responses((status = 200, body = Success<Compacted>),
    (status = 409, description = "A run of this thread is not over yet.", body = ErrorEnvelope)))]
async fn compact(
    State(app): State<Shared>,
    caller: Caller,
    Id(id): Id<ThreadId>,
    request: Option<Body<CompactThread>>,
) -> Result<Reply<Compacted>, AppError> {
    let request = request.map(|Body(request)| request).unwrap_or_default();
    threads::compact(&app, &caller, id, request).await.map(Reply::ok)
}

/// List the rollouts of a thread, oldest first.
#[utoipa::path(get, path = "/v1/threads/{id}/rollouts", tag = "threads", operation_id = "listRollouts",
    params(("id" = inline(schema::ThreadId), Path), PageQuery), responses((status = 200, body = api::Page<Rollout>)))]
async fn rollouts(
    State(app): State<Shared>,
    caller: Caller,
    Id(id): Id<ThreadId>,
    Params(query): Params<PageQuery>,
) -> Result<Page<Rollout>, AppError> {
    threads::rollouts(&app, &caller, id, &query).await
}

/// List the activity of a thread, newest first.
#[utoipa::path(get, path = "/v1/threads/{id}/activity", tag = "threads", operation_id = "listThreadActivity",
    params(("id" = inline(schema::ThreadId), Path), ActivityQuery), responses((status = 200, body = api::Page<Activity>)))]
async fn activity(
    State(app): State<Shared>,
    caller: Caller,
    Id(id): Id<ThreadId>,
    Params(query): Params<ActivityQuery>,
) -> Result<Page<Activity>, AppError> {
    threads::activity_of(&app, &caller, id, query).await
}
