//! Routes of the caller and of members.

use api::orgs::{CreateMember, CreatedMember, Me, Member};
use api::page::PageQuery;
use api::{ErrorEnvelope, Scope, Success, schema};
use axum::extract::State;
use types::{OrgId, UserId};
use utoipa_axum::routes;

use super::extract::{Body, Id, Ids, Params};
use super::respond::Reply;
use super::{Routes, Shared};
use crate::app::{Access, AppError, Caller, Page, users};

pub(super) fn register(routes: Routes) -> Routes {
    routes
        .add(Access::SignedIn, routes!(me))
        .add(Access::Scope(Scope::OrgRead), routes!(members))
        .add(Access::Admin(Scope::OrgMembers), routes!(create_member))
        .add(Access::Admin(Scope::OrgMembers), routes!(remove_member))
}

/// Who the credential belongs to.
#[utoipa::path(get, path = "/v1/me", tag = "organizations", operation_id = "getMe",
    responses((status = 200, body = Success<Me>)))]
async fn me(State(app): State<Shared>, caller: Caller) -> Result<Reply<Me>, AppError> {
    users::me(&app, &caller).await.map(Reply::ok)
}

/// List the members of the caller's organization.
#[utoipa::path(get, path = "/v1/organizations/{id}/members", tag = "organizations",
    operation_id = "listMembers", params(("id" = inline(schema::Id), Path), PageQuery),
    responses((status = 200, body = api::Page<Member>)))]
async fn members(
    State(app): State<Shared>,
    caller: Caller,
    Id(org): Id<OrgId>,
    Params(query): Params<PageQuery>,
) -> Result<Page<Member>, AppError> {
    users::members(&app, &caller, org, &query).await
}

/// Make a person and add them to the caller's organization.
///
/// The answer has their first key, shown once.
#[utoipa::path(post, path = "/v1/organizations/{id}/members", tag = "organizations",
    operation_id = "createMember", params(("id" = inline(schema::Id), Path)), request_body = CreateMember,
    responses((status = 201, body = Success<CreatedMember>)))]
async fn create_member(
    State(app): State<Shared>,
    caller: Caller,
    Id(org): Id<OrgId>,
    Body(request): Body<CreateMember>,
) -> Result<Reply<CreatedMember>, AppError> {
    users::create_member(&app, &caller, org, request)
        .await
        .map(Reply::created)
}

/// Take a member out of the caller's organization.
///
/// Their keys, sessions and unused invitations stop working, their devices are revoked, their runs are cancelled. Answers
/// the member as they were.
#[utoipa::path(delete, path = "/v1/organizations/{id}/members/{userId}", tag = "organizations",
    operation_id = "removeMember",
    params(("id" = inline(schema::Id), Path), ("userId" = inline(schema::Id), Path)),
    responses((status = 200, body = Success<Member>),
    (status = 409, description = "The organization would be left without an admin.", body = ErrorEnvelope)))]
async fn remove_member(
    State(app): State<Shared>,
    caller: Caller,
    Ids(org, user): Ids<OrgId, UserId>,
) -> Result<Reply<Member>, AppError> {
    users::remove_member(&app, &caller, org, user)
        .await
        .map(Reply::ok)
}
