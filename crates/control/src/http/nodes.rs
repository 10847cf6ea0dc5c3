//! Routes of nodes, the overview and a device's activity.

use api::activity::{Activity, ActivityQuery};
use api::forms::PatchNodeForms;
use api::nodes::{ConfigFormat, ConfigQuery, Node, NodeConfig, NodesQuery, PatchNode};
use api::overview::{Overview, OverviewQuery};
use api::{ErrorEnvelope, Scope, Success, schema};
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use types::NodeId;
use utoipa_axum::routes;

use super::extract::{Body, Id, Params};
use super::respond::Reply;
use super::{Routes, Shared};
use crate::app::{Access, AppError, Caller, Page, activity, netmap, nodes, overview};

pub(super) fn register(routes: Routes) -> Routes {
    routes
        .add(Access::Scope(Scope::RunmeshRead), routes!(show_overview))
        .add(Access::Scope(Scope::RunmeshRead), routes!(list))
        .add(Access::Scope(Scope::RunmeshRead), routes!(find))
        .add(Access::Scope(Scope::RunmeshRead), routes!(config))
        .add(Access::Scope(Scope::RunmeshWrite), routes!(patch))
        .add(Access::Scope(Scope::RunmeshWrite), routes!(delete))
        .add(Access::Scope(Scope::RunmeshWrite), routes!(revoke))
        .add(Access::Scope(Scope::ActivityRead), routes!(device_activity))
}

/// Counts over the nodes that the caller can see.
#[utoipa::path(get, path = "/v1/runmesh/overview", tag = "nodes", operation_id = "getOverview",
    params(OverviewQuery), responses((status = 200, body = Success<Overview>)))]
async fn show_overview(
    State(app): State<Shared>,
    caller: Caller,
    Params(query): Params<OverviewQuery>,
) -> Result<Reply<Overview>, AppError> {
    overview::show(&app, &caller, &query).await.map(Reply::ok)
}

/// List the nodes that the caller can see.
#[utoipa::path(get, path = "/v1/runmesh/nodes", tag = "nodes", operation_id = "listNodes",
    params(NodesQuery), responses((status = 200, body = api::Page<Node>)))]
async fn list(
    State(app): State<Shared>,
    caller: Caller,
    Params(query): Params<NodesQuery>,
) -> Result<Page<Node>, AppError> {
    nodes::list(&app, &caller, query).await
}

/// One node.
#[utoipa::path(get, path = "/v1/runmesh/nodes/{id}", tag = "nodes", operation_id = "getNode",
    params(("id" = inline(schema::Id), Path)), responses((status = 200, body = Success<Node>)))]
async fn find(
    State(app): State<Shared>,
    caller: Caller,
    Id(id): Id<NodeId>,
) -> Result<Reply<Node>, AppError> {
    nodes::find(&app, &caller, id).await.map(Reply::ok)
}

/// A node's configuration, computed on request; it holds no secret.
#[utoipa::path(get, path = "/v1/runmesh/nodes/{id}/config", tag = "nodes", operation_id = "getNodeConfig",
    params(("id" = inline(schema::Id), Path), ConfigQuery),
    responses((status = 200, content(
        (Success<NodeConfig> = "application/json"), (String = "text/plain; charset=utf-8"))),
    (status = 409, description = "The node is revoked.", body = ErrorEnvelope)))]
async fn config(
    State(app): State<Shared>,
    caller: Caller,
    Id(id): Id<NodeId>,
    Params(query): Params<ConfigQuery>,
) -> Result<Response, AppError> {
    let config = nodes::config(&app, &caller, id).await?;
    Ok(match query.format.unwrap_or_default() {
        ConfigFormat::Json => Reply::ok(config).into_response(),
        ConfigFormat::WgQuick => {
            let text = netmap::wg_quick(&config);
            ([(CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response()
        }
    })
}

/// Rename a node, give it other tags, or both. Tags are given by admins, and by whom the policy names.
#[utoipa::path(patch, path = "/v1/runmesh/nodes/{id}", tag = "nodes", operation_id = "patchNode",
    params(("id" = inline(schema::Id), Path)), request_body = PatchNodeForms,
    responses((status = 200, body = Success<Node>),
    (status = 409, description = "The name is taken, or the node is revoked.", body = ErrorEnvelope)))]
async fn patch(
    State(app): State<Shared>,
    caller: Caller,
    Id(id): Id<NodeId>,
    Body(patch): Body<PatchNode>,
) -> Result<Reply<Node>, AppError> {
    nodes::patch(&app, &caller, id, patch).await.map(Reply::ok)
}

/// Revoke a node for ever; a second time answers the same node.
///
/// `cutOff` says how many of the nodes that saw it have dropped it. Those that are there are waited for, at most two seconds.
#[utoipa::path(delete, path = "/v1/runmesh/nodes/{id}", tag = "nodes", operation_id = "deleteNode",
    params(("id" = inline(schema::Id), Path)), responses((status = 200, body = Success<Node>)))]
async fn delete(
    State(app): State<Shared>,
    caller: Caller,
    Id(id): Id<NodeId>,
) -> Result<Reply<Node>, AppError> {
    nodes::revoke(&app, &caller, id).await.map(Reply::ok)
}

/// Revoke a node for ever; a second time answers the same node.
///
/// `cutOff` says how many of the nodes that saw it have dropped it. Those that are there are waited for, at most two seconds.
#[utoipa::path(post, path = "/v1/runmesh/nodes/{id}/revoke", tag = "nodes", operation_id = "revokeNode",
    params(("id" = inline(schema::Id), Path)), responses((status = 200, body = Success<Node>)))]
async fn revoke(
    State(app): State<Shared>,
    caller: Caller,
    Id(id): Id<NodeId>,
) -> Result<Reply<Node>, AppError> {
    nodes::revoke(&app, &caller, id).await.map(Reply::ok)
}

/// List the activity of one device, newest first.
#[utoipa::path(get, path = "/v1/runmesh/devices/{id}/activity", tag = "activity",
    operation_id = "listDeviceActivity", params(("id" = inline(schema::Id), Path), ActivityQuery),
    responses((status = 200, body = api::Page<Activity>)))]
async fn device_activity(
    State(app): State<Shared>,
    caller: Caller,
    Id(id): Id<NodeId>,
    Params(query): Params<ActivityQuery>,
) -> Result<Page<Activity>, AppError> {
    activity::of_device(&app, &caller, id, query).await
}
