//! Routes of device linking. Start and poll are open: they are limited per address and per code.

use api::links::{Link, LinkApprove, LinkApproved, LinkDeny, LinkPoll, LinkPolled, LinkStart, LinkStarted};
use api::{ErrorEnvelope, Scope, Success, schema};
use axum::extract::State;
use utoipa_axum::routes;

use super::extract::{Body, ClientIp, Id};
use super::respond::{Limited, Reply};
use super::{Routes, Shared};
use crate::app::{Access, AppError, Caller, Limit, links};

const DECIDE: Access = Access::Scope(Scope::RunmeshWrite);

pub(super) fn register(routes: Routes) -> Routes {
    routes
        .add(Access::Open, routes!(start))
        .limited(Limit::LinkStart, ("POST", "/v1/runmesh/devices/link/start"))
        .add(Access::Open, routes!(poll))
        .limited(Limit::LinkPoll, ("POST", "/v1/runmesh/devices/link/poll"))
        .add(DECIDE, routes!(approve))
        .limited(Limit::LinkCode, ("POST", "/v1/runmesh/devices/link/approve"))
        .add(DECIDE, routes!(deny))
        .limited(Limit::LinkCode, ("POST", "/v1/runmesh/devices/link/deny"))
        .add(DECIDE, routes!(find))
        .limited(Limit::LinkCode, ("GET", "/v1/runmesh/devices/link/{code}"))
}

/// Ask for a code, as a device.
#[utoipa::path(post, path = "/v1/runmesh/devices/link/start", tag = "linking", operation_id = "startLink",
    request_body = LinkStart, responses((status = 201, body = Success<LinkStarted>),
    (status = 409, description = "The device was revoked and its key never comes back, or the key is the server's own.", body = ErrorEnvelope)))]
async fn start(
    State(app): State<Shared>,
    ClientIp(ip): ClientIp,
    Body(request): Body<LinkStart>,
) -> Result<Reply<LinkStarted>, AppError> {
    links::start(&app, ip, request).await.map(Reply::created)
}

/// Ask how a code fares, as the device it was made for.
#[utoipa::path(post, path = "/v1/runmesh/devices/link/poll", tag = "linking", operation_id = "pollLink",
    request_body = LinkPoll, responses((status = 200, body = Success<LinkPolled>),
    (status = 404, description = "There is no such code for this key.", body = ErrorEnvelope),
    (status = 409, description = "The device was approved, and revoked since.", body = ErrorEnvelope)))]
async fn poll(
    State(app): State<Shared>,
    ClientIp(ip): ClientIp,
    Body(request): Body<LinkPoll>,
) -> Result<Limited<Reply<LinkPolled>>, AppError> {
    let (polled, limit) = links::poll(&app, ip, request).await?;
    Ok(Limited(limit, Reply::ok(polled)))
}

/// Admit the device behind a code; the caller becomes its owner.
#[utoipa::path(post, path = "/v1/runmesh/devices/link/approve", tag = "linking", operation_id = "approveLink",
    request_body = LinkApprove, responses((status = 200, body = Success<LinkApproved>),
    (status = 404, description = "There is no such code.", body = ErrorEnvelope),
    (status = 409, body = ErrorEnvelope,
        description = "The code was used, the name is taken, or the device is revoked or somebody else's."),
    (status = 410, description = "The code has expired.", body = ErrorEnvelope)))]
async fn approve(
    State(app): State<Shared>,
    caller: Caller,
    Body(request): Body<LinkApprove>,
) -> Result<Reply<LinkApproved>, AppError> {
    let node = links::approve(&app, &caller, request).await?;
    Ok(Reply::ok(LinkApproved { node }))
}

/// Refuse the device behind a code.
#[utoipa::path(post, path = "/v1/runmesh/devices/link/deny", tag = "linking", operation_id = "denyLink",
    request_body = LinkDeny, responses((status = 200, body = Success<Link>),
    (status = 404, description = "There is no such code.", body = ErrorEnvelope),
    (status = 409, description = "The code was used.", body = ErrorEnvelope),
    (status = 410, description = "The code has expired.", body = ErrorEnvelope)))]
async fn deny(
    State(app): State<Shared>,
    caller: Caller,
    Body(request): Body<LinkDeny>,
) -> Result<Reply<Link>, AppError> {
    links::deny(&app, &caller, &request.code).await.map(Reply::ok)
}

/// What the approve page shows of a code.
#[utoipa::path(get, path = "/v1/runmesh/devices/link/{code}", tag = "linking", operation_id = "getLink",
    params(("code" = inline(schema::Text), Path)), responses((status = 200, body = Success<Link>)))]
async fn find(
    State(app): State<Shared>,
    caller: Caller,
    Id(code): Id<String>,
) -> Result<Reply<Link>, AppError> {
    links::find(&app, &caller, &code).await.map(Reply::ok)
}
