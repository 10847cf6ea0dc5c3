//! The events of one run on their way to the journal: in order, a few at a time, and given back when it cannot be written.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::sleep;
use types::EventDraft;
use types::event::APPEND_EVENTS_MAX;

use super::executor::{Sink, SinkError};
use crate::journal_keeper::json_len;

/// So many events may wait for the journal before the program is no longer read from.
const EVENTS_WAITING_MAX: usize = 256;

/// One append to the journal is at most this large, unless one event alone is larger.
const APPEND_BYTES: usize = 1024 * 1024;

/// Between two attempts to write events to a journal that cannot be written.
const UNWRITABLE_RETRY: Duration = Duration::from_secs(1);

/// Events that are not safe yet.
pub(super) struct EventQueue<'a> {
    sink: &'a dyn Sink,
    events: VecDeque<EventDraft>,
    appending: Option<oneshot::Receiver<Result<(), SinkError>>>,
}

impl<'a> EventQueue<'a> {
    pub(super) fn new(sink: &'a dyn Sink) -> Self {
        Self {
            sink,
            events: VecDeque::new(),
            appending: None,
        }
    }

    pub(super) fn push(&mut self, draft: EventDraft) {
        self.events.push_back(draft);
    }

    /// Whether whatever makes events may go on.
    pub(super) fn has_room(&self) -> bool {
        self.events.len() < EVENTS_WAITING_MAX
    }

    pub(super) fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.events.len()
    }

    pub(super) fn is_appending(&self) -> bool {
        self.appending.is_some()
    }

    /// Gives the sink the next events, unless it has some.
    pub(super) fn append_more(&mut self) {
        if self.appending.is_some() || self.events.is_empty() {
            return;
        }
        let mut bytes = 0;
        let fits = |event: &&EventDraft| {
            let is_first = bytes == 0;
            bytes += json_len(event);
            is_first || bytes <= APPEND_BYTES
        };
        let next = self.events.iter().take(APPEND_EVENTS_MAX);
        let count = next.take_while(fits).count();
        self.appending = Some(self.sink.append(self.events.drain(..count).collect()));
    }

    /// Waits until the sink has answered, if it was given something. On success it has the next events; on an error those
    /// that it could not write are the next again. Can be dropped at any await.
    pub(super) async fn appended(&mut self) -> Result<(), SinkError> {
        let Some(appending) = &mut self.appending else {
            return Ok(());
        };
        let result = appending.await.unwrap_or(Err(SinkError::Closed));
        self.appending = None;
        match result {
            Ok(()) => {
                self.append_more();
                Ok(())
            }
            Err(error) => {
                self.take_back(&error);
                Err(error)
            }
        }
    }

    fn take_back(&mut self, error: &SinkError) {
        match error {
            SinkError::Unwritable { events, .. } => {
                for event in events.iter().rev() {
                    self.events.push_front(event.clone());
                }
            }
            SinkError::Closed => self.events.clear(),
        }
    }

    /// Waits until every event is safe. Can be dropped at any await.
    pub(super) async fn drain(&mut self) {
        loop {
            self.append_more();
            if self.appending.is_none() {
                return;
            }
            if self.appended().await.is_err() {
                sleep(UNWRITABLE_RETRY).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, PoisonError};

    use serde_json::{Value, json};
    use types::{EventType, LiveType};

    use super::*;

    /// Answers as told, and remembers what it was given.
    #[derive(Default)]
    struct Script {
        given: Mutex<Vec<Vec<Value>>>,
        full: Mutex<u32>,
    }

    impl Sink for Script {
        fn append(&self, events: Vec<EventDraft>) -> oneshot::Receiver<Result<(), SinkError>> {
            let (reply, answer) = oneshot::channel();
            let mut full = self.full.lock().unwrap_or_else(PoisonError::into_inner);
            let result = if *full > 0 {
                *full -= 1;
                let reason = "the disk is full".to_owned();
                Err(SinkError::Unwritable { reason, events })
            } else {
                let payloads = events.into_iter().map(|event| event.payload).collect();
                self.given
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(payloads);
                Ok(())
            };
            drop(reply.send(result));
            answer
        }

        fn live(&self, _: LiveType, _: Value) {}
    }

    fn event(payload: Value) -> EventDraft {
        EventDraft {
            event_type: EventType::ToolCall,
            payload,
            client_event_id: None,
        }
    }

    #[tokio::test]
    async fn events_go_in_order_a_few_at_a_time_and_a_large_one_alone() {
        let sink = Script::default();
        let mut queue = EventQueue::new(&sink);
        let large = json!("x".repeat(APPEND_BYTES));
        queue.push(event(json!(0)));
        queue.push(event(large.clone()));
        for number in 1..=APPEND_EVENTS_MAX + 1 {
            queue.push(event(json!(number)));
        }
        queue.drain().await;
        let given = sink.given.into_inner().unwrap_or_else(PoisonError::into_inner);
        let lens: Vec<usize> = given.iter().map(Vec::len).collect();
        assert_eq!(lens, [1, 1, APPEND_EVENTS_MAX, 1]);
        assert_eq!(given[1], [large]);
        let all: Vec<&Value> = given
            .iter()
            .flatten()
            .filter(|payload| payload.is_number())
            .collect();
        assert!(
            all.iter()
                .enumerate()
                .all(|(number, payload)| **payload == json!(number))
        );
    }

    #[tokio::test]
    async fn what_could_not_be_written_is_offered_again_first() {
        let sink = Script::default();
        *sink.full.lock().unwrap_or_else(PoisonError::into_inner) = 1;
        let mut queue = EventQueue::new(&sink);
        queue.push(event(json!(1)));
        queue.push(event(json!(2)));
        queue.append_more();
        queue.push(event(json!(3)));
        let error = queue.appended().await.expect_err("full");
        assert!(
            matches!(error, SinkError::Unwritable { .. }) && queue.len() == 3,
            "{error}"
        );
        queue.drain().await;
        let given = sink.given.into_inner().unwrap_or_else(PoisonError::into_inner);
        assert_eq!(given, [vec![json!(1), json!(2), json!(3)]]);
    }

    #[test]
    fn there_is_room_up_to_a_limit() {
        let sink = Script::default();
        let mut queue = EventQueue::new(&sink);
        for _ in 0..EVENTS_WAITING_MAX {
            assert!(queue.has_room());
            queue.push(event(json!(0)));
        }
        assert!(!queue.has_room());
    }
}
