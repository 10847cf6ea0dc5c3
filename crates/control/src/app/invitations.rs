//! Invitations: how an admin lets a person in who signs in at the provider. Each link is good for one person.

use std::time::Duration;

use api::ErrorCode;
use api::invitations::{CreateInvitation, CreatedInvitation, Invitation, InvitationLifetime};
use api::page::PageQuery;
use serde_json::{Map, json};
use types::{InvitationId, OrgName, Timestamp};

use super::audit::Deed;
use super::{App, AppError, Caller, Page, Window, audit, users};
use crate::provider::read_email;
use crate::secrets;
use crate::store::{self, Conn};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The most invitations of an org that wait for somebody.
pub(crate) const OPEN_MAX: u64 = 1000;

/// What the page behind an invitation shows.
#[derive(Clone, Debug)]
pub(crate) struct Preview {
    pub(crate) org: OrgName,
    pub(crate) invitation: Invitation,
}

/// Makes an invitation. What the person's sessions will be good for is what the caller's credential is: nobody hands on
/// more than they hold.
pub(crate) async fn create(
    app: &App,
    caller: &Caller,
    request: CreateInvitation,
) -> Result<CreatedInvitation, AppError> {
    if app.provider.is_none() {
        let message = "this server has no sign-in provider; make a member with an API key instead";
        return Err(AppError::conflict(message));
    }
    let not_mail = || AppError::bad_request("email must be an e-mail address");
    let email = request
        .email
        .as_deref()
        .map(|text| read_email(text).ok_or_else(not_mail));
    let now = app.clock.wall();
    let record = Invitation {
        id: InvitationId::from_random(secrets::bytes()),
        org_id: caller.org,
        role: request.role,
        scopes: caller.scopes.clone(),
        email: email.transpose()?,
        invited_by: caller.user,
        created_at: now,
        expires_at: now + span(request.expires_in.unwrap_or_default()),
        accepted_at: None,
        accepted_by: None,
        revoked_at: None,
    };
    let token = secrets::invitation_token();
    let mut tx = app.store.write().await?;
    users::demand_member(&mut tx, caller).await?;
    if store::invitations::open(&mut tx, caller.org, now).await? >= OPEN_MAX {
        return Err(AppError::conflict(format!(
            "{OPEN_MAX} invitations are open already"
        )));
    }
    store::invitations::insert(&mut tx, &record, &secrets::hash(token.expose())).await?;
    audit::record(
        app,
        &mut tx,
        caller.org,
        deed("invitation.created", caller, &record),
    )
    .await?;
    tx.commit().await?;
    let url = app
        .config
        .public_url
        .join(&format!("join?invitation={}", token.expose()));
    Ok(CreatedInvitation {
        record,
        url: url.map_err(|_| AppError::internal())?.into(),
    })
}

/// Lists the org's invitations, newest first, spent ones too.
pub(crate) async fn list(
    app: &App,
    caller: &Caller,
    query: &PageQuery,
) -> Result<Page<Invitation>, AppError> {
    let window = Window::newest_first(query)?;
    let mut conn = app.store.read().await?;
    let rows = store::invitations::list(&mut conn, caller.org, window.key(), window.fetch()).await?;
    Ok(window.cut(rows, |row| (row.created_at.unix_ms(), row.id.to_string())))
}

/// Takes an invitation back; a second time answers the same record, and one that somebody joined by is a conflict.
pub(crate) async fn revoke(app: &App, caller: &Caller, id: InvitationId) -> Result<Invitation, AppError> {
    let mut tx = app.store.write().await?;
    let before = visible(&mut tx, caller, id).await?;
    if before.accepted_at.is_some() {
        return Err(AppError::conflict("somebody has joined by this invitation"));
    }
    if !store::invitations::revoke(&mut tx, id, app.clock.wall()).await? {
        return Ok(before);
    }
    let after = visible(&mut tx, caller, id).await?;
    audit::record(
        app,
        &mut tx,
        caller.org,
        deed("invitation.revoked", caller, &after),
    )
    .await?;
    tx.commit().await?;
    Ok(after)
}

/// Shows whoever holds an invitation's token where it leads; spends nothing.
pub(crate) async fn preview(app: &App, token: &str) -> Result<Preview, AppError> {
    let mut conn = app.store.read().await?;
    let found = store::invitations::find_by_hash(&mut conn, &secrets::hash(token)).await?;
    let invitation = found.ok_or_else(|| AppError::not_found("invitation"))?;
    demand_open(&invitation, app.clock.wall())?;
    let org = store::orgs::find(&mut conn, invitation.org_id).await?;
    Ok(Preview {
        org: org.ok_or_else(AppError::internal)?.name,
        invitation,
    })
}

/// Answers why an invitation lets nobody in.
pub(crate) fn demand_open(invitation: &Invitation, now: Timestamp) -> Result<(), AppError> {
    let gone = |message: &str| Err(AppError::new(ErrorCode::Gone, message));
    if invitation.accepted_at.is_some() {
        gone("this invitation was used already")
    } else if invitation.revoked_at.is_some() {
        gone("this invitation was taken back")
    } else if invitation.expires_at <= now {
        gone("this invitation has expired")
    } else {
        Ok(())
    }
}

async fn visible(conn: &mut Conn, caller: &Caller, id: InvitationId) -> Result<Invitation, AppError> {
    store::invitations::find(conn, id)
        .await?
        .filter(|invitation| invitation.org_id == caller.org)
        .ok_or_else(|| AppError::not_found("invitation"))
}

fn deed(action: &'static str, caller: &Caller, invitation: &Invitation) -> Deed {
    Deed {
        action,
        target: Some(("invitation", invitation.id.to_string())),
        actor: caller.actor(),
        attributes: Map::from_iter([
            ("role".to_owned(), json!(invitation.role)),
            ("email".to_owned(), json!(invitation.email)),
        ]),
    }
}

fn span(life: InvitationLifetime) -> Duration {
    match life {
        InvitationLifetime::Day => DAY,
        InvitationLifetime::Week => 7 * DAY,
        InvitationLifetime::Days30 => 30 * DAY,
    }
}
