//! Routes of API keys.

use api::api_keys::{ApiKey, ApiKeysQuery, CreateApiKey, CreatedApiKey};
use api::{Scope, Success, schema};
use axum::extract::State;
use types::ApiKeyId;
use utoipa_axum::routes;

use super::extract::{Body, Id, Params};
use super::respond::Reply;
use super::{Routes, Shared};
use crate::app::{Access, AppError, Caller, Page, api_keys};

pub(super) fn register(routes: Routes) -> Routes {
    routes
        .add(Access::Scope(Scope::OrgWrite), routes!(create))
        .add(Access::Scope(Scope::OrgRead), routes!(list))
        .add(Access::Scope(Scope::OrgRead), routes!(find))
        .add(Access::Scope(Scope::OrgWrite), routes!(revoke))
}

/// Make an API key.
///
/// The key is in the answer and nowhere else; only its hash is stored. It is never stronger than the credential used.
#[utoipa::path(post, path = "/v1/api-keys", tag = "keys", operation_id = "createApiKey",
    request_body = CreateApiKey, responses((status = 201, body = Success<CreatedApiKey>)))]
async fn create(
    State(app): State<Shared>,
    caller: Caller,
    Body(request): Body<CreateApiKey>,
) -> Result<Reply<CreatedApiKey>, AppError> {
    api_keys::create(&app, &caller, request).await.map(Reply::created)
}

/// List API keys, newest first.
#[utoipa::path(get, path = "/v1/api-keys", tag = "keys", operation_id = "listApiKeys",
    params(ApiKeysQuery), responses((status = 200, body = api::Page<ApiKey>)))]
async fn list(
    State(app): State<Shared>,
    caller: Caller,
    Params(query): Params<ApiKeysQuery>,
) -> Result<Page<ApiKey>, AppError> {
    api_keys::list(&app, &caller, &query).await
}

/// One API key's record. A revoked key is found in the list only.
#[utoipa::path(get, path = "/v1/api-keys/{id}", tag = "keys", operation_id = "getApiKey",
    params(("id" = inline(schema::Id), Path)), responses((status = 200, body = Success<ApiKey>)))]
async fn find(
    State(app): State<Shared>,
    caller: Caller,
    Id(id): Id<ApiKeyId>,
) -> Result<Reply<ApiKey>, AppError> {
    api_keys::find(&app, &caller, id).await.map(Reply::ok)
}

/// Revoke an API key; a second time answers the same record.
#[utoipa::path(delete, path = "/v1/api-keys/{id}", tag = "keys", operation_id = "revokeApiKey",
    params(("id" = inline(schema::Id), Path)), responses((status = 200, body = Success<ApiKey>)))]
async fn revoke(
    State(app): State<Shared>,
    caller: Caller,
    Id(id): Id<ApiKeyId>,
) -> Result<Reply<ApiKey>, AppError> {
    api_keys::revoke(&app, &caller, id).await.map(Reply::ok)
}
