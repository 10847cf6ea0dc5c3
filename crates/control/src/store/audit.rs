//! The audit log: append-only, each row bound to the one before by its hash (the recipe stands at `api::audit`).

use api::audit::{ActorType, AuditEvent};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};
use sqlx::any::AnyRow;
use types::{AuditId, OrgId, Timestamp, UserId};

use super::query::QueryExt as _;
use super::row::{canonical, json_of, name_of};
use super::{Conn, RowExt as _, StoreError};

/// A row before it has its number and its hash.
#[derive(Clone, Debug)]
pub(crate) struct AuditDraft {
    pub(crate) id: AuditId,
    pub(crate) org: OrgId,
    pub(crate) actor_type: ActorType,
    pub(crate) actor_id: Option<String>,
    pub(crate) action: &'static str,
    pub(crate) target_type: Option<&'static str>,
    pub(crate) target_id: Option<String>,
    pub(crate) ip: Option<String>,
    pub(crate) attributes: Map<String, Value>,
    pub(crate) created_at: Timestamp,
}

macro_rules! visible {
    ($rest:literal $(,)?) => {
        concat!(
            "WITH own AS (SELECT $2 AS id UNION SELECT id FROM api_keys WHERE org_id = $1 AND user_id = $2 ",
            "UNION SELECT id FROM nodes WHERE org_id = $1 AND owner_user_id = $2) ",
            "SELECT org_id, sequence, id, actor_type, actor_id, action, target_type, target_id, ip, attributes, ",
            "created_at, previous_hash, hash FROM audit WHERE org_id = $1 ",
            "AND ($2 = '' OR actor_id IN (SELECT id FROM own) OR target_id IN (SELECT id FROM own)) AND ",
            $rest
        )
    };
}

/// Appends a row in the transaction of the change it tells of.
pub(crate) async fn append(conn: &mut Conn, draft: AuditDraft) -> Result<(), StoreError> {
    let row = sqlx::query(
        "UPDATE orgs SET audit_sequence = audit_sequence + 1 WHERE id = $1 RETURNING audit_sequence, audit_hash",
    )
    .bind(draft.org.to_string())
    .fetch_one(&mut *conn)
    .await?;
    let event = number(draft, row.count("audit_sequence")?, row.text("audit_hash")?);
    insert(conn, &event).await?;
    sqlx::query("UPDATE orgs SET audit_hash = $1 WHERE id = $2")
        .bind(event.hash)
        .bind(event.org_id.to_string())
        .execute(conn)
        .await?;
    Ok(())
}

/// Lists rows of an org with numbers below `before`, newest first; with `visible_to`, only those where that person, or a
/// key or a node of theirs, did something or had something done to it.
pub(crate) async fn list(
    conn: &mut Conn,
    org: OrgId,
    visible_to: Option<UserId>,
    (before, limit): (i64, i64),
) -> Result<Vec<AuditEvent>, StoreError> {
    sqlx::query(visible!("sequence < $3 ORDER BY sequence DESC LIMIT $4"))
        .bind(org.to_string())
        .wanted(visible_to)
        .bind(before)
        .bind(limit)
        .all(conn, read)
        .await
}

/// Lists rows of an org with numbers above `after`, oldest first; with `visible_to` as in [`list`].
pub(crate) async fn export(
    conn: &mut Conn,
    org: OrgId,
    visible_to: Option<UserId>,
    (after, limit): (i64, i64),
) -> Result<Vec<AuditEvent>, StoreError> {
    sqlx::query(visible!("sequence > $3 ORDER BY sequence LIMIT $4"))
        .bind(org.to_string())
        .wanted(visible_to)
        .bind(after)
        .bind(limit)
        .all(conn, read)
        .await
}

async fn insert(conn: &mut Conn, event: &AuditEvent) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO audit (org_id, sequence, id, actor_type, actor_id, action, target_type, target_id, ip, \
         attributes, created_at, previous_hash, hash) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
    )
    .bind(event.org_id.to_string())
    .bind(i64::try_from(event.sequence).unwrap_or(i64::MAX))
    .bind(event.id.to_string())
    .bind(name_of(&event.actor_type))
    .bind(event.actor_id.clone())
    .bind(event.action.as_str())
    .bind(event.target_type.clone())
    .bind(event.target_id.clone())
    .bind(event.ip.clone())
    .bind(canonical(&event.attributes))
    .bind(event.created_at.unix_ms())
    .bind(event.previous_hash.as_str())
    .bind(event.hash.as_str())
    .execute(conn)
    .await?;
    Ok(())
}

fn number(draft: AuditDraft, sequence: u64, previous_hash: String) -> AuditEvent {
    let mut event = AuditEvent {
        id: draft.id,
        org_id: draft.org,
        sequence,
        actor_type: draft.actor_type,
        actor_id: draft.actor_id,
        action: draft.action.to_owned(),
        target_type: draft.target_type.map(str::to_owned),
        target_id: draft.target_id,
        ip: draft.ip,
        attributes: draft.attributes,
        created_at: draft.created_at,
        previous_hash,
        hash: String::new(),
    };
    event.hash = hash(&event);
    event
}

/// Computes the hash of a row by the recipe of `api::audit`.
pub(crate) fn hash(event: &AuditEvent) -> String {
    let text = json_of(&(
        &event.previous_hash,
        event.sequence,
        event.id,
        event.org_id,
        event.actor_type,
        &event.actor_id,
        &event.action,
        &event.target_type,
        &event.target_id,
        &event.ip,
        canonical(&event.attributes),
        event.created_at,
    ));
    Sha256::digest(text.as_bytes())
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn read(row: &AnyRow) -> Result<AuditEvent, StoreError> {
    Ok(AuditEvent {
        id: row.parsed("id")?,
        org_id: row.parsed("org_id")?,
        sequence: row.count("sequence")?,
        actor_type: row.named("actor_type")?,
        actor_id: row.maybe_text("actor_id")?,
        action: row.text("action")?,
        target_type: row.maybe_text("target_type")?,
        target_id: row.maybe_text("target_id")?,
        ip: row.maybe_text("ip")?,
        attributes: row.json("attributes")?,
        created_at: row.time("created_at")?,
        previous_hash: row.text("previous_hash")?,
        hash: row.text("hash")?,
    })
}
