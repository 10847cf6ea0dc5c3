//! Keys by which nodes join: the SHA-256 of each, never the key, spent in the same write as the node's insert.

use api::auth_keys::AuthKey;
use sqlx::any::AnyRow;
use types::{AuthKeyId, OrgId, Timestamp, UserId};

use super::query::QueryExt as _;
use super::row::json_of;
use super::{Conn, RowExt as _, StoreError};

macro_rules! select {
    ($rest:literal $(,)?) => {
        concat!(
            "SELECT id, org_id, user_id, name, prefix, reusable, ephemeral, tags, uses, last_used_at, created_at, ",
            "expires_at, revoked_at FROM auth_keys ",
            $rest
        )
    };
}

/// Adds a key.
pub(crate) async fn insert(conn: &mut Conn, org: OrgId, key: &AuthKey, hash: &str) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO auth_keys (id, org_id, user_id, name, prefix, hash, reusable, ephemeral, tags, uses, \
         created_at, expires_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 0, $10, $11)",
    )
    .bind(key.id.to_string())
    .bind(org.to_string())
    .bind(key.user_id.to_string())
    .bind(key.name.as_str())
    .bind(key.prefix.as_str())
    .bind(hash)
    .bind(i64::from(key.reusable))
    .bind(i64::from(key.ephemeral))
    .bind(json_of(&key.tags))
    .bind(key.created_at.unix_ms())
    .bind(key.expires_at.unix_ms())
    .execute(conn)
    .await?;
    Ok(())
}

/// Finds the key with this hash and its org, a spent, expired or revoked one too.
pub(crate) async fn find_by_hash(
    conn: &mut Conn,
    hash: &str,
) -> Result<Option<(OrgId, AuthKey)>, StoreError> {
    sqlx::query(select!("WHERE hash = $1"))
        .bind(hash)
        .one(conn, |row| Ok((row.parsed("org_id")?, read(row)?)))
        .await
}

/// Finds a key of an org.
pub(crate) async fn find(conn: &mut Conn, org: OrgId, id: AuthKeyId) -> Result<Option<AuthKey>, StoreError> {
    sqlx::query(select!("WHERE org_id = $1 AND id = $2"))
        .bind(org.to_string())
        .bind(id.to_string())
        .one(conn, read)
        .await
}

/// Lists keys of an org, of one person or of all, that come before `before` (time, id), newest first.
pub(crate) async fn list(
    conn: &mut Conn,
    org: OrgId,
    user: Option<UserId>,
    before: (i64, &str),
    limit: i64,
) -> Result<Vec<AuthKey>, StoreError> {
    sqlx::query(select!(
        "WHERE org_id = $1 AND ($2 = '' OR user_id = $2) AND (created_at < $3 OR (created_at = $3 AND id < $4)) \
         ORDER BY created_at DESC, id DESC LIMIT $5"
    ))
    .bind(org.to_string())
    .wanted(user)
    .window(before, limit)
    .all(conn, read)
    .await
}

/// Counts the keys of an org that can still be used.
pub(crate) async fn open(conn: &mut Conn, org: OrgId, now: Timestamp) -> Result<u64, StoreError> {
    let row = sqlx::query(
        "SELECT COUNT(*) AS keys FROM auth_keys WHERE org_id = $1 AND revoked_at IS NULL AND expires_at > $2 \
         AND (reusable = 1 OR uses = 0)",
    )
    .bind(org.to_string())
    .bind(now.unix_ms())
    .fetch_one(conn)
    .await?;
    row.count("keys")
}

/// Spends one use; tells whether there was one left. Of two that race for the last, one gets it.
pub(crate) async fn spend(conn: &mut Conn, id: AuthKeyId, now: Timestamp) -> Result<bool, StoreError> {
    let done = sqlx::query(
        "UPDATE auth_keys SET uses = uses + 1, last_used_at = $1 WHERE id = $2 AND revoked_at IS NULL \
         AND expires_at > $1 AND (reusable = 1 OR uses = 0)",
    )
    .bind(now.unix_ms())
    .bind(id.to_string())
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Revokes a key for ever; tells whether it was not revoked yet.
pub(crate) async fn revoke(conn: &mut Conn, id: AuthKeyId, now: Timestamp) -> Result<bool, StoreError> {
    let done = sqlx::query("UPDATE auth_keys SET revoked_at = $1 WHERE id = $2 AND revoked_at IS NULL")
        .bind(now.unix_ms())
        .bind(id.to_string())
        .execute(conn)
        .await?;
    Ok(done.rows_affected() == 1)
}

fn read(row: &AnyRow) -> Result<AuthKey, StoreError> {
    Ok(AuthKey {
        id: row.parsed("id")?,
        name: row.text("name")?,
        prefix: row.text("prefix")?,
        user_id: row.parsed("user_id")?,
        reusable: row.flag("reusable")?,
        ephemeral: row.flag("ephemeral")?,
        tags: row.json("tags")?,
        uses: row.count("uses")?,
        last_used_at: row.maybe_time("last_used_at")?,
        created_at: row.time("created_at")?,
        expires_at: row.time("expires_at")?,
        revoked_at: row.maybe_time("revoked_at")?,
    })
}
