//! The events of threads: appended, numbered, never changed.

use std::collections::BTreeSet;

use sqlx::AssertSqlSafe;
use sqlx::any::AnyRow;
use types::{EventDraft, EventType, RolloutId, RunId, ThreadEvent, ThreadId, Timestamp};

use super::row::json_of;
use super::{Conn, RowExt as _, StoreError};

/// How many events are read at once; each may have a mebibyte.
const NEWEST_ROWS: usize = 32;

/// How many events one statement stores: few different statements, since each is prepared once per connection.
const ROWS: [usize; 4] = [64, 16, 4, 1];

/// Where events go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    pub(crate) thread: ThreadId,
    pub(crate) rollout: RolloutId,
    pub(crate) run: Option<RunId>,
}

/// What an append did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Numbered {
    /// The number of the thread's last event.
    pub(crate) last: u64,
    /// How many were stored now.
    pub(crate) stored: u32,
}

macro_rules! select {
    ($rest:literal $(,)?) => {
        concat!(
            "SELECT thread_id, sequence, rollout_id, run_id, type, payload, created_at FROM events ",
            $rest
        )
    };
}

/// Numbers events and stores them; those whose client id the thread knows already are left out.
pub(crate) async fn append(
    conn: &mut Conn,
    place: Place,
    drafts: &[EventDraft],
    now: Timestamp,
) -> Result<Numbered, StoreError> {
    let fresh = unknown(conn, place.thread, drafts).await?;
    let count = i64::try_from(fresh.len()).unwrap_or(i64::MAX);
    let row = sqlx::query(
        "UPDATE threads SET last_sequence = last_sequence + $1, updated_at = $2 WHERE id = $3 \
         RETURNING last_sequence",
    )
    .bind(count)
    .bind(now.unix_ms())
    .bind(place.thread.to_string())
    .fetch_one(&mut *conn)
    .await?;
    let last = row.int("last_sequence")?;
    let mut first = last - count + 1;
    let mut rest = fresh.as_slice();
    while let Some(rows) = ROWS.into_iter().find(|rows| *rows <= rest.len()) {
        let (now_stored, later) = rest.split_at(rows);
        insert(conn, place, (now_stored, first), now).await?;
        first += i64::try_from(rows).unwrap_or(i64::MAX);
        rest = later;
    }
    sqlx::query("UPDATE rollouts SET event_count = event_count + $1 WHERE id = $2")
        .bind(count)
        .bind(place.rollout.to_string())
        .execute(conn)
        .await?;
    Ok(Numbered {
        last: u64::try_from(last).unwrap_or(0),
        stored: u32::try_from(count).unwrap_or(u32::MAX),
    })
}

/// Lists events of a thread with numbers above `after`, oldest first; of one rollout or of all.
pub(crate) async fn list(
    conn: &mut Conn,
    thread: ThreadId,
    rollout: Option<RolloutId>,
    after: i64,
    limit: i64,
) -> Result<Vec<ThreadEvent>, StoreError> {
    let rows = sqlx::query(select!(
        "WHERE thread_id = $1 AND sequence > $2 AND ($3 = '' OR rollout_id = $3) ORDER BY sequence LIMIT $4"
    ))
    .bind(thread.to_string())
    .bind(after)
    .bind(rollout.map_or_else(String::new, |id| id.to_string()))
    .bind(limit)
    .fetch_all(conn)
    .await?;
    rows.iter().map(read).collect()
}

/// The newest events of a thread, as far as a budget reaches.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Newest {
    /// Oldest first, without a gap.
    pub(crate) events: Vec<ThreadEvent>,
    /// There are none before them.
    pub(crate) is_all: bool,
}

/// Reads the newest events of a thread up to `last`, of one rollout or of all: at most `events_max`, and about
/// `bytes_max` of payload.
pub(crate) async fn newest(
    conn: &mut Conn,
    (thread, rollout): (ThreadId, Option<RolloutId>),
    last: u64,
    (events_max, bytes_max): (usize, usize),
) -> Result<Newest, StoreError> {
    let before = i64::try_from(last).unwrap_or(i64::MAX).saturating_add(1);
    let (mut events, mut bytes, mut before) = (Vec::new(), 0, before);
    let is_all = loop {
        let limit = NEWEST_ROWS.min(events_max.saturating_sub(events.len()));
        if limit == 0 || bytes >= bytes_max {
            break false;
        }
        let rows = sqlx::query(select!(
            "WHERE thread_id = $1 AND sequence < $2 AND ($3 = '' OR rollout_id = $3) ORDER BY sequence DESC LIMIT $4"
        ))
        .bind(thread.to_string())
        .bind(before)
        .bind(rollout.map_or_else(String::new, |id| id.to_string()))
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all(&mut *conn)
        .await?;
        for row in &rows {
            before = row.int("sequence")?;
            bytes += row.text("payload")?.len();
            events.push(read(row)?);
        }
        if rows.len() < limit {
            break true;
        }
    };
    events.reverse();
    Ok(Newest { events, is_all })
}

/// Finds the last event of a type that a run produced.
pub(crate) async fn last_of_run(
    conn: &mut Conn,
    thread: ThreadId,
    run: RunId,
    event_type: EventType,
) -> Result<Option<ThreadEvent>, StoreError> {
    let row = sqlx::query(select!(
        "WHERE thread_id = $1 AND run_id = $2 AND type = $3 ORDER BY sequence DESC LIMIT 1"
    ))
    .bind(thread.to_string())
    .bind(run.to_string())
    .bind(event_type.as_str())
    .fetch_optional(conn)
    .await?;
    row.map(|row| read(&row)).transpose()
}

/// Returns the number of a run's first event.
pub(crate) async fn first_of_run(
    conn: &mut Conn,
    thread: ThreadId,
    run: RunId,
) -> Result<Option<u64>, StoreError> {
    let row = sqlx::query("SELECT MIN(sequence) AS first FROM events WHERE thread_id = $1 AND run_id = $2")
        .bind(thread.to_string())
        .bind(run.to_string())
        .fetch_one(conn)
        .await?;
    Ok(row
        .maybe_int("first")?
        .and_then(|first| u64::try_from(first).ok()))
}

async fn unknown<'a>(
    conn: &mut Conn,
    thread: ThreadId,
    drafts: &'a [EventDraft],
) -> Result<Vec<&'a EventDraft>, StoreError> {
    let mut seen = BTreeSet::new();
    let mut fresh = Vec::with_capacity(drafts.len());
    for draft in drafts {
        if let Some(id) = &draft.client_event_id {
            let known =
                sqlx::query("SELECT 1 AS known FROM events WHERE thread_id = $1 AND client_event_id = $2")
                    .bind(thread.to_string())
                    .bind(id.as_str())
                    .fetch_optional(&mut *conn)
                    .await?;
            if known.is_some() || !seen.insert(id) {
                continue;
            }
        }
        fresh.push(draft);
    }
    Ok(fresh)
}

/// Stores events under the numbers from `first` on.
async fn insert(
    conn: &mut Conn,
    place: Place,
    (drafts, first): (&[&EventDraft], i64),
    now: Timestamp,
) -> Result<(), StoreError> {
    let mut query = sqlx::query(AssertSqlSafe(insert_text(drafts.len())))
        .bind(place.thread.to_string())
        .bind(place.rollout.to_string())
        .bind(place.run.map(|id| id.to_string()))
        .bind(now.unix_ms());
    for (draft, sequence) in drafts.iter().zip(first..) {
        query = query
            .bind(sequence)
            .bind(draft.event_type.as_str())
            .bind(json_of(&draft.payload))
            .bind(draft.client_event_id.clone());
    }
    query.execute(conn).await?;
    Ok(())
}

/// The statement that stores so many events; nothing of theirs is in the text.
fn insert_text(rows: usize) -> String {
    let mut text = "INSERT INTO events (thread_id, rollout_id, run_id, created_at, sequence, type, payload, \
         client_event_id) VALUES "
        .to_owned();
    for row in 0..rows {
        let [a, b, c, d] = [5, 6, 7, 8].map(|column| 4 * row + column);
        let comma = if row == 0 { "" } else { ", " };
        text.push_str(&format!("{comma}($1, $2, $3, $4, ${a}, ${b}, ${c}, ${d})"));
    }
    text
}

fn read(row: &AnyRow) -> Result<ThreadEvent, StoreError> {
    Ok(ThreadEvent {
        sequence: row.count("sequence")?,
        thread_id: row.parsed("thread_id")?,
        rollout_id: row.parsed("rollout_id")?,
        run_id: row.maybe_parsed("run_id")?,
        event_type: row.parsed("type")?,
        payload: row.json("payload")?,
        created_at: row.time("created_at")?,
    })
}

#[cfg(test)]
mod tests;
