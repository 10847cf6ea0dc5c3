//! Signed-in browsers: the SHA-256 of each session token, never the token.

use types::{ApiKeyId, Timestamp};

use super::api_keys::{CredentialRow, read_credential};
use super::{Conn, RowExt as _, StoreError};

/// A signed-in browser.
#[derive(Clone, Debug)]
pub(crate) struct SessionRow {
    pub(crate) credential: CredentialRow,
    pub(crate) csrf: String,
    pub(crate) expires_at: Timestamp,
}

/// Adds a session that was opened with an API key.
pub(crate) async fn insert(
    conn: &mut Conn,
    hash: &str,
    key: ApiKeyId,
    csrf: &str,
    life: (Timestamp, Timestamp),
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO sessions (hash, api_key_id, csrf, created_at, expires_at) VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(hash)
    .bind(key.to_string())
    .bind(csrf)
    .bind(life.0.unix_ms())
    .bind(life.1.unix_ms())
    .execute(conn)
    .await?;
    Ok(())
}

/// Finds whose session has this hash, an expired one too.
pub(crate) async fn find(conn: &mut Conn, hash: &str) -> Result<Option<SessionRow>, StoreError> {
    let row = sqlx::query(
        "SELECT k.id, k.name, k.prefix, k.user_id, k.scopes, k.is_test, k.created_at, k.expires_at, \
         k.last_used_at, k.revoked_at, k.org_id, o.name AS org_name, m.role, s.csrf, \
         s.expires_at AS session_expires_at \
         FROM sessions s JOIN api_keys k ON k.id = s.api_key_id JOIN orgs o ON o.id = k.org_id \
         JOIN members m ON m.org_id = k.org_id AND m.user_id = k.user_id WHERE s.hash = $1",
    )
    .bind(hash)
    .fetch_optional(conn)
    .await?;
    row.map(|row| {
        Ok(SessionRow {
            credential: read_credential(&row)?,
            csrf: row.text("csrf")?,
            expires_at: row.time("session_expires_at")?,
        })
    })
    .transpose()
}

/// Forgets a session.
pub(crate) async fn delete(conn: &mut Conn, hash: &str) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM sessions WHERE hash = $1")
        .bind(hash)
        .execute(conn)
        .await?;
    Ok(())
}

/// Forgets every session that ended before `now`.
pub(crate) async fn sweep(conn: &mut Conn, now: Timestamp) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM sessions WHERE expires_at < $1")
        .bind(now.unix_ms())
        .execute(conn)
        .await?;
    Ok(())
}
