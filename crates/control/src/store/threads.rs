//! Threads and their rollouts.

use api::threads::Rollout;
use sqlx::any::AnyRow;
use types::thread::Thread;
use types::{AgentId, OrgId, RolloutId, ThreadId, Timestamp, UserId};

use super::query::QueryExt as _;
use super::row::name_of;
use super::{Conn, RowExt as _, StoreError};

/// A thread, with the number of its last event.
#[derive(Clone, Debug)]
pub(crate) struct ThreadRow {
    pub(crate) thread: Thread,
    /// Somebody chose its title; any other is the beginning of what was asked.
    pub(crate) titled: bool,
    pub(crate) last_sequence: u64,
}

/// Which threads to list.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ThreadFilter {
    pub(crate) org: OrgId,
    pub(crate) owner: Option<UserId>,
    pub(crate) archived: bool,
    pub(crate) agent: Option<AgentId>,
}

macro_rules! select {
    ($rest:literal $(,)?) => {
        concat!(
            "SELECT id, org_id, owner_user_id, agent_id, title, titled, execution_mode, archived, ",
            "active_rollout_id, last_sequence, created_at, updated_at FROM threads ",
            $rest
        )
    };
}

/// Adds a thread without events, and its first rollout.
pub(crate) async fn insert(conn: &mut Conn, thread: &Thread) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO threads (id, org_id, owner_user_id, agent_id, title, execution_mode, archived, \
         active_rollout_id, last_sequence, created_at, updated_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 0, $9, $10)",
    )
    .bind(thread.id.to_string())
    .bind(thread.org_id.to_string())
    .bind(thread.owner_user_id.to_string())
    .bind(thread.agent_id.map(|id| id.to_string()))
    .bind(thread.title.clone())
    .bind(name_of(&thread.execution_mode))
    .bind(i64::from(thread.archived))
    .bind(thread.active_rollout_id.to_string())
    .bind(thread.created_at.unix_ms())
    .bind(thread.updated_at.unix_ms())
    .execute(&mut *conn)
    .await?;
    insert_rollout(conn, thread.id, thread.active_rollout_id, thread.created_at).await
}

/// Finds a thread of an org.
pub(crate) async fn find(conn: &mut Conn, org: OrgId, id: ThreadId) -> Result<Option<ThreadRow>, StoreError> {
    sqlx::query(select!("WHERE org_id = $1 AND id = $2"))
        .bind(org.to_string())
        .bind(id.to_string())
        .one(conn, read)
        .await
}

/// Lists threads that come before `before` (time, id), newest first.
pub(crate) async fn list(
    conn: &mut Conn,
    filter: ThreadFilter,
    before: (i64, &str),
    limit: i64,
) -> Result<Vec<ThreadRow>, StoreError> {
    sqlx::query(select!(
        "WHERE org_id = $1 AND ($2 = '' OR owner_user_id = $2) AND archived = $3 AND ($4 = '' OR agent_id = $4) \
         AND (created_at < $5 OR (created_at = $5 AND id < $6)) ORDER BY created_at DESC, id DESC LIMIT $7"
    ))
    .bind(filter.org.to_string())
    .wanted(filter.owner)
    .bind(i64::from(filter.archived))
    .wanted(filter.agent)
    .window(before, limit)
    .all(conn, read)
    .await
}

/// Gives a thread a title that somebody chose.
pub(crate) async fn rename(conn: &mut Conn, id: ThreadId, title: &str) -> Result<(), StoreError> {
    sqlx::query("UPDATE threads SET title = $1, titled = 1 WHERE id = $2")
        .bind(title)
        .bind(id.to_string())
        .execute(conn)
        .await?;
    Ok(())
}

/// Writes what of a thread can change, beside its title and its events.
pub(crate) async fn update(conn: &mut Conn, thread: &Thread) -> Result<(), StoreError> {
    sqlx::query("UPDATE threads SET archived = $1, active_rollout_id = $2, updated_at = $3 WHERE id = $4")
        .bind(i64::from(thread.archived))
        .bind(thread.active_rollout_id.to_string())
        .bind(thread.updated_at.unix_ms())
        .bind(thread.id.to_string())
        .execute(conn)
        .await?;
    Ok(())
}

/// Deletes a thread with its events, rollouts and runs.
pub(crate) async fn delete(conn: &mut Conn, id: ThreadId) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM threads WHERE id = $1")
        .bind(id.to_string())
        .execute(conn)
        .await?;
    Ok(())
}

/// Begins a rollout.
async fn insert_rollout(
    conn: &mut Conn,
    thread: ThreadId,
    rollout: RolloutId,
    now: Timestamp,
) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO rollouts (id, thread_id, event_count, started_at) VALUES ($1, $2, 0, $3)")
        .bind(rollout.to_string())
        .bind(thread.to_string())
        .bind(now.unix_ms())
        .execute(conn)
        .await?;
    Ok(())
}

/// Ends a rollout and begins the next one of its thread: later than that one began, though no millisecond has passed or
/// the clock was set back, since their order is told by when they began.
pub(crate) async fn follow_rollout(
    conn: &mut Conn,
    (before, next): (RolloutId, RolloutId),
    now: Timestamp,
) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE rollouts SET completed_at = CASE WHEN started_at < $1 THEN $1 ELSE started_at + 1 END WHERE id = $2",
    )
    .bind(now.unix_ms())
    .bind(before.to_string())
    .execute(&mut *conn)
    .await?;
    sqlx::query(
        "INSERT INTO rollouts (id, thread_id, event_count, started_at) \
         SELECT $1, thread_id, 0, completed_at FROM rollouts WHERE id = $2",
    )
    .bind(next.to_string())
    .bind(before.to_string())
    .execute(conn)
    .await?;
    Ok(())
}

/// Lists the rollouts of a thread that come after `after` (time, id), oldest first.
pub(crate) async fn rollouts(
    conn: &mut Conn,
    thread: ThreadId,
    after: (i64, &str),
    limit: i64,
) -> Result<Vec<Rollout>, StoreError> {
    sqlx::query(
        "SELECT id, thread_id, event_count, started_at, completed_at FROM rollouts WHERE thread_id = $1 \
         AND (started_at > $2 OR (started_at = $2 AND id > $3)) ORDER BY started_at, id LIMIT $4",
    )
    .bind(thread.to_string())
    .window(after, limit)
    .all(conn, read_rollout)
    .await
}

fn read_rollout(row: &AnyRow) -> Result<Rollout, StoreError> {
    Ok(Rollout {
        rollout_id: row.parsed("id")?,
        thread_id: row.parsed("thread_id")?,
        started_at: row.time("started_at")?,
        completed_at: row.maybe_time("completed_at")?,
        event_count: row.count("event_count")?,
    })
}

fn read(row: &AnyRow) -> Result<ThreadRow, StoreError> {
    Ok(ThreadRow {
        thread: Thread {
            id: row.parsed("id")?,
            org_id: row.parsed("org_id")?,
            owner_user_id: row.parsed("owner_user_id")?,
            agent_id: row.maybe_parsed("agent_id")?,
            title: row.maybe_text("title")?,
            execution_mode: row.named("execution_mode")?,
            archived: row.flag("archived")?,
            active_rollout_id: row.parsed("active_rollout_id")?,
            created_at: row.time("created_at")?,
            updated_at: row.time("updated_at")?,
        },
        titled: row.flag("titled")?,
        last_sequence: row.count("last_sequence")?,
    })
}
