//! Routes of orgs.

use api::orgs::{CreateOrganization, CreatedOrganization, Organization};
use api::{ErrorEnvelope, Scope, Success};
use axum::extract::State;
use utoipa_axum::routes;

use super::extract::Body;
use super::respond::Reply;
use super::{Routes, Shared};
use crate::app::{Access, AppError, Caller, orgs};

pub(super) fn register(routes: Routes) -> Routes {
    routes
        .add(Access::Scope(Scope::OrgWrite), routes!(create))
        .add(Access::Scope(Scope::OrgRead), routes!(current))
}

/// Make an organization.
///
/// The caller becomes its first admin and gets a key to it.
#[utoipa::path(post, path = "/v1/organizations", tag = "organizations", operation_id = "createOrganization",
    request_body = CreateOrganization, responses((status = 201, body = Success<CreatedOrganization>),
    (status = 409, description = "Another organization has this name.", body = ErrorEnvelope)))]
async fn create(
    State(app): State<Shared>,
    caller: Caller,
    Body(request): Body<CreateOrganization>,
) -> Result<Reply<CreatedOrganization>, AppError> {
    orgs::create(&app, &caller, request).await.map(Reply::created)
}

/// The organization of the credential.
#[utoipa::path(get, path = "/v1/organizations/current", tag = "organizations",
    operation_id = "getCurrentOrganization", responses((status = 200, body = Success<Organization>)))]
async fn current(State(app): State<Shared>, caller: Caller) -> Result<Reply<Organization>, AppError> {
    orgs::current(&app, &caller).await.map(Reply::ok)
}
