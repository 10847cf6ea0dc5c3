//! API keys: made for oneself, never stronger than the credential that makes them, shown once.

use std::time::Duration;

use api::Scope;
use api::api_keys::{ApiKey, ApiKeysQuery, CreateApiKey, CreatedApiKey, KeyLifetime};
use serde_json::{Map, json};
use types::{ApiKeyId, DisplayText, OrgId, Timestamp, UserId};

use super::audit::Deed;
use super::{App, AppError, Caller, Page, Window, audit, display_text, users};
use crate::secrets;
use crate::store::{self, Conn, StoreError};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// How many characters of a key its record shows: the prefix and four more.
const PREFIX_LEN: usize = 12;

/// A key to be made.
#[derive(Clone, Debug)]
pub(crate) struct NewKey {
    pub(crate) user: UserId,
    pub(crate) name: DisplayText,
    pub(crate) scopes: Vec<Scope>,
    pub(crate) is_test: bool,
    pub(crate) now: Timestamp,
    pub(crate) expires_at: Option<Timestamp>,
}

/// Draws a key and stores its hash.
pub(crate) async fn issue(conn: &mut Conn, org: OrgId, new: NewKey) -> Result<CreatedApiKey, StoreError> {
    let key = secrets::api_key(new.is_test);
    let record = ApiKey {
        id: ApiKeyId::from_random(secrets::bytes()),
        name: new.name.to_string(),
        prefix: key.expose()[..PREFIX_LEN].to_owned(),
        user_id: new.user,
        scopes: new.scopes,
        is_test: new.is_test,
        created_at: new.now,
        expires_at: new.expires_at,
        last_used_at: None,
        revoked_at: None,
    };
    store::api_keys::insert(conn, org, &record, &secrets::hash(key.expose())).await?;
    Ok(CreatedApiKey {
        record,
        key: key.expose().to_owned(),
    })
}

/// Makes a key for the caller.
pub(crate) async fn create(
    app: &App,
    caller: &Caller,
    request: CreateApiKey,
) -> Result<CreatedApiKey, AppError> {
    let name = display_text("name", &request.name)?;
    let mut scopes = request.scopes.unwrap_or_else(|| vec![Scope::All]);
    scopes.sort_unstable();
    scopes.dedup();
    if scopes.is_empty() {
        return Err(AppError::bad_request("scopes must name at least one scope"));
    }
    if let Some(beyond) = scopes.iter().find(|scope| !caller.covers(**scope)) {
        let message = format!("this credential lacks the scope {beyond} and cannot hand it on");
        return Err(AppError::forbidden(message));
    }
    let now = app.clock.wall();
    let new = NewKey {
        user: caller.user,
        name,
        scopes,
        is_test: request.is_test,
        now,
        expires_at: end_of(caller, request.expires_in.map(|life| now + span(life)))?,
    };
    let mut tx = app.store.write().await?;
    users::demand_member(&mut tx, caller).await?;
    let created = issue(&mut tx, caller.org, new).await?;
    audit::record(
        app,
        &mut tx,
        caller.org,
        deed("api_key.created", caller, &created.record),
    )
    .await?;
    tx.commit().await?;
    Ok(created)
}

/// No key outlives the one that made it: unless it says so itself, it ends with that one.
pub(super) fn end_of(caller: &Caller, asked: Option<Timestamp>) -> Result<Option<Timestamp>, AppError> {
    match (asked, caller.key_until) {
        (Some(end), Some(bound)) if end > bound => {
            let message = format!("this credential ends at {bound}; a key that it makes cannot live longer");
            Err(AppError::forbidden(message))
        }
        (asked, bound) => Ok(asked.or(bound)),
    }
}

/// Lists the caller's keys, or with `all` (admins) everyone's, newest first.
pub(crate) async fn list(app: &App, caller: &Caller, query: &ApiKeysQuery) -> Result<Page<ApiKey>, AppError> {
    let everyone = query.all.unwrap_or(false);
    if everyone {
        caller.demand_admin()?;
    }
    let window = Window::newest_first(&query.page())?;
    let user = (!everyone).then_some(caller.user);
    let mut conn = app.store.read().await?;
    let rows = store::api_keys::list(&mut conn, caller.org, user, window.key(), window.fetch()).await?;
    Ok(window.cut(rows, |row| (row.created_at.unix_ms(), row.id.to_string())))
}

/// Returns the record of one key that is not revoked; the list has the others.
pub(crate) async fn find(app: &App, caller: &Caller, id: ApiKeyId) -> Result<ApiKey, AppError> {
    let mut conn = app.store.read().await?;
    let key = visible(&mut conn, caller, id).await?;
    if key.revoked_at.is_some() {
        return Err(AppError::not_found("API key any more: it was revoked"));
    }
    Ok(key)
}

/// Revokes a key; a second time answers the same record.
pub(crate) async fn revoke(app: &App, caller: &Caller, id: ApiKeyId) -> Result<ApiKey, AppError> {
    let mut tx = app.store.write().await?;
    let before = visible(&mut tx, caller, id).await?;
    if !store::api_keys::revoke(&mut tx, caller.org, id, app.clock.wall()).await? {
        return Ok(before);
    }
    let after = visible(&mut tx, caller, id).await?;
    audit::record(app, &mut tx, caller.org, deed("api_key.revoked", caller, &after)).await?;
    tx.commit().await?;
    app.revocations.announce();
    Ok(after)
}

/// A member sees their own keys, an admin all of the org.
async fn visible(conn: &mut Conn, caller: &Caller, id: ApiKeyId) -> Result<ApiKey, AppError> {
    store::api_keys::find(conn, caller.org, id)
        .await?
        .filter(|key| caller.is_admin() || key.user_id == caller.user)
        .ok_or_else(|| AppError::not_found("API key"))
}

fn deed(action: &'static str, caller: &Caller, key: &ApiKey) -> Deed {
    Deed {
        action,
        target: Some(("api_key", key.id.to_string())),
        actor: caller.actor(),
        attributes: Map::from_iter([
            ("name".to_owned(), json!(key.name)),
            ("prefix".to_owned(), json!(key.prefix)),
            ("scopes".to_owned(), json!(key.scopes)),
        ]),
    }
}

fn span(life: KeyLifetime) -> Duration {
    match life {
        KeyLifetime::Days30 => 30 * DAY,
        KeyLifetime::Days90 => 90 * DAY,
        KeyLifetime::Year => 365 * DAY,
    }
}
