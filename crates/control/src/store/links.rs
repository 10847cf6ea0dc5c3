//! Link codes, each bound to the key that asked for it.

use api::links::{Link, LinkStatus};
use serde_json::{Map, Value};
use sqlx::any::AnyRow;
use types::{NodeId, NodePublicKey, OrgId, Timestamp};

use super::query::QueryExt as _;
use super::row::{json_of, name_of};
use super::{Conn, RowExt as _, StoreError};

/// A code and what became of it.
#[derive(Clone, Debug)]
pub(crate) struct LinkRow {
    pub(crate) link: Link,
    pub(crate) client_metadata: Map<String, Value>,
    /// The org where it was decided.
    pub(crate) org: Option<OrgId>,
    /// The node it became there, once approved.
    pub(crate) node: Option<NodeId>,
}

/// Adds a pending code; [`StoreError::Taken`] when the code is.
pub(crate) async fn insert(conn: &mut Conn, row: &LinkRow) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO links (code, status, public_key, device_label, os, hostname, app_version, client_metadata, \
         ip, match_number, created_at, expires_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
    )
    .bind(row.link.code.as_str())
    .bind(name_of(&row.link.status))
    .bind(row.link.public_key.to_string())
    .bind(row.link.device_label.clone())
    .bind(row.link.os.clone())
    .bind(row.link.hostname.clone())
    .bind(row.link.app_version.clone())
    .bind(json_of(&row.client_metadata))
    .bind(row.link.ip.as_str())
    .bind(row.link.match_number.as_str())
    .bind(row.link.created_at.unix_ms())
    .bind(row.link.expires_at.unix_ms())
    .execute(conn)
    .await?;
    Ok(())
}

/// Finds a code.
pub(crate) async fn find(conn: &mut Conn, code: &str) -> Result<Option<LinkRow>, StoreError> {
    sqlx::query(
        "SELECT code, status, public_key, device_label, os, hostname, app_version, client_metadata, ip, \
         match_number, created_at, expires_at, org_id, node_id FROM links WHERE code = $1",
    )
    .bind(code)
    .one(conn, read)
    .await
}

/// Ends the pending code of a key, when it has one: a later code takes its place.
pub(crate) async fn supersede(conn: &mut Conn, key: &NodePublicKey) -> Result<(), StoreError> {
    sqlx::query("UPDATE links SET status = 'expired' WHERE public_key = $1 AND status = 'pending'")
        .bind(key.to_string())
        .execute(conn)
        .await?;
    Ok(())
}

/// Consumes a pending code; `false` when somebody else was first or its time is over.
pub(crate) async fn decide(
    conn: &mut Conn,
    code: &str,
    status: LinkStatus,
    (org, node): (OrgId, Option<NodeId>),
    now: Timestamp,
) -> Result<bool, StoreError> {
    let done = sqlx::query(
        "UPDATE links SET status = $1, org_id = $2, node_id = $3 \
         WHERE code = $4 AND status = 'pending' AND expires_at > $5",
    )
    .bind(name_of(&status))
    .bind(org.to_string())
    .bind(node.map(|id| id.to_string()))
    .bind(code)
    .bind(now.unix_ms())
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Forgets every code that ended before `now`.
pub(crate) async fn sweep(conn: &mut Conn, now: Timestamp) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM links WHERE expires_at < $1")
        .bind(now.unix_ms())
        .execute(conn)
        .await?;
    Ok(())
}

/// Counts the codes that wait for a decision.
pub(crate) async fn pending(conn: &mut Conn, now: Timestamp) -> Result<u64, StoreError> {
    let row = sqlx::query("SELECT COUNT(*) AS links FROM links WHERE status = 'pending' AND expires_at > $1")
        .bind(now.unix_ms())
        .fetch_one(conn)
        .await?;
    row.count("links")
}

/// Ends the oldest pending code of the address that has most of them; `false` when no address has more than one, or
/// `ip` itself has most.
pub(crate) async fn crowd_out(conn: &mut Conn, ip: &str, now: Timestamp) -> Result<bool, StoreError> {
    let row = sqlx::query(
        "SELECT ip FROM links WHERE status = 'pending' AND expires_at > $1 \
         GROUP BY ip HAVING COUNT(*) > 1 ORDER BY COUNT(*) DESC, ip LIMIT 1",
    )
    .bind(now.unix_ms())
    .fetch_optional(&mut *conn)
    .await?;
    let crowd = row.map(|row| row.text("ip")).transpose()?;
    let Some(crowd) = crowd.filter(|crowd| crowd != ip) else {
        return Ok(false);
    };
    let done = sqlx::query(
        "UPDATE links SET status = 'expired' WHERE code = (SELECT code FROM links WHERE ip = $1 \
         AND status = 'pending' AND expires_at > $2 ORDER BY created_at, code LIMIT 1)",
    )
    .bind(crowd)
    .bind(now.unix_ms())
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

fn read(row: &AnyRow) -> Result<LinkRow, StoreError> {
    let link = Link {
        code: row.text("code")?,
        status: row.named("status")?,
        public_key: row.parsed("public_key")?,
        device_label: row.maybe_text("device_label")?,
        os: row.maybe_text("os")?,
        app_version: row.maybe_text("app_version")?,
        hostname: row.maybe_text("hostname")?,
        ip: row.text("ip")?,
        match_number: row.text("match_number")?,
        created_at: row.time("created_at")?,
        expires_at: row.time("expires_at")?,
    };
    Ok(LinkRow {
        link,
        client_metadata: row.json("client_metadata")?,
        org: row.maybe_parsed("org_id")?,
        node: row.maybe_parsed("node_id")?,
    })
}
