//! Measured worlds: two nodes behind ordinary NATs, how soon they speak and are direct, and what a change of network, a killed
//! relay and blocked UDP cost.

use std::time::Duration;

use types::{Monotonic, PathKind};

use crate::dice::Dice;
use crate::internet::Weather;
use crate::mesh_world::{MeshWorld, NodeNumber, RelayNumber};
use crate::nat::NatKind;

/// The ordinary NATs, by the names that people know.
pub const KINDS: [(&str, Option<NatKind>); 5] = [
    ("none", None),
    ("full_cone", Some(NatKind::FULL_CONE)),
    ("restricted", Some(NatKind::RESTRICTED)),
    ("port_restricted", Some(NatKind::PORT_RESTRICTED)),
    ("symmetric", Some(NatKind::SYMMETRIC)),
];

/// How many pairs there are, the order not counted.
pub const PAIRS: u64 = 15;

/// How long a pair has to become direct: a round, an attempt at guessing, and then some.
const DIRECT_TIME_MAX: Duration = Duration::from_secs(20);

/// How often each end says something.
const EVERY: Duration = Duration::from_millis(20);

/// How long after a fault it is looked at what is lost.
const AFTER: Duration = Duration::from_secs(4);

/// What was measured of one pair.
#[derive(Clone, PartialEq, Debug)]
pub struct Figures {
    /// The names of both NATs.
    pub nats: [&'static str; 2],
    /// A round trip through the relay, on average in this weather.
    pub relay_round_trip: Duration,
    /// From the first packet sent to its arrival, without a session before.
    pub first_byte: Duration,
    /// From then until both ends send directly; `None` when they never did.
    pub direct: Option<Duration>,
    /// From the moment one end changed its network until nothing was lost any more.
    pub lost_after_roam: Duration,
    /// The same from the moment the relay was killed; for pairs that need one.
    pub lost_after_relay_kill: Option<Duration>,
    /// The same from the moment the network of one end let no UDP through any more.
    pub lost_after_udp_block: Duration,
}

struct Pair {
    world: MeshWorld,
    ends: [NodeNumber; 2],
    kinds: [Option<NatKind>; 2],
}

/// Measures the pair that is the seed's turn.
///
/// # Panics
///
/// When the first packet does not arrive, or the pair is not connected again after a fault.
#[must_use]
pub fn measure(seed: u64) -> Figures {
    let [one, other] = pair(seed % PAIRS);
    let mut pair = Pair::new(seed, [one.1, other.1]);
    let delay = &pair.world.internet.weather.delay;
    let relay_round_trip = 2 * (delay.start + delay.end);
    let sent = pair.world.now();
    let packet = pair.world.send(pair.ends[0], pair.ends[1]);
    let arrives = |world: &MeshWorld| world.arrived(packet).is_some();
    assert!(
        pair.world.run_until_true(Duration::from_secs(10), arrives),
        "the first packet arrives"
    );
    let first_byte = pair.world.now().since(sent);
    let direct = pair.wait_for_direct(sent);
    let lost_after_relay_kill = direct.is_none().then(|| pair.kill_relay());
    let lost_after_roam = pair.roam();
    let lost_after_udp_block = pair.block_udp();
    Figures {
        nats: [one.0, other.0],
        relay_round_trip,
        first_byte,
        direct,
        lost_after_roam,
        lost_after_relay_kill,
        lost_after_udp_block,
    }
}

/// Returns the pair of a number below [`PAIRS`].
fn pair(number: u64) -> [(&'static str, Option<NatKind>); 2] {
    let all = KINDS.iter().enumerate();
    let mut pairs = all.flat_map(|(index, one)| KINDS[index..].iter().map(move |other| [*one, *other]));
    pairs.nth(number as usize).expect("fifteen pairs")
}

impl Pair {
    fn new(seed: u64, kinds: [Option<NatKind>; 2]) -> Self {
        let mut dice = Dice::new(seed, 4);
        let mut world = MeshWorld::new(seed);
        let shortest = dice.span(Duration::from_millis(5)..Duration::from_millis(50));
        world.internet.weather = Weather {
            delay: shortest..shortest.mul_f64(1.2),
            ..Weather::default()
        };
        world.add_relay();
        world.add_relay();
        let ends = kinds.map(|kind| {
            let nat = kind.map(|kind| world.internet.add_nat(kind, None));
            let host = world.internet.add_host(nat);
            world.add_node(host)
        });
        world.run_for(Duration::from_secs(2));
        world.introduce(ends[0], ends[1]);
        Self { world, ends, kinds }
    }

    fn is_direct(&self) -> bool {
        let [a, b] = self.ends;
        let paths = [self.world.path(a, b), self.world.path(b, a)];
        paths.iter().all(|path| path.kind == Some(PathKind::Direct))
    }

    fn wait_for_direct(&mut self, since: Monotonic) -> Option<Duration> {
        while !self.is_direct() {
            if self.world.now().since(since) > DIRECT_TIME_MAX {
                return None;
            }
            self.say();
        }
        Some(self.world.now().since(since))
    }

    fn say(&mut self) -> [u64; 2] {
        let [a, b] = self.ends;
        let packets = [self.world.send(a, b), self.world.send(b, a)];
        self.world.run_for(EVERY);
        packets
    }

    fn roam(&mut self) -> Duration {
        let nat = self.kinds[0].map(|kind| self.world.internet.add_nat(kind, None));
        self.world.roam(self.ends[0], nat);
        self.lost()
    }

    /// Blocks UDP at one end, on whichever path they are.
    fn block_udp(&mut self) -> Duration {
        self.world.block_udp(self.ends[0], true);
        self.lost()
    }

    /// Kills the relay in use.
    fn kill_relay(&mut self) -> Duration {
        for _ in 0..50 {
            self.say();
        }
        let used = self.world.path(self.ends[0], self.ends[1]).endpoint;
        let relays: Vec<RelayNumber> = self.world.relays().map(|(relay, _)| relay).collect();
        let is_used = |relay: &&RelayNumber| match used {
            Some(mesh::Endpoint::Relayed { relay: used, .. }) => self.world.relay(**relay).id() == used,
            _ => false,
        };
        let relay = *relays.iter().find(is_used).expect("a relay carries");
        self.world.set_relay_down(relay, true);
        let lost = self.lost();
        self.world.set_relay_down(relay, false);
        lost
    }

    /// Returns how long after now the last packet was sent that is lost.
    fn lost(&mut self) -> Duration {
        let begin = self.world.now();
        let mut sent = Vec::new();
        while self.world.now().since(begin) < AFTER {
            let at = self.world.now();
            sent.extend(self.say().map(|packet| (at, packet)));
        }
        self.world.run_for(Duration::from_millis(500));
        let lost = sent
            .iter()
            .filter(|(_, packet)| self.world.arrived(*packet).is_none());
        let last = lost
            .map(|(at, _)| at.since(begin) + EVERY)
            .max()
            .unwrap_or_default();
        assert!(
            last < AFTER,
            "{:?} are not connected {last:?} after a fault",
            self.kinds
        );
        last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_has_its_turn() {
        let pairs: Vec<_> = (0..PAIRS)
            .map(|number| pair(number).map(|(name, _)| name))
            .collect();
        assert_eq!(pairs[0], ["none", "none"]);
        assert_eq!(pairs[13], ["port_restricted", "symmetric"]);
        assert_eq!(pairs[14], ["symmetric", "symmetric"]);
    }
}
