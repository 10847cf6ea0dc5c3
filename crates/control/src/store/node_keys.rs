//! The keys of nodes beside the one in force: the one that is offered, the one before, and those that were given up.

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
    pub(crate) now: Timestamp,
}

/// Puts the key that a node offered into force; `false` when it has not offered it, has another one, or is shut out.
pub(crate) async fn change(conn: &mut Conn, change: &Change) -> Result<bool, StoreError> {
    let done = sqlx::query(
        "UPDATE nodes SET public_key = $1, next_public_key = NULL, previous_public_key = $2, \
         previous_key_until = $3 WHERE id = $4 AND public_key = $2 AND next_public_key = $1 AND revoked_at IS NULL",
    )
    .bind(change.new.to_string())
    .bind(change.old.to_string())
    .bind(change.until.unix_ms())
    .bind(change.node.to_string())
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

/// Lists nodes whose key before is not taken any more, with that key, those whose time was over first in front.
pub(crate) async fn over(
    conn: &mut Conn,
    now: Timestamp,
    limit: i64,
) -> Result<Vec<(NodeId, NodePublicKey)>, StoreError> {
    sqlx::query(
        "SELECT id, previous_public_key FROM nodes WHERE previous_key_until IS NOT NULL \
         AND previous_key_until <= $1 ORDER BY previous_key_until, id LIMIT $2",
    )
    .bind(now.unix_ms())
    .bind(limit)
    .all(conn, |row| {
        Ok((row.parsed("id")?, row.parsed("previous_public_key")?))
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
