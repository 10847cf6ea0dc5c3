//! API keys: their records and the SHA-256 of each key, never the key.

use api::api_keys::ApiKey;
use api::{Role, Scope};
use sqlx::any::AnyRow;
use types::{ApiKeyId, OrgId, OrgName, Timestamp, UserId};

use super::query::QueryExt as _;
use super::row::json_of;
use super::{Conn, RowExt as _, StoreError};

/// Who a credential belongs to and what it is good for, as one look-up finds it.
#[derive(Clone, Debug)]
pub(crate) struct CredentialRow {
    pub(crate) key: ApiKey,
    pub(crate) org: OrgId,
    pub(crate) org_name: OrgName,
    pub(crate) role: Role,
}

macro_rules! select {
    ($rest:literal $(,)?) => {
        concat!(
            "SELECT id, name, prefix, user_id, scopes, is_test, created_at, expires_at, last_used_at, revoked_at ",
            "FROM api_keys ",
            $rest
        )
    };
}

/// Adds a key of a member.
pub(crate) async fn insert(conn: &mut Conn, org: OrgId, key: &ApiKey, hash: &str) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO api_keys (id, org_id, user_id, name, prefix, hash, scopes, is_test, created_at, expires_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
    )
    .bind(key.id.to_string())
    .bind(org.to_string())
    .bind(key.user_id.to_string())
    .bind(key.name.as_str())
    .bind(key.prefix.as_str())
    .bind(hash)
    .bind(json_of(&key.scopes))
    .bind(i64::from(key.is_test))
    .bind(key.created_at.unix_ms())
    .bind(key.expires_at.map(Timestamp::unix_ms))
    .execute(conn)
    .await?;
    Ok(())
}

/// Finds whose key has this hash, revoked and expired ones too.
pub(crate) async fn credential(conn: &mut Conn, hash: &str) -> Result<Option<CredentialRow>, StoreError> {
    sqlx::query(
        "SELECT k.id, k.name, k.prefix, k.user_id, k.scopes, k.is_test, k.created_at, k.expires_at, \
         k.last_used_at, k.revoked_at, k.org_id, o.name AS org_name, m.role \
         FROM api_keys k JOIN orgs o ON o.id = k.org_id \
         JOIN members m ON m.org_id = k.org_id AND m.user_id = k.user_id WHERE k.hash = $1",
    )
    .bind(hash)
    .one(conn, read_credential)
    .await
}

/// Finds a key of an org.
pub(crate) async fn find(conn: &mut Conn, org: OrgId, id: ApiKeyId) -> Result<Option<ApiKey>, StoreError> {
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
) -> Result<Vec<ApiKey>, StoreError> {
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

/// Revokes a key for ever; tells whether it was still good.
pub(crate) async fn revoke(
    conn: &mut Conn,
    org: OrgId,
    id: ApiKeyId,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let done = sqlx::query(
        "UPDATE api_keys SET revoked_at = $1 WHERE org_id = $2 AND id = $3 AND revoked_at IS NULL",
    )
    .bind(now.unix_ms())
    .bind(org.to_string())
    .bind(id.to_string())
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Notes that a key was used.
pub(crate) async fn touch(conn: &mut Conn, id: ApiKeyId, now: Timestamp) -> Result<(), StoreError> {
    sqlx::query("UPDATE api_keys SET last_used_at = $1 WHERE id = $2")
        .bind(now.unix_ms())
        .bind(id.to_string())
        .execute(conn)
        .await?;
    Ok(())
}

fn read_credential(row: &AnyRow) -> Result<CredentialRow, StoreError> {
    Ok(CredentialRow {
        key: read(row)?,
        org: row.parsed("org_id")?,
        org_name: row.parsed("org_name")?,
        role: row.named("role")?,
    })
}

fn read(row: &AnyRow) -> Result<ApiKey, StoreError> {
    Ok(ApiKey {
        id: row.parsed("id")?,
        name: row.text("name")?,
        prefix: row.text("prefix")?,
        user_id: row.parsed("user_id")?,
        scopes: row.json::<Vec<Scope>>("scopes")?,
        is_test: row.flag("is_test")?,
        created_at: row.time("created_at")?,
        expires_at: row.maybe_time("expires_at")?,
        last_used_at: row.maybe_time("last_used_at")?,
        revoked_at: row.maybe_time("revoked_at")?,
    })
}
