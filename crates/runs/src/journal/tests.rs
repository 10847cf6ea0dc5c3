//! The journal against its promises, and against a file that is cut at every byte.

use proptest::prelude::*;
use serde_json::{Value, json};
use types::event::{APPEND_EVENTS_MAX, EVENT_BYTES_MAX};
use types::{AgentId, AgentSlug, EventType, RolloutId, RunLimits, ThreadId, Timestamp};

use super::decisions::event;
use super::*;
use crate::protocol::OfferRefusal;

fn order(seed: u8) -> RunOrder {
    let slug: AgentSlug = "code-on-my-mac".parse().expect("slug");
    RunOrder {
        run_id: RunId::from_random([seed; 16]),
        thread_id: ThreadId::from_random([seed; 16]),
        rollout_id: RolloutId::from_random([seed; 16]),
        agent_id: AgentId::from_random([1; 16]),
        agent_slug: slug,
        runner: None,
        system_prompt: None,
        prompt: "Inspect this local repo".to_owned(),
        folder_hint: None,
        env: BTreeMap::new(),
        limits: RunLimits::default(),
        model: None,
        temperature: None,
        settings: types::RunSettings::default(),
        history: None,
        created_at: Timestamp::from_unix_ms(0),
    }
}

fn id(seed: u8) -> RunId {
    order(seed).run_id
}

fn message(text: &str) -> EventDraft {
    event(EventType::AssistantMessage, json!({ "text": text }))
}

/// Commits a write as if the file began with it.
fn commit(journal: &mut Journal, write: Write) {
    let places = encode(&write.records, 0).expect("small").places;
    journal.commit_at(write, &places);
}

fn here(waiting: Vec<Waiting>) -> Vec<EventDraft> {
    let draft = |waiting| match waiting {
        Waiting::Here(draft) => draft,
        Waiting::InFile(place) => panic!("not in memory: {place:?}"),
    };
    waiting.into_iter().map(draft).collect()
}

fn take(journal: &mut Journal, seed: u8, fence: u64) {
    match journal.offer(&order(seed), Attempt(1), Fence(fence)) {
        OfferDecision::Take(write) => commit(journal, write),
        other => panic!("offer {seed}/{fence}: {other:?}"),
    }
}

fn start(journal: &mut Journal, seed: u8, fence: u64) {
    let write = journal.start(id(seed), Fence(fence), json!({})).expect("starts");
    commit(journal, write);
}

fn append(journal: &mut Journal, seed: u8, texts: &[&str]) {
    let drafts = texts.iter().map(|text| message(text)).collect();
    let write = journal.append(id(seed), Fence(1), drafts).expect("appends");
    commit(journal, write);
}

fn end(journal: &mut Journal, seed: u8) {
    let status = json!({ "status": "completed" });
    let write = journal.end(id(seed), Fence(1), status).expect("ends");
    commit(journal, write);
}

fn numbers(journal: &Journal, seed: u8, from: u64) -> Option<(u64, usize)> {
    let unsent = journal.unsent(id(seed), from)?;
    Some((unsent.first, unsent.events.len()))
}

#[test]
fn a_run_goes_from_offer_to_forgotten() {
    let mut journal = Journal::default();
    take(&mut journal, 1, 1);
    assert_eq!(journal.to_start().count(), 1);
    start(&mut journal, 1, 1);
    assert_eq!(journal.to_start().count(), 0);
    append(&mut journal, 1, &["a", "b"]);
    assert_eq!(numbers(&journal, 1, 0), Some((1, 3)));
    assert_eq!(numbers(&journal, 1, 3), Some((3, 1)));
    assert_eq!(numbers(&journal, 1, 4), None);

    let write = journal
        .acknowledge(id(1), Fence(1), 3)
        .expect("three were written");
    commit(&mut journal, write);
    assert_eq!(numbers(&journal, 1, 0), Some((3, 1)));
    end(&mut journal, 1);
    assert_eq!(journal.open_runs()[0].state, OpenRunState::Ended);
    let last = journal.unsent(id(1), 4).expect("the end waits");
    assert_eq!(here(last.events)[0].event_type, EventType::RunCompleted);

    let write = journal.acknowledge(id(1), Fence(1), 5).expect("all were written");
    commit(&mut journal, write);
    assert_eq!((journal.open_runs().len(), journal.unsent_bytes()), (0, 0));
}

#[test]
fn the_same_offer_is_known_and_a_stale_one_refused_even_when_the_run_is_over() {
    let mut journal = Journal::default();
    take(&mut journal, 1, 3);
    let offer = |journal: &Journal, fence| journal.offer(&order(1), Attempt(1), Fence(fence));
    assert_eq!(offer(&journal, 3), OfferDecision::Known);
    let stale = OfferDecision::Refuse(OfferRefusal::StaleFence);
    assert_eq!(offer(&journal, 2), stale);
    let write = journal.forget(id(1), Fence(3)).expect("held");
    commit(&mut journal, write);
    assert_eq!(offer(&journal, 3), stale);
    assert!(matches!(offer(&journal, 4), OfferDecision::Take(_)));
}

#[test]
fn a_later_offer_replaces_what_was_not_started_and_waits_for_what_was() {
    let mut journal = Journal::default();
    take(&mut journal, 1, 1);
    take(&mut journal, 1, 2);
    assert_eq!(
        journal.start(id(1), Fence(1), json!({})),
        Err(JournalError::NotHeld(id(1)))
    );
    start(&mut journal, 1, 2);
    let busy = OfferDecision::Refuse(OfferRefusal::Busy);
    assert_eq!(journal.offer(&order(1), Attempt(2), Fence(3)), busy);
}

#[test]
fn a_run_starts_once_and_nothing_stands_outside_its_start_and_end() {
    let mut journal = Journal::default();
    take(&mut journal, 1, 1);
    let one = || vec![message("x")];
    let append_to = |journal: &Journal, drafts| journal.append(id(1), Fence(1), drafts);
    assert_eq!(append_to(&journal, one()), Err(JournalError::NotUnderWay(id(1))));
    start(&mut journal, 1, 1);
    let again = journal.start(id(1), Fence(1), json!({}));
    assert_eq!(again, Err(JournalError::AlreadyStarted(id(1))));
    let reserved = vec![event(EventType::RunCompleted, json!({}))];
    let error = JournalError::ReservedType(EventType::RunCompleted);
    assert_eq!(append_to(&journal, reserved), Err(error));
    end(&mut journal, 1);
    assert_eq!(append_to(&journal, one()), Err(JournalError::NotUnderWay(id(1))));
}

#[test]
fn a_run_that_never_started_can_end() {
    let mut journal = Journal::default();
    take(&mut journal, 1, 1);
    end(&mut journal, 1);
    assert_eq!(numbers(&journal, 1, 0), Some((1, 1)));
}

#[test]
fn what_was_started_when_the_process_died_is_ended_as_interrupted_and_never_started_again() {
    let mut journal = Journal::default();
    for seed in [1, 2, 3] {
        take(&mut journal, seed, 1);
    }
    start(&mut journal, 1, 1);
    start(&mut journal, 2, 1);
    end(&mut journal, 2);
    let write = journal.recover();
    assert_eq!(write.records.len(), 2);
    commit(&mut journal, write);
    let last = here(journal.unsent(id(1), 2).expect("the end waits").events);
    assert_eq!(last[0].payload["status"], "failed");
    assert_eq!(last[0].payload["reason"], "interrupted");
    let to_start: Vec<RunId> = journal.to_start().map(|(order, ..)| order.run_id).collect();
    assert_eq!(to_start, [id(3)]);
    assert_eq!(journal.recover(), Write::default());
}

#[test]
fn limits_are_kept_and_the_end_always_fits() {
    let mut journal = Journal::default();
    take(&mut journal, 1, 1);
    start(&mut journal, 1, 1);
    let append_to = |journal: &Journal, drafts| journal.append(id(1), Fence(1), drafts);
    let of_len = |len: usize| {
        let empty = json_len(&message(""));
        message(&"x".repeat(len - empty))
    };
    assert!(append_to(&journal, vec![of_len(EVENT_BYTES_MAX)]).is_ok());
    let error = JournalError::EventTooLarge(EVENT_BYTES_MAX + 1);
    assert_eq!(append_to(&journal, vec![of_len(EVENT_BYTES_MAX + 1)]), Err(error));
    assert!(append_to(&journal, vec![message("x"); APPEND_EVENTS_MAX]).is_ok());
    let error = JournalError::TooManyEvents(APPEND_EVENTS_MAX + 1);
    assert_eq!(
        append_to(&journal, vec![message("x"); APPEND_EVENTS_MAX + 1]),
        Err(error)
    );
    assert!(append_to(&journal, vec![of_len(EVENT_BYTES_MAX); 8]).is_ok());
    let bytes = 9 * EVENT_BYTES_MAX as u64;
    let error = JournalError::TooManyBytes(bytes);
    assert_eq!(append_to(&journal, vec![of_len(EVENT_BYTES_MAX); 9]), Err(error));

    while let Ok(write) = append_to(&journal, vec![of_len(EVENT_BYTES_MAX)]) {
        commit(&mut journal, write);
    }
    let full = append_to(&journal, vec![of_len(EVENT_BYTES_MAX)]);
    assert!(full == Err(JournalError::Full));
    assert!(journal.unsent_bytes() <= UNSENT_BYTES_MAX);
    end(&mut journal, 1);
    let batch = journal.unsent(id(1), 2).expect("events wait");
    assert_eq!(batch.events.len(), 1, "an event of 1 MiB is a batch of its own");
}

#[test]
fn only_the_window_is_held_in_memory_and_what_leaves_it_makes_room() {
    let mut journal = Journal::default();
    take(&mut journal, 1, 1);
    start(&mut journal, 1, 1);
    let block = "x".repeat(100_000);
    for _ in 0..100 {
        append(&mut journal, 1, &[&block]);
    }
    assert!(journal.unsent_bytes() > 10_000_000);
    let in_memory = |journal: &Journal| journal.weight.in_memory;
    assert!(in_memory(&journal) <= WINDOW_BYTES && in_memory(&journal) > WINDOW_BYTES - 200_000);
    let from_file = |journal: &Journal, from| {
        let events = journal.unsent(id(1), from).expect("waits").events;
        events
            .iter()
            .filter(|event| matches!(event, Waiting::InFile(_)))
            .count()
    };
    assert_eq!((from_file(&journal, 0), from_file(&journal, 50)), (0, 5));
    let write = journal.acknowledge(id(1), Fence(1), 50).expect("written");
    commit(&mut journal, write);
    append(&mut journal, 1, &[&block]);
    assert_eq!((from_file(&journal, 0), from_file(&journal, 102)), (5, 0));
    let write = journal.forget(id(1), Fence(1)).expect("held");
    commit(&mut journal, write);
    assert_eq!((journal.unsent_bytes(), in_memory(&journal)), (0, 0));
}

#[test]
fn as_many_runs_as_the_limit_and_no_more() {
    let mut journal = Journal::default();
    let numbered = |n: usize| {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&n.to_be_bytes());
        let run_id = RunId::from_random(bytes);
        RunOrder { run_id, ..order(1) }
    };
    for n in 0..OPEN_RUNS_MAX {
        match journal.offer(&numbered(n), Attempt(1), Fence(1)) {
            OfferDecision::Take(write) => commit(&mut journal, write),
            other => panic!("{other:?}"),
        }
    }
    let refused = journal.offer(&numbered(OPEN_RUNS_MAX), Attempt(1), Fence(1));
    assert_eq!(refused, OfferDecision::Refuse(OfferRefusal::Busy));
}

#[test]
fn an_acknowledgement_of_more_than_was_written_is_refused() {
    let mut journal = Journal::default();
    take(&mut journal, 1, 1);
    start(&mut journal, 1, 1);
    let error = JournalError::AcknowledgedTooMuch {
        run_id: id(1),
        acknowledged: 2,
        written: 1,
    };
    assert_eq!(journal.acknowledge(id(1), Fence(1), 3), Err(error));
}

#[test]
fn records_that_contradict_each_other_are_refused() {
    let run_id = id(1);
    let accepted = || Record::Accepted {
        order: Box::new(order(1)),
        attempt: Attempt(1),
        fence: Fence(1),
        first: 1,
    };
    let draft = message("x");
    let number = 2;
    let gap = Record::Event {
        run_id,
        number,
        draft,
    };
    let cases = [
        vec![Record::Started { run_id }],
        vec![accepted(), accepted()],
        vec![accepted(), Record::Started { run_id }, Record::Started { run_id }],
        vec![accepted(), gap],
        vec![accepted(), Record::Acknowledged { run_id, next: 2 }],
    ];
    for records in cases {
        let places = encode(&records, 0).expect("small").places;
        let said = format!("{records:?}");
        let replayed = Journal::default().replay(Frame { records, places });
        assert!(matches!(replayed, Err(JournalError::Contradiction(_))), "{said}");
    }
}

/// One thing that may happen to a sidecar.
#[derive(Clone, Debug)]
enum Step {
    Offer(u8, u64),
    Start(u8),
    Append(u8, usize),
    End(u8),
    Acknowledge(u8, u64),
    Forget(u8),
    Compact,
    /// The process dies; this many bytes of the last write are lost.
    Crash(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let run = 1..4u8;
    prop_oneof![
        (run.clone(), 1..4u64).prop_map(|(run, fence)| Step::Offer(run, fence)),
        run.clone().prop_map(Step::Start),
        (run.clone(), 1..4usize).prop_map(|(run, count)| Step::Append(run, count)),
        run.clone().prop_map(Step::End),
        (run.clone(), 1..9u64).prop_map(|(run, next)| Step::Acknowledge(run, next)),
        run.prop_map(Step::Forget),
        Just(Step::Compact),
        (0..400usize).prop_map(Step::Crash),
    ]
}

/// So small that most events have to be read back.
const WINDOW: u64 = 150;

/// A sidecar whose disk is a `Vec`, with what it told the outside world.
struct Machine {
    journal: Journal,
    disk: Vec<u8>,
    /// The file without the last write, whose fsync may not have returned.
    synced: usize,
    starts: Vec<(RunId, Fence)>,
    /// Per run and fence, every event that may have been sent.
    sent: BTreeMap<(RunId, Fence), Vec<EventDraft>>,
}

impl Machine {
    fn write(&mut self, write: Write) {
        self.synced = self.disk.len();
        let encoded = encode(&write.records, self.disk.len() as u64).expect("small");
        self.disk.extend(&encoded.bytes);
        self.journal.commit_at(write, &encoded.places);
    }

    fn read(&self, waiting: Vec<Waiting>) -> Vec<EventDraft> {
        let draft = |waiting| match waiting {
            Waiting::Here(draft) => draft,
            Waiting::InFile(place) => {
                let start = usize::try_from(place.offset).expect("small");
                let json = &self.disk[start..start + place.len as usize];
                place.event(json).expect("it was written there")
            }
        };
        waiting.into_iter().map(draft).collect()
    }

    /// Opens the disk as after a start; returns the length of what is intact.
    fn reopened(&self, bytes: &[u8]) -> (Journal, Tail) {
        let mut decoder = Decoder::default();
        let mut journal = Journal::with_window(WINDOW);
        decoder.push(bytes);
        while let Some(frame) = decoder.next_frame().expect("own bytes") {
            journal.replay(frame).expect("own records");
        }
        (journal, decoder.finish().expect("a torn tail is tolerated"))
    }

    fn fence(&self, seed: u8) -> Fence {
        self.journal.state(id(seed)).map_or(Fence(0), |(fence, _)| fence)
    }

    fn step(&mut self, step: &Step) {
        let journal = &self.journal;
        let write = match *step {
            Step::Offer(seed, fence) => match journal.offer(&order(seed), Attempt(1), Fence(fence)) {
                OfferDecision::Take(write) => Ok(write),
                _ => return,
            },
            Step::Start(seed) => journal.start(id(seed), self.fence(seed), json!({})),
            Step::Append(seed, count) => {
                let drafts = (0..count).map(|n| message(&n.to_string())).collect();
                journal.append(id(seed), self.fence(seed), drafts)
            }
            Step::End(seed) => journal.end(id(seed), self.fence(seed), Value::Null),
            Step::Acknowledge(seed, next) => journal.acknowledge(id(seed), self.fence(seed), next),
            Step::Forget(seed) => journal.forget(id(seed), self.fence(seed)),
            Step::Compact => return self.compact(),
            Step::Crash(lost) => return self.crash(lost),
        };
        let Ok(write) = write else { return };
        self.write(write);
        if let Step::Start(seed) = *step {
            self.starts.push((id(seed), self.fence(seed)));
        }
        self.send();
    }

    fn send(&mut self) {
        for run in self.journal.open_runs() {
            let Some(unsent) = self.journal.unsent(run.run_id, 0) else {
                continue;
            };
            let events = self.read(unsent.events);
            let sent = self.sent.entry((run.run_id, run.fence)).or_default();
            for (event, number) in events.iter().zip(unsent.first..) {
                let at = usize::try_from(number - 1).expect("small");
                match sent.get(at) {
                    Some(before) => assert_eq!(before, event, "an event was sent in two forms"),
                    None => {
                        assert_eq!(sent.len(), at, "a number was left out");
                        sent.push(event.clone());
                    }
                }
            }
        }
    }

    fn compact(&mut self) {
        let mut disk = HEADER.to_vec();
        for write in self.journal.compacted() {
            let records = match write {
                Rewrite::Records(records) => records,
                Rewrite::Events(run_id, batch) => numbered(run_id, batch.first, self.read(batch.events)),
            };
            disk.extend(encode(&records, disk.len() as u64).expect("small").bytes);
        }
        let (journal, _) = self.reopened(&disk);
        assert_eq!(journal, self.journal);
        (self.synced, self.disk, self.journal) = (disk.len(), disk, journal);
    }

    fn crash(&mut self, lost: usize) {
        // Whoever was answered was answered after the fsync, so a cut into the last write is allowed only for a write
        // that nobody saw; here every write was seen, so a torn write is added instead of taken away.
        let forgotten = Record::Forgotten {
            run_id: id(9),
            fence: Fence(1),
        };
        let torn = encode(&[forgotten], 0).expect("small").bytes;
        self.disk.extend(&torn[..lost.min(torn.len() - 1)]);
        let (replayed, tail) = self.reopened(&self.disk);
        self.disk
            .truncate(usize::try_from(tail.intact_len).expect("small"));
        assert_eq!(replayed, self.journal);
        self.journal = replayed;
        let write = self.journal.recover();
        self.write(write);
        self.send();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn no_history_starts_an_attempt_twice_or_changes_what_was_sent(steps in prop::collection::vec(step(), 0..60)) {
        let mut machine = Machine {
            journal: Journal::with_window(WINDOW),
            disk: HEADER.to_vec(),
            synced: HEADER.len(),
            starts: Vec::new(),
            sent: BTreeMap::new(),
        };
        for step in &steps {
            machine.step(step);
        }
        let mut starts = machine.starts.clone();
        starts.sort_unstable();
        starts.dedup();
        prop_assert_eq!(starts.len(), machine.starts.len());
        // Any prefix that ends with a whole write is a journal too.
        let (_, tail) = machine.reopened(&machine.disk[..machine.synced]);
        prop_assert_eq!(tail.torn_len, 0);
    }

    #[test]
    fn no_bytes_make_the_decoder_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..200), whole: bool) {
        if whole {
            bytes.splice(0..0, HEADER.iter().copied());
        }
        let mut decoder = Decoder::default();
        decoder.push(&bytes);
        while let Ok(Some(_)) = decoder.next_frame() {}
        let _ = decoder.finish();
    }
}
