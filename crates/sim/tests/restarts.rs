//! Nodes whose process starts anew: they have forgotten the session, and their sockets have other ports.

use std::time::Duration;

use sim::{HostId, MeshWorld, NatKind, NodeNumber, for_each_seed};
use types::PathKind;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

struct Pair {
    world: MeshWorld,
    a: NodeNumber,
    b: NodeNumber,
}

/// Two nodes that have talked for six seconds, so that a handshake may begin at once, each behind a NAT of its own or none, with a relay.
fn pair(seed: u64, one: Option<NatKind>, other: Option<NatKind>) -> Pair {
    let mut world = MeshWorld::new(seed);
    world.add_relay();
    let hosts: [HostId; 2] = [one, other].map(|kind| {
        let nat = kind.map(|kind| world.internet.add_nat(kind, None));
        world.internet.add_host(nat)
    });
    let [a, b] = hosts.map(|host| world.add_node(host));
    world.run_for(SECOND);
    world.introduce(a, b);
    let mut pair = Pair { world, a, b };
    pair.talk(6 * SECOND);
    pair
}

impl Pair {
    /// Sends a packet each way every 20 ms.
    fn talk(&mut self, span: Duration) {
        for _ in 0..span.as_millis() / 20 {
            self.world.send(self.a, self.b);
            self.world.send(self.b, self.a);
            self.world.run_for(20 * MS);
        }
    }

    /// Has one send every 20 ms until something arrives at the other; returns how long that took.
    fn until_arrival(&mut self, from: NodeNumber, to: NodeNumber) -> Duration {
        let begun = self.world.now();
        let mut sent = Vec::new();
        while self.world.now().since(begun) < 30 * SECOND {
            sent.push(self.world.send(from, to));
            self.world.run_for(20 * MS);
            if sent.iter().any(|packet| self.world.arrived(*packet).is_some()) {
                break;
            }
        }
        self.world.now().since(begun)
    }
}

#[test]
fn a_node_that_started_anew_and_speaks_first_is_answered_where_it_is_now() {
    for (one, other) in [
        (None, None),
        (None, Some(NatKind::PORT_RESTRICTED)),
        (Some(NatKind::PORT_RESTRICTED), Some(NatKind::RESTRICTED)),
        (Some(NatKind::SYMMETRIC), Some(NatKind::SYMMETRIC)),
    ] {
        for_each_seed(20, |seed| {
            let mut pair = pair(seed, one, other);
            let (a, b) = (pair.a, pair.b);
            pair.world.restart(b);
            // What is said at once is lost until the relay knows the new process; a handshake takes three ways.
            let there = pair.until_arrival(b, a);
            let back = pair.until_arrival(a, b);
            assert!(
                there + back <= 300 * MS,
                "{one:?} x {other:?}: {there:?}, then {back:?}"
            );
        });
    }
}

#[test]
fn a_node_that_started_anew_and_waits_is_found_by_who_sends() {
    for kind in [None, Some(NatKind::PORT_RESTRICTED), Some(NatKind::SYMMETRIC)] {
        for_each_seed(20, |seed| {
            let mut pair = pair(seed, kind, kind);
            let (a, b) = (pair.a, pair.b);
            let was_direct = pair.world.path(a, b).kind == Some(PathKind::Direct);
            pair.world.restart(b);
            let silent = pair.until_arrival(a, b);
            let most = if was_direct { 3500 * MS } else { 1500 * MS };
            assert!(silent <= most, "{kind:?}: nothing arrived for {silent:?}");
        });
    }
}
