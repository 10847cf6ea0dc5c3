//! Stores a run's events, and what follows from them: whether it runs, how it ended, what came of it.

use runs::dispatch::Input;
use serde_json::Value;
use types::{EventDraft, EventType, RunStatus};

use crate::orchestrator::dispatch::{DispatchTx, clean, place};
use crate::store::runs::RunRow;
use crate::store::{self, StoreError};

/// The largest result that stands in a run, and the largest account of what it used, in bytes of JSON.
const RESULT_BYTES_MAX: usize = 128 * 1024;
const USAGE_BYTES_MAX: usize = 8 * 1024;

/// Stores events under the run's numbers up to `next`, and steps the run.
pub(super) async fn store_events(
    dispatch: &mut DispatchTx<'_>,
    run: &mut RunRow,
    events: &[EventDraft],
    next: u64,
) -> Result<(), StoreError> {
    dispatch.append(place(run), events).await?;
    let started = events.iter().any(|e| e.event_type == EventType::RunStarted);
    let completed = events.iter().find(|e| e.event_type == EventType::RunCompleted);
    let ended = completed.map(|event| status_of(&event.payload));
    if let Some(event) = completed {
        outcome(dispatch, run, &event.payload).await?;
    }
    let stored = Input::Stored { next, started, ended };
    dispatch.advance(run, stored).await
}

/// Takes what came of a run out of its `run_completed`; its result is the last thing the agent said unless it says else.
async fn outcome(dispatch: &mut DispatchTx<'_>, run: &mut RunRow, payload: &Value) -> Result<(), StoreError> {
    let fits = |value: &&Value, max: usize| !value.is_null() && value.to_string().len() <= max;
    let field = |name: &str, max| payload.get(name).filter(|value| fits(value, max)).cloned();
    let text = |name: &str, max| {
        payload
            .get(name)
            .and_then(Value::as_str)
            .map(|text| clean(text, max))
    };
    run.outcome.reason = text("reason", 100);
    run.outcome.message = text("message", 2000);
    run.outcome.usage = field("usage", USAGE_BYTES_MAX);
    let iterations = payload.get("iterations").and_then(Value::as_u64);
    run.outcome.iterations = iterations.and_then(|n| u32::try_from(n).ok());
    run.outcome.result = field("result", RESULT_BYTES_MAX);
    if run.outcome.result.is_none() {
        let said = EventType::AssistantMessage;
        let last = store::events::last_of_run(&mut dispatch.tx, run.thread, run.id, said).await?;
        let text = last.and_then(|event| event.payload.get("text").cloned());
        run.outcome.result = text.filter(|text| fits(&text, RESULT_BYTES_MAX));
    }
    Ok(())
}

fn status_of(payload: &Value) -> RunStatus {
    match payload.get("status").and_then(Value::as_str) {
        Some("completed") => RunStatus::Completed,
        Some("cancelled") => RunStatus::Cancelled,
        _ => RunStatus::Failed,
    }
}
