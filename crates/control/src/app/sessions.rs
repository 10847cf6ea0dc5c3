//! Signed-in browsers: opened with an API key or by the sign-in provider, good for half a day, ended at will.

use std::net::IpAddr;
use std::time::Duration;

use api::ErrorCode;
use api::sessions::{Session as Listed, SessionsQuery};
use serde_json::{Map, json};
use types::{ApiKeyId, OrgId, SecretString, SessionId, UserId};

use super::access::{Credential, authenticate};
use super::audit::Deed;
use super::{Actor, App, AppError, Caller, Page, Window, audit};
use crate::door::origin;
use crate::secrets;
use crate::store::sessions::NewSession;
use crate::store::{self, Conn, StoreError};

/// How long a browser stays signed in.
pub(crate) const LIFETIME: Duration = Duration::from_secs(12 * 60 * 60);

/// How many sessions a person has in one org; a further one ends the oldest.
pub(crate) const PER_PERSON_MAX: i64 = 100;

/// A signed-in browser.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) caller: Caller,
    /// What every form of this browser must carry.
    pub(crate) csrf: SecretString,
}

/// Whose session is to be opened.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Opening {
    pub(crate) org: OrgId,
    pub(crate) user: UserId,
    /// The key it is opened with and dies with; none when the provider vouches.
    pub(crate) key: Option<ApiKeyId>,
    pub(crate) ip: IpAddr,
}

/// Opens a session with an API key; returns its token.
pub(crate) async fn sign_in(app: &App, ip: IpAddr, key: &str) -> Result<SecretString, AppError> {
    demand_patience(app, ip)?;
    let caller = authenticate(app, Some(key.trim()), ip).await?;
    let Credential::ApiKey(key) = caller.credential else {
        return Err(AppError::new(ErrorCode::InvalidToken, "sign in with an API key"));
    };
    let opening = Opening {
        org: caller.org,
        user: caller.user,
        key: Some(key),
        ip,
    };
    let mut tx = app.store.write().await?;
    let token = open(app, &mut tx, opening).await?;
    tx.commit().await?;
    Ok(token)
}

/// Takes one try at signing in from an address's bucket.
pub(crate) fn demand_patience(app: &App, ip: IpAddr) -> Result<(), AppError> {
    let taken = app
        .limits
        .sign_in
        .take(&origin(ip).to_string(), app.clock.now().mono);
    taken.map(|_| ()).map_err(AppError::rate_limited)
}

/// Opens a session within a write; returns its token.
pub(crate) async fn open(app: &App, conn: &mut Conn, opening: Opening) -> Result<SecretString, StoreError> {
    let now = app.clock.wall();
    let (token, csrf) = (secrets::session_token(), secrets::token());
    let new = NewSession {
        id: SessionId::from_random(secrets::bytes()),
        hash: &secrets::hash(token.expose()),
        org: opening.org,
        user: opening.user,
        key: opening.key,
        csrf: csrf.expose(),
        ip: &opening.ip.to_string(),
        created_at: now,
        expires_at: now + LIFETIME,
    };
    store::sessions::sweep(conn, now).await?;
    store::sessions::insert(conn, new).await?;
    store::sessions::crowd_out(conn, opening.org, opening.user, PER_PERSON_MAX).await?;
    let actor = match opening.key {
        Some(key) => Actor::key(key, opening.user, opening.ip),
        None => Actor::person(opening.user, opening.ip),
    };
    let deed = Deed {
        action: "session.opened",
        target: Some(("session", new.id.to_string())),
        actor,
        attributes: Map::new(),
    };
    audit::record(app, conn, opening.org, deed).await?;
    Ok(token)
}

/// Finds the session of a browser; `None` when it has none that is good.
pub(crate) async fn find(app: &App, ip: IpAddr, token: &str) -> Result<Option<Session>, AppError> {
    if !token.starts_with(secrets::SESSION_PREFIX) {
        return Ok(None);
    }
    let caller = match authenticate(app, Some(token), ip).await {
        Ok(caller) => caller,
        Err(error) if error.code.status() == 401 => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut conn = app.store.read().await?;
    let row = store::sessions::find(&mut conn, &secrets::hash(token)).await?;
    Ok(row.map(|row| Session {
        caller,
        csrf: SecretString::new(row.csrf),
    }))
}

/// Lists the caller's sessions that are good, or with `all` (admins) everyone's, newest first.
pub(crate) async fn list(
    app: &App,
    caller: &Caller,
    query: &SessionsQuery,
) -> Result<Page<Listed>, AppError> {
    let everyone = query.all.unwrap_or(false);
    if everyone {
        caller.demand_admin()?;
    }
    let window = Window::newest_first(&query.page())?;
    let whose = (caller.org, (!everyone).then_some(caller.user));
    let now = app.clock.wall();
    let mut conn = app.store.read().await?;
    let mut rows = store::sessions::list(&mut conn, whose, now, window.key(), window.fetch()).await?;
    for row in &mut rows {
        row.current = caller.credential.session() == Some(row.id);
    }
    Ok(window.cut(rows, |row| (row.created_at.unix_ms(), row.id.to_string())))
}

/// Ends a session: a member their own, an admin any of the org. What is open with it is cut.
pub(crate) async fn end(app: &App, caller: &Caller, id: SessionId) -> Result<Listed, AppError> {
    let mut tx = app.store.write().await?;
    let found = store::sessions::find_listed(&mut tx, caller.org, id).await?;
    let mut session = found
        .filter(|session| caller.is_admin() || session.user_id == caller.user)
        .ok_or_else(|| AppError::not_found("session"))?;
    session.current = caller.credential.session() == Some(id);
    store::sessions::delete(&mut tx, id).await?;
    let deed = Deed {
        action: "session.ended",
        target: Some(("session", id.to_string())),
        actor: caller.actor(),
        attributes: Map::from_iter([("userId".to_owned(), json!(session.user_id))]),
    };
    audit::record(app, &mut tx, caller.org, deed).await?;
    tx.commit().await?;
    app.revocations.announce();
    Ok(session)
}
