//! Compaction: the active rollout ends, and the next one begins with a summary.

use api::threads::{CompactThread, Compacted};
use runs::thread::{Folded, Role};
use serde_json::json;
use types::{EventType, RolloutId, ThreadId};

use super::snapshot::fold;
use super::{event, happening, owned};
use crate::app::{App, AppError, Caller, activity, without_nul};
use crate::orchestrator::dispatch::DispatchTx;
use crate::secrets;
use crate::store;
use crate::store::events::Place;

const SUMMARY_BYTES_MAX: usize = 64 * 1024;

/// Ends the active rollout and begins the next one.
pub(crate) async fn compact(
    app: &App,
    caller: &Caller,
    id: ThreadId,
    request: CompactThread,
) -> Result<Compacted, AppError> {
    let given = request.summary;
    without_nul("summary", given.as_deref().unwrap_or_default())?;
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
    thread.active_rollout_id = RolloutId::from_random(secrets::bytes());
    thread.updated_at = dispatch.now;
    let (rollout, now) = (thread.active_rollout_id, dispatch.now);
    store::threads::follow_rollout(&mut dispatch.tx, (previous, rollout), now).await?;
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
