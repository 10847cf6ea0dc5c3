//! Guessing ports between a NAT that maps by destination and one that lets in only the port that was sent to.

use std::time::Duration;

use mesh::paths::GUESS_SOCKETS;
use sim::{MeshWorld, NatKind, NodeNumber, for_each_seed};
use types::{PathKind, PathReason};

const SECOND: Duration = Duration::from_secs(1);
const HARD: NatKind = NatKind::SYMMETRIC;
const EASY: NatKind = NatKind::PORT_RESTRICTED;

/// Two nodes that know each other, behind these NATs.
fn pair(seed: u64, kinds: [NatKind; 2]) -> (MeshWorld, [NodeNumber; 2]) {
    let mut world = MeshWorld::new(seed);
    world.add_relay();
    world.add_relay();
    let nodes = kinds.map(|kind| {
        let nat = world.internet.add_nat(kind, None);
        let host = world.internet.add_host(Some(nat));
        world.add_node(host)
    });
    world.run_for(SECOND);
    world.introduce(nodes[0], nodes[1]);
    (world, nodes)
}

/// Both ends say something five times a second.
fn talk(world: &mut MeshWorld, [a, b]: [NodeNumber; 2], span: Duration) -> Vec<u64> {
    let mut sent = Vec::new();
    for _ in 0..span.as_millis() / 200 {
        sent.extend([world.send(a, b), world.send(b, a)]);
        world.run_for(Duration::from_millis(200));
    }
    world.run_for(Duration::from_millis(100));
    sent
}

fn is_direct(world: &MeshWorld, [a, b]: [NodeNumber; 2]) -> bool {
    [world.path(a, b), world.path(b, a)]
        .iter()
        .all(|path| path.kind == Some(PathKind::Direct))
}

#[test]
fn eight_of_ten_are_met_within_twenty_seconds_and_only_what_is_used_stays_open() {
    let met = std::cell::Cell::new((0, 0));
    for_each_seed(60, |seed| {
        let (mut world, nodes) = pair(seed, [HARD, EASY]);
        let sent = talk(&mut world, nodes, 20 * SECOND);
        let is_met = is_direct(&world, nodes);
        met.set((met.get().0 + u32::from(is_met), met.get().1 + 1));
        assert!(
            sent.iter().all(|packet| world.arrived(*packet).is_some()),
            "nothing is lost meanwhile"
        );
        assert_eq!(world.extra_sockets(nodes[0]).1, GUESS_SOCKETS);
        assert_eq!(world.extra_sockets(nodes[1]).1, 0);
        talk(&mut world, nodes, 20 * SECOND);
        // Each end may have settled on another one, or on the main socket.
        let open = world.extra_sockets(nodes[0]).0;
        assert!(open <= 2 * usize::from(is_met), "{open} sockets stay open");
        assert_eq!(is_direct(&world, nodes), is_met);
        let reason = if is_met {
            PathReason::EndpointAnswered
        } else {
            PathReason::SymmetricOne
        };
        assert_eq!(world.path(nodes[0], nodes[1]).reason, reason);
    });
    let (direct, all) = met.get();
    eprintln!("symmetric x port_restricted: {direct} of {all} direct");
    assert!(all == 1 || direct * 10 >= all * 8, "{direct} of {all}");
}

#[test]
fn a_nat_that_counts_is_met_at_once() {
    for_each_seed(20, |seed| {
        let counting = NatKind { counts: true, ..HARD };
        let (mut world, nodes) = pair(seed, [EASY, counting]);
        talk(&mut world, nodes, 9 * SECOND);
        assert!(is_direct(&world, nodes), "{:?}", world.path(nodes[0], nodes[1]));
    });
}

#[test]
fn between_two_nats_that_map_by_destination_nothing_is_guessed() {
    for_each_seed(10, |seed| {
        let (mut world, nodes) = pair(seed, [HARD, HARD]);
        talk(&mut world, nodes, 30 * SECOND);
        assert_eq!(world.path(nodes[0], nodes[1]).reason, PathReason::SymmetricBoth);
        assert_eq!(nodes.map(|node| world.extra_sockets(node).1), [0, 0]);
    });
}

#[test]
fn the_path_that_was_met_lives_through_silence_and_is_given_up_when_its_network_is_left() {
    for_each_seed(10, |seed| {
        let counting = NatKind { counts: true, ..HARD };
        let (mut world, nodes) = pair(seed, [counting, EASY]);
        talk(&mut world, nodes, 30 * SECOND);
        assert!(is_direct(&world, nodes));
        // NATs forget after 120 s: the path is kept open.
        world.run_for(200 * SECOND);
        let sent = talk(&mut world, nodes, SECOND);
        assert!(sent.iter().all(|packet| world.arrived(*packet).is_some()));
        assert!(is_direct(&world, nodes));
        world.roam(nodes[0], None);
        talk(&mut world, nodes, 2 * SECOND);
        let sent = talk(&mut world, nodes, 2 * SECOND);
        assert!(sent.iter().all(|packet| world.arrived(*packet).is_some()));
        assert!(is_direct(&world, nodes));
        assert_eq!(world.extra_sockets(nodes[0]).0, 0);
    });
}

#[test]
fn a_node_with_many_such_peers_keeps_its_limits_and_reaches_them_by_turns() {
    for_each_seed(2, |seed| {
        let mut world = MeshWorld::new(seed);
        world.add_relay();
        world.add_relay();
        let mut add = |kind| {
            let nat = world.internet.add_nat(kind, None);
            let host = world.internet.add_host(Some(nat));
            world.add_node(host)
        };
        let hub = add(HARD);
        let peers: Vec<_> = (0..12).map(|_| add(EASY)).collect();
        world.run_for(SECOND);
        for peer in &peers {
            world.introduce(hub, *peer);
        }
        for _ in 0..600 {
            for peer in &peers {
                world.send(hub, *peer);
            }
            world.run_for(SECOND);
        }
        let direct = peers
            .iter()
            .filter(|peer| world.path(hub, **peer).kind == Some(PathKind::Direct));
        let direct = direct.count();
        assert!(direct >= 6, "{direct} of 12 so far");
        let (open, most) = world.extra_sockets(hub);
        assert_eq!(open, direct);
        assert!(most <= 2 * GUESS_SOCKETS + 12, "{most}");
        world.forget(hub, peers[0]);
        assert!(world.extra_sockets(hub).0 <= direct);
    });
}
