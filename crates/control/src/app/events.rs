//! A thread's events: pages of them, appends by its owner; [`follower`] follows them as they come.

mod follower;

use api::ErrorCode;
use api::events::{AppendEvents, Appended, EventsQuery};
use api::page::EVENTS_LIMIT_MAX;
use serde_json::json;
use types::event::{APPEND_EVENTS_MAX, CLIENT_EVENT_ID_LEN_MAX, EVENT_BYTES_MAX};
use types::{EventDraft, EventType, ThreadEvent, ThreadId};

use super::threads::{self, Sight};
use super::{App, AppError, Caller, Page, Window, without_nul};
use crate::orchestrator::dispatch::DispatchTx;
use crate::store;
use crate::store::events::Place;

pub(crate) use follower::{Follower, Next};

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
    demand_past(query.after, row.last_sequence)?;
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
    let stale = request.rollout_id.filter(|rollout| *rollout != active);
    let mut refusal = stale.map(|_| format!("the active rollout of this thread is {active}"));
    if let Some(run) = request.run_id {
        let run = store::runs::get(&mut dispatch.tx, run).await?;
        let run = run.filter(|run| run.thread == thread && run.org == caller.org);
        let run = run.ok_or_else(|| AppError::not_found("run of this thread"))?;
        let over = run
            .state
            .is_over()
            .then(|| "this run is over: nothing follows its run_completed".to_owned());
        refusal = refusal.or(over);
    }
    let place = Place {
        run: request.run_id,
        ..Place::of(&row.thread)
    };
    let numbered = dispatch.append(place, &drafts).await?;
    // What was stored when it might be is acknowledged for ever; anything new is not stored, since nothing is committed.
    if let Some(message) = refusal.filter(|_| numbered.stored > 0) {
        return Err(AppError::conflict(message));
    }
    dispatch.commit().await?;
    Ok(Appended {
        thread_id: thread,
        rollout_id: active,
        sequence: numbered.last,
        appended: numbered.stored,
    })
}

/// Whoever saw a number that was never given out has seen another thread, or one that was set back since: what they wait
/// for would be left out in silence.
fn demand_past(after: Option<u64>, last: u64) -> Result<(), AppError> {
    if after.is_some_and(|after| after > last) {
        let message = format!("after is beyond the thread's last event, which is {last}");
        return Err(AppError::bad_request(message));
    }
    Ok(())
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
    without_nul("clientEventId", id.unwrap_or_default())?;
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
