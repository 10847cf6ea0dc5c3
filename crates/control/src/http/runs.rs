//! Routes of runs.

use api::forms::{StartRunOfAgent, StartRunOfAnyAgent, StreamedFrame};
use api::runs::{Run, RunReceipt, RunsQuery, StartRun};
use api::{ErrorEnvelope, IDEMPOTENCY_KEY_HEADER, RUN_BODY_BYTES_MAX, Scope, Success, schema};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse as _, Response};
use types::RunId;
use utoipa_axum::routes;

use super::extract::{Body, Id, Params};
use super::respond::Reply;
use super::{Routes, Shared, events};
use crate::app::events::Follower;
use crate::app::{Access, AppError, Caller, Page, runs};

pub(super) fn register(routes: Routes) -> Routes {
    routes
        .add(Access::Scope(Scope::AgentRun), routes!(start))
        .add(Access::Scope(Scope::AgentRun), routes!(start_of_agent))
        .add(Access::Scope(Scope::AgentRead), routes!(list))
        .add(Access::Scope(Scope::AgentRead), routes!(find))
        .add(Access::Scope(Scope::AgentRun), routes!(cancel))
}

/// Start a run.
///
/// Answers the receipt, after up to `wait` seconds the result, or with `stream: true` the frames of the run as
/// `text/event-stream` with `X-Run-ID` and `X-Thread-ID`. The same `Idempotency-Key` within a day is the same run.
#[utoipa::path(post, path = "/v1/run", tag = "runs", operation_id = "startRun",
    request_body = StartRunOfAnyAgent, params(("Idempotency-Key" = Option<String>, Header, nullable = false,
        min_length = 1, max_length = 128, pattern = "^[!-~]*$",
        description = "The same key within a day is the same run; printable ASCII without spaces.")),
    responses((status = 200,
        headers(("X-Run-ID" = inline(schema::RunId), description = "With `stream: true`: the run."),
            ("X-Thread-ID" = inline(schema::ThreadId), description = "With `stream: true`: its thread.")),
        content((Success<RunReceipt> = "application/json"), (StreamedFrame = "text/event-stream"))),
    (status = 404, description = "There is no such agent, or thread of the caller's.", body = ErrorEnvelope),
    (status = 409, body = ErrorEnvelope, description = "Nothing executes this executionMode, the device is revoked or \
        too busy, or the key was used for another request.")))]
async fn start(
    State(app): State<Shared>,
    caller: Caller,
    headers: HeaderMap,
    Body(request): Body<StartRun, RUN_BODY_BYTES_MAX>,
) -> Result<Response, AppError> {
    answer(&app, &caller, request, &headers).await
}

/// Start a run of this agent (legacy path).
#[utoipa::path(post, path = "/v1/agents/{slug}/run", tag = "runs", operation_id = "startRunOfAgent",
    request_body = StartRunOfAgent, params(("slug" = inline(schema::Text), Path), ("Idempotency-Key" = Option<String>, Header, nullable = false,
        min_length = 1, max_length = 128, pattern = "^[!-~]*$",
        description = "The same key within a day is the same run; printable ASCII without spaces.")),
    responses((status = 200,
        headers(("X-Run-ID" = inline(schema::RunId), description = "With `stream: true`: the run."),
            ("X-Thread-ID" = inline(schema::ThreadId), description = "With `stream: true`: its thread.")),
        content((Success<RunReceipt> = "application/json"), (StreamedFrame = "text/event-stream"))),
    (status = 404, description = "There is no such agent, or thread of the caller's.", body = ErrorEnvelope),
    (status = 409, body = ErrorEnvelope, description = "Nothing executes this executionMode, the device is revoked or \
        too busy, or the key was used for another request.")))]
async fn start_of_agent(
    State(app): State<Shared>,
    caller: Caller,
    headers: HeaderMap,
    Id(slug): Id<String>,
    Body(mut request): Body<StartRun, RUN_BODY_BYTES_MAX>,
) -> Result<Response, AppError> {
    request.agent = Some(slug);
    answer(&app, &caller, request, &headers).await
}

async fn answer(
    app: &Shared,
    caller: &Caller,
    request: StartRun,
    headers: &HeaderMap,
) -> Result<Response, AppError> {
    let wait = runs::wait_of(&request)?;
    // The default of `stream` is false for local-mac, the only mode that can be started yet.
    let stream = request.stream.unwrap_or(false);
    let key = headers.get(IDEMPOTENCY_KEY_HEADER);
    let key = key.map(|key| key.to_str().unwrap_or("\n"));
    let run = runs::start(app, caller, request, key).await?;
    if stream {
        let receipt = &run.receipt;
        let follower = Follower::of_run(app, receipt.thread_id, receipt.run_id).await?;
        let mut answer = events::stream(app, follower);
        for (name, id) in [
            ("x-run-id", receipt.run_id.to_string()),
            ("x-thread-id", receipt.thread_id.to_string()),
        ] {
            let value = HeaderValue::from_str(&id).map_err(|_| AppError::internal())?;
            answer.headers_mut().insert(name, value);
        }
        return Ok(answer);
    }
    let run = if wait.is_zero() {
        run
    } else {
        runs::wait(app, caller, run, wait).await?
    };
    Ok(Reply::ok(run.receipt).into_response())
}

/// List runs, newest first.
#[utoipa::path(get, path = "/v1/runs", tag = "runs", operation_id = "listRuns",
    params(RunsQuery), responses((status = 200, body = api::Page<Run>),
    (status = 404, description = "There is and was no such agent.", body = ErrorEnvelope)))]
async fn list(
    State(app): State<Shared>,
    caller: Caller,
    Params(query): Params<RunsQuery>,
) -> Result<Page<Run>, AppError> {
    runs::list(&app, &caller, &query).await
}

/// One run.
#[utoipa::path(get, path = "/v1/runs/{id}", tag = "runs", operation_id = "getRun",
    params(("id" = inline(schema::RunId), Path)), responses((status = 200, body = Success<Run>)))]
async fn find(State(app): State<Shared>, caller: Caller, Id(id): Id<RunId>) -> Result<Reply<Run>, AppError> {
    runs::find(&app, &caller, id).await.map(Reply::ok)
}

/// Ask to stop a run.
///
/// A wish that is repeated to the device until the run is over; a second time answers the same run.
#[utoipa::path(post, path = "/v1/runs/{id}/cancel", tag = "runs", operation_id = "cancelRun",
    params(("id" = inline(schema::RunId), Path)), responses((status = 200, body = Success<Run>)))]
async fn cancel(
    State(app): State<Shared>,
    caller: Caller,
    Id(id): Id<RunId>,
) -> Result<Reply<Run>, AppError> {
    runs::cancel(&app, &caller, id).await.map(Reply::ok)
}
