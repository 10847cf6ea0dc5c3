//! Signed-in browsers of the link page: opened with an API key, good for half a day.

use std::net::IpAddr;
use std::time::Duration;

use api::ErrorCode;
use types::SecretString;

use super::access::{Credential, authenticate};
use super::{App, AppError, Caller};
use crate::door::origin;
use crate::{secrets, store};

/// How long a browser stays signed in.
pub(crate) const LIFETIME: Duration = Duration::from_secs(12 * 60 * 60);

/// A signed-in browser.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) caller: Caller,
    /// What every form of this browser must carry.
    pub(crate) csrf: SecretString,
}

/// Opens a session with an API key; returns its token.
pub(crate) async fn sign_in(app: &App, ip: IpAddr, key: &str) -> Result<SecretString, AppError> {
    let now = app.clock.now();
    app.limits
        .sign_in
        .take(&origin(ip).to_string(), now.mono)
        .map_err(AppError::rate_limited)?;
    let caller = authenticate(app, Some(key.trim()), ip).await?;
    let Credential::ApiKey(key) = caller.credential else {
        return Err(AppError::new(ErrorCode::InvalidToken, "sign in with an API key"));
    };
    let token = secrets::session_token();
    let life = (now.wall, now.wall + LIFETIME);
    let mut tx = app.store.write().await?;
    store::sessions::sweep(&mut tx, now.wall).await?;
    let hash = secrets::hash(token.expose());
    store::sessions::insert(&mut tx, &hash, key, &secrets::csrf_token(), life).await?;
    tx.commit().await?;
    Ok(token)
}

/// Finds the session of a browser; `None` when it has none that is good.
pub(crate) async fn find(app: &App, ip: IpAddr, token: &str) -> Result<Option<Session>, AppError> {
    if !token.starts_with("rts_") {
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

/// Ends a session.
pub(crate) async fn sign_out(app: &App, token: &str) -> Result<(), AppError> {
    let mut tx = app.store.write().await?;
    store::sessions::delete(&mut tx, &secrets::hash(token)).await?;
    Ok(tx.commit().await?)
}
