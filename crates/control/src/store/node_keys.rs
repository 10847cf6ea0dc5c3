//! The keys of nodes beside the one in force: the one that is offered, the one before, and those that were given up.

use std::time::Duration;

use types::{NodeId, NodePublicKey, OrgId, Timestamp};

use super::query::QueryExt as _;
use super::{Conn, RowExt as _, StoreError};

/// Finds the device that offered this key.
pub(crate) async fn find_by_next(
    conn: &mut Conn,
    key: &NodePublicKey,
) -> Result<Option<(OrgId, NodeId)>, StoreError> {
    sqlx::query("SELECT org_id, id FROM nodes WHERE next_public_key = $1")
        .bind(key.to_string())
        .one(conn, |row| Ok((row.parsed("org_id")?, row.parsed("id")?)))
        .await
}

/// Finds the device that had this key before, while that is still taken.
pub(crate) async fn find_by_previous(
    conn: &mut Conn,
    key: &NodePublicKey,
    now: Timestamp,
) -> Result<Option<(OrgId, NodeId)>, StoreError> {
    sqlx::query("SELECT org_id, id FROM nodes WHERE previous_public_key = $1 AND previous_key_until > $2")
        .bind(key.to_string())
        .bind(now.unix_ms())
        .one(conn, |row| Ok((row.parsed("org_id")?, row.parsed("id")?)))
        .await
}

/// Returns the key that a node had before and until when it is taken, if one is noted.
pub(crate) async fn overlap(
    conn: &mut Conn,
    id: NodeId,
) -> Result<Option<(NodePublicKey, Timestamp)>, StoreError> {
    sqlx::query(
        "SELECT previous_public_key, previous_key_until FROM nodes \
         WHERE id = $1 AND previous_public_key IS NOT NULL",
    )
    .bind(id.to_string())
    .one(conn, |row| {
        Ok((
            row.parsed("previous_public_key")?,
            row.time("previous_key_until")?,
        ))
    })
    .await
}

/// Tells whether a key was a node's and was given up.
pub(crate) async fn is_retired(conn: &mut Conn, key: &NodePublicKey) -> Result<bool, StoreError> {
    let row = sqlx::query("SELECT COUNT(*) AS keys FROM retired_keys WHERE public_key = $1")
        .bind(key.to_string())
        .fetch_one(conn)
        .await?;
    Ok(row.int("keys")? > 0)
}

/// Notes the key that a node offers, over one that it offered before; [`StoreError::Taken`] when another node offers it.
pub(crate) async fn offer(conn: &mut Conn, id: NodeId, key: &NodePublicKey) -> Result<(), StoreError> {
    sqlx::query("UPDATE nodes SET next_public_key = $1 WHERE id = $2 AND revoked_at IS NULL")
        .bind(key.to_string())
        .bind(id.to_string())
        .execute(conn)
        .await?;
    Ok(())
}

/// A change of a node's key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Change {
    pub(crate) node: NodeId,
    pub(crate) old: NodePublicKey,
    pub(crate) new: NodePublicKey,
    /// Until when the old one is taken.
    pub(crate) until: Timestamp,
    /// When the new one expires.
    pub(crate) expires_at: Option<Timestamp>,
    pub(crate) now: Timestamp,
}

/// Puts the key that a node offered into force; `false` when it has not offered it, has another one, or is shut out.
pub(crate) async fn change(conn: &mut Conn, change: &Change) -> Result<bool, StoreError> {
    let done = sqlx::query(
        "UPDATE nodes SET public_key = $1, next_public_key = NULL, previous_public_key = $2, \
         previous_key_until = $3, key_made_at = $5, key_expires_at = $6 \
         WHERE id = $4 AND public_key = $2 AND next_public_key = $1 AND revoked_at IS NULL AND key_expired = 0",
    )
    .bind(change.new.to_string())
    .bind(change.old.to_string())
    .bind(change.until.unix_ms())
    .bind(change.node.to_string())
    .bind(change.now.unix_ms())
    .bind(change.expires_at.map(Timestamp::unix_ms))
    .execute(&mut *conn)
    .await?;
    if done.rows_affected() != 1 {
        return Ok(false);
    }
    sqlx::query("INSERT INTO retired_keys (public_key, node_id, retired_at) VALUES ($1, $2, $3)")
        .bind(change.old.to_string())
        .bind(change.node.to_string())
        .bind(change.now.unix_ms())
        .execute(conn)
        .await?;
    Ok(true)
}

/// Lists nodes whose key before is not taken any more, with their org and that key, those whose time was over first in front.
pub(crate) async fn over(
    conn: &mut Conn,
    now: Timestamp,
    limit: i64,
) -> Result<Vec<(OrgId, NodeId, NodePublicKey)>, StoreError> {
    sqlx::query(
        "SELECT org_id, id, previous_public_key FROM nodes WHERE previous_key_until IS NOT NULL \
         AND previous_key_until <= $1 ORDER BY previous_key_until, id LIMIT $2",
    )
    .bind(now.unix_ms())
    .bind(limit)
    .all(conn, |row| {
        Ok((
            row.parsed("org_id")?,
            row.parsed("id")?,
            row.parsed("previous_public_key")?,
        ))
    })
    .await
}

/// Forgets the key that a node had before.
pub(crate) async fn forget_previous(conn: &mut Conn, id: NodeId) -> Result<(), StoreError> {
    sqlx::query("UPDATE nodes SET previous_public_key = NULL, previous_key_until = NULL WHERE id = $1")
        .bind(id.to_string())
        .execute(conn)
        .await?;
    Ok(())
}

/// Has every key of an org expire so long after it was made, and not before `earliest`; `None` has none expire. Keys that
/// have expired stay so.
pub(crate) async fn set_expiry(
    conn: &mut Conn,
    org: OrgId,
    life: Option<(Duration, Timestamp)>,
) -> Result<(), StoreError> {
    let life_ms = life.map(|(life, _)| i64::try_from(life.as_millis()).unwrap_or(i64::MAX));
    let Some((life_ms, (_, earliest))) = life_ms.zip(life) else {
        sqlx::query("UPDATE nodes SET key_expires_at = NULL WHERE org_id = $1 AND key_expired = 0")
            .bind(org.to_string())
            .execute(conn)
            .await?;
        return Ok(());
    };
    sqlx::query(
        "UPDATE nodes SET key_expires_at = CASE WHEN key_made_at + $1 > $2 THEN key_made_at + $1 ELSE $2 END \
         WHERE org_id = $3 AND kind <> 'platform' AND revoked_at IS NULL AND key_expired = 0",
    )
    .bind(life_ms)
    .bind(earliest.unix_ms())
    .bind(org.to_string())
    .execute(conn)
    .await?;
    Ok(())
}

/// Gives the key of a node another end, and takes back that it has expired.
pub(crate) async fn extend(
    conn: &mut Conn,
    id: NodeId,
    expires_at: Option<Timestamp>,
) -> Result<(), StoreError> {
    sqlx::query("UPDATE nodes SET key_expires_at = $1, key_expired = 0 WHERE id = $2")
        .bind(expires_at.map(Timestamp::unix_ms))
        .bind(id.to_string())
        .execute(conn)
        .await?;
    Ok(())
}

/// Tells whether it was noted that the key of a node has expired.
pub(crate) async fn has_expired(conn: &mut Conn, id: NodeId) -> Result<bool, StoreError> {
    let found = sqlx::query("SELECT key_expired FROM nodes WHERE id = $1")
        .bind(id.to_string())
        .one(conn, |row| row.flag("key_expired"))
        .await?;
    Ok(found.unwrap_or(false))
}

/// Lists nodes whose keys have expired without it being noted, the first to expire in front.
pub(crate) async fn expired(
    conn: &mut Conn,
    now: Timestamp,
    limit: i64,
) -> Result<Vec<(OrgId, NodeId)>, StoreError> {
    sqlx::query(
        "SELECT org_id, id FROM nodes WHERE key_expires_at <= $1 AND key_expired = 0 AND revoked_at IS NULL \
         AND kind <> 'platform' ORDER BY key_expires_at, id LIMIT $2",
    )
    .bind(now.unix_ms())
    .bind(limit)
    .all(conn, |row| Ok((row.parsed("org_id")?, row.parsed("id")?)))
    .await
}

/// Notes that the key of a node has expired.
pub(crate) async fn expire(conn: &mut Conn, id: NodeId) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE nodes SET key_expired = 1, next_public_key = NULL, online = 0, path = NULL, path_reason = NULL \
         WHERE id = $1",
    )
    .bind(id.to_string())
    .execute(conn)
    .await?;
    Ok(())
}
