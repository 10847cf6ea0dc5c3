//! One run in the journal: its order, how far it came, and the events that are not acknowledged.

use std::collections::VecDeque;
use std::io;

use types::event::APPEND_EVENTS_MAX;
use types::{Attempt, EventDraft, Fence, RunOrder};

use super::codec::Place;
use super::record::Record;
use super::{BATCH_BYTES_MAX, JournalError, Unsent, Waiting, contradiction};
use crate::protocol::OpenRunState;

/// An event that waits for its acknowledgement.
#[derive(Clone, Debug)]
struct Kept {
    /// `None` when it is to be read from the file.
    draft: Option<EventDraft>,
    place: Place,
    /// The length of the event alone, as JSON.
    len: u32,
}

impl PartialEq for Kept {
    /// Compares what was said; where it is kept is of no account.
    fn eq(&self, other: &Self) -> bool {
        (self.len, self.place.len, self.place.checksum) == (other.len, other.place.len, other.place.checksum)
    }
}

/// How many bytes of events are held, and how many of those in memory.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Weight {
    pub(super) bytes: u64,
    pub(super) in_memory: u64,
}

impl Weight {
    /// Takes a part of this weight out and another in.
    pub(super) fn exchange(&mut self, out: Self, into: Self) {
        self.bytes = self.bytes - out.bytes + into.bytes;
        self.in_memory = self.in_memory - out.in_memory + into.in_memory;
    }
}

impl PartialEq for Weight {
    /// As for [`Kept`]: where the events are is of no account.
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

#[derive(Clone, PartialEq, Debug)]
pub(super) struct Held {
    pub(super) order: Box<RunOrder>,
    pub(super) attempt: Attempt,
    pub(super) fence: Fence,
    pub(super) state: OpenRunState,
    /// The number of the first event in `events`; the store has everything below.
    pub(super) first: u64,
    events: VecDeque<Kept>,
    weight: Weight,
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
            weight: Weight::default(),
        }
    }

    /// The number that the next event gets.
    pub(super) fn next(&self) -> u64 {
        self.first + self.events.len() as u64
    }

    pub(super) fn weight(&self) -> Weight {
        self.weight
    }

    pub(super) fn numbered(&self, drafts: Vec<EventDraft>) -> Vec<Record> {
        super::numbered(self.order.run_id, self.next(), drafts)
    }

    pub(super) fn unsent(&self, from: u64) -> Option<Unsent> {
        let first = from.max(self.first);
        let skip = usize::try_from(first - self.first).unwrap_or(usize::MAX);
        let mut bytes = 0;
        let fits = |kept: &&Kept| {
            let is_first = bytes == 0;
            bytes += u64::from(kept.len);
            is_first || bytes <= BATCH_BYTES_MAX
        };
        let waiting = self.events.range(skip.min(self.events.len())..);
        let waiting = waiting.take(APPEND_EVENTS_MAX);
        let events: Vec<Waiting> = waiting.take_while(fits).map(Kept::waiting).collect();
        (!events.is_empty()).then_some(Unsent {
            fence: self.fence,
            first,
            events,
        })
    }

    /// Adds up one record; an event stays in memory if it fits into `room`, in bytes.
    pub(super) fn apply(&mut self, record: Record, place: Place, room: u64) -> Result<(), JournalError> {
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
                self.keep(draft, place, room);
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

    /// The record that makes this run again, before its events.
    pub(super) fn accepted(&self) -> Vec<Record> {
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
        records
    }

    fn keep(&mut self, draft: EventDraft, place: Place, room: u64) {
        let len = json_len(&draft);
        let bytes = len as u64;
        self.weight.bytes += bytes;
        let draft = (bytes <= room).then_some(draft);
        if draft.is_some() {
            self.weight.in_memory += bytes;
        }
        let len = u32::try_from(len).expect("an event is shorter than the frame it stands in");
        self.events.push_back(Kept { draft, place, len });
    }

    fn drop_below(&mut self, next: u64) {
        while self.first < next {
            let Some(kept) = self.events.pop_front() else {
                break;
            };
            self.weight.bytes -= u64::from(kept.len);
            if kept.draft.is_some() {
                self.weight.in_memory -= u64::from(kept.len);
            }
            self.first += 1;
        }
    }
}

impl Kept {
    fn waiting(&self) -> Waiting {
        match &self.draft {
            Some(draft) => Waiting::Here(draft.clone()),
            None => Waiting::InFile(self.place),
        }
    }
}

/// Returns the length of an event as JSON, in bytes; nothing is copied for it.
#[must_use]
pub fn json_len(draft: &EventDraft) -> usize {
    struct Counter(usize);
    impl io::Write for Counter {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut counter = Counter(0);
    serde_json::to_writer(&mut counter, draft).map_or(usize::MAX, |()| counter.0)
}
