//! Routes of invitations.

use api::invitations::{CreateInvitation, CreatedInvitation, Invitation};
use api::page::PageQuery;
use api::{ErrorEnvelope, Scope, Success, schema};
use axum::extract::State;
use types::InvitationId;
use utoipa_axum::routes;

use super::extract::{Body, Id, Params};
use super::respond::Reply;
use super::{Routes, Shared};
use crate::app::{Access, AppError, Caller, Page, invitations};

pub(super) fn register(routes: Routes) -> Routes {
    let members = Access::Admin(Scope::OrgMembers);
    routes
        .add(members, routes!(create))
        .add(members, routes!(list))
        .add(members, routes!(revoke))
}

/// Invite a person who signs in at the provider.
///
/// The answer has the link to hand over, shown once; the first who opens it and may use it joins. The person's sessions
/// are good for what the credential used is.
#[utoipa::path(post, path = "/v1/invitations", tag = "organizations", operation_id = "createInvitation",
    request_body = CreateInvitation, responses((status = 201, body = Success<CreatedInvitation>),
    (status = 409, body = ErrorEnvelope,
        description = "The server has no sign-in provider, or too many invitations are open.")))]
async fn create(
    State(app): State<Shared>,
    caller: Caller,
    Body(request): Body<CreateInvitation>,
) -> Result<Reply<CreatedInvitation>, AppError> {
    invitations::create(&app, &caller, request)
        .await
        .map(Reply::created)
}

/// List invitations, newest first, spent ones too.
#[utoipa::path(get, path = "/v1/invitations", tag = "organizations", operation_id = "listInvitations",
    params(PageQuery), responses((status = 200, body = api::Page<Invitation>)))]
async fn list(
    State(app): State<Shared>,
    caller: Caller,
    Params(query): Params<PageQuery>,
) -> Result<Page<Invitation>, AppError> {
    invitations::list(&app, &caller, &query).await
}

/// Take an invitation back.
///
/// A second time answers the same record; 409 when somebody has joined by it.
#[utoipa::path(delete, path = "/v1/invitations/{id}", tag = "organizations", operation_id = "revokeInvitation",
    params(("id" = inline(schema::Id), Path)), responses((status = 200, body = Success<Invitation>),
    (status = 409, description = "Somebody has joined by it.", body = ErrorEnvelope)))]
async fn revoke(
    State(app): State<Shared>,
    caller: Caller,
    Id(id): Id<InvitationId>,
) -> Result<Reply<Invitation>, AppError> {
    invitations::revoke(&app, &caller, id).await.map(Reply::ok)
}
