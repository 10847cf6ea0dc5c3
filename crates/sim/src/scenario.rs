//! A random world: nodes behind random NATs, faults of every kind, then peace, in which everything must come right.
//!
//! First faults, then none: within [`HEAL`] every pair must be as the [model] says, stay so, lose nothing any more,
//! and every stream inside must have come out whole.

use std::time::Duration;

use types::{Monotonic, PathKind};

use crate::dice::Dice;
use crate::internet::{NatId, Weather};
use crate::mesh_world::{Expected, MeshWorld, NodeNumber, RelayNumber};
use crate::model::{self, Direct};
use crate::nat::{Dependence, NatKind};
use crate::transfer::Transfer;

/// How long after the last fault everything must be right: the longest wait between two searches for a direct path, that
/// search, and a session that begins anew.
pub const HEAL: Duration = Duration::from_secs(330);

/// How long after the last fault packets must arrive again, by whatever path: a WebSocket that is tried in vain, and two
/// initiations.
pub const CONNECT: Duration = Duration::from_secs(60);

/// How long a node may believe in a relay that has forgotten it: until its next Confirm, and that one's answers.
const STALE: Duration = Duration::from_secs(25);

const SECOND: Duration = Duration::from_secs(1);

/// How long it stays quiet, and is looked at.
const QUIET: u32 = 5;

/// How many pieces each stream has.
const PIECES: u32 = 60;

/// What became of a world.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Outcome {
    /// Pairs for which a port had to be guessed, and those for which one was met.
    pub guessed: (u32, u32),
    /// How long after the last fault everything was right.
    pub healed: Duration,
}

struct Scenario {
    world: MeshWorld,
    dice: Dice,
    pairs: Vec<(NodeNumber, NodeNumber)>,
    streams: Vec<Transfer>,
    /// What befell it, to be read when it fails.
    story: Vec<String>,
}

/// Makes the world that `dice` decide, has faults befall it, and checks it.
///
/// # Panics
///
/// When anything is not as the model says.
pub fn run(seed: u64, dice: Dice) -> Outcome {
    let mut scenario = Scenario::new(seed, dice);
    for _ in 0..scenario.dice.number(0..12) {
        scenario.fault();
        let pause = scenario.dice.span(Duration::ZERO..Duration::from_secs(8));
        scenario.talk(pause);
    }
    scenario.heal();
    scenario.check()
}

impl Scenario {
    fn new(seed: u64, mut dice: Dice) -> Self {
        let mut world = MeshWorld::new(seed);
        for _ in 0..dice.number(1..4) {
            world.add_relay();
        }
        let mut scenario = Self {
            world,
            dice,
            pairs: Vec::new(),
            streams: Vec::new(),
            story: Vec::new(),
        };
        let count = scenario.dice.number(2..5);
        for _ in 0..count {
            let nat = scenario.draw_network();
            let host = scenario.world.internet.add_host(nat);
            let node = scenario.world.add_node(host);
            if scenario.dice.chance(100) {
                scenario.world.block_udp(node, true);
            }
        }
        scenario.world.run_for(3 * SECOND);
        let nodes: Vec<_> = scenario.world.nodes().collect();
        for (index, a) in nodes.iter().enumerate() {
            for b in &nodes[index + 1..] {
                scenario.world.introduce(*a, *b);
                scenario.pairs.push((*a, *b));
                scenario.streams.push(Transfer::new(*a, *b, PIECES));
                scenario.streams.push(Transfer::new(*b, *a, PIECES));
            }
        }
        scenario
    }

    /// Draws where a node is: in the open, behind a NAT of its own, behind two, or in a network that is there already.
    fn draw_network(&mut self) -> Option<NatId> {
        let there: Vec<_> = self.world.internet.nats().collect();
        match self.dice.number(0..8) {
            0 => None,
            1 if !there.is_empty() => Some(there[self.dice.index(there.len())]),
            2 => {
                let outer = self.draw_nat(None);
                Some(self.draw_nat(Some(outer)))
            }
            _ => Some(self.draw_nat(None)),
        }
    }

    fn draw_nat(&mut self, behind: Option<NatId>) -> NatId {
        let mut draw = || match self.dice.number(0..5) {
            0 => Dependence::AddressDependent,
            1 | 2 => Dependence::AddressAndPortDependent,
            _ => Dependence::EndpointIndependent,
        };
        let (mapping, filtering) = (draw(), draw());
        let lifetimes = [30, 60, 120, 300];
        let kind = NatKind {
            mapping,
            filtering,
            lifetime: Duration::from_secs(lifetimes[self.dice.index(lifetimes.len())]),
            hairpins: self.dice.chance(300),
            counts: self.dice.chance(300),
        };
        self.world.internet.add_nat(kind, behind)
    }

    fn fault(&mut self) {
        let node = NodeNumber(self.dice.index(self.world.nodes().count()));
        let relay = RelayNumber(self.dice.index(self.world.relays().count()));
        let is_on = self.dice.chance(500);
        let kind = self.dice.number(0..10);
        self.story.push(format!(
            "{:?} fault {kind} {is_on} {node:?} {relay:?}",
            self.world.now().since_start()
        ));
        match kind {
            0 | 1 => {
                let nat = self.draw_network();
                self.world.roam(node, nat);
            }
            2 => {
                for (nat, _) in self.world.internet.chain(self.world.host(node)) {
                    self.world.internet.nat_mut(nat).reboot();
                }
            }
            3 => self.world.set_relay_down(relay, is_on),
            4 => self.restart_relay(relay),
            5 => self.world.set_asleep(node, is_on),
            6 => self.world.block_udp(node, is_on),
            7 => self.world.set_tls(node, is_on),
            8 => self.world.restart(node),
            _ => self.world.internet.weather = self.draw_weather(),
        }
    }

    /// A relay says that it stops, does, and comes back.
    fn restart_relay(&mut self, relay: RelayNumber) {
        let was_down = self
            .world
            .relays()
            .any(|(number, is_down)| number == relay && is_down);
        if !was_down {
            self.world.drain_relay(relay);
            self.talk(2 * SECOND);
        }
        self.world.set_relay_down(relay, true);
        self.talk(2 * SECOND);
        self.world.set_relay_down(relay, false);
    }

    fn draw_weather(&mut self) -> Weather {
        let shortest = self
            .dice
            .span(Duration::from_millis(1)..Duration::from_millis(100));
        let jitter = self.dice.span(Duration::ZERO..Duration::from_millis(150));
        Weather {
            delay: shortest..shortest + jitter,
            lost_per_mille: self.dice.number(0..150),
            bursts_per_mille: self.dice.number(0..40),
            doubled_per_mille: self.dice.number(0..50),
        }
    }

    /// Peace: everybody is awake, at least one relay is up, the weather is good. Who has no UDP or a bad NAT keeps it.
    fn heal(&mut self) {
        let relays: Vec<_> = self.world.relays().collect();
        let first = self.dice.index(relays.len());
        for (relay, is_down) in relays {
            if is_down && (relay.0 == first || self.dice.chance(700)) {
                self.world.set_relay_down(relay, false);
            }
        }
        if self.world.relays().all(|(_, is_down)| is_down) {
            self.world.set_relay_down(RelayNumber(first), false);
        }
        let nodes: Vec<_> = self.world.nodes().collect();
        for node in nodes {
            self.world.set_asleep(node, false);
            self.world.set_tls(node, true);
        }
        self.world.internet.weather = Weather::default();
        self.story
            .push(format!("{:?} peace", self.world.now().since_start()));
    }

    /// Every pair says something twice a second, and the streams go on.
    fn talk(&mut self, span: Duration) -> Expected {
        let mut sent = Expected::default();
        let end = self.world.now() + span;
        let mut tick = 0_u32;
        while self.world.now() < end {
            if tick.is_multiple_of(5) {
                for (a, b) in &self.pairs {
                    sent.add(self.world.send(*a, *b));
                    sent.add(self.world.send(*b, *a));
                }
            }
            for stream in &mut self.streams {
                if !stream.is_done() {
                    stream.turn(&mut self.world);
                }
            }
            tick += 1;
            self.world.run_for(Duration::from_millis(100));
        }
        sent
    }

    fn check(mut self) -> Outcome {
        let peace = self.world.now();
        self.wait_until_right(peace);
        let healed = self.world.now().since(peace);
        self.world.run_for(STALE);
        self.wait_until_right(peace);
        self.stay_quiet();
        Outcome {
            guessed: self.guessed(),
            healed,
        }
    }

    fn wait_until_right(&mut self, peace: Monotonic) {
        loop {
            let sent = self.talk(SECOND);
            self.world.run_for(Duration::from_millis(50));
            let missing = sent.missing(&self.world).len();
            let unfinished = self.streams.iter().filter(|stream| !stream.is_done()).count();
            let complaint = self.complaint();
            let span = self.world.now().since(peace);
            assert!(
                missing == 0 || span < CONNECT,
                "after {span:?} {missing} packets are lost: {}",
                self.told()
            );
            if missing == 0 && unfinished == 0 && complaint.is_none() {
                return;
            }
            assert!(
                span < HEAL,
                "after {span:?}: {complaint:?}, {unfinished} streams not done: {}",
                self.told()
            );
        }
    }

    fn stay_quiet(&mut self) {
        for _ in 0..QUIET {
            let sent = self.talk(SECOND);
            self.world.run_for(Duration::from_millis(50));
            assert!(
                sent.missing(&self.world).is_empty(),
                "in peace a packet is lost: {}",
                self.told()
            );
            let complaint = self.complaint();
            assert_eq!(complaint, None, "it was right before: {}", self.told());
        }
    }

    /// Returns the first thing that is not as the model says.
    fn complaint(&self) -> Option<String> {
        let both = self.pairs.iter().flat_map(|(a, b)| [(*a, *b), (*b, *a)]);
        for (from, to) in both {
            let (verdict, path) = (model::judge(&self.world, from, to), self.world.path(from, to));
            if !model::allows(&verdict, path.kind, path.reason) {
                return Some(format!("{from:?} to {to:?} is {path:?}, but {verdict:?}"));
            }
        }
        None
    }

    fn guessed(&self) -> (u32, u32) {
        let of_guessing =
            |(a, b): &&(NodeNumber, NodeNumber)| model::judge(&self.world, *a, *b).direct == Direct::Guess;
        let pairs = self.pairs.iter().filter(of_guessing);
        let is_direct =
            |(a, b): &(NodeNumber, NodeNumber)| self.world.path(*a, *b).kind == Some(PathKind::Direct);
        pairs.fold((0, 0), |(all, met), pair| {
            (all + 1, met + u32::from(is_direct(pair)))
        })
    }

    fn told(&self) -> String {
        let nodes = self.world.nodes().map(|node| {
            let host = self.world.host(node);
            let blocked = self.world.internet.is_udp_blocked(host);
            format!("{node:?} blocked {blocked} {:?}", self.world.internet.chain(host))
        });
        let nodes: Vec<_> = nodes.collect();
        let relays: Vec<_> = self.world.relays().collect();
        let both = self.pairs.iter().flat_map(|(a, b)| [(*a, *b), (*b, *a)]);
        let paths = both.map(|(from, to)| {
            let heard = self
                .world
                .mesh(from)
                .peer_status(&self.world.key(to))
                .and_then(|status| status.last_packet);
            let ago = heard.map(|heard| self.world.now().since(heard));
            format!(
                "{from:?} to {to:?} heard {ago:?} ago: {:?}",
                self.world.path(from, to)
            )
        });
        let paths: Vec<_> = paths.collect();
        let views = self.world.nodes().map(|node| {
            let views: Vec<_> = self.world.mesh(node).relays().collect();
            format!("{node:?} {views:?}")
        });
        let views: Vec<_> = views.collect();
        let parts = [self.story.clone(), nodes, paths, views].concat();
        format!("{}\n{relays:?}", parts.join("\n"))
    }
}
