//! One run in the journal: its order, how far it came, and the events that are not acknowledged.

use std::collections::VecDeque;

use types::event::APPEND_EVENTS_MAX;
use types::{Attempt, EventDraft, Fence, RunOrder};

use super::record::Record;
use super::{BATCH_BYTES_MAX, JournalError, Unsent, Write, contradiction};
use crate::protocol::OpenRunState;

#[derive(Clone, PartialEq, Debug)]
pub(super) struct Held {
    pub(super) order: Box<RunOrder>,
    pub(super) attempt: Attempt,
    pub(super) fence: Fence,
    pub(super) state: OpenRunState,
    /// The number of the first event in `events`; the store has everything below.
    pub(super) first: u64,
    /// Each event and its length as JSON.
    events: VecDeque<(EventDraft, u64)>,
    bytes: u64,
}

impl Held {
    pub(super) fn new(order: Box<RunOrder>, attempt: Attempt, fence: Fence, first: u64) -> Self {
        Self {
            order,
            attempt,
            fence,
            state: OpenRunState::Accepted,
            first,
            events: VecDeque::new(),
            bytes: 0,
        }
    }

    /// The number that the next event gets.
    pub(super) fn next(&self) -> u64 {
        self.first + self.events.len() as u64
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn numbered(&self, drafts: Vec<EventDraft>) -> Vec<Record> {
        let run_id = self.order.run_id;
        let numbers = self.next()..;
        let record = |(number, draft)| Record::Event {
            run_id,
            number,
            draft,
        };
        numbers.zip(drafts).map(record).collect()
    }

    pub(super) fn unsent(&self, from: u64) -> Option<Unsent> {
        let first = from.max(self.first);
        let skip = usize::try_from(first - self.first).unwrap_or(usize::MAX);
        let mut bytes = 0;
        let fits = |(_, len): &&(EventDraft, u64)| {
            let is_first = bytes == 0;
            bytes += len;
            is_first || bytes <= BATCH_BYTES_MAX
        };
        let waiting = self.events.iter().skip(skip).take(APPEND_EVENTS_MAX);
        let events: Vec<EventDraft> = waiting.take_while(fits).map(|(draft, _)| draft.clone()).collect();
        (!events.is_empty()).then_some(Unsent {
            fence: self.fence,
            first,
            events,
        })
    }

    pub(super) fn apply(&mut self, record: Record) -> Result<(), JournalError> {
        let run_id = self.order.run_id;
        let refuse = |what: &str| Err(contradiction(run_id, what));
        match record {
            Record::Started { .. } if self.state != OpenRunState::Accepted => refuse("is started twice"),
            Record::Started { .. } => {
                self.state = OpenRunState::Started;
                Ok(())
            }
            Record::Event { .. } if self.state == OpenRunState::Ended => refuse("goes on after its end"),
            Record::Event { number, .. } if number != self.next() => {
                refuse(&format!("has event {number} where {} belongs", self.next()))
            }
            Record::Event { draft, .. } => {
                let len = json_len(&draft) as u64;
                self.bytes += len;
                self.events.push_back((draft, len));
                Ok(())
            }
            Record::Ended { .. } => {
                self.state = OpenRunState::Ended;
                Ok(())
            }
            Record::Acknowledged { next, .. } if next > self.next() => {
                refuse("has an event acknowledged that was never written")
            }
            Record::Acknowledged { next, .. } => {
                self.drop_below(next);
                Ok(())
            }
            Record::Accepted { .. } | Record::Forgotten { .. } => {
                refuse("is not told apart from the journal")
            }
        }
    }

    /// The records that make this run again, in writes of a bounded size.
    pub(super) fn compacted(&self) -> Vec<Write> {
        let run_id = self.order.run_id;
        let mut records = vec![Record::Accepted {
            order: self.order.clone(),
            attempt: self.attempt,
            fence: self.fence,
            first: self.first,
        }];
        if self.state != OpenRunState::Accepted {
            records.push(Record::Started { run_id });
        }
        let mut writes = vec![Write { records }];
        let mut from = self.first;
        while let Some(batch) = self.unsent(from) {
            from = batch.first + batch.events.len() as u64;
            let numbers = batch.first..;
            let record = |(number, draft)| Record::Event {
                run_id,
                number,
                draft,
            };
            let records = numbers.zip(batch.events).map(record).collect();
            writes.push(Write { records });
        }
        if self.state == OpenRunState::Ended {
            let records = vec![Record::Ended { run_id }];
            writes.push(Write { records });
        }
        writes
    }

    fn drop_below(&mut self, next: u64) {
        while self.first < next {
            let Some((_, len)) = self.events.pop_front() else {
                break;
            };
            self.bytes -= len;
            self.first += 1;
        }
    }
}

pub(super) fn json_len(draft: &EventDraft) -> usize {
    serde_json::to_vec(draft).map_or(usize::MAX, |json| json.len())
}
