//! The state machine input by input, and against a real journal under random interleavings.

use proptest::prelude::*;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use types::{AgentId, EventDraft, EventType, RolloutId, RunId, RunLimits, RunOrder, ThreadId};

use super::*;
use crate::append::{self, AppendDecision, Stored};
use crate::journal::{Journal, OfferDecision, Write};
use OpenRunState as Held;

fn t0() -> Timestamp {
    Timestamp::from_unix_ms(1_000_000)
}

fn queued() -> RunState {
    RunState::queued(t0(), t0() + QUEUE_TTL)
}

fn after(inputs: &[Input]) -> RunState {
    let mut state = queued();
    for input in inputs {
        state = state.step(*input, t0()).state;
    }
    state
}

fn check(state: &RunState, input: Input, at: Timestamp, phase: Phase, effects: &[Effect]) -> RunState {
    let step = state.step(input, at);
    assert_eq!(step.state.phase, phase, "{input:?} on {state:?}");
    assert_eq!(step.effects, effects, "{input:?} on {state:?}");
    step.state
}

const F1: Fence = Fence(1);
const STARTED: Input = Input::Stored {
    next: 2,
    started: true,
    ended: None,
};

#[test]
fn a_run_goes_from_the_queue_to_its_end() {
    let state = check(&queued(), Input::Offer, t0(), Phase::Offered, &[Effect::Offer]);
    assert_eq!(
        (state.attempt, state.fence, state.status()),
        (Attempt(1), F1, RunStatus::Dispatched)
    );
    let state = check(&state, Input::Accepted(F1), t0(), Phase::Accepted, &[]);
    let state = check(&state, STARTED, t0(), Phase::Running, &[]);
    let ended = Input::Stored {
        next: 5,
        started: false,
        ended: Some(RunStatus::Completed),
    };
    let state = check(&state, ended, t0(), Phase::Ended(RunStatus::Completed), &[]);
    for input in [
        Input::Offer,
        Input::Cancel,
        Input::Tick,
        Input::Disconnected,
        Input::DeviceRevoked,
        STARTED,
    ] {
        assert_eq!(state.step(input, t0() + LOST_AFTER).state, state);
    }
}

#[test]
fn an_offer_that_was_not_answered_is_said_again_and_then_the_session_is_given_up() {
    let mut state = after(&[Input::Offer]);
    let mut at = t0();
    for _ in 1..OFFER_SENDS_MAX {
        at = at + OFFER_TIMEOUT;
        state = check(&state, Input::Tick, at, Phase::Offered, &[Effect::Offer]);
        assert_eq!(state.fence, F1);
    }
    let at = at + OFFER_TIMEOUT;
    let state = check(&state, Input::Tick, at, Phase::Queued, &[Effect::CloseSession]);
    let state = check(&state, Input::Hello(None), at, Phase::Queued, &[]);
    let state = check(&state, Input::Offer, at, Phase::Offered, &[Effect::Offer]);
    assert_eq!(state.fence, Fence(2));
}

#[test]
fn a_held_offer_is_found_in_hello_and_not_offered_again() {
    for held in [Held::Accepted, Held::Started, Held::Ended] {
        let state = after(&[Input::Offer, Input::Disconnected]);
        assert_eq!(state.status(), RunStatus::Queued);
        let appended = [Effect::Appended(F1, 1)];
        let state = check(
            &state,
            Input::Hello(Some((F1, held))),
            t0(),
            Phase::Accepted,
            &appended,
        );
        check(&state, Input::Offer, t0(), Phase::Accepted, &[]);
    }
}

#[test]
fn a_device_that_is_away_suspends_its_run_until_it_counts_as_lost() {
    let state = after(&[Input::Offer, Input::Accepted(F1), STARTED, Input::Disconnected]);
    assert_eq!(state.deadline(), Some((t0() + LOST_AFTER, Deadline::DeviceAway)));
    let back = check(
        &state,
        Input::Hello(Some((F1, Held::Started))),
        t0(),
        Phase::Running,
        &[Effect::Appended(F1, 2)],
    );
    assert_eq!(back.deadline(), None);
    let end = Effect::End(RunStatus::Lost, EndReason::DeviceAway);
    let refuse = Effect::Refuse(F1, AppendRefusal::RunEnded);
    let lost = Phase::Ended(RunStatus::Lost);
    let state = check(&state, Input::Tick, t0() + LOST_AFTER, lost, &[end, refuse]);
    let late = Input::Hello(Some((F1, Held::Started)));
    check(&state, late, t0(), lost, &[refuse]);
    let acknowledge = Effect::Appended(F1, 2);
    check(
        &state,
        Input::Hello(Some((F1, Held::Ended))),
        t0(),
        lost,
        &[acknowledge],
    );
}

#[test]
fn a_device_that_comes_back_without_its_run_has_lost_it() {
    for inputs in [
        &[Input::Offer, Input::Accepted(F1), Input::Disconnected][..],
        &[Input::Offer, Input::Accepted(F1), STARTED, Input::Disconnected],
    ] {
        let step = after(inputs).step(Input::Hello(None), t0());
        assert_eq!(
            step.effects[0],
            Effect::End(RunStatus::Lost, EndReason::JournalLost)
        );
    }
}

#[test]
fn a_queued_run_expires_and_a_refused_one_waits_longer_each_time() {
    let expired = Effect::End(RunStatus::Expired, EndReason::QueueTtl);
    let over = Phase::Ended(RunStatus::Expired);
    check(&queued(), Input::Tick, t0() + QUEUE_TTL, over, &[expired]);
    check(&queued(), Input::Offer, t0() + QUEUE_TTL, Phase::Queued, &[]);

    let (mut state, mut at, mut waits) = (queued(), t0(), Vec::new());
    for fence in 1..=10 {
        state = check(&state, Input::Offer, at, Phase::Offered, &[Effect::Offer]);
        let refused = Input::Refused(Fence(fence), OfferRefusal::Busy);
        state = check(&state, refused, at, Phase::Queued, &[]);
        waits.push(state.offer_at.since(at).as_secs());
        assert_eq!(state.deadline(), Some((state.offer_at, Deadline::Retry)));
        check(&state, Input::Offer, at, Phase::Queued, &[]);
        at = state.offer_at;
    }
    assert_eq!(waits, [2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
    check(&state, Input::Tick, t0() + QUEUE_TTL, over, &[expired]);
}

#[test]
fn a_refusal_that_time_cannot_heal_fails_the_run() {
    for reason in [OfferRefusal::Policy, OfferRefusal::RunnerMissing] {
        let state = after(&[Input::Offer]);
        let end = Effect::End(RunStatus::Failed, EndReason::Refused(reason));
        let failed = Phase::Ended(RunStatus::Failed);
        check(&state, Input::Refused(F1, reason), t0(), failed, &[end]);
        check(
            &state,
            Input::Refused(Fence(0), reason),
            t0(),
            Phase::Offered,
            &[],
        );
    }
    let (mut state, mut at) = (queued(), t0());
    for fence in 1..=u64::from(DISPUTES_MAX) {
        state = state.step(Input::Offer, at).state;
        state = state
            .step(Input::Refused(Fence(fence), OfferRefusal::BadTicket), at)
            .state;
        at = at + RETRY_MAX;
    }
    assert_eq!(state.phase, Phase::Ended(RunStatus::Failed));
}

#[test]
fn cancel_ends_what_nobody_took_and_is_a_wish_for_the_rest() {
    let end = Effect::End(RunStatus::Cancelled, EndReason::CancelledBeforeStart);
    let over = Phase::Ended(RunStatus::Cancelled);
    check(&queued(), Input::Cancel, t0(), over, &[end]);

    let offered = check(
        &after(&[Input::Offer]),
        Input::Cancel,
        t0(),
        Phase::Offered,
        &[Effect::Cancel],
    );
    check(
        &offered,
        Input::Refused(F1, OfferRefusal::Busy),
        t0(),
        over,
        &[end],
    );
    let gone = offered.step(Input::Disconnected, t0()).state;
    check(&gone, Input::Hello(None), t0(), over, &[end]);
    check(
        &offered,
        Input::Accepted(F1),
        t0(),
        Phase::Accepted,
        &[Effect::Cancel],
    );

    let running = after(&[Input::Offer, Input::Accepted(F1), STARTED]);
    let state = check(&running, Input::Cancel, t0(), Phase::Running, &[Effect::Cancel]);
    let state = state.step(Input::Disconnected, t0()).state;
    let later = t0() + CANCEL_TIMEOUT;
    check(&state, Input::Tick, later, Phase::Running, &[]);
    let hello = Input::Hello(Some((F1, Held::Started)));
    let again = [Effect::Appended(F1, 2), Effect::Cancel];
    let state = check(&state, hello, later, Phase::Running, &again);
    let unconfirmed = Effect::End(RunStatus::Cancelled, EndReason::CancelUnconfirmed);
    let refuse = Effect::Refuse(F1, AppendRefusal::RunEnded);
    check(
        &state,
        Input::Tick,
        later + CANCEL_TIMEOUT,
        over,
        &[unconfirmed, refuse],
    );
}

#[test]
fn a_registered_run_is_held_from_the_start_and_a_refusal_fails_it() {
    let state = RunState::registered(t0());
    assert_eq!(state.status(), RunStatus::Registered);
    let running = check(&state, STARTED, t0(), Phase::Running, &[]);
    assert_eq!(running.status(), RunStatus::Running);
    let step = state.step(Input::Refused(F1, OfferRefusal::Busy), t0());
    assert_eq!(step.state.phase, Phase::Ended(RunStatus::Failed));
}

#[test]
fn a_fence_from_a_future_that_was_forgotten_is_passed() {
    let held = Input::Hello(Some((Fence(7), Held::Accepted)));
    let refuse = Effect::Refuse(Fence(7), AppendRefusal::Fenced);
    let state = check(&queued(), held, t0(), Phase::Queued, &[refuse]);
    let state = check(&state, Input::Offer, t0(), Phase::Offered, &[Effect::Offer]);
    assert_eq!(state.fence, Fence(8));
}

/// One thing that may happen to the pair.
#[derive(Clone, Debug)]
enum Move {
    Connect,
    Disconnect,
    SidecarDies,
    ToSidecar { pick: usize, keep: bool },
    ToOrchestrator { pick: usize, keep: bool },
    Offer,
    Tick(u32),
    Cancel,
    Start,
    Say,
    End,
    Resend,
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let pick = (0..4usize, prop::bool::weighted(0.2));
    let one = prop_oneof![
        3 => Just(Move::Connect),
        1 => Just(Move::Disconnect),
        1 => Just(Move::SidecarDies),
        6 => pick.clone().prop_map(|(pick, keep)| Move::ToSidecar { pick, keep }),
        6 => pick.prop_map(|(pick, keep)| Move::ToOrchestrator { pick, keep }),
        3 => Just(Move::Offer),
        2 => (1..400u32).prop_map(Move::Tick),
        1 => Just(Move::Cancel),
        3 => Just(Move::Start),
        3 => Just(Move::Say),
        2 => Just(Move::End),
        2 => Just(Move::Resend),
    ];
    prop::collection::vec(one, 0..120)
}

#[derive(Clone, Debug)]
enum Down {
    Offer(Attempt, Fence),
    Cancel,
    Appended(Fence, u64),
    Refused(Fence),
}

#[derive(Clone, Debug)]
enum Up {
    Accepted(Fence),
    Refused(Fence, OfferRefusal),
    Append(Fence, u64, Vec<EventDraft>),
}

/// An orchestrator and a sidecar with one run between them, and everything that may be observed of it.
struct World {
    now: Timestamp,
    run: RunState,
    /// `Some` while a session is up.
    connected: bool,
    down: Vec<Down>,
    up: Vec<Up>,
    journal: Journal,
    starts: BTreeSet<(u32, u64)>,
    stored: BTreeMap<Fence, Vec<EventDraft>>,
    ends: usize,
}

fn order() -> RunOrder {
    RunOrder {
        run_id: RunId::from_random([1; 16]),
        thread_id: ThreadId::from_random([1; 16]),
        rollout_id: RolloutId::from_random([1; 16]),
        agent_id: AgentId::from_random([1; 16]),
        agent_slug: "a".parse().expect("slug"),
        runner: None,
        system_prompt: None,
        prompt: String::new(),
        folder_hint: None,
        env: BTreeMap::new(),
        limits: RunLimits::default(),
        created_at: t0(),
    }
}

impl World {
    fn new() -> Self {
        Self {
            now: t0(),
            run: queued(),
            connected: false,
            down: Vec::new(),
            up: Vec::new(),
            journal: Journal::default(),
            starts: BTreeSet::new(),
            stored: BTreeMap::new(),
            ends: 0,
        }
    }

    fn input(&mut self, input: Input) {
        let step = self.run.step(input, self.now);
        assert!(step.state.fence >= self.run.fence, "a fence fell");
        if self.run.is_over() {
            assert_eq!(step.state.phase, self.run.phase, "an ended run went on");
        }
        self.run = step.state;
        for effect in step.effects {
            match effect {
                Effect::End(..) => self.ends += 1,
                Effect::Offer => self.send(Down::Offer(self.run.attempt, self.run.fence)),
                Effect::Cancel => self.send(Down::Cancel),
                Effect::Appended(fence, next) => self.send(Down::Appended(fence, next)),
                Effect::Refuse(fence, _) => self.send(Down::Refused(fence)),
                Effect::CloseSession => self.disconnect(),
            }
        }
    }

    fn send(&mut self, message: Down) {
        if self.connected {
            self.down.push(message);
        }
    }

    fn disconnect(&mut self) {
        self.connected = false;
        self.down.clear();
        self.up.clear();
        self.input(Input::Disconnected);
    }

    fn connect(&mut self) {
        if self.connected {
            self.disconnect();
        }
        self.connected = true;
        let open = self.journal.open_runs();
        self.input(Input::Hello(open.first().map(|run| (run.fence, run.state))));
    }

    fn commit(&mut self, write: Write) {
        self.journal.commit(write);
    }

    fn held(&self) -> Option<(Fence, Held)> {
        self.journal.state(order().run_id)
    }

    fn sidecar_takes(&mut self, message: Down) {
        let id = order().run_id;
        match message {
            Down::Offer(attempt, fence) => {
                let answer = match self.journal.offer(&order(), attempt, fence) {
                    OfferDecision::Take(write) => {
                        self.commit(write);
                        Up::Accepted(fence)
                    }
                    OfferDecision::Known => Up::Accepted(fence),
                    OfferDecision::Refuse(reason) => Up::Refused(fence, reason),
                };
                self.up.push(answer);
            }
            Down::Cancel => self.end("cancelled"),
            Down::Appended(fence, next) => {
                if let Ok(write) = self.journal.acknowledge(id, fence, next) {
                    self.commit(write);
                }
            }
            Down::Refused(fence) => {
                if let Ok(write) = self.journal.forget(id, fence) {
                    self.commit(write);
                }
            }
        }
    }

    fn orchestrator_takes(&mut self, message: Up) {
        match message {
            Up::Accepted(fence) => self.input(Input::Accepted(fence)),
            Up::Refused(fence, reason) => self.input(Input::Refused(fence, reason)),
            Up::Append(fence, first, events) => self.append(fence, first, &events),
        }
    }

    fn append(&mut self, fence: Fence, first: u64, events: &[EventDraft]) {
        let stored = Stored {
            fence: self.run.fence,
            next: self.run.next,
            ended: self.run.is_over(),
            started: self.run.phase == Phase::Running,
        };
        match append::decide(stored, fence, first, events) {
            AppendDecision::Store { skip, next } => {
                let fresh = &events[skip..];
                self.stored.entry(fence).or_default().extend_from_slice(fresh);
                let has = |event_type| fresh.iter().find(|e| e.event_type == event_type);
                let completed = has(EventType::RunCompleted);
                self.ends += usize::from(completed.is_some());
                let started = has(EventType::RunStarted).is_some();
                let ended = completed.map(|_| RunStatus::Completed);
                self.input(Input::Stored { next, started, ended });
                self.send(Down::Appended(fence, next));
            }
            AppendDecision::Answer { next } => self.send(Down::Appended(fence, next)),
            AppendDecision::Refuse(AppendRefusal::Invalid) => panic!("a real journal sent {events:?}"),
            AppendDecision::Refuse(_) => self.send(Down::Refused(fence)),
        }
    }

    fn start(&mut self) {
        let to_start = self.journal.to_start().next();
        let Some((attempt, fence)) = to_start.map(|(_, attempt, fence)| (attempt, fence)) else {
            return;
        };
        let write = self.journal.start(order().run_id, fence, json!({}));
        self.commit(write.expect("it may be started"));
        assert!(
            self.starts.insert((attempt.0, fence.0)),
            "an attempt started twice"
        );
    }

    fn say(&mut self) {
        let Some((fence, _)) = self.held() else { return };
        let draft = EventDraft {
            event_type: EventType::AssistantMessage,
            payload: json!({ "text": self.now.unix_ms() }),
            client_event_id: None,
        };
        if let Ok(write) = self.journal.append(order().run_id, fence, vec![draft]) {
            self.commit(write);
        }
    }

    fn end(&mut self, status: &str) {
        let Some((fence, _)) = self.held() else { return };
        if let Ok(write) = self
            .journal
            .end(order().run_id, fence, json!({ "status": status }))
        {
            self.commit(write);
        }
    }

    fn resend(&mut self) {
        if let Some(unsent) = self.journal.unsent(order().run_id, 0)
            && self.connected
        {
            self.up
                .push(Up::Append(unsent.fence, unsent.first, unsent.events));
        }
    }

    fn play(&mut self, step: &Move) {
        match *step {
            Move::Connect => self.connect(),
            Move::Disconnect => self.disconnect(),
            Move::SidecarDies => {
                self.disconnect();
                let write = self.journal.recover();
                self.commit(write);
            }
            Move::ToSidecar { pick, keep } if pick < self.down.len() => {
                let message = if keep {
                    self.down[pick].clone()
                } else {
                    self.down.remove(pick)
                };
                self.sidecar_takes(message);
            }
            Move::ToOrchestrator { pick, keep } if pick < self.up.len() => {
                let message = if keep {
                    self.up[pick].clone()
                } else {
                    self.up.remove(pick)
                };
                self.orchestrator_takes(message);
            }
            Move::ToSidecar { .. } | Move::ToOrchestrator { .. } => {}
            Move::Offer if self.connected => self.input(Input::Offer),
            Move::Offer => {}
            Move::Tick(seconds) => {
                self.now = self.now + Duration::from_secs(u64::from(seconds));
                self.input(Input::Tick);
            }
            Move::Cancel => self.input(Input::Cancel),
            Move::Start => self.start(),
            Move::Say => self.say(),
            Move::End => self.end("completed"),
            Move::Resend => self.resend(),
        }
    }

    /// Both sides live and talk in order from here on.
    fn heal(&mut self) {
        self.disconnect();
        self.connect();
        for _ in 0..40 {
            self.now = self.now + Duration::from_secs(60);
            if self.connected {
                self.input(Input::Offer);
            } else {
                self.connect();
            }
            self.deliver();
            self.start();
            self.end("completed");
            self.resend();
            self.deliver();
        }
    }

    fn deliver(&mut self) {
        while !self.down.is_empty() || !self.up.is_empty() {
            for message in std::mem::take(&mut self.down) {
                self.sidecar_takes(message);
            }
            for message in std::mem::take(&mut self.up) {
                self.orchestrator_takes(message);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, ..ProptestConfig::default() })]

    #[test]
    fn no_interleaving_starts_twice_or_loses_an_accepted_run(moves in moves()) {
        let mut world = World::new();
        for step in &moves {
            world.play(step);
            prop_assert!(world.starts.len() <= 1, "a run started twice");
        }
        world.heal();
        prop_assert!(world.run.is_over(), "{:?}", world.run);
        prop_assert_eq!(world.ends, 1, "a run has one end");
        prop_assert!(world.journal.open_runs().is_empty(), "the sidecar still holds it");
        for events in world.stored.values() {
            let starts = events.iter().filter(|e| e.event_type == EventType::RunStarted).count();
            prop_assert!(starts <= 1);
        }
    }
}
