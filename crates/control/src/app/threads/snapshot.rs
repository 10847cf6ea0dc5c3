//! What a thread's events add up to.

use api::threads::{Message, ThreadQuery, ThreadSnapshot, ToolCall};
use runs::dispatch::Phase;
use runs::thread::{Folded, KEPT_MAX, Role};
use types::{RolloutId, ThreadId};

use super::{Sight, all_rollouts, demand_agent, seen};
use crate::app::{App, AppError, Caller};
use crate::store::threads::ThreadRow;
use crate::store::{self, Conn};

/// How much of a thread is folded at most: events, and bytes of their payloads. A snapshot shows less.
const FOLD_MAX: (usize, usize) = (2000, 4 * 1024 * 1024);

/// Returns a thread as its events add up; with an agent, only a thread of that one.
pub(crate) async fn snapshot(
    app: &App,
    caller: &Caller,
    (id, agent): (ThreadId, Option<&str>),
    query: &ThreadQuery,
) -> Result<ThreadSnapshot, AppError> {
    let mut conn = app.store.read().await?;
    let (row, sight) = seen(&mut conn, caller, id).await?;
    demand_agent(&mut conn, caller, &row, agent).await?;
    let limit = match query.limit {
        Some(0) => return Err(AppError::bad_request("limit must be at least 1")),
        Some(limit) => (limit as usize).min(KEPT_MAX),
        None => KEPT_MAX,
    };
    let rollout = (!all_rollouts(query.include.as_deref())?).then_some(row.thread.active_rollout_id);
    // Whoever may not see what was said needs nothing read.
    let folded = match sight {
        Sight::Whole => fold(&mut conn, &row, rollout).await?,
        Sight::Metadata => Folded::default(),
    };
    let activity = doing(&mut conn, id).await?;
    Ok(folded_up(row, sight, (folded, activity), limit))
}

/// Folds the newest events of a thread: enough for everything that a snapshot shows, however long the thread is.
///
/// Nothing above the number that stands in the row is read, so title, rollout and events are of one moment.
pub(super) async fn fold(
    conn: &mut Conn,
    row: &ThreadRow,
    rollout: Option<RolloutId>,
) -> Result<Folded, AppError> {
    let newest = store::events::newest(conn, (row.thread.id, rollout), row.last_sequence, FOLD_MAX).await?;
    let mut folded = Folded::default();
    for event in &newest.events {
        folded.add(event);
    }
    folded.truncated |= !newest.is_all;
    Ok(folded)
}

/// What a thread is doing follows from its runs that are not over.
async fn doing(conn: &mut Conn, id: ThreadId) -> Result<&'static str, AppError> {
    let open = store::runs::open_of_thread(conn, id).await?;
    let is_running = open.iter().any(|run| run.state.phase == Phase::Running);
    Ok(match (is_running, open.is_empty()) {
        (true, _) => "running",
        (false, false) => "waiting",
        (false, true) => "idle",
    })
}

fn folded_up(
    row: ThreadRow,
    sight: Sight,
    (folded, activity): (Folded, &str),
    limit: usize,
) -> ThreadSnapshot {
    let cut = folded.messages.len() > limit || folded.tool_calls.len() > limit;
    let truncated = folded.truncated || cut;
    let skip = |len: usize| len.saturating_sub(limit);
    let skip_messages = skip(folded.messages.len());
    let messages = folded.messages.into_iter().skip(skip_messages);
    let messages = messages.map(|message| Message {
        sequence: message.sequence,
        run_id: message.run_id,
        role: match message.role {
            Role::User => "user".to_owned(),
            Role::Assistant => "assistant".to_owned(),
        },
        text: message.text,
        created_at: message.created_at,
    });
    let skip_tools = skip(folded.tool_calls.len());
    let tools = folded.tool_calls.into_iter().skip(skip_tools);
    let tools = tools.map(|tool| ToolCall {
        tool_call_id: tool.tool_call_id,
        sequence: tool.sequence,
        run_id: tool.run_id,
        title: tool.title,
        kind: tool.kind,
        status: tool.status,
        input: tool.input,
        output: tool.output,
    });
    let whole = sight == Sight::Whole;
    ThreadSnapshot {
        last_sequence: row.last_sequence,
        thread: super::shown(sight, row),
        activity: activity.to_owned(),
        messages: whole.then(|| messages.collect()),
        tool_calls: whole.then(|| tools.collect()),
        truncated,
    }
}
