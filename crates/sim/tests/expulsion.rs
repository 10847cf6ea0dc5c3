//! A node that the control plane shuts out, at a relay that only the other nodes reach.

use std::time::Duration;

use sim::mesh_world::{MeshWorld, NodeNumber, RelayNumber};

/// Three nodes that are at one relay.
fn world(seed: u64) -> (MeshWorld, RelayNumber, [NodeNumber; 3]) {
    let mut world = MeshWorld::new(seed);
    let relay = world.add_relay();
    let nodes = [(); 3].map(|()| {
        let host = world.internet.add_host(None);
        world.add_node(host)
    });
    let all_in = |world: &MeshWorld| nodes.iter().all(|node| is_at(world, relay, *node));
    assert!(world.run_until_true(Duration::from_secs(5), all_in));
    world.run_for(Duration::from_secs(1));
    (world, relay, nodes)
}

fn is_at(world: &MeshWorld, relay: RelayNumber, node: NodeNumber) -> bool {
    world.relay(relay).has_client(&world.key(node))
}

#[test]
fn is_cut_off_within_a_round_trip_of_whoever_hears_of_it() {
    let (mut world, relay, [one, other, revoked]) = world(1);
    let measured = world.mesh(one).relays().next().and_then(|view| view.rtt);
    world.tell_expelled(one, revoked);
    let is_out = |world: &MeshWorld| !is_at(world, relay, revoked);
    assert!(world.run_until_true(measured.expect("it is up"), is_out));
    // It tries again and again, with a ticket that is good for a day.
    world.run_for(Duration::from_secs(60));
    assert!(!is_at(&world, relay, revoked));
    assert!(is_at(&world, relay, one) && is_at(&world, relay, other));
}

#[test]
fn is_cut_off_by_a_relay_that_began_anew_and_has_nothing_on_disk() {
    let (mut world, relay, [one, other, revoked]) = world(2);
    world.tell_expelled(one, revoked);
    world.run_for(Duration::from_secs(1));
    world.set_relay_down(relay, true);
    world.run_for(Duration::from_secs(30));
    world.set_relay_down(relay, false);
    assert!(world.run_until_true(Duration::from_secs(20), |world| is_at(world, relay, one)));
    world.run_for(Duration::from_secs(1));
    for _ in 0..60 {
        assert!(!is_at(&world, relay, revoked));
        world.run_for(Duration::from_secs(1));
    }
    assert!(is_at(&world, relay, other));
}

#[test]
fn is_cut_off_by_whoever_gets_in_first_when_the_relay_was_away() {
    let (mut world, relay, [one, other, revoked]) = world(3);
    world.set_relay_down(relay, true);
    world.run_for(Duration::from_secs(5));
    world.tell_expelled(one, revoked);
    world.tell_expelled(other, revoked);
    world.set_relay_down(relay, false);
    let is_one_in = |world: &MeshWorld| is_at(world, relay, one) || is_at(world, relay, other);
    assert!(world.run_until_true(Duration::from_secs(20), is_one_in));
    world.run_for(Duration::from_secs(1));
    assert!(!is_at(&world, relay, revoked));
    assert_eq!(world.relay(relay).counters().expulsions, 1);
}
