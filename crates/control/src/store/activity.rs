//! The activity list.

use api::activity::{Activity, ActivityQuery};
use sqlx::any::AnyRow;
use types::{OrgId, Timestamp, UserId};

use super::query::QueryExt as _;
use super::row::{json_of, name_of};
use super::{Conn, RowExt as _, StoreError};

/// Appends a row in the transaction of the change it tells of.
pub(crate) async fn append(conn: &mut Conn, row: &Activity) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO activity (id, org_id, actor_user_id, actor_type, resource_type, resource_id, event_type, \
         severity, status, title, summary, attributes, thread_id, agent_run_id, sandbox_id, runmesh_node_id, \
         created_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)",
    )
    .bind(row.id.to_string())
    .bind(row.org_id.to_string())
    .bind(row.actor_user_id.map(|id| id.to_string()))
    .bind(name_of(&row.actor_type))
    .bind(name_of(&row.resource_type))
    .bind(row.resource_id.as_str())
    .bind(row.event_type.as_str())
    .bind(name_of(&row.severity))
    .bind(row.status.clone())
    .bind(row.title.as_str())
    .bind(row.summary.clone())
    .bind(json_of(&row.attributes))
    .bind(row.thread_id.map(|id| id.to_string()))
    .bind(row.agent_run_id.map(|id| id.to_string()))
    .bind(row.sandbox_id.clone())
    .bind(row.runmesh_node_id.map(|id| id.to_string()))
    .bind(row.created_at.unix_ms())
    .execute(conn)
    .await?;
    Ok(())
}

/// Lists rows of an org that pass the filters and come before `before` (time, id), newest first. With `visible_to`,
/// only that person's own.
pub(crate) async fn list(
    conn: &mut Conn,
    org: OrgId,
    visible_to: Option<UserId>,
    query: &ActivityQuery,
    (before, limit): ((i64, &str), i64),
) -> Result<Vec<Activity>, StoreError> {
    sqlx::query(
        "SELECT id, org_id, actor_user_id, actor_type, resource_type, resource_id, event_type, severity, status, \
         title, summary, attributes, thread_id, agent_run_id, sandbox_id, runmesh_node_id, created_at \
         FROM activity WHERE org_id = $1 AND ($2 = '' OR actor_user_id = $2) \
         AND ($3 = '' OR resource_type = $3) AND ($4 = '' OR resource_id = $4) AND ($5 = '' OR event_type = $5) \
         AND ($6 = '' OR severity = $6) AND ($7 = '' OR status = $7) AND ($8 = '' OR actor_user_id = $8) \
         AND ($9 = '' OR thread_id = $9) AND ($10 = '' OR agent_run_id = $10) \
         AND ($11 = '' OR sandbox_id = $11) AND ($12 = '' OR runmesh_node_id = $12) \
         AND created_at >= $13 AND created_at < $14 \
         AND (created_at < $15 OR (created_at = $15 AND id < $16)) \
         ORDER BY created_at DESC, id DESC LIMIT $17",
    )
    .bind(org.to_string())
    .wanted(visible_to)
    .wanted(query.resource_type.as_ref().map(name_of))
    .wanted(query.resource_id.clone())
    .wanted(query.event_type.clone())
    .wanted(query.severity.as_ref().map(name_of))
    .wanted(query.status.clone())
    .wanted(query.actor_user_id)
    .wanted(query.thread_id)
    .wanted(query.agent_run_id)
    .wanted(query.sandbox_id.clone())
    .wanted(query.runmesh_node_id)
    .bind(query.since.map_or(0, Timestamp::unix_ms))
    .bind(query.until.map_or(i64::MAX, Timestamp::unix_ms))
    .window(before, limit)
    .all(conn, read)
    .await
}

fn read(row: &AnyRow) -> Result<Activity, StoreError> {
    Ok(Activity {
        id: row.parsed("id")?,
        org_id: row.parsed("org_id")?,
        actor_user_id: row.maybe_parsed("actor_user_id")?,
        actor_type: row.named("actor_type")?,
        resource_type: row.named("resource_type")?,
        resource_id: row.text("resource_id")?,
        event_type: row.text("event_type")?,
        severity: row.named("severity")?,
        status: row.maybe_text("status")?,
        title: row.text("title")?,
        summary: row.maybe_text("summary")?,
        attributes: row.json("attributes")?,
        thread_id: row.maybe_parsed("thread_id")?,
        agent_run_id: row.maybe_parsed("agent_run_id")?,
        sandbox_id: row.maybe_text("sandbox_id")?,
        runmesh_node_id: row.maybe_parsed("runmesh_node_id")?,
        created_at: row.time("created_at")?,
    })
}
