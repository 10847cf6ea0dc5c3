//! What was said in a thread before a run, as text for a runner that does not remember it: it never saw the thread, or its
//! agent cannot resume a session.

use std::collections::BTreeSet;

use types::{EventType, RunOrder, ThreadEvent};

use crate::store::runs::RunRow;
use crate::store::{self, Conn, StoreError};

/// How far back it reaches: events, and bytes of their payloads.
const REACH: (usize, usize) = (400, 1024 * 1024);

/// The longest history, in characters; of a longer one the end is told.
const CHARS_MAX: usize = 24_000;

/// One message is told up to this length, in characters.
const MESSAGE_CHARS_MAX: usize = 6_000;

/// Returns the order of a run with the history of its rollout.
pub(crate) async fn order(conn: &mut Conn, run: &RunRow) -> Result<RunOrder, StoreError> {
    let newest = store::events::newest(conn, (run.thread, Some(run.rollout)), u64::MAX, REACH).await?;
    // Of runs that are not over there is this one, and those that come after it.
    let open = store::runs::open_of_thread(conn, run.thread).await?;
    let open: BTreeSet<_> = open.iter().map(|run| run.id).chain([run.id]).collect();
    let before = |event: &&ThreadEvent| event.run_id.is_none_or(|id| !open.contains(&id));
    let said: Vec<String> = newest.events.iter().filter(before).filter_map(line).collect();
    Ok(RunOrder {
        history: tell(&said),
        ..run.order()
    })
}

fn line(event: &ThreadEvent) -> Option<String> {
    let (who, field) = match event.event_type {
        EventType::UserMessage => ("User", "text"),
        EventType::AssistantMessage => ("Assistant", "text"),
        EventType::CompactionCompleted => ("Summary of what was said before", "summary"),
        _ => return None,
    };
    let text = event.payload.get(field)?.as_str()?.trim();
    let mut cut: String = text.chars().take(MESSAGE_CHARS_MAX).collect();
    if cut.len() < text.len() {
        cut.push_str(" […]");
    }
    (!cut.is_empty()).then(|| format!("{who}: {cut}"))
}

/// Puts the newest lines that fit in their order; nothing when nothing was said.
fn tell(said: &[String]) -> Option<String> {
    let mut room = CHARS_MAX;
    let fits = |line: &&String| {
        let len = line.chars().count();
        let fits = len <= room;
        room = room.saturating_sub(len);
        fits
    };
    let mut told: Vec<&str> = said.iter().rev().take_while(fits).map(String::as_str).collect();
    told.reverse();
    if told.is_empty() {
        return None;
    }
    let left_out = if told.len() < said.len() { "[…]\n\n" } else { "" };
    Some(format!(
        "What was said in this conversation before, for your information:\n\n{left_out}{}\n\nWhat is asked now follows.",
        told.join("\n\n")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_lines_are_told_in_their_order() {
        assert_eq!(tell(&[]), None);
        let short = tell(&["User: a".to_owned(), "Assistant: b".to_owned()]).expect("told");
        assert!(
            short.contains("before, for your information:\n\nUser: a\n\nAssistant: b\n\nWhat"),
            "{short}"
        );
        let long: Vec<String> = (0..10)
            .map(|n| format!("User: {n}{}", "x".repeat(5000)))
            .collect();
        let told = tell(&long).expect("told");
        assert!(
            told.contains("[…]\n\nUser: 6") && told.contains("User: 9"),
            "{told}"
        );
        assert!(told.len() < CHARS_MAX + 200);
    }
}
