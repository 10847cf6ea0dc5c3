//! Deltas lead where whole netmaps do, whatever the history, and what does not fit is refused whole.

mod spoiled;

use proptest::prelude::*;

use super::super::{InForce, OrchestratorRecord, Pins, SelfRecord};
use super::*;
use crate::address::{MeshAddresses, host_ip4, node_ip6};
use crate::filter::FilterRule;
use crate::keys::{NodePrivateKey, NodePublicKey, SigningPrivateKey};
use crate::node::NodeKind;
use crate::relay::RelayId;

/// How many nodes there are to come and go.
const POOL: u8 = 12;

/// What is drawn of one node at one moment.
#[derive(Clone, Debug)]
struct Drawn {
    is_there: bool,
    name: u8,
    endpoints: u8,
    ports: u8,
}

/// What is drawn of an org at one moment.
#[derive(Clone, Debug)]
struct Moment {
    nodes: Vec<Drawn>,
    own_name: u8,
    relays: u8,
    open: bool,
}

fn any_moment() -> impl Strategy<Value = Moment> {
    let drawn = (any::<bool>(), 0..2u8, 0..2u8, 0..3u8);
    let drawn = drawn.prop_map(|(is_there, name, endpoints, ports)| Drawn {
        is_there,
        name,
        endpoints,
        ports,
    });
    let nodes = proptest::collection::vec(drawn, usize::from(POOL));
    (nodes, 0..2u8, 0..2u8, any::<bool>()).prop_map(|(nodes, own_name, relays, open)| Moment {
        nodes,
        own_name,
        relays,
        open,
    })
}

/// Moments that differ from one another in everything, or in a few nodes only, as real ones do.
fn any_history() -> impl Strategy<Value = Vec<Moment>> {
    let step = (
        any_moment(),
        proptest::collection::vec(any::<bool>(), usize::from(POOL)),
        0..4u8,
    );
    (any_moment(), proptest::collection::vec(step, 1..8)).prop_map(|(first, steps)| {
        let mut history = vec![first];
        for (mut next, stays, frame) in steps {
            let last = history.last().expect("the first");
            for (node, before) in next
                .nodes
                .iter_mut()
                .zip(&last.nodes)
                .zip(stays)
                .filter_map(|((node, before), stays)| (stays || frame == 3).then_some((node, before)))
            {
                *node = before.clone();
            }
            if frame > 0 {
                (next.own_name, next.relays, next.open) = (last.own_name, last.relays, last.open);
            }
            history.push(next);
        }
        history
    })
}

fn org() -> OrgId {
    OrgId::from_random([1; 16])
}

fn org_key() -> SigningPrivateKey {
    SigningPrivateKey::from_random([1; 32])
}

fn key(seed: u8) -> NodePublicKey {
    NodePrivateKey::from_random([seed; 32]).public()
}

fn pins() -> Pins {
    Pins {
        own_key: key(200),
        org_id: org(),
        org_signing_key: org_key().public(),
    }
}

fn record(seed: u8, drawn: &Drawn) -> PeerRecord {
    let id = NodeId::from_random([seed; 16]);
    let ip4 = host_ip4(u32::from(seed) + 1).expect("in range");
    let mut record = PeerRecord {
        id,
        name: format!("node-{seed}-{}", drawn.name).parse().expect("a label"),
        kind: NodeKind::Device,
        public_key: key(seed + 1),
        allowed_ips: vec![
            AllowedIp::host(ip4.into()),
            AllowedIp::host(node_ip6(org(), id).into()),
        ],
        endpoints: vec![format!("192.0.2.{}:4000", drawn.endpoints + 1)],
        home_relay: None,
        signatures: Vec::new(),
    };
    record.sign(org(), &org_key());
    record
}

fn relay(number: u8) -> RelayRecord {
    RelayRecord {
        id: RelayId(key(150)),
        name: format!("relay-{number}").parse().expect("a label"),
        endpoints: vec!["192.0.2.9:3478".to_owned()],
        url: None,
        stun_endpoints: Vec::new(),
    }
}

fn filter(moment: &Moment) -> PacketFilter {
    let ports = |number: u8| -> Vec<_> {
        ["icmp", "tcp:22", "tcp:80"][..usize::from(number)]
            .iter()
            .map(|text| text.parse().expect("ports"))
            .collect()
    };
    let everybody = FilterRule {
        from: AllowedIp::everywhere().to_vec(),
        to: vec!["udp:53".parse().expect("ports")],
    };
    let mut rules: Vec<_> = moment.open.then_some(everybody).into_iter().collect();
    for (seed, drawn) in (0..).zip(&moment.nodes) {
        if drawn.is_there && drawn.ports > 0 {
            rules.push(FilterRule {
                from: record(seed, drawn).allowed_ips,
                to: ports(drawn.ports),
            });
        }
    }
    PacketFilter { rules }.canonical()
}

fn netmap(generation: u64, moment: &Moment) -> Netmap {
    let id = NodeId::from_random([200; 16]);
    let there = (0..).zip(&moment.nodes).filter(|(_, drawn)| drawn.is_there);
    let platform = PeerRecord {
        kind: NodeKind::Platform,
        ..record(190, &moment.nodes[0].clone())
    };
    let mut platform = PeerRecord {
        name: "platform".parse().expect("a label"),
        endpoints: Vec::new(),
        ..platform
    };
    platform.sign(org(), &org_key());
    let mut peers: Vec<_> = there.map(|(seed, drawn)| Arc::new(record(seed, drawn))).collect();
    peers.push(Arc::new(platform));
    peers.sort_by_key(|peer| peer.id);
    Netmap {
        generation: Generation(generation),
        org_id: org(),
        org_name: "home".parse().expect("a label"),
        org_signing_key: org_key().public(),
        node: SelfRecord {
            id,
            name: format!("own-{}", moment.own_name).parse().expect("a label"),
            public_key: key(200),
            addresses: MeshAddresses {
                mesh_ip4: host_ip4(1000).expect("in range"),
                mesh_ip6: node_ip6(org(), id),
            },
            key_life: None,
        },
        orchestrator: Some(OrchestratorRecord {
            node_id: NodeId::from_random([190; 16]),
            port: 7420,
        }),
        peers: peers.into(),
        relays: vec![relay(moment.relays)],
        filter: Some(Arc::new(filter(moment))),
    }
}

fn in_force(map: &Netmap) -> InForce {
    InForce::new(map.clone(), &pins(), None).expect("a good netmap")
}

fn amended(old: &Netmap, delta: &NetmapDelta) -> Result<Netmap, NetmapError> {
    let amended = in_force(old).amended(delta, &pins())?;
    Ok(Netmap::clone(amended.map()))
}

/// Puts a delta into force, and checks what is said to be different.
fn put(node: &mut InForce, delta: &NetmapDelta) {
    let before = node.clone();
    let amended = node.amended(delta, &pins()).expect("it fits");
    let (changes, blocks) = (amended.changes().to_vec(), amended.filter_blocks().clone());
    node.put(amended);
    assert_eq!(node, &in_force(node.map()), "it knows what a new one knows");
    let order = |changes: Vec<PeerChange>| -> BTreeSet<_> {
        let ids = changes.into_iter().map(|change| {
            let ids = [&change.before, &change.after].map(|record| record.as_ref().map(|record| record.id));
            (ids, change.after.map(|record| record.endpoints.clone()))
        });
        ids.collect()
    };
    assert_eq!(order(changes), order(node.changes_since(Some(&before))));
    assert_eq!(
        unlike(&before, &blocks),
        unlike(node, &blocks),
        "nothing is said of other blocks"
    );
}

/// Returns what a filter says of all blocks but some.
fn unlike(node: &InForce, blocks: &BTreeSet<AllowedIp>) -> BTreeSet<(AllowedIp, Vec<crate::Ports>)> {
    let rules = node.map().filter.iter().flat_map(|filter| &filter.rules);
    let said = rules.flat_map(|rule| rule.from.iter().map(|block| (*block, rule.to.clone())));
    said.filter(|(block, _)| !blocks.contains(block)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn a_node_that_is_sent_deltas_has_what_one_has_that_is_sent_whole_netmaps(history in any_history()) {
        let mut served = netmap(1, &history[0]);
        let mut node = in_force(&served);
        for (generation, moment) in (2..).zip(&history[1..]) {
            let next = netmap(generation, moment);
            match Difference::between(&served, &next) {
                Difference::None => {
                    let generation = next.generation;
                    node = in_force(&Netmap { generation, ..Netmap::clone(node.map()) });
                }
                Difference::Whole => node = InForce::new(next.clone(), &pins(), Some(&node)).expect("good"),
                Difference::Delta(delta) => {
                    let text = serde_json::to_string(&delta).expect("serializes");
                    let travelled: NetmapDelta = serde_json::from_str(&text).expect("own text");
                    prop_assert_eq!(&travelled, &*delta);
                    put(&mut node, &travelled);
                    let again = node.amended(&travelled, &pins());
                    let is_gap = matches!(again, Err(NetmapError::Gap { .. }));
                    prop_assert!(is_gap);
                }
            }
            prop_assert_eq!(&**node.map(), &next);
            served = next;
        }
    }
}

fn moment(there: std::ops::Range<u8>) -> Moment {
    let drawn = |seed: u8| Drawn {
        is_there: there.contains(&seed),
        name: 0,
        endpoints: 0,
        ports: 2,
    };
    Moment {
        nodes: (0..POOL).map(drawn).collect(),
        own_name: 0,
        relays: 0,
        open: true,
    }
}

/// Two netmaps of which the second has two nodes more and one less, and the delta between them.
fn step() -> (Netmap, Netmap, NetmapDelta) {
    let (old, new) = (netmap(4, &moment(0..9)), netmap(6, &moment(1..11)));
    match Difference::between(&old, &new) {
        Difference::Delta(delta) => (old, new, *delta),
        other => panic!("expected a delta, got {other:?}"),
    }
}

#[test]
fn a_delta_names_what_changed_and_nothing_else() {
    let (old, new, delta) = step();
    assert_eq!((delta.from, delta.generation), (Generation(4), Generation(6)));
    assert_eq!(
        (delta.upserted.len(), delta.removed.len(), delta.peer_count),
        (2, 1, 11)
    );
    assert!(
        delta.filter.closed.is_empty(),
        "what the filter said of the one that went goes with it"
    );
    assert_eq!(delta.filter.opened.len(), 1);
    assert_eq!(amended(&old, &delta), Ok(new));
}

#[test]
fn one_node_that_moves_among_ten_thousand_takes_less_than_a_kilobyte() {
    let first = moment(0..9);
    let mut second = first.clone();
    second.nodes[3].endpoints = 1;
    let Difference::Delta(delta) = Difference::between(&netmap(1, &first), &netmap(2, &second)) else {
        panic!("expected a delta");
    };
    let text = serde_json::to_string(&delta).expect("serializes");
    assert!(text.len() < 1000, "{} bytes: {text}", text.len());
}

#[test]
fn a_delta_that_does_not_fit_is_refused() {
    let (old, new, delta) = step();
    let check = |spoil: &dyn Fn(&mut NetmapDelta), expected: NetmapError| {
        let mut other = delta.clone();
        spoil(&mut other);
        assert_eq!(amended(&old, &other), Err(expected));
    };
    let gap = |from| NetmapError::Gap {
        current: Generation(4),
        from: Generation(from),
    };
    check(&|delta| delta.from = Generation(5), gap(5));
    check(&|delta| delta.from = Generation(3), gap(3));
    let stale = |generation| NetmapError::Stale {
        current: Generation(4),
        offered: Generation(generation),
    };
    check(&|delta| delta.generation = Generation(4), stale(4));
    check(&|delta| delta.generation = Generation(3), stale(3));
    check(
        &|delta| delta.node_id = NodeId::from_random([9; 16]),
        NetmapError::NotOurs,
    );
    check(
        &|delta| delta.org_id = OrgId::from_random([9; 16]),
        NetmapError::NotOurs,
    );
    let own = |delta: &mut NetmapDelta| {
        let node = SelfRecord {
            public_key: key(201),
            ..new.node.clone()
        };
        delta.node = Some(node);
    };
    check(&own, NetmapError::NotOurs);
    let bad = NetmapError::BadDelta;
    check(
        &|delta| delta.upserted.reverse(),
        bad("its peers are out of order"),
    );
    check(
        &|delta| delta.removed.push(delta.removed[0]),
        bad("its peers are out of order"),
    );
    check(
        &|delta| delta.removed = vec![NodeId::from_random([99; 16])],
        bad("it removes a peer that is not there"),
    );
    check(
        &|delta| delta.peer_count += 1,
        bad("it came upon other peers than it was made for"),
    );
    check(
        &|delta| {
            let rule = delta.filter.opened[0].clone();
            delta.filter.opened.push(rule);
        },
        bad("its filter is out of order"),
    );
    check(
        &|delta| delta.filter.opened[0].from = vec!["10.9.9.9/32".parse().expect("a block")],
        NetmapError::BadFilter("a rule names an address of no peer"),
    );
    let mut bare = old.clone();
    bare.filter = None;
    assert_eq!(
        amended(&bare, &delta),
        Err(bad("it changes a filter that is not there"))
    );
}

#[test]
fn the_records_of_a_delta_pass_the_gate_of_whole_netmaps() {
    let (old, _, delta) = step();
    let check = |spoil: &dyn Fn(&mut PeerRecord), expected: &str| {
        let mut other = delta.clone();
        let record = Arc::make_mut(&mut other.upserted[0]);
        spoil(record);
        match amended(&old, &other) {
            Err(NetmapError::BadPeer { reason, .. }) => assert_eq!(reason, expected),
            other => panic!("{expected}: {other:?}"),
        }
    };
    let resign = |record: &mut PeerRecord| record.sign(org(), &org_key());
    check(&|record| record.signatures.clear(), "the org has not signed it");
    check(&|record| record.public_key = key(99), "the org has not signed it");
    // One that is there and stays, and the node's own.
    let kept = record(5, &moment(0..9).nodes[5]);
    check(
        &|record| {
            record.allowed_ips.clone_from(&kept.allowed_ips);
            resign(record);
        },
        "an address is taken",
    );
    for taken in [kept.public_key, key(200)] {
        check(
            &|record| {
                record.public_key = taken;
                resign(record);
            },
            "its key is taken",
        );
    }
    check(
        &|record| {
            record.name = kept.name.clone();
            resign(record);
        },
        "its name is taken",
    );
}

#[test]
fn what_a_delta_cannot_say_or_says_at_length_is_said_whole() {
    let old = netmap(4, &moment(0..9));
    let whole = |spoil: &dyn Fn(&mut Netmap)| {
        let mut new = netmap(5, &moment(0..9));
        spoil(&mut new);
        assert_eq!(Difference::between(&old, &new), Difference::Whole);
    };
    whole(&|map| map.org_name = "work".parse().expect("a label"));
    whole(&|map| map.orchestrator = None);
    whole(&|map| map.filter = None);
    whole(&|map| {
        let mut peers: Vec<_> = map.peers.iter().cloned().collect();
        peers.reverse();
        map.peers = peers.into();
    });
    whole(&|map| map.org_signing_key = SigningPrivateKey::from_random([9; 32]).public());
    let mut all = moment(0..9);
    for node in &mut all.nodes {
        (node.endpoints, node.ports) = (1, 1);
    }
    let all = netmap(5, &all);
    assert_eq!(
        Difference::between(&old, &all),
        Difference::Whole,
        "it is shorter"
    );
    let same = netmap(9, &moment(0..9));
    assert_eq!(Difference::between(&old, &same), Difference::None);
}
