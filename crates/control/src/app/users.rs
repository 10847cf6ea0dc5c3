//! People: the caller, and the members of the caller's org.

use api::orgs::{CreateMember, CreatedMember, Me, Member, User};
use api::page::PageQuery;
use api::{ErrorCode, Role};
use runs::dispatch::Input;
use serde_json::{Map, json};
use types::{OrgId, UserId};

use super::api_keys::{NewKey, issue};
use super::audit::Deed;
use super::nodes::revoke_within;
use super::orgs::first_key_name;
use super::{App, AppError, Caller, Page, Window, audit, display_text, orgs};
use crate::orchestrator::dispatch::DispatchTx;
use crate::secrets;
use crate::store::{self, Conn};

/// Returns who the credential belongs to.
pub(crate) async fn me(app: &App, caller: &Caller) -> Result<Me, AppError> {
    let organization = orgs::current(app, caller).await?;
    let mut conn = app.store.read().await?;
    let user = store::users::find(&mut conn, caller.user).await?;
    Ok(Me {
        user: user.ok_or_else(AppError::internal)?,
        organization,
        role: caller.role,
        scopes: caller.scopes.clone(),
    })
}

/// Lists the members of the caller's org, oldest first.
pub(crate) async fn members(
    app: &App,
    caller: &Caller,
    org: OrgId,
    query: &PageQuery,
) -> Result<Page<Member>, AppError> {
    demand_own(caller, org)?;
    let window = Window::oldest_first(query)?;
    let mut conn = app.store.read().await?;
    let rows = store::users::members(&mut conn, org, window.key(), window.fetch()).await?;
    Ok(window.cut(rows, |row| (row.created_at.unix_ms(), row.user_id.to_string())))
}

/// Makes a person, adds them to the caller's org and gives them a key with the scopes and the end of the caller's
/// credential: nobody hands on more than they hold.
pub(crate) async fn create_member(
    app: &App,
    caller: &Caller,
    org: OrgId,
    request: CreateMember,
) -> Result<CreatedMember, AppError> {
    demand_own(caller, org)?;
    let name = display_text("name", &request.name)?;
    let now = app.clock.wall();
    let user = User {
        id: UserId::from_random(secrets::bytes()),
        name: name.to_string(),
        created_at: now,
    };
    let new = NewKey {
        user: user.id,
        name: first_key_name(),
        scopes: caller.scopes.clone(),
        is_test: false,
        now,
        expires_at: caller.key_until,
    };
    let mut tx = app.store.write().await?;
    store::users::insert(&mut tx, &user).await?;
    store::users::insert_member(&mut tx, org, user.id, request.role, now).await?;
    store::users::set_scopes(&mut tx, org, user.id, &caller.scopes).await?;
    let api_key = issue(&mut tx, org, new).await?;
    let deed = Deed {
        action: "member.created",
        target: Some(("user", user.id.to_string())),
        actor: caller.actor(),
        attributes: Map::from_iter([
            ("name".to_owned(), json!(name)),
            ("role".to_owned(), json!(request.role)),
        ]),
    };
    audit::record(app, &mut tx, org, deed).await?;
    tx.commit().await?;
    let member = Member {
        user_id: user.id,
        name: user.name,
        role: request.role,
        created_at: now,
    };
    Ok(CreatedMember { member, api_key })
}

/// Takes a member out of the caller's org: when this returns, their keys and sessions are good for nothing, their devices
/// are shut out for ever, and their runs end. What they did stays in the logs, their threads with the org's admins.
pub(crate) async fn remove_member(
    app: &App,
    caller: &Caller,
    org: OrgId,
    user: UserId,
) -> Result<Member, AppError> {
    demand_own(caller, org)?;
    // Also the runs on other people's devices must end, so that this is a write of dispatch.
    let mut dispatch = DispatchTx::begin(app).await?;
    let found = store::users::member(&mut dispatch.tx, org, user).await?;
    let member = found.ok_or_else(|| AppError::not_found("member"))?.member;
    if member.role == Role::Admin && store::users::admins(&mut dispatch.tx, org).await? <= 1 {
        return Err(AppError::conflict(
            "the organization would be left without an admin",
        ));
    }
    let mut departures = Vec::new();
    for row in store::nodes::owned(&mut dispatch.tx, org, user).await? {
        departures.extend(revoke_within(app, &mut dispatch.tx, caller, &row.node).await?);
    }
    for mut run in store::runs::open_of_owner(&mut dispatch.tx, org, user).await? {
        dispatch.advance(&mut run, Input::Cancel).await?;
    }
    let now = dispatch.now;
    store::users::remove_member(&mut dispatch.tx, org, user, now).await?;
    let deed = Deed {
        action: "member.removed",
        target: Some(("user", user.to_string())),
        actor: caller.actor(),
        attributes: Map::from_iter([
            ("name".to_owned(), json!(member.name)),
            ("role".to_owned(), json!(member.role)),
            ("nodes".to_owned(), json!(departures.len())),
        ]),
    };
    audit::record(app, &mut dispatch.tx, org, deed).await?;
    dispatch.commit().await?;
    app.revocations.announce();
    for departure in &departures {
        departure.carry_out(app).await;
    }
    app.orchestrator.poke();
    Ok(member)
}

/// Answers 401 when the caller was taken out of the org since they were let through: asked within the write of what would
/// outlive a membership.
pub(super) async fn demand_member(conn: &mut Conn, caller: &Caller) -> Result<(), AppError> {
    let member = store::users::member(conn, caller.org, caller.user).await?;
    let gone = || AppError::new(ErrorCode::InvalidToken, "this credential is unknown or revoked");
    member.map(|_| ()).ok_or_else(gone)
}

/// Another org is not there at all.
fn demand_own(caller: &Caller, org: OrgId) -> Result<(), AppError> {
    if org == caller.org {
        Ok(())
    } else {
        Err(AppError::not_found("organization"))
    }
}
