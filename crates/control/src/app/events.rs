//! A thread's events: pages of them, appends by its owner, and following them as they come.

use std::collections::VecDeque;
use std::sync::Arc;

use api::ErrorCode;
use api::events::{AppendEvents, Appended, EventsQuery, FRAMES_VERSION};
use api::page::EVENTS_LIMIT_MAX;
use api::threads::ThreadQuery;
use serde_json::{Value, json};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use types::event::{APPEND_EVENTS_MAX, CLIENT_EVENT_ID_LEN_MAX, EVENT_BYTES_MAX};
use types::{EventDraft, EventType, LiveEvent, RunId, ThreadEvent, ThreadId};

use super::threads::{self, Sight};
use super::{App, AppError, Caller, Page, Window};
use crate::live::Notice;
use crate::orchestrator::dispatch::DispatchTx;
use crate::store;
use crate::store::events::Place;

/// How many events are read at once; each may have a mebibyte.
const READ_ROWS: i64 = 16;

/// A page of events ends early at this size.
const PAGE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Lists events, oldest first; an admin who is not the owner sees no payloads.
pub(crate) async fn list(
    app: &App,
    caller: &Caller,
    thread: ThreadId,
    query: &EventsQuery,
) -> Result<Page<ThreadEvent>, AppError> {
    let mut conn = app.store.read().await?;
    let (row, sight) = threads::seen(&mut conn, caller, thread).await?;
    let everything = threads::all_rollouts(query.include.as_deref())? || query.after.is_some();
    let active = (!everything).then_some(row.thread.active_rollout_id);
    let rollout = query.rollout_id.or(active);
    let start = query
        .after
        .map_or(0, |after| i64::try_from(after).unwrap_or(i64::MAX));
    let window = Window::read(&query.page(), (start, ""), EVENTS_LIMIT_MAX)?;
    let (mut rows, mut bytes) = (Vec::new(), 0);
    let mut after = window.number;
    while (rows.len() as i64) < window.fetch() && bytes <= PAGE_BYTES_MAX {
        let want = READ_ROWS.min(window.fetch() - rows.len() as i64);
        let read = store::events::list(&mut conn, thread, rollout, after, want).await?;
        let Some(last) = read.last() else {
            break;
        };
        after = i64::try_from(last.sequence).unwrap_or(i64::MAX);
        bytes += read
            .iter()
            .map(|event| event.payload.to_string().len())
            .sum::<usize>();
        rows.extend(read.into_iter().map(|event| sighted(event, sight)));
    }
    let key = |row: &ThreadEvent| (i64::try_from(row.sequence).unwrap_or(i64::MAX), String::new());
    Ok(window.cut_early(rows, bytes > PAGE_BYTES_MAX, key))
}

/// Appends events of the owner; those whose client id is known are acknowledged and not stored again.
pub(crate) async fn append(
    app: &App,
    caller: &Caller,
    thread: ThreadId,
    request: AppendEvents,
) -> Result<Appended, AppError> {
    let drafts = check(&request)?;
    let mut dispatch = DispatchTx::begin(app).await?;
    let row = threads::owned(&mut dispatch.tx, caller, thread).await?;
    let active = row.thread.active_rollout_id;
    if request.rollout_id.is_some_and(|rollout| rollout != active) {
        return Err(AppError::conflict(format!(
            "the active rollout of this thread is {active}"
        )));
    }
    if let Some(run) = request.run_id {
        let run = store::runs::get(&mut dispatch.tx, run).await?;
        run.filter(|run| run.thread == thread && run.org == caller.org)
            .ok_or_else(|| AppError::not_found("run of this thread"))?;
    }
    let place = Place {
        run: request.run_id,
        ..Place::of(&row.thread)
    };
    let numbered = dispatch.append(place, &drafts).await?;
    dispatch.commit().await?;
    Ok(Appended {
        thread_id: thread,
        rollout_id: active,
        sequence: numbered.last,
        appended: numbered.stored,
    })
}

/// What a follower gets next.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Next {
    /// The thread as it stood when the following began.
    Snapshot(Value),
    /// A stored event; none is left out and none comes twice.
    Event(Box<ThreadEvent>),
    /// Something to show that is not stored.
    Live(Arc<LiveEvent>),
    /// The reader fell behind; it resumes after the last event it got.
    TooSlow,
    /// The thread is gone, or the server stops, or the run that was followed is over.
    End,
}

/// Somebody who follows a thread: history first, then what happens, from one cursor.
#[derive(Debug)]
pub(crate) struct Follower {
    app: Arc<App>,
    thread: ThreadId,
    sight: Sight,
    /// The number of the last event that was given out.
    after: u64,
    snapshot: Option<Value>,
    read: VecDeque<ThreadEvent>,
    /// The log may hold events above `after`.
    is_behind: bool,
    notices: broadcast::Receiver<Notice>,
    /// Ends with the `run_completed` of this run.
    run: Option<RunId>,
    is_over: bool,
}

impl Follower {
    /// Follows a thread from `after`, or from now; the snapshot comes first.
    pub(crate) async fn of_thread(
        app: &Arc<App>,
        caller: &Caller,
        thread: ThreadId,
        after: Option<u64>,
    ) -> Result<Self, AppError> {
        // Before the first read: what is stored in between is announced, so that nothing falls into the gap.
        let notices = app.watchers.watch(thread);
        let query = ThreadQuery {
            include: Some("all_rollouts".to_owned()),
            ..ThreadQuery::default()
        };
        let snapshot = threads::snapshot(app, caller, thread, &query).await?;
        let sight = match snapshot.messages {
            Some(_) => Sight::Whole,
            None => Sight::Metadata,
        };
        let after = after.unwrap_or(snapshot.last_sequence);
        let mut frame = serde_json::to_value(&snapshot).map_err(|_| AppError::internal())?;
        frame["type"] = json!("snapshot");
        frame["protocol_version"] = json!(FRAMES_VERSION);
        Ok(Self {
            app: Arc::clone(app),
            thread,
            sight,
            after,
            snapshot: Some(frame),
            read: VecDeque::new(),
            is_behind: true,
            notices,
            run: None,
            is_over: false,
        })
    }

    /// Follows a run of the caller's, from its first event to its last; what else happens in its thread is left out.
    pub(crate) async fn of_run(app: &Arc<App>, thread: ThreadId, run: RunId) -> Result<Self, AppError> {
        let notices = app.watchers.watch(thread);
        let first = store::events::first_of_run(&mut *app.store.read().await?, thread, run).await?;
        Ok(Self {
            app: Arc::clone(app),
            thread,
            sight: Sight::Whole,
            after: first.map_or(0, |first| first.saturating_sub(1)),
            snapshot: None,
            read: VecDeque::new(),
            is_behind: true,
            notices,
            run: Some(run),
            is_over: false,
        })
    }

    /// Waits for what comes next. Safe to drop and call again: nothing is lost by it.
    pub(crate) async fn next(&mut self) -> Result<Next, AppError> {
        if let Some(snapshot) = self.snapshot.take() {
            return Ok(Next::Snapshot(snapshot));
        }
        loop {
            if self.is_over {
                return Ok(Next::End);
            }
            if let Some(event) = self.read.pop_front() {
                if self.run.is_some() && event.run_id != self.run {
                    self.after = event.sequence;
                    continue;
                }
                return Ok(self.give(event));
            }
            if self.is_behind {
                self.catch_up().await?;
                continue;
            }
            match self.notices.recv().await {
                Ok(Notice::Stored(last)) => self.is_behind = last > self.after,
                Ok(Notice::Live(live)) if self.shows(&live) => return Ok(Next::Live(live)),
                Ok(Notice::Live(_)) => {}
                // Whoever waits for the end of a run gets it; only deltas are left out.
                Err(RecvError::Lagged(_)) if self.run.is_some() => self.is_behind = true,
                Err(RecvError::Lagged(_)) => return Ok(Next::TooSlow),
                Err(RecvError::Closed) => return Ok(Next::End),
            }
        }
    }

    fn shows(&self, live: &LiveEvent) -> bool {
        self.sight == Sight::Whole && self.run.is_none_or(|run| run == live.run_id)
    }

    async fn catch_up(&mut self) -> Result<(), AppError> {
        let after = i64::try_from(self.after).unwrap_or(i64::MAX);
        let mut conn = self.app.store.read().await?;
        let events = store::events::list(&mut conn, self.thread, None, after, READ_ROWS).await?;
        self.is_behind = events.len() as i64 == READ_ROWS;
        self.read.extend(events);
        Ok(())
    }

    fn give(&mut self, event: ThreadEvent) -> Next {
        self.after = event.sequence;
        let is_last = event.event_type == EventType::RunCompleted && event.run_id == self.run;
        self.is_over = is_last && self.run.is_some();
        Next::Event(Box::new(sighted(event, self.sight)))
    }
}

fn sighted(mut event: ThreadEvent, sight: Sight) -> ThreadEvent {
    if sight == Sight::Metadata {
        event.payload = json!({});
    }
    event
}

fn check(request: &AppendEvents) -> Result<Vec<EventDraft>, AppError> {
    let count = request.events.len();
    if count == 0 || count > APPEND_EVENTS_MAX {
        let message = format!("events must be 1 to {APPEND_EVENTS_MAX}");
        return Err(AppError::bad_request(message));
    }
    request.events.iter().enumerate().map(check_one).collect()
}

fn check_one((at, event): (usize, &api::events::NewEvent)) -> Result<EventDraft, AppError> {
    let field = |what: &str| AppError::bad_request(format!("events[{at}]{what}"));
    let may_write = matches!(
        event.event_type,
        EventType::UserMessage | EventType::AssistantMessage | EventType::ToolCall | EventType::ToolResult
    );
    if !may_write {
        let name = event.event_type;
        return Err(field(&format!(".type: {name} is written by the server itself")));
    }
    let payload = if event.payload.is_null() {
        json!({})
    } else {
        event.payload.clone()
    };
    if !payload.is_object() {
        return Err(field(".payload must be an object"));
    }
    let id = event.client_event_id.as_deref();
    if id.is_some_and(|id| id.is_empty() || id.chars().count() > CLIENT_EVENT_ID_LEN_MAX) {
        return Err(field(".clientEventId must be 1 to 128 characters"));
    }
    let draft = EventDraft {
        event_type: event.event_type,
        payload,
        client_event_id: event.client_event_id.clone(),
    };
    let len = serde_json::to_vec(&draft).map_or(usize::MAX, |json| json.len());
    if len > EVENT_BYTES_MAX {
        let message = format!("events[{at}] has {len} bytes; one event may have {EVENT_BYTES_MAX}");
        return Err(AppError::new(ErrorCode::PayloadTooLarge, message));
    }
    Ok(draft)
}
