//! Routes of auth keys, and of joining by one.

use api::auth_keys::{AuthKey, CreateAuthKey, CreatedAuthKey, Join, Joined};
use api::page::PageQuery;
use api::{ErrorEnvelope, Scope, Success, schema};
use axum::extract::State;
use types::AuthKeyId;
use utoipa_axum::routes;

use super::extract::{Body, ClientIp, Id, Params};
use super::respond::Reply;
use super::{Routes, Shared};
use crate::app::{Access, AppError, Caller, Limit, Page, auth_keys};

pub(super) fn register(routes: Routes) -> Routes {
    routes
        .add(Access::Scope(Scope::RunmeshWrite), routes!(create))
        .add(Access::Scope(Scope::RunmeshRead), routes!(list))
        .add(Access::Scope(Scope::RunmeshWrite), routes!(revoke))
        .add(Access::Open, routes!(join))
        .limited(Limit::Join, ("POST", "/v1/runmesh/devices/join"))
}

/// Make a key by which nodes join without an approval.
///
/// The key is in the answer and nowhere else; only its hash is stored. The nodes that join by it are the caller's.
#[utoipa::path(post, path = "/v1/runmesh/auth-keys", tag = "linking", operation_id = "createAuthKey",
    request_body = CreateAuthKey, responses((status = 201, body = Success<CreatedAuthKey>),
    (status = 409, description = "The org has as many open keys as it may have.", body = ErrorEnvelope)))]
async fn create(
    State(app): State<Shared>,
    caller: Caller,
    Body(request): Body<CreateAuthKey>,
) -> Result<Reply<CreatedAuthKey>, AppError> {
    auth_keys::create(&app, &caller, request)
        .await
        .map(Reply::created)
}

/// List auth keys, newest first: one's own; an admin's list has those of the org.
#[utoipa::path(get, path = "/v1/runmesh/auth-keys", tag = "linking", operation_id = "listAuthKeys",
    params(PageQuery), responses((status = 200, body = api::Page<AuthKey>)))]
async fn list(
    State(app): State<Shared>,
    caller: Caller,
    Params(query): Params<PageQuery>,
) -> Result<Page<AuthKey>, AppError> {
    auth_keys::list(&app, &caller, &query).await
}

/// Revoke an auth key; nodes that joined by it stay. A second time answers the same record.
#[utoipa::path(delete, path = "/v1/runmesh/auth-keys/{id}", tag = "linking", operation_id = "revokeAuthKey",
    params(("id" = inline(schema::Id), Path)), responses((status = 200, body = Success<AuthKey>)))]
async fn revoke(
    State(app): State<Shared>,
    caller: Caller,
    Id(id): Id<AuthKeyId>,
) -> Result<Reply<AuthKey>, AppError> {
    auth_keys::revoke(&app, &caller, id).await.map(Reply::ok)
}

/// Join by an auth key, as a device.
#[utoipa::path(post, path = "/v1/runmesh/devices/join", tag = "linking", operation_id = "joinByAuthKey",
    request_body = Join, responses((status = 201, body = Success<Joined>),
    (status = 401, description = "There is no such key.", body = ErrorEnvelope),
    (status = 409, body = ErrorEnvelope,
        description = "The name is taken, the device is linked otherwise or revoked, or no address is left."),
    (status = 410, description = "The key was used, was revoked or has expired.", body = ErrorEnvelope)))]
async fn join(
    State(app): State<Shared>,
    ClientIp(ip): ClientIp,
    Body(request): Body<Join>,
) -> Result<Reply<Joined>, AppError> {
    auth_keys::join(&app, ip, request).await.map(Reply::created)
}
