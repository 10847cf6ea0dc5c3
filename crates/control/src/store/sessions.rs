//! Signed-in browsers: the SHA-256 of each session token, never the token.

use api::sessions::{Session, SignInMethod};
use api::{Role, Scope};
use sqlx::any::AnyRow;
use types::{ApiKeyId, OrgId, OrgName, SessionId, Timestamp, UserId};

use super::query::QueryExt as _;
use super::{Conn, RowExt as _, StoreError};

/// A signed-in browser, and whom it stands for.
#[derive(Clone, Debug)]
pub(crate) struct SessionRow {
    pub(crate) id: SessionId,
    pub(crate) org: OrgId,
    pub(crate) org_name: OrgName,
    pub(crate) user: UserId,
    pub(crate) role: Role,
    /// What the member's sessions are good for when no key opened them.
    pub(crate) scopes: Vec<Scope>,
    /// The key that opened it, if one did.
    pub(crate) key: Option<ApiKeyId>,
    pub(crate) csrf: String,
    pub(crate) expires_at: Timestamp,
}

/// A session to be stored.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewSession<'a> {
    pub(crate) id: SessionId,
    pub(crate) hash: &'a str,
    pub(crate) org: OrgId,
    pub(crate) user: UserId,
    pub(crate) key: Option<ApiKeyId>,
    pub(crate) csrf: &'a str,
    pub(crate) ip: &'a str,
    pub(crate) created_at: Timestamp,
    pub(crate) expires_at: Timestamp,
}

macro_rules! joined {
    ($rest:literal) => {
        concat!(
            "SELECT s.id, s.org_id, o.name AS org_name, s.user_id, m.role, m.scopes, s.api_key_id, s.csrf, ",
            "s.expires_at FROM sessions s JOIN orgs o ON o.id = s.org_id ",
            "JOIN members m ON m.org_id = s.org_id AND m.user_id = s.user_id ",
            $rest
        )
    };
}

macro_rules! listed {
    ($rest:literal) => {
        concat!(
            "SELECT s.id, s.user_id, s.api_key_id, s.ip, s.created_at, s.expires_at FROM sessions s ",
            $rest
        )
    };
}

/// Adds a session.
pub(crate) async fn insert(conn: &mut Conn, new: NewSession<'_>) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO sessions (id, hash, org_id, user_id, api_key_id, csrf, ip, created_at, expires_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(new.id.to_string())
    .bind(new.hash)
    .bind(new.org.to_string())
    .bind(new.user.to_string())
    .bind(new.key.map(|id| id.to_string()))
    .bind(new.csrf)
    .bind(new.ip)
    .bind(new.created_at.unix_ms())
    .bind(new.expires_at.unix_ms())
    .execute(conn)
    .await?;
    Ok(())
}

/// Finds whose session has this hash, an expired one too.
pub(crate) async fn find(conn: &mut Conn, hash: &str) -> Result<Option<SessionRow>, StoreError> {
    sqlx::query(joined!("WHERE s.hash = $1"))
        .bind(hash)
        .one(conn, read)
        .await
}

/// Tells whether a session is still there, with its person in the org.
pub(crate) async fn stands(conn: &mut Conn, id: SessionId) -> Result<bool, StoreError> {
    let row = sqlx::query(joined!("WHERE s.id = $1"))
        .bind(id.to_string())
        .fetch_optional(conn)
        .await?;
    Ok(row.is_some())
}

/// Finds a session of an org as it is listed.
pub(crate) async fn find_listed(
    conn: &mut Conn,
    org: OrgId,
    id: SessionId,
) -> Result<Option<Session>, StoreError> {
    sqlx::query(listed!("WHERE s.org_id = $1 AND s.id = $2"))
        .bind(org.to_string())
        .bind(id.to_string())
        .one(conn, read_listed)
        .await
}

/// Lists the sessions of an org that are good at `now`, of one person or of all, that come before `before` (time, id),
/// newest first.
pub(crate) async fn list(
    conn: &mut Conn,
    (org, user): (OrgId, Option<UserId>),
    now: Timestamp,
    before: (i64, &str),
    limit: i64,
) -> Result<Vec<Session>, StoreError> {
    sqlx::query(listed!(
        "LEFT JOIN api_keys k ON k.id = s.api_key_id \
         WHERE s.org_id = $1 AND ($2 = '' OR s.user_id = $2) AND s.expires_at > $3 AND k.revoked_at IS NULL \
         AND (k.expires_at IS NULL OR k.expires_at > $3) \
         AND (s.created_at < $4 OR (s.created_at = $4 AND s.id < $5)) \
         ORDER BY s.created_at DESC, s.id DESC LIMIT $6"
    ))
    .bind(org.to_string())
    .wanted(user)
    .bind(now.unix_ms())
    .window(before, limit)
    .all(conn, read_listed)
    .await
}

/// Forgets a session; tells whether it was there.
pub(crate) async fn delete(conn: &mut Conn, id: SessionId) -> Result<bool, StoreError> {
    let done = sqlx::query("DELETE FROM sessions WHERE id = $1")
        .bind(id.to_string())
        .execute(conn)
        .await?;
    Ok(done.rows_affected() == 1)
}

/// Forgets every session that ended before `now`.
pub(crate) async fn sweep(conn: &mut Conn, now: Timestamp) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM sessions WHERE expires_at < $1")
        .bind(now.unix_ms())
        .execute(conn)
        .await?;
    Ok(())
}

/// Forgets a person's oldest sessions in an org so that at most `kept` stay.
pub(crate) async fn crowd_out(
    conn: &mut Conn,
    org: OrgId,
    user: UserId,
    kept: i64,
) -> Result<(), StoreError> {
    sqlx::query(
        "DELETE FROM sessions WHERE id IN (SELECT id FROM sessions WHERE org_id = $1 AND user_id = $2 \
         ORDER BY created_at DESC, id DESC LIMIT 1000000 OFFSET $3)",
    )
    .bind(org.to_string())
    .bind(user.to_string())
    .bind(kept)
    .execute(conn)
    .await?;
    Ok(())
}

fn read(row: &AnyRow) -> Result<SessionRow, StoreError> {
    Ok(SessionRow {
        id: row.parsed("id")?,
        org: row.parsed("org_id")?,
        org_name: row.parsed("org_name")?,
        user: row.parsed("user_id")?,
        role: row.named("role")?,
        scopes: row.json("scopes")?,
        key: row.maybe_parsed("api_key_id")?,
        csrf: row.text("csrf")?,
        expires_at: row.time("expires_at")?,
    })
}

fn read_listed(row: &AnyRow) -> Result<Session, StoreError> {
    let key: Option<ApiKeyId> = row.maybe_parsed("api_key_id")?;
    Ok(Session {
        id: row.parsed("id")?,
        user_id: row.parsed("user_id")?,
        method: match key {
            Some(_) => SignInMethod::ApiKey,
            None => SignInMethod::Oidc,
        },
        ip: row.text("ip")?,
        created_at: row.time("created_at")?,
        expires_at: row.time("expires_at")?,
        current: false,
    })
}
