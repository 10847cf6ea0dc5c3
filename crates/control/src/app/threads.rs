//! Threads: seen whole by their owner, without their content by an admin, by nobody else.
//!
//! What their events add up to is `snapshot`; how a new rollout begins is [`compaction`].

mod compaction;
mod snapshot;

use api::activity::{Activity, ActivityQuery, ResourceType, Severity};
use api::page::PageQuery;
use api::threads::{PatchThread, Rollout, Thread as ThreadView, ThreadsQuery};
use runs::dispatch::Input;
use runs::protocol::{AppendRefusal, ToSidecar};
use serde_json::{Map, Value, json};
use types::names::is_unprintable;
use types::thread::TITLE_CHARS_MAX;
use types::{EventDraft, EventType, ThreadEvent, ThreadId};

use super::activity::Happening;
use super::audit::Deed;
use super::{App, AppError, Caller, Page, Window, activity, agents, audit};
use crate::orchestrator::dispatch::DispatchTx;
use crate::store::events::Place;
use crate::store::threads::{ThreadFilter, ThreadRow};
use crate::store::{self, Conn};

pub(crate) use compaction::compact;
pub(crate) use snapshot::snapshot;

/// How much of a thread a caller may see.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Sight {
    /// The owner: everything.
    Whole,
    /// An admin: that it is there and what happens, not what is said.
    Metadata,
}

impl Sight {
    /// How much of a thread of their org a caller may see; `None` when it is not there for them.
    fn of(caller: &Caller, row: &ThreadRow) -> Option<Self> {
        match row.thread.owner_user_id == caller.user {
            true => Some(Self::Whole),
            false => caller.is_admin().then_some(Self::Metadata),
        }
    }
}

/// Finds a thread and how much of it the caller may see; what they may not see at all is not there.
pub(crate) async fn seen(
    conn: &mut Conn,
    caller: &Caller,
    id: ThreadId,
) -> Result<(ThreadRow, Sight), AppError> {
    let row = store::threads::find(conn, caller.org, id).await?;
    let found = row.and_then(|row| Sight::of(caller, &row).map(|sight| (row, sight)));
    found.ok_or_else(|| AppError::not_found("thread"))
}

/// What the API shows of a thread. A title that nobody chose says what was asked: it is content.
fn shown(sight: Sight, row: ThreadRow) -> ThreadView {
    let is_content = !row.titled;
    let mut view = ThreadView::from(row.thread);
    if is_content && sight == Sight::Metadata {
        view.title = None;
    }
    view
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
        Some(name) => Some(agents::once_by_name(&mut conn, caller, name).await?),
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
    let sight = |row: &ThreadRow| Sight::of(caller, row).unwrap_or(Sight::Metadata);
    let rows = page.rows.into_iter().map(|row| shown(sight(&row), row)).collect();
    Ok(Page {
        rows,
        next_cursor: page.next_cursor,
    })
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
    let (mut row, sight) = seen(&mut dispatch.tx, caller, id).await?;
    let mut events = Vec::new();
    if let Some(title) = change.title {
        check_title(&title)?;
        events.push(event(EventType::ThreadRenamed, json!({ "title": title })));
        store::threads::rename(&mut dispatch.tx, id, &title).await?;
        (row.thread.title, row.titled) = (Some(title), true);
    }
    if let Some(archived) = change.archived {
        events.push(event(EventType::ThreadArchived, json!({ "archived": archived })));
        row.thread.archived = archived;
    }
    row.thread.updated_at = dispatch.now;
    store::threads::update(&mut dispatch.tx, &row.thread).await?;
    dispatch.append(Place::of(&row.thread), &events).await?;
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
    Ok(shown(sight, row))
}

/// Deletes a thread with its events, rollouts and runs; what a device still does for it is stopped, and whoever watches
/// it gets `thread_deleted` as the last event. With an agent, only a thread of that one.
pub(crate) async fn delete(
    app: &App,
    caller: &Caller,
    (id, agent): (ThreadId, Option<&str>),
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
    // It goes with the thread, but has the number that follows the last one.
    let place = Place::of(&row.thread);
    let last = event(EventType::ThreadDeleted, json!({}));
    let numbered = dispatch.append(place, std::slice::from_ref(&last)).await?;
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
    dispatch.end_watching(ThreadEvent {
        sequence: numbered.last,
        thread_id: id,
        rollout_id: place.rollout,
        run_id: None,
        event_type: last.event_type,
        payload: last.payload,
        created_at: dispatch.now,
    });
    Ok(dispatch.commit().await?)
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
    let agent = agents::once_by_name(conn, caller, name).await?;
    if row.thread.agent_id == Some(agent) {
        Ok(())
    } else {
        Err(AppError::not_found("thread"))
    }
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
