//! Keys by which nodes join without an approval: made by a person, spent in the same write as the node's insert.

use std::net::IpAddr;
use std::time::Duration;

use api::ErrorCode;
use api::activity::Severity;
use api::auth_keys::{
    AuthKey, CreateAuthKey, CreatedAuthKey, Join, Joined, LIFETIME_SECONDS_DEFAULT, LIFETIME_SECONDS_MAX,
};
use api::page::PageQuery;
use serde_json::{Map, json};
use types::policy::is_over;
use types::{AuthKeyId, NodeId, NodeStatus, OrgId, Timestamp};

use super::admission::{self, Claims, Newcomer, read_label, read_tags};
use super::api_keys::end_of;
use super::audit::Deed;
use super::nodes::{Change, revoked};
use super::{Actor, App, AppError, Caller, Page, Window, audit, display_text, netmap, nodes, policy, users};
use crate::door::origin;
use crate::secrets;
use crate::store::{self, Conn, Tx};

/// How many characters of a key its record shows: the prefix and four more.
const PREFIX_LEN: usize = secrets::AUTH_KEY_PREFIX.len() + 4;

/// The most keys of an org that can still be used.
pub(crate) const OPEN_MAX: u64 = 1000;

/// Makes a key; the nodes that join by it are the caller's.
pub(crate) async fn create(
    app: &App,
    caller: &Caller,
    request: CreateAuthKey,
) -> Result<CreatedAuthKey, AppError> {
    let name = display_text("name", &request.name)?;
    let tags = read_tags(request.tags.unwrap_or_default())?;
    let seconds = request.expires_in_seconds.unwrap_or(LIFETIME_SECONDS_DEFAULT);
    if !(1..=LIFETIME_SECONDS_MAX).contains(&seconds) {
        let message = format!("expiresInSeconds must be from 1 to {LIFETIME_SECONDS_MAX}");
        return Err(AppError::bad_request(message));
    }
    let now = app.clock.wall();
    let asked = now + Duration::from_secs(seconds.into());
    let end = match request.expires_in_seconds {
        Some(_) => end_of(caller, Some(asked))?.unwrap_or(asked),
        None => caller.key_until.map_or(asked, |bound| bound.min(asked)),
    };
    let key = secrets::auth_key();
    let record = AuthKey {
        id: AuthKeyId::from_random(secrets::bytes()),
        name: name.to_string(),
        prefix: key.expose()[..PREFIX_LEN].to_owned(),
        user_id: caller.user,
        reusable: request.reusable,
        ephemeral: request.ephemeral,
        tags,
        uses: 0,
        last_used_at: None,
        created_at: now,
        expires_at: end,
        revoked_at: None,
    };
    let mut tx = app.store.write().await?;
    users::demand_member(&mut tx, caller).await?;
    policy::demand_tags(&mut tx, caller, &record.tags).await?;
    if store::auth_keys::open(&mut tx, caller.org, now).await? >= OPEN_MAX {
        return Err(AppError::conflict(format!(
            "{OPEN_MAX} auth keys are open already"
        )));
    }
    store::auth_keys::insert(&mut tx, caller.org, &record, &secrets::hash(key.expose())).await?;
    audit::record(
        app,
        &mut tx,
        caller.org,
        deed("auth_key.created", caller, &record),
    )
    .await?;
    tx.commit().await?;
    Ok(CreatedAuthKey {
        record,
        key: key.expose().to_owned(),
    })
}

/// Lists keys, newest first: a member's own, an admin's whole org's.
pub(crate) async fn list(app: &App, caller: &Caller, query: &PageQuery) -> Result<Page<AuthKey>, AppError> {
    let window = Window::newest_first(query)?;
    let user = (!caller.is_admin()).then_some(caller.user);
    let mut conn = app.store.read().await?;
    let rows = store::auth_keys::list(&mut conn, caller.org, user, window.key(), window.fetch()).await?;
    Ok(window.cut(rows, |row| (row.created_at.unix_ms(), row.id.to_string())))
}

/// Revokes a key; the nodes that joined by it stay. A second time answers the same record.
pub(crate) async fn revoke(app: &App, caller: &Caller, id: AuthKeyId) -> Result<AuthKey, AppError> {
    let mut tx = app.store.write().await?;
    let before = visible(&mut tx, caller, id).await?;
    if !store::auth_keys::revoke(&mut tx, id, app.clock.wall()).await? {
        return Ok(before);
    }
    let after = visible(&mut tx, caller, id).await?;
    audit::record(app, &mut tx, caller.org, deed("auth_key.revoked", caller, &after)).await?;
    tx.commit().await?;
    Ok(after)
}

/// Lets in whoever holds a key. The same device with the same key is answered again: its first answer may be lost.
pub(crate) async fn join(app: &App, ip: IpAddr, request: Join) -> Result<Joined, AppError> {
    let address = origin(ip).to_string();
    let limited = app
        .limits
        .join_guess_by_address
        .look(&address, app.clock.now().mono);
    limited.map_err(AppError::rate_limited)?;
    let name = request.name.as_deref().map(|text| read_label("name", text));
    let name = name.transpose()?;
    let claims = Claims::read(app, request.about)?;
    let mut tx = app.store.write().await?;
    let found = store::auth_keys::find_by_hash(&mut tx, &secrets::hash(&request.auth_key)).await?;
    let Some((org, key)) = found else {
        return Err(wrong_guess(app, &address));
    };
    if let Some(known) = store::nodes::find_by_key(&mut tx, &claims.public_key).await? {
        may_again(app, &mut tx, (&known, key.id)).await?;
        drop(tx);
        return joined(app, org, known.node.id).await;
    }
    let now = app.clock.wall();
    if !store::auth_keys::spend(&mut tx, key.id, now).await? {
        return Err(useless(&key, now));
    }
    let org_name = store::orgs::find(&mut tx, org)
        .await?
        .ok_or_else(AppError::internal)?
        .name;
    let newcomer = Newcomer {
        claims,
        name,
        tags: key.tags.clone(),
        org,
        org_name,
        owner: key.user_id,
        auth_key: Some(key.id),
        ephemeral: key.ephemeral,
    };
    let mut attributes = newcomer.claims.attributes();
    attributes.insert("authKeyId".to_owned(), json!(key.id));
    attributes.insert("deviceIp".to_owned(), json!(ip));
    let node = admission::admit(app, &mut tx, newcomer).await?;
    let change = Change {
        action: "device.joined",
        event: "runmesh.device.linked",
        severity: Severity::Success,
        title: format!("{} joined by an auth key", node.name),
        attributes,
    };
    nodes::record(
        app,
        &mut tx,
        Actor::device(node.id, node.owner_user_id),
        &node,
        change,
    )
    .await?;
    let generation = store::orgs::raise_topology(&mut tx, org).await?;
    app.admit_to_platform(&mut tx, &node).await?;
    if let Err(error) = tx.commit().await {
        app.platform.expel(node.public_key).await;
        return Err(error.into());
    }
    app.tell_circle(org, node.id, generation).await;
    joined(app, org, node.id).await
}

/// Lets a device that has joined before ask again; only by the key that let it in.
async fn may_again(
    app: &App,
    tx: &mut Tx,
    (known, key): (&store::nodes::NodeRow, AuthKeyId),
) -> Result<(), AppError> {
    if known.node.status == NodeStatus::Revoked {
        return Err(revoked());
    }
    if is_over(known.node.key_expires_at, app.clock.wall()) {
        let message = "the key of this node has expired; link it anew, and have it approved";
        return Err(AppError::conflict(message));
    }
    if store::nodes::auth_key(tx, known.node.id).await? != Some(key) {
        return Err(AppError::conflict("this device is linked already"));
    }
    Ok(())
}

/// Says what a node is told that has joined, which must be committed. It may have been shut out at once.
async fn joined(app: &App, org: OrgId, id: NodeId) -> Result<Joined, AppError> {
    let mut conn = app.store.read().await?;
    let row = store::nodes::find(&mut conn, org, id)
        .await?
        .ok_or_else(revoked)?;
    let config = netmap::config(app, &mut conn, &row).await?.ok_or_else(revoked)?;
    Ok(Joined {
        node: row.node,
        config,
    })
}

fn wrong_guess(app: &App, address: &str) -> AppError {
    match app
        .limits
        .join_guess_by_address
        .take(address, app.clock.now().mono)
    {
        Ok(_) => AppError::new(ErrorCode::InvalidToken, "this auth key is not known"),
        Err(limit) => AppError::rate_limited(limit),
    }
}

/// Says why a key that is known lets nobody in.
fn useless(key: &AuthKey, now: Timestamp) -> AppError {
    if key.revoked_at.is_some() {
        AppError::new(ErrorCode::Gone, "this auth key was revoked")
    } else if key.expires_at <= now {
        AppError::new(ErrorCode::Gone, "this auth key has expired")
    } else {
        AppError::new(ErrorCode::Gone, "this auth key was used; it lets in one node")
    }
}

/// A member sees their own keys, an admin all of the org.
async fn visible(conn: &mut Conn, caller: &Caller, id: AuthKeyId) -> Result<AuthKey, AppError> {
    store::auth_keys::find(conn, caller.org, id)
        .await?
        .filter(|key| caller.is_admin() || key.user_id == caller.user)
        .ok_or_else(|| AppError::not_found("auth key"))
}

fn deed(action: &'static str, caller: &Caller, key: &AuthKey) -> Deed {
    Deed {
        action,
        target: Some(("auth_key", key.id.to_string())),
        actor: caller.actor(),
        attributes: Map::from_iter([
            ("name".to_owned(), json!(key.name)),
            ("prefix".to_owned(), json!(key.prefix)),
            ("reusable".to_owned(), json!(key.reusable)),
            ("ephemeral".to_owned(), json!(key.ephemeral)),
            ("tags".to_owned(), json!(key.tags)),
        ]),
    }
}
