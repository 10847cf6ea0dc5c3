//! The state machine against a real journal under random interleavings: the reference is what must hold of any history.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::json;
use types::{AgentId, EventDraft, EventType, RolloutId, RunId, RunLimits, RunOrder, ThreadId};

use super::*;
use crate::append::{self, AppendDecision, Stored};
use crate::journal::{Journal, OfferDecision, Write};
use crate::protocol::{AppendRefusal, OfferRefusal, OpenRunState as Held};

fn t0() -> Timestamp {
    Timestamp::from_unix_ms(1_000_000)
}

fn queued() -> RunState {
    RunState::queued(t0(), t0() + QUEUE_TTL)
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
        model: None,
        temperature: None,
        settings: types::RunSettings::default(),
        history: None,
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
            let (fence, first) = (unsent.fence, unsent.first);
            let events = unsent.in_memory().expect("there is no file");
            self.up.push(Up::Append(fence, first, events));
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
