//! Agents.

use api::agents::Agent;
use sqlx::any::AnyRow;
use types::{AgentId, AgentSlug, OrgId, UserId};

use super::query::QueryExt as _;
use super::row::json_of;
use super::{Conn, RowExt as _, StoreError};

macro_rules! select {
    ($rest:literal $(,)?) => {
        concat!(
            "SELECT id, org_id, owner_user_id, slug, settings, version, created_at, updated_at FROM agents ",
            $rest
        )
    };
}

/// Adds an agent; [`StoreError::Taken`] when its slug is.
pub(crate) async fn insert(conn: &mut Conn, agent: &Agent) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO agents (id, org_id, owner_user_id, slug, settings, version, created_at, updated_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(agent.id.to_string())
    .bind(agent.org_id.to_string())
    .bind(agent.owner_user_id.to_string())
    .bind(agent.slug.as_str())
    .bind(json_of(&agent.settings))
    .bind(i64::from(agent.version))
    .bind(agent.created_at.unix_ms())
    .bind(agent.updated_at.unix_ms())
    .execute(conn)
    .await?;
    Ok(())
}

/// Writes an agent's settings, version and time of change.
pub(crate) async fn update(conn: &mut Conn, agent: &Agent) -> Result<(), StoreError> {
    sqlx::query("UPDATE agents SET settings = $1, version = $2, updated_at = $3 WHERE id = $4")
        .bind(json_of(&agent.settings))
        .bind(i64::from(agent.version))
        .bind(agent.updated_at.unix_ms())
        .bind(agent.id.to_string())
        .execute(conn)
        .await?;
    Ok(())
}

/// Finds an agent of an org by its slug.
pub(crate) async fn by_slug(
    conn: &mut Conn,
    org: OrgId,
    slug: &AgentSlug,
) -> Result<Option<Agent>, StoreError> {
    sqlx::query(select!("WHERE org_id = $1 AND slug = $2"))
        .bind(org.to_string())
        .bind(slug.as_str())
        .one(conn, read)
        .await
}

/// Finds an agent of an org by its id.
pub(crate) async fn by_id(conn: &mut Conn, org: OrgId, id: AgentId) -> Result<Option<Agent>, StoreError> {
    sqlx::query(select!("WHERE org_id = $1 AND id = $2"))
        .bind(org.to_string())
        .bind(id.to_string())
        .one(conn, read)
        .await
}

/// Lists agents of an org, of one person or of all, that come after `after` (time, id), oldest first.
pub(crate) async fn list(
    conn: &mut Conn,
    org: OrgId,
    owner: Option<UserId>,
    after: (i64, &str),
    limit: i64,
) -> Result<Vec<Agent>, StoreError> {
    sqlx::query(select!(
        "WHERE org_id = $1 AND ($2 = '' OR owner_user_id = $2) \
         AND (created_at > $3 OR (created_at = $3 AND id > $4)) ORDER BY created_at, id LIMIT $5"
    ))
    .bind(org.to_string())
    .wanted(owner)
    .window(after, limit)
    .all(conn, read)
    .await
}

/// Deletes an agent.
pub(crate) async fn delete(conn: &mut Conn, id: AgentId) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM agents WHERE id = $1")
        .bind(id.to_string())
        .execute(conn)
        .await?;
    Ok(())
}

fn read(row: &AnyRow) -> Result<Agent, StoreError> {
    Ok(Agent {
        id: row.parsed("id")?,
        org_id: row.parsed("org_id")?,
        owner_user_id: row.parsed("owner_user_id")?,
        slug: row.parsed("slug")?,
        settings: row.json("settings")?,
        visibility: "private".to_owned(),
        status: "active".to_owned(),
        version: u32::try_from(row.int("version")?).unwrap_or(u32::MAX),
        created_at: row.time("created_at")?,
        updated_at: row.time("updated_at")?,
    })
}
