//! Threads: seen whole by their owner, without their content by an admin, by nobody else.

use api::activity::{Activity, ActivityQuery, ResourceType, Severity};
use api::page::PageQuery;
use api::threads::{
    CompactThread, Compacted, Message, PatchThread, Rollout, Thread as ThreadView, ThreadQuery,
    ThreadSnapshot, ThreadsQuery, ToolCall,
};
use runs::dispatch::{Input, Phase};
use runs::protocol::{AppendRefusal, ToSidecar};
use runs::thread::{Folded, KEPT_MAX, Role};
use serde_json::{Map, Value, json};
use types::names::is_unprintable;
use types::thread::TITLE_CHARS_MAX;
use types::{EventDraft, EventType, RolloutId, ThreadId};

use super::activity::Happening;
use super::audit::Deed;
use super::{App, AppError, Caller, Page, Window, activity, agents, audit};
use crate::orchestrator::dispatch::DispatchTx;
use crate::secrets;
use crate::store::events::Place;
use crate::store::threads::{ThreadFilter, ThreadRow};
use crate::store::{self, Conn};

const SUMMARY_BYTES_MAX: usize = 64 * 1024;

/// How much of a thread is folded at most: events, and bytes of their payloads. A snapshot shows less.
const FOLD_MAX: (usize, usize) = (2000, 4 * 1024 * 1024);

/// How much of a thread a caller may see.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Sight {
    /// The owner: everything.
    Whole,
    /// An admin: that it is there and what happens, not what is said.
    Metadata,
}

/// Finds a thread and how much of it the caller may see; what they may not see at all is not there.
pub(crate) async fn seen(
    conn: &mut Conn,
    caller: &Caller,
    id: ThreadId,
) -> Result<(ThreadRow, Sight), AppError> {
    let row = store::threads::find(conn, caller.org, id).await?;
    let row = row.ok_or_else(|| AppError::not_found("thread"))?;
    if row.thread.owner_user_id == caller.user {
        Ok((row, Sight::Whole))
    } else if caller.is_admin() {
        Ok((row, Sight::Metadata))
    } else {
        Err(AppError::not_found("thread"))
    }
}

/// Finds a thread that the caller may write into: only their own.
pub(crate) async fn owned(conn: &mut Conn, caller: &Caller, id: ThreadId) -> Result<ThreadRow, AppError> {
    match seen(conn, caller, id).await? {
        (row, Sight::Whole) => Ok(row),
        (_, Sight::Metadata) => Err(AppError::forbidden("only the owner of a thread may write to it")),
    }
}

/// Lists threads, newest first: the caller's own, or with `all` (admins) everyone's.
pub(crate) async fn list(
    app: &App,
    caller: &Caller,
    query: &ThreadsQuery,
) -> Result<Page<ThreadView>, AppError> {
    let everyone = query.all.unwrap_or(false);
    if everyone {
        caller.demand_admin()?;
    }
    let window = Window::newest_first(&query.page())?;
    let mut conn = app.store.read().await?;
    let agent = match &query.agent {
        Some(name) => Some(agents::by_name(&mut conn, caller, name).await?.id),
        None => None,
    };
    let filter = ThreadFilter {
        org: caller.org,
        owner: (!everyone).then_some(caller.user),
        archived: query.archived.unwrap_or(false),
        agent,
    };
    let rows = store::threads::list(&mut conn, filter, window.key(), window.fetch()).await?;
    let page = window.cut(rows, |row| {
        (row.thread.created_at.unix_ms(), row.thread.id.to_string())
    });
    let rows = page.rows.into_iter().map(|row| row.thread.into()).collect();
    Ok(Page {
        rows,
        next_cursor: page.next_cursor,
    })
}

/// Returns a thread as its events add up.
pub(crate) async fn snapshot(
    app: &App,
    caller: &Caller,
    id: ThreadId,
    query: &ThreadQuery,
) -> Result<ThreadSnapshot, AppError> {
    let mut conn = app.store.read().await?;
    let (row, sight) = seen(&mut conn, caller, id).await?;
    demand_agent(&mut conn, caller, &row, query.agent.as_deref()).await?;
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
    Ok(shown(row, sight, (folded, activity), limit))
}

/// Reads `include`.
pub(crate) fn all_rollouts(include: Option<&str>) -> Result<bool, AppError> {
    match include {
        None => Ok(false),
        Some("all_rollouts") => Ok(true),
        Some(_) => Err(AppError::bad_request("include may be all_rollouts")),
    }
}

/// Renames a thread, or puts it away.
pub(crate) async fn patch(
    app: &App,
    caller: &Caller,
    id: ThreadId,
    change: PatchThread,
) -> Result<ThreadView, AppError> {
    let mut dispatch = DispatchTx::begin(app).await?;
    let (row, _) = seen(&mut dispatch.tx, caller, id).await?;
    let mut thread = row.thread;
    let mut events = Vec::new();
    if let Some(title) = change.title {
        check_title(&title)?;
        events.push(event(EventType::ThreadRenamed, json!({ "title": title })));
        thread.title = Some(title);
    }
    if let Some(archived) = change.archived {
        events.push(event(EventType::ThreadArchived, json!({ "archived": archived })));
        thread.archived = archived;
    }
    thread.updated_at = dispatch.now;
    store::threads::update(&mut dispatch.tx, &thread).await?;
    dispatch.append(Place::of(&thread), &events).await?;
    for event in &events {
        let (event_type, title) = match event.event_type {
            EventType::ThreadRenamed => ("thread.renamed", "Thread renamed"),
            _ => ("thread.archived", "Thread archived or taken out again"),
        };
        activity::record(
            app,
            &mut dispatch.tx,
            caller.org,
            happening(caller, id, event_type, title),
        )
        .await?;
    }
    dispatch.commit().await?;
    Ok(thread.into())
}

/// Deletes a thread with its events, rollouts and runs; what a device still does for it is stopped.
pub(crate) async fn delete(
    app: &App,
    caller: &Caller,
    id: ThreadId,
    agent: Option<&str>,
) -> Result<(), AppError> {
    let mut dispatch = DispatchTx::begin(app).await?;
    let (row, _) = seen(&mut dispatch.tx, caller, id).await?;
    demand_agent(&mut dispatch.tx, caller, &row, agent).await?;
    for mut run in store::runs::open_of_thread(&mut dispatch.tx, id).await? {
        dispatch.advance(&mut run, Input::Cancel).await?;
        let refused = ToSidecar::AppendRefused {
            run_id: run.id,
            fence: run.state.fence,
            reason: AppendRefusal::NotFound,
        };
        dispatch.send(run.node, refused);
    }
    store::threads::delete(&mut dispatch.tx, id).await?;
    let deed = Deed {
        action: "thread.deleted",
        target: Some(("thread", id.to_string())),
        actor: caller.actor(),
        attributes: Map::new(),
    };
    audit::record(app, &mut dispatch.tx, caller.org, deed).await?;
    let happening = happening(caller, id, "thread.deleted", "Thread deleted");
    activity::record(app, &mut dispatch.tx, caller.org, happening).await?;
    dispatch.commit().await?;
    app.watchers.end(id);
    Ok(())
}

/// Ends the active rollout and begins the next one.
pub(crate) async fn compact(
    app: &App,
    caller: &Caller,
    id: ThreadId,
    request: CompactThread,
) -> Result<Compacted, AppError> {
    let given = request.summary;
    if given
        .as_ref()
        .is_some_and(|summary| summary.len() > SUMMARY_BYTES_MAX)
    {
        let message = format!("summary must be at most {SUMMARY_BYTES_MAX} bytes");
        return Err(AppError::bad_request(message));
    }
    let mut dispatch = DispatchTx::begin(app).await?;
    let row = owned(&mut dispatch.tx, caller, id).await?;
    if !store::runs::open_of_thread(&mut dispatch.tx, id)
        .await?
        .is_empty()
    {
        let message = "a run of this thread is not over yet; wait for it or cancel it";
        return Err(AppError::conflict(message));
    }
    let previous = row.thread.active_rollout_id;
    let summary = match given {
        Some(summary) => summary,
        None => outline(&fold(&mut dispatch.tx, &row, Some(previous)).await?),
    };
    let mut thread = row.thread;
    let started = event(EventType::CompactionStarted, json!({}));
    dispatch.append(Place::of(&thread), &[started]).await?;
    store::threads::complete_rollout(&mut dispatch.tx, previous, dispatch.now).await?;
    thread.active_rollout_id = RolloutId::from_random(secrets::bytes());
    thread.updated_at = dispatch.now;
    let (rollout, now) = (thread.active_rollout_id, dispatch.now);
    store::threads::insert_rollout(&mut dispatch.tx, id, rollout, now).await?;
    store::threads::update(&mut dispatch.tx, &thread).await?;
    let completed = json!({ "summary": summary, "rolloutId": rollout, "previousRolloutId": previous });
    let completed = event(EventType::CompactionCompleted, completed);
    let numbered = dispatch.append(Place::of(&thread), &[completed]).await?;
    let happening = happening(caller, id, "thread.compacted", "Thread compacted");
    activity::record(app, &mut dispatch.tx, caller.org, happening).await?;
    dispatch.commit().await?;
    Ok(Compacted {
        thread_id: id,
        previous_rollout_id: previous,
        rollout_id: rollout,
        sequence: numbered.last,
    })
}

/// Lists the rollouts of a thread, oldest first.
pub(crate) async fn rollouts(
    app: &App,
    caller: &Caller,
    id: ThreadId,
    query: &PageQuery,
) -> Result<Page<Rollout>, AppError> {
    let window = Window::oldest_first(query)?;
    let mut conn = app.store.read().await?;
    seen(&mut conn, caller, id).await?;
    let rows = store::threads::rollouts(&mut conn, id, window.key(), window.fetch()).await?;
    Ok(window.cut(rows, |row| (row.started_at.unix_ms(), row.rollout_id.to_string())))
}

/// Lists the activity of a thread, newest first.
pub(crate) async fn activity_of(
    app: &App,
    caller: &Caller,
    id: ThreadId,
    query: ActivityQuery,
) -> Result<Page<Activity>, AppError> {
    let (_, sight) = seen(&mut *app.store.read().await?, caller, id).await?;
    let query = ActivityQuery {
        thread_id: Some(id),
        all: (sight == Sight::Metadata).then_some(true),
        ..query
    };
    activity::list(app, caller, &query).await
}

impl Place {
    /// The active rollout of a thread, outside of any run.
    pub(crate) fn of(thread: &types::thread::Thread) -> Self {
        Self {
            thread: thread.id,
            rollout: thread.active_rollout_id,
            run: None,
        }
    }
}

/// On the agent-scoped paths a thread of another agent is none at all.
async fn demand_agent(
    conn: &mut Conn,
    caller: &Caller,
    row: &ThreadRow,
    agent: Option<&str>,
) -> Result<(), AppError> {
    let Some(name) = agent else { return Ok(()) };
    let agent = agents::by_name(conn, caller, name).await?;
    if row.thread.agent_id == Some(agent.id) {
        Ok(())
    } else {
        Err(AppError::not_found("thread"))
    }
}

/// Folds the newest events of a thread: enough for everything that a snapshot shows, however long the thread is.
async fn fold(conn: &mut Conn, row: &ThreadRow, rollout: Option<RolloutId>) -> Result<Folded, AppError> {
    let newest = store::events::newest(conn, row.thread.id, rollout, FOLD_MAX).await?;
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

fn shown(row: ThreadRow, sight: Sight, (folded, activity): (Folded, &str), limit: usize) -> ThreadSnapshot {
    let cut = folded.messages.len() > limit || folded.tool_calls.len() > limit;
    // The row was read first, so nothing above the larger of the two was left out.
    let last_sequence = folded.last_sequence.max(row.last_sequence);
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
        thread: row.thread.into(),
        activity: activity.to_owned(),
        last_sequence,
        messages: whole.then(|| messages.collect()),
        tool_calls: whole.then(|| tools.collect()),
        truncated,
    }
}

/// What stands for a rollout when nobody wrote a summary: what was asked, and the last answer.
fn outline(folded: &Folded) -> String {
    let mut lines = Vec::new();
    for message in folded.messages.iter().filter(|m| m.role == Role::User) {
        lines.push(format!("Asked: {}", cut(&message.text, 500)));
    }
    if let Some(last) = folded.messages.iter().rev().find(|m| m.role == Role::Assistant) {
        lines.push(format!("Answered last: {}", cut(&last.text, 4000)));
    }
    cut(&lines.join("\n"), SUMMARY_BYTES_MAX / 4)
}

fn cut(text: &str, chars: usize) -> String {
    text.chars().take(chars).collect()
}

fn check_title(title: &str) -> Result<(), AppError> {
    let len = title.chars().count();
    if title.trim().is_empty() || len > TITLE_CHARS_MAX || title.chars().any(is_unprintable) {
        let message = format!("title must be 1 to {TITLE_CHARS_MAX} printable characters");
        return Err(AppError::bad_request(message));
    }
    Ok(())
}

fn event(event_type: EventType, payload: Value) -> EventDraft {
    EventDraft {
        event_type,
        payload,
        client_event_id: None,
    }
}

fn happening(caller: &Caller, id: ThreadId, event_type: &'static str, title: &str) -> Happening {
    Happening {
        actor: caller.actor(),
        resource: (ResourceType::Thread, id.to_string()),
        event_type,
        severity: Severity::Info,
        status: None,
        title: title.to_owned(),
        attributes: Map::new(),
        thread: Some(id),
        run: None,
        node: None,
    }
}
