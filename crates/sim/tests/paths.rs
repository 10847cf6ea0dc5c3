//! Two nodes behind every kind of NAT, by seed: they always reach each other, and directly where theory says that they can.

use std::cell::Cell;
use std::time::Duration;

use mesh::Endpoint;
use sim::{
    Expected, HostId, MeshWorld, NatKind, NodeNumber, RelayNumber, can_be_direct, for_each_seed,
    must_be_guessed,
};
use types::{PathKind, PathReason};

const SECOND: Duration = Duration::from_secs(1);

const KINDS: [(&str, Option<NatKind>); 5] = [
    ("none", None),
    ("full_cone", Some(NatKind::FULL_CONE)),
    ("restricted", Some(NatKind::RESTRICTED)),
    ("port_restricted", Some(NatKind::PORT_RESTRICTED)),
    ("symmetric", Some(NatKind::SYMMETRIC)),
];

struct Pair {
    world: MeshWorld,
    a: NodeNumber,
    b: NodeNumber,
    relays: [RelayNumber; 2],
}

fn host(world: &mut MeshWorld, kind: Option<NatKind>) -> HostId {
    let nat = kind.map(|kind| world.internet.add_nat(kind, None));
    world.internet.add_host(nat)
}

/// Two nodes that know each other, each behind a NAT of its own, with two relays that they have found.
fn pair(seed: u64, one: Option<NatKind>, other: Option<NatKind>) -> Pair {
    let mut world = MeshWorld::new(seed);
    let relays = [world.add_relay(), world.add_relay()];
    let hosts = [one, other].map(|kind| host(&mut world, kind));
    let [a, b] = hosts.map(|host| world.add_node(host));
    world.run_for(SECOND);
    world.introduce(a, b);
    Pair { world, a, b, relays }
}

impl Pair {
    fn is_direct(&self) -> bool {
        let kinds = [(self.a, self.b), (self.b, self.a)].map(|(from, to)| self.world.path(from, to).kind);
        kinds == [Some(PathKind::Direct); 2]
    }

    /// Sends a packet each way every 20 ms.
    fn talk(&mut self, span: Duration, expected: &mut Expected) {
        let steps = span.as_millis() / 20;
        for _ in 0..steps {
            expected.add(self.world.send(self.a, self.b));
            expected.add(self.world.send(self.b, self.a));
            self.world.run_for(Duration::from_millis(20));
        }
        // What was sent last is on its way.
        self.world.run_for(Duration::from_millis(100));
    }
}

#[test]
fn every_pair_of_nats_connects_and_directly_where_it_can() {
    for (one_name, one) in KINDS {
        for (other_name, other) in KINDS {
            for_each_seed(8, |seed| {
                let name = format!("{one_name} x {other_name}");
                let mut pair = pair(seed, one, other);
                let first = pair.world.send(pair.a, pair.b);
                let sent = pair.world.now();
                let arrived = pair
                    .world
                    .run_until_true(5 * SECOND, |world| world.arrived(first).is_some());
                assert!(arrived, "{name}: the first packet arrives");
                let took = pair.world.now().since(sent);
                // Through the relay a way takes 24 ms at most, and a handshake and a packet take three.
                assert!(took <= Duration::from_millis(80), "{name}: it took {took:?}");
                let (a, b) = (pair.a, pair.b);
                let mut expected = Expected::default();
                pair.talk(SECOND, &mut expected);
                if can_be_direct(one, other) {
                    assert!(
                        pair.is_direct(),
                        "{name}: {:?} {:?}",
                        pair.world.path(a, b),
                        pair.world.path(b, a)
                    );
                }
                pair.talk(3 * SECOND, &mut expected);
                assert_eq!(expected.missing(&pair.world), Vec::<u64>::new(), "{name}");
                if !can_be_direct(one, other) {
                    pair.talk(12 * SECOND, &mut expected);
                    let path = pair.world.path(a, b);
                    let is_lucky = must_be_guessed(one, other) && path.kind == Some(PathKind::Direct);
                    let reason = match must_be_guessed(one, other) {
                        _ if is_lucky => PathReason::EndpointAnswered,
                        true => PathReason::SymmetricOne,
                        false => PathReason::SymmetricBoth,
                    };
                    assert_eq!(path.reason, reason, "{name}: {path:?}");
                    let guessed = [a, b].map(|node| pair.world.extra_sockets(node).1 > 0);
                    assert_eq!(guessed.contains(&true), must_be_guessed(one, other), "{name}");
                }
            });
        }
    }
}

#[test]
fn the_killed_relay_costs_at_most_two_seconds_and_no_session() {
    for_each_seed(20, |seed| {
        let symmetric = Some(NatKind::SYMMETRIC);
        let mut pair = pair(seed, symmetric, symmetric);
        let mut expected = Expected::default();
        pair.talk(2 * SECOND, &mut expected);
        assert_eq!(expected.missing(&pair.world), Vec::<u64>::new());
        let used = pair.world.path(pair.a, pair.b).endpoint;
        let home = pair
            .world
            .mesh(pair.a)
            .relays()
            .min_by_key(|relay| relay.rtt)
            .expect("two");
        assert!(used.is_some_and(|used| !used.is_direct()) && home.is_up);
        for relay in pair.relays {
            pair.world.set_relay_down(relay, true);
            let mut lost = Expected::default();
            pair.talk(2 * SECOND, &mut lost);
            let mut after = Expected::default();
            pair.talk(SECOND, &mut after);
            assert_eq!(after.missing(&pair.world).len(), 0, "after {relay:?} died");
            pair.world.set_relay_down(relay, false);
            pair.talk(20 * SECOND, &mut lost);
        }
    });
}

#[test]
fn udp_that_is_blocked_costs_at_most_two_seconds_on_every_path_and_no_session() {
    for_each_seed(20, |seed| {
        for nat in [None, Some(NatKind::PORT_RESTRICTED), Some(NatKind::SYMMETRIC)] {
            let mut pair = pair(seed, nat, nat);
            let mut expected = Expected::default();
            pair.talk(3 * SECOND, &mut expected);
            pair.world.block_udp(pair.a, true);
            pair.talk(2 * SECOND, &mut Expected::default());
            let mut after = Expected::default();
            pair.talk(3 * SECOND, &mut after);
            // The search that follows is over: what is wrong is known.
            pair.talk(5 * SECOND, &mut after);
            assert_eq!(after.missing(&pair.world), Vec::<u64>::new(), "{nat:?}");
            assert_eq!(pair.world.path(pair.a, pair.b).reason, PathReason::UdpBlocked);
        }
    });
}

#[test]
fn a_moment_without_udp_costs_no_session_at_a_relay() {
    // Too short for three Confirms to be lost, at any time after the last packet.
    for gone in [400, 500, 600, 700].map(Duration::from_millis) {
        for_each_seed(5, |seed| {
            let symmetric = Some(NatKind::SYMMETRIC);
            let mut pair = pair(seed, symmetric, symmetric);
            pair.talk(5 * SECOND, &mut Expected::default());
            pair.world.block_udp(pair.a, true);
            pair.talk(gone, &mut Expected::default());
            pair.world.block_udp(pair.a, false);
            for _ in 0..100 {
                pair.talk(Duration::from_millis(20), &mut Expected::default());
                let mut relays = pair.world.mesh(pair.a).relays();
                assert!(relays.all(|relay| relay.is_up), "gone for {gone:?}");
            }
            pair.talk(2 * SECOND, &mut Expected::default());
            let mut after = Expected::default();
            pair.talk(SECOND, &mut after);
            assert_eq!(after.missing(&pair.world), Vec::<u64>::new());
            let mut relays = pair.world.mesh(pair.a).relays();
            assert!(relays.all(|relay| !relay.is_stream), "UDP is used again");
        });
    }
}

#[test]
fn the_only_relay_that_was_restarted_carries_again_within_two_seconds() {
    // It is away for a shorter and a longer time than a Confirm waits.
    for away in [100, 300, 500, 900].map(Duration::from_millis) {
        for_each_seed(10, |seed| {
            let symmetric = Some(NatKind::SYMMETRIC);
            let mut pair = pair(seed, symmetric, symmetric);
            pair.world.set_relay_down(pair.relays[1], true);
            pair.talk(5 * SECOND, &mut Expected::default());
            pair.world.set_relay_down(pair.relays[0], true);
            pair.talk(away, &mut Expected::default());
            pair.world.set_relay_down(pair.relays[0], false);
            pair.talk(2 * SECOND, &mut Expected::default());
            let mut after = Expected::default();
            pair.talk(3 * SECOND, &mut after);
            assert_eq!(after.missing(&pair.world), Vec::<u64>::new(), "away for {away:?}");
        });
    }
}

#[test]
fn a_roaming_node_loses_at_most_a_fifth_of_a_second() {
    for_each_seed(20, |seed| {
        let mut pair = pair(seed, Some(NatKind::PORT_RESTRICTED), Some(NatKind::RESTRICTED));
        let mut expected = Expected::default();
        pair.talk(2 * SECOND, &mut expected);
        assert!(pair.is_direct());
        for kind in [None, Some(NatKind::FULL_CONE), Some(NatKind::PORT_RESTRICTED)] {
            let nat = kind.map(|kind| pair.world.internet.add_nat(kind, None));
            pair.world.roam(pair.a, nat);
            // The peer hears through the relay that its path leads nowhere.
            pair.talk(SECOND / 5, &mut Expected::default());
            let mut after = Expected::default();
            pair.talk(4 * SECOND, &mut after);
            assert_eq!(after.missing(&pair.world), Vec::<u64>::new());
            assert!(pair.is_direct());
        }
    });
}

#[test]
fn a_nat_that_reboots_costs_at_most_two_seconds() {
    for_each_seed(20, |seed| {
        let mut world = MeshWorld::new(seed);
        world.add_relay();
        world.add_relay();
        let nat = world.internet.add_nat(NatKind::PORT_RESTRICTED, None);
        let near = world.internet.add_host(Some(nat));
        let far = host(&mut world, Some(NatKind::PORT_RESTRICTED));
        let [a, b] = [near, far].map(|host| world.add_node(host));
        world.run_for(SECOND);
        world.introduce(a, b);
        let mut pair = Pair {
            world,
            a,
            b,
            relays: [RelayNumber(0), RelayNumber(1)],
        };
        pair.talk(2 * SECOND, &mut Expected::default());
        assert!(pair.is_direct());
        pair.world.internet.nat_mut(nat).reboot();
        pair.talk(2 * SECOND, &mut Expected::default());
        let mut after = Expected::default();
        pair.talk(5 * SECOND, &mut after);
        assert_eq!(after.missing(&pair.world), Vec::<u64>::new());
        assert!(pair.is_direct());
    });
}

#[test]
fn without_udp_the_relay_is_reached_over_tls_and_the_reason_says_so() {
    for_each_seed(10, |seed| {
        let mut world = MeshWorld::new(seed);
        world.add_relay();
        let hosts = [host(&mut world, Some(NatKind::FULL_CONE)), host(&mut world, None)];
        world.internet.block_udp(hosts[0], true);
        let [a, b] = hosts.map(|host| world.add_node(host));
        world.run_for(5 * SECOND);
        world.introduce(a, b);
        let mut pair = Pair {
            world,
            a,
            b,
            relays: [RelayNumber(0); 2],
        };
        let mut expected = Expected::default();
        pair.talk(10 * SECOND, &mut expected);
        assert_eq!(expected.missing(&pair.world), Vec::<u64>::new());
        assert_eq!(pair.world.path(a, b).reason, PathReason::UdpBlocked);
        assert_eq!(pair.world.path(b, a).reason, PathReason::PeerUdpBlocked);
        // And back, as soon as UDP works.
        pair.world.internet.block_udp(hosts[0], false);
        pair.talk(60 * SECOND, &mut Expected::default());
        assert!(pair.is_direct(), "{:?}", pair.world.path(a, b));
    });
}

#[test]
fn one_relay_is_enough_to_say_that_both_nats_are_symmetric() {
    for_each_seed(10, |seed| {
        let mut world = MeshWorld::new(seed);
        world.add_relay();
        let hosts = [(); 2].map(|()| host(&mut world, Some(NatKind::SYMMETRIC)));
        let [a, b] = hosts.map(|host| world.add_node(host));
        world.run_for(SECOND);
        world.introduce(a, b);
        let mut pair = Pair {
            world,
            a,
            b,
            relays: [RelayNumber(0); 2],
        };
        pair.talk(10 * SECOND, &mut Expected::default());
        for path in [pair.world.path(a, b), pair.world.path(b, a)] {
            assert_eq!(path.kind, Some(PathKind::Relay));
            assert_eq!(path.reason, PathReason::SymmetricBoth);
        }
    });
}

#[test]
fn going_back_from_tls_to_udp_loses_nothing_and_says_what_the_nat_does() {
    for_each_seed(10, |seed| {
        let mut pair = pair(seed, Some(NatKind::SYMMETRIC), Some(NatKind::SYMMETRIC));
        pair.world.block_udp(pair.a, true);
        pair.talk(40 * SECOND, &mut Expected::default());
        assert_eq!(pair.world.path(pair.a, pair.b).reason, PathReason::UdpBlocked);
        pair.world.block_udp(pair.a, false);
        let mut expected = Expected::default();
        pair.talk(60 * SECOND, &mut expected);
        assert_eq!(expected.missing(&pair.world), Vec::<u64>::new());
        let relays: Vec<_> = pair.world.mesh(pair.a).relays().collect();
        assert!(
            relays.iter().all(|relay| relay.is_up && !relay.is_stream),
            "{relays:?}"
        );
        assert_eq!(pair.world.path(pair.a, pair.b).reason, PathReason::SymmetricBoth);
    });
}

#[test]
fn neighbours_talk_inside_their_own_network() {
    for_each_seed(10, |seed| {
        let mut world = MeshWorld::new(seed);
        world.add_relay();
        let nat = world.internet.add_nat(NatKind::SYMMETRIC, None);
        let hosts = [(); 2].map(|()| world.internet.add_host(Some(nat)));
        let [a, b] = hosts.map(|host| world.add_node(host));
        world.run_for(SECOND);
        world.introduce(a, b);
        let mut pair = Pair {
            world,
            a,
            b,
            relays: [RelayNumber(0); 2],
        };
        pair.talk(SECOND, &mut Expected::default());
        assert!(pair.is_direct());
        let inner = pair.world.internet.addresses(hosts[1])[0];
        let remote = pair
            .world
            .path(a, b)
            .endpoint
            .and_then(|endpoint| endpoint.remote());
        assert_eq!(remote.map(|remote| remote.ip()), Some(inner));
    });
}

#[test]
fn two_nodes_that_slept_find_each_other_again() {
    for_each_seed(10, |seed| {
        let mut pair = pair(
            seed,
            Some(NatKind::PORT_RESTRICTED),
            Some(NatKind::PORT_RESTRICTED),
        );
        let mut expected = Expected::default();
        pair.talk(2 * SECOND, &mut expected);
        for span in [400, 4000, 40_000] {
            pair.world.run_for(Duration::from_secs(span));
            let first = pair.world.send(pair.a, pair.b);
            pair.world.run_for(Duration::from_millis(100));
            assert!(pair.world.arrived(first).is_some(), "after {span} s of silence");
            pair.talk(2 * SECOND, &mut expected);
            assert!(pair.is_direct());
        }
        assert_eq!(expected.missing(&pair.world), Vec::<u64>::new());
    });
}

#[test]
fn bad_weather_delays_and_breaks_nothing() {
    for_each_seed(40, |seed| {
        let mut pair = pair(seed, Some(NatKind::PORT_RESTRICTED), Some(NatKind::RESTRICTED));
        pair.world.internet.weather = sim::Weather {
            delay: Duration::from_millis(5)..Duration::from_millis(200),
            lost_per_mille: 50,
            bursts_per_mille: 20,
            doubled_per_mille: 50,
        };
        pair.talk(30 * SECOND, &mut Expected::default());
        pair.world.internet.weather = sim::Weather::default();
        pair.talk(10 * SECOND, &mut Expected::default());
        let mut after = Expected::default();
        pair.talk(2 * SECOND, &mut after);
        assert_eq!(after.missing(&pair.world), Vec::<u64>::new());
        assert!(pair.is_direct());
    });
}

#[test]
fn a_peer_that_is_made_anew_is_met_although_the_only_relay_has_just_died() {
    for_each_seed(10, |seed| {
        let mut world = MeshWorld::new(seed);
        let relay = world.add_relay();
        let hosts = [(); 2].map(|()| host(&mut world, None));
        let [a, b] = hosts.map(|host| world.add_node(host));
        world.run_for(SECOND);
        world.introduce(a, b);
        world.send(a, b);
        world.run_for(5 * SECOND);
        let candidates = world.mesh(b).own_candidates().candidates();
        let endpoints = candidates.iter().map(|candidate| candidate.address).collect();
        world.set_relay_down(relay, true);
        world.forget(a, b);
        world.tell_of(a, b, endpoints);
        let first = world.send(a, b);
        let mut arrived = false;
        for _ in 0..20 {
            // As the stream inside would repeat it.
            let again = world.send(a, b);
            arrived |= world.run_until_true(SECOND / 10, |world| {
                world.arrived(first).is_some() || world.arrived(again).is_some()
            });
        }
        assert!(arrived, "within two seconds");
    });
}

#[test]
fn a_node_that_changes_its_key_loses_little_through_a_relay_and_nothing_directly() {
    for (name, kind) in [("none", None), ("symmetric", Some(NatKind::SYMMETRIC))] {
        let lost = Cell::new(0);
        for_each_seed(10, |seed| {
            let mut pair = pair(seed, kind, kind);
            pair.talk(2 * SECOND, &mut Expected::default());
            let was_direct = pair.is_direct();
            for node in [pair.a, pair.b] {
                pair.world.change_key(node);
                let mut during = Expected::default();
                pair.talk(SECOND, &mut during);
                let missing = during.missing(&pair.world).len();
                assert!(!was_direct || missing == 0, "{name}: {missing} of 100 packets");
                // Two round trips to the relay are 50 ms at most.
                assert!(missing <= 25, "{name}: {missing} of 100 packets");
                lost.set(lost.get().max(missing));
            }
            // Sessions are renewed with the new keys within two minutes.
            pair.talk(125 * SECOND, &mut Expected::default());
            let mut after = Expected::default();
            pair.talk(10 * SECOND, &mut after);
            assert_eq!(after.missing(&pair.world), Vec::<u64>::new(), "{name}");
        });
        let lost = lost.get();
        println!("{name}: at most {lost} of 100 packets were lost in the second after a change");
    }
}

#[test]
fn the_first_packet_goes_through_the_peers_home_relay() {
    for_each_seed(10, |seed| {
        for home in [RelayNumber(0), RelayNumber(1)] {
            let mut pair = pair(seed, Some(NatKind::SYMMETRIC), Some(NatKind::SYMMETRIC));
            pair.world.tell_home(pair.a, pair.b, home);
            let endpoint = pair.world.path(pair.a, pair.b).endpoint;
            let id = pair.world.relay(home).id();
            assert!(
                matches!(endpoint, Some(Endpoint::Relayed { relay, .. }) if relay == id),
                "{endpoint:?}"
            );
            // One that is down keeps nobody from being reached.
            pair.world.set_relay_down(home, true);
            pair.talk(10 * SECOND, &mut Expected::default());
            let mut after = Expected::default();
            pair.talk(SECOND, &mut after);
            assert_eq!(
                after.missing(&pair.world),
                Vec::<u64>::new(),
                "{home:?} {:?} {:?}",
                pair.world.path(pair.a, pair.b),
                pair.world.path(pair.b, pair.a)
            );
        }
    });
}

#[test]
fn a_home_relay_that_died_before_the_first_packet_loses_none() {
    let symmetric = Some(NatKind::SYMMETRIC);
    for kinds in [
        (None, None),
        (Some(NatKind::PORT_RESTRICTED), symmetric),
        (symmetric, symmetric),
    ] {
        for homes in [[0, 0], [0, 1], [1, 0]] {
            // Nobody misses it yet, one asks it already, everybody knows.
            for dead_ms in [0, 900, 20_000] {
                for_each_seed(3, |seed| {
                    let mut pair = pair(seed, kinds.0, kinds.1);
                    let relays = pair.relays;
                    pair.world.tell_home(pair.a, pair.b, relays[homes[0]]);
                    pair.world.tell_home(pair.b, pair.a, relays[homes[1]]);
                    pair.world.set_relay_down(relays[0], true);
                    pair.world.run_for(Duration::from_millis(dead_ms));
                    let mut all = Expected::default();
                    // Whoever begins says nothing more until it is answered, as TCP does.
                    let first = pair.world.send(pair.a, pair.b);
                    let soon = |world: &MeshWorld| world.arrived(first).is_some();
                    assert!(pair.world.run_until_true(SECOND / 5, soon), "{homes:?} {dead_ms}");
                    pair.talk(8 * SECOND, &mut all);
                    assert_eq!(all.missing(&pair.world), Vec::<u64>::new(), "{homes:?} {dead_ms}");
                });
            }
        }
    }
}
