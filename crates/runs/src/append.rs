//! The rule by which the store takes the events of an attempt: numbered, without gaps, each once, under one fence.
//!
//! It is the producer rule of durable logs: (run, fence, number) stands for (producer, epoch, sequence). Numbers of one
//! attempt begin at 1. The decision is pure; storing the events and raising `next` is one transaction of the store's.

use types::{EventDraft, EventType, Fence};

use crate::protocol::AppendRefusal;

/// What the store knows of a run when an append arrives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stored {
    /// The fence of the newest offer.
    pub fence: Fence,
    /// The number expected next under that fence.
    pub next: u64,
    /// The run is over.
    pub ended: bool,
    /// `run_started` of this attempt is stored.
    pub started: bool,
}

/// What to do with an append.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AppendDecision {
    /// Store the events behind the first `skip`, which are known already, and answer that `next` is expected.
    Store {
        /// How many of the events to leave out.
        skip: usize,
        /// The number expected afterwards.
        next: u64,
    },
    /// All of it is stored, or there is a hole before it: store nothing, answer that `next` is expected.
    ///
    /// The two need no telling apart: the sidecar forgets what is below `next` and sends on from there.
    Answer {
        /// The number expected next.
        next: u64,
    },
    /// Never to be stored.
    Refuse(AppendRefusal),
}

/// Decides on events numbered from `first`, sent under `fence`.
#[must_use]
pub fn decide(stored: Stored, fence: Fence, first: u64, events: &[EventDraft]) -> AppendDecision {
    if fence < stored.fence {
        return AppendDecision::Refuse(AppendRefusal::Fenced);
    }
    // A fence that was never given out, or a number that no attempt has.
    if fence > stored.fence || first == 0 {
        return AppendDecision::Refuse(AppendRefusal::Invalid);
    }
    let next = stored.next;
    let Some(end) = first.checked_add(events.len() as u64) else {
        return AppendDecision::Refuse(AppendRefusal::Invalid);
    };
    if end <= next || first > next {
        // A resend of the end itself must be acknowledged, or the sidecar could never forget the run.
        let beyond_end = stored.ended && end > next;
        return if beyond_end {
            AppendDecision::Refuse(AppendRefusal::RunEnded)
        } else {
            AppendDecision::Answer { next }
        };
    }
    if stored.ended {
        return AppendDecision::Refuse(AppendRefusal::RunEnded);
    }
    let skip = usize::try_from(next - first).unwrap_or(usize::MAX);
    let fresh = events.get(skip..).unwrap_or_default();
    if follows(stored.started, fresh) {
        AppendDecision::Store { skip, next: end }
    } else {
        AppendDecision::Refuse(AppendRefusal::Invalid)
    }
}

/// Tells whether the events keep the order of an attempt: `run_started` once and first, nothing behind
/// `run_completed`, and nothing that only the control plane writes.
fn follows(mut started: bool, events: &[EventDraft]) -> bool {
    let mut ended = false;
    events.iter().all(|event| {
        if ended {
            return false;
        }
        match event.event_type {
            EventType::RunStarted => !std::mem::replace(&mut started, true),
            EventType::RunCompleted => {
                ended = true;
                true
            }
            EventType::AssistantMessage | EventType::ToolCall | EventType::ToolResult => started,
            EventType::UserMessage
            | EventType::CompactionStarted
            | EventType::CompactionCompleted
            | EventType::ThreadRenamed
            | EventType::ThreadArchived
            | EventType::ThreadDeleted => false,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use AppendDecision::{Answer, Refuse, Store};
    use EventType::{
        AssistantMessage as Said, RunCompleted as End, RunStarted as Start, UserMessage as Asked,
    };

    fn stored(next: u64) -> Stored {
        let fence = Fence(2);
        let (ended, started) = (false, next > 1);
        Stored {
            fence,
            next,
            ended,
            started,
        }
    }

    fn check(stored: Stored, fence: u64, first: u64, types: &[EventType], expected: AppendDecision) {
        let events: Vec<EventDraft> = types
            .iter()
            .map(|event_type| EventDraft {
                event_type: *event_type,
                payload: serde_json::Value::Null,
                client_event_id: None,
            })
            .collect();
        let decision = decide(stored, Fence(fence), first, &events);
        assert_eq!(decision, expected, "{stored:?} {fence} {first} {types:?}");
    }

    #[test]
    fn what_follows_is_stored_and_what_is_known_is_skipped() {
        check(stored(1), 2, 1, &[Start], Store { skip: 0, next: 2 });
        check(stored(2), 2, 2, &[Said, Said], Store { skip: 0, next: 4 });
        check(stored(3), 2, 1, &[Start, Said, Said], Store { skip: 2, next: 4 });
        check(stored(3), 2, 3, &[End], Store { skip: 0, next: 4 });
        check(stored(1), 2, 1, &[End], Store { skip: 0, next: 2 });
    }

    #[test]
    fn duplicates_and_gaps_are_answered_with_what_is_expected() {
        check(stored(5), 2, 1, &[Start, Said], Answer { next: 5 });
        check(stored(5), 2, 4, &[Said], Answer { next: 5 });
        check(stored(5), 2, 6, &[Said], Answer { next: 5 });
        check(stored(5), 2, 5, &[], Answer { next: 5 });
    }

    #[test]
    fn a_lower_fence_is_refused_for_ever_and_a_higher_one_was_never_given() {
        check(stored(5), 1, 5, &[Said], Refuse(AppendRefusal::Fenced));
        check(stored(5), 1, 1, &[Said], Refuse(AppendRefusal::Fenced));
        check(stored(5), 3, 5, &[Said], Refuse(AppendRefusal::Invalid));
        check(stored(5), 2, 0, &[Said], Refuse(AppendRefusal::Invalid));
        check(stored(5), 2, u64::MAX, &[Said], Refuse(AppendRefusal::Invalid));
    }

    #[test]
    fn after_the_end_duplicates_are_acknowledged_and_news_refused() {
        let ended = Stored {
            ended: true,
            ..stored(5)
        };
        check(ended, 2, 3, &[Said, End], Answer { next: 5 });
        check(ended, 2, 5, &[Said], Refuse(AppendRefusal::RunEnded));
        check(ended, 2, 4, &[End, Said], Refuse(AppendRefusal::RunEnded));
        check(ended, 2, 9, &[Said], Refuse(AppendRefusal::RunEnded));
    }

    #[test]
    fn the_order_of_an_attempt_is_kept() {
        check(stored(1), 2, 1, &[Said], Refuse(AppendRefusal::Invalid));
        check(stored(1), 2, 1, &[Start, Start], Refuse(AppendRefusal::Invalid));
        check(stored(2), 2, 2, &[Start], Refuse(AppendRefusal::Invalid));
        check(stored(2), 2, 2, &[End, Said], Refuse(AppendRefusal::Invalid));
        check(stored(2), 2, 2, &[End, End], Refuse(AppendRefusal::Invalid));
        check(stored(2), 2, 2, &[Asked], Refuse(AppendRefusal::Invalid));
    }
}
