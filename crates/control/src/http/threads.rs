//! Routes of threads, three of them at agent-scoped paths, where a thread of another agent is none.

use api::activity::{Activity, ActivityQuery};
use api::page::PageQuery;
use api::threads::{
    AgentQuery, AgentThreadsQuery, CompactThread, Compacted, PatchThread, Rollout, Thread, ThreadQuery,
    ThreadSnapshot, ThreadsQuery,
};
use api::{ErrorEnvelope, Scope, Success, schema};
use axum::extract::State;
use axum::http::StatusCode;
use types::ThreadId;
use utoipa_axum::routes;

use super::extract::{Body, Id, Params};
use super::respond::Reply;
use super::{Routes, Shared};
use crate::app::{Access, AppError, Caller, Page, threads};

pub(super) fn register(routes: Routes) -> Routes {
    routes
        .add(Access::Scope(Scope::AgentRead), routes!(list))
        .add(Access::Scope(Scope::AgentRead), routes!(find))
        .add(Access::Scope(Scope::AgentRead), routes!(list_of_agent))
        .add(Access::Scope(Scope::AgentRead), routes!(find_of_agent))
        .add(Access::Scope(Scope::AgentWrite), routes!(delete_of_agent))
        .add(Access::Scope(Scope::AgentWrite), routes!(patch))
        .add(Access::Scope(Scope::AgentWrite), routes!(delete))
        .add(Access::Scope(Scope::AgentWrite), routes!(compact))
        .add(Access::Scope(Scope::AgentRead), routes!(rollouts))
        .add(Access::Scope(Scope::ActivityRead), routes!(activity))
}

/// List threads, newest first.
#[utoipa::path(get, path = "/v1/threads", tag = "threads", operation_id = "listThreads",
    params(ThreadsQuery), responses((status = 200, body = api::Page<Thread>),
    (status = 404, description = "There is and was no such agent.", body = ErrorEnvelope)))]
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
    let snapshot = threads::snapshot(&app, &caller, (id, None), &query).await;
    snapshot.map(Reply::ok)
}

/// List the threads of an agent, newest first.
#[utoipa::path(get, path = "/v1/run/threads", tag = "runs", operation_id = "listThreadsOfAgent",
    params(AgentThreadsQuery), responses((status = 200, body = api::Page<Thread>),
    (status = 404, description = "There is and was no such agent.", body = ErrorEnvelope)))]
async fn list_of_agent(
    State(app): State<Shared>,
    caller: Caller,
    Params(query): Params<AgentThreadsQuery>,
) -> Result<Page<Thread>, AppError> {
    threads::list(&app, &caller, &query.into()).await
}

/// A thread of an agent as its events add up.
#[utoipa::path(get, path = "/v1/run/threads/{id}", tag = "runs", operation_id = "getThreadOfAgent",
    params(("id" = inline(schema::ThreadId), Path), AgentQuery, ThreadQuery),
    responses((status = 200, body = Success<ThreadSnapshot>)))]
async fn find_of_agent(
    State(app): State<Shared>,
    caller: Caller,
    Id(id): Id<ThreadId>,
    Params(of): Params<AgentQuery>,
    Params(query): Params<ThreadQuery>,
) -> Result<Reply<ThreadSnapshot>, AppError> {
    let snapshot = threads::snapshot(&app, &caller, (id, Some(&of.agent)), &query).await;
    snapshot.map(Reply::ok)
}

/// Delete a thread of an agent with its events, rollouts and runs.
#[utoipa::path(delete, path = "/v1/run/threads/{id}", tag = "runs", operation_id = "deleteThreadOfAgent",
    params(("id" = inline(schema::ThreadId), Path), AgentQuery), responses((status = 204)))]
async fn delete_of_agent(
    State(app): State<Shared>,
    caller: Caller,
    Id(id): Id<ThreadId>,
    Params(of): Params<AgentQuery>,
) -> Result<StatusCode, AppError> {
    threads::delete(&app, &caller, (id, Some(&of.agent))).await?;
    Ok(StatusCode::NO_CONTENT)
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
    params(("id" = inline(schema::ThreadId), Path)), responses((status = 204)))]
async fn delete(
    State(app): State<Shared>,
    caller: Caller,
    Id(id): Id<ThreadId>,
) -> Result<StatusCode, AppError> {
    threads::delete(&app, &caller, (id, None)).await?;
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
