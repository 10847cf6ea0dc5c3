//! Routes of agents.

use api::agents::{Agent, AgentsQuery, PutAgent, PutAgentResult};
use api::forms::{PatchAgent, PutAgentForms};
use api::{ErrorEnvelope, Scope, Success, schema};
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::{Map, Value};
use types::AgentSlug;
use utoipa_axum::routes;

use super::extract::{Body, Id, Params};
use super::respond::Reply;
use super::{Routes, Shared};
use crate::app::{Access, AppError, Caller, Page, agents};

pub(super) fn register(routes: Routes) -> Routes {
    routes
        .add(Access::Scope(Scope::AgentWrite), routes!(put))
        .add(Access::Scope(Scope::AgentRead), routes!(list))
        .add(Access::Scope(Scope::AgentRead), routes!(find))
        .add(Access::Scope(Scope::AgentWrite), routes!(patch))
        .add(Access::Scope(Scope::AgentWrite), routes!(delete))
}

/// Create an agent, or replace the settings of the one with this slug.
#[utoipa::path(post, path = "/v1/agents", tag = "agents", operation_id = "putAgent",
    request_body = PutAgentForms, responses((status = 200, body = Success<PutAgentResult>),
    (status = 409, body = ErrorEnvelope,
        description = "The slug is another member's, or there is no such device, or not for the caller.")))]
async fn put(
    State(app): State<Shared>,
    caller: Caller,
    Body(request): Body<PutAgent>,
) -> Result<Reply<PutAgentResult>, AppError> {
    agents::put(&app, &caller, request).await.map(Reply::ok)
}

/// List agents, oldest first.
#[utoipa::path(get, path = "/v1/agents", tag = "agents", operation_id = "listAgents",
    params(AgentsQuery), responses((status = 200, body = api::Page<Agent>)))]
async fn list(
    State(app): State<Shared>,
    caller: Caller,
    Params(query): Params<AgentsQuery>,
) -> Result<Page<Agent>, AppError> {
    agents::list(&app, &caller, &query).await
}

/// One agent.
#[utoipa::path(get, path = "/v1/agents/{slug}", tag = "agents", operation_id = "getAgent",
    params(("slug" = inline(schema::Label), Path)), responses((status = 200, body = Success<Agent>)))]
async fn find(
    State(app): State<Shared>,
    caller: Caller,
    Id(slug): Id<AgentSlug>,
) -> Result<Reply<Agent>, AppError> {
    agents::find(&app, &caller, &slug).await.map(Reply::ok)
}

/// Change the settings that the body names; null clears one.
#[utoipa::path(patch, path = "/v1/agents/{slug}", tag = "agents", operation_id = "patchAgent",
    params(("slug" = inline(schema::Label), Path)), request_body = PatchAgent,
    responses((status = 200, body = Success<Agent>), (status = 409, body = ErrorEnvelope,
        description = "What the executionMode requires is missing then, or there is no such device for the caller.")))]
async fn patch(
    State(app): State<Shared>,
    caller: Caller,
    Id(slug): Id<AgentSlug>,
    Body(changes): Body<Map<String, Value>>,
) -> Result<Reply<Agent>, AppError> {
    agents::patch(&app, &caller, &slug, changes).await.map(Reply::ok)
}

/// Delete an agent. Its threads stay.
#[utoipa::path(delete, path = "/v1/agents/{slug}", tag = "agents", operation_id = "deleteAgent",
    params(("slug" = inline(schema::Label), Path)), responses((status = 204)))]
async fn delete(
    State(app): State<Shared>,
    caller: Caller,
    Id(slug): Id<AgentSlug>,
) -> Result<StatusCode, AppError> {
    agents::delete(&app, &caller, &slug).await?;
    Ok(StatusCode::NO_CONTENT)
}
