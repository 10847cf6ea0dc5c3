//! What a netmap must be to pass the gate.

use super::*;
use crate::address::{host_ip4, node_ip6};
use crate::filter::FilterRule;
use crate::keys::{NodePrivateKey, SigningPrivateKey};

fn pins() -> Pins {
    Pins {
        own_key: key(1),
        org_id: OrgId::from_random([1; 16]),
        org_signing_key: org_key().public(),
    }
}

fn org_key() -> SigningPrivateKey {
    SigningPrivateKey::from_random([1; 32])
}

fn key(seed: u8) -> NodePublicKey {
    NodePrivateKey::from_random([seed; 32]).public()
}

fn peer(seed: u8) -> PeerRecord {
    let org = OrgId::from_random([1; 16]);
    let id = NodeId::from_random([seed; 16]);
    let mut record = PeerRecord {
        id,
        name: format!("peer-{seed}").parse().expect("label"),
        kind: NodeKind::Platform,
        public_key: key(seed),
        allowed_ips: vec![AllowedIp::host(node_ip6(org, id).into())],
        endpoints: vec!["192.0.2.1:51820".to_owned()],
        home_relay: None,
        signatures: Vec::new(),
    };
    record.sign(org, &org_key());
    record
}

fn relay() -> RelayRecord {
    RelayRecord {
        id: RelayId(key(8)),
        name: "near".parse().expect("label"),
        endpoints: vec!["192.0.2.1:3478".to_owned()],
        url: Some("wss://relay.example/v1/relay".to_owned()),
        stun_endpoints: vec!["192.0.2.1:3479".to_owned()],
    }
}

fn netmap() -> Netmap {
    let org_id = OrgId::from_random([1; 16]);
    let id = NodeId::from_random([1; 16]);
    Netmap {
        generation: Generation(5),
        org_id,
        org_name: "acme".parse().expect("label"),
        org_signing_key: org_key().public(),
        node: SelfRecord {
            id,
            name: "self".parse().expect("label"),
            public_key: key(1),
            addresses: MeshAddresses {
                mesh_ip4: host_ip4(1).expect("in range"),
                mesh_ip6: node_ip6(org_id, id),
            },
            key_life: None,
        },
        peers: vec![Arc::new(peer(2)), Arc::new(peer(3))].into(),
        relays: vec![relay()],
        filter: Some(Arc::new(PacketFilter {
            rules: vec![FilterRule {
                from: peer(2).allowed_ips,
                to: vec!["tcp:7420".parse().expect("ports")],
            }],
        })),
        orchestrator: Some(OrchestratorRecord {
            node_id: peer(2).id,
            port: 7420,
        }),
    }
}

fn spoil_peer(map: &mut Netmap, place: usize, spoil: impl Fn(&mut PeerRecord)) {
    let mut peers: Vec<_> = map.peers.iter().cloned().collect();
    spoil(Arc::make_mut(&mut peers[place]));
    map.peers = peers.into();
}

fn check_bad_peer(spoil: impl Fn(&mut PeerRecord), expected: &str) {
    let mut map = netmap();
    spoil_peer(&mut map, 1, spoil);
    match map.verify(&pins(), None) {
        Err(NetmapError::BadPeer { reason, .. }) => assert_eq!(reason, expected),
        other => panic!("{expected}: {other:?}"),
    }
}

#[test]
fn a_good_map_passes_and_survives_json() {
    let map = netmap();
    let mut before = map.clone();
    before.generation = Generation(4);
    assert_eq!(map.verify(&pins(), Some(&before)), Ok(()));
    let text = serde_json::to_string(&map).expect("serializes");
    assert_eq!(serde_json::from_str::<Netmap>(&text).expect("own text"), map);
}

#[test]
fn a_map_never_goes_backwards_or_to_another_key() {
    let map = netmap();
    for current in [5, 6] {
        let current = Netmap {
            generation: Generation(current),
            ..map.clone()
        };
        let stale = NetmapError::Stale {
            current: current.generation,
            offered: Generation(5),
        };
        assert_eq!(map.verify(&pins(), Some(&current)), Err(stale));
    }
    let check = |spoil: &dyn Fn(&mut Pins), expected| {
        let mut other = pins();
        spoil(&mut other);
        assert_eq!(map.verify(&other, None), Err(expected));
    };
    check(&|pins| pins.own_key = key(9), NetmapError::NotOurs);
    check(
        &|pins| pins.org_id = OrgId::from_random([9; 16]),
        NetmapError::WrongOrg,
    );
    let other_key = SigningPrivateKey::from_random([9; 32]).public();
    check(
        &|pins| pins.org_signing_key = other_key,
        NetmapError::WrongSigningKey,
    );
}

#[test]
fn peers_that_clash_are_refused() {
    check_bad_peer(|p| p.public_key = key(1), "its key is taken");
    check_bad_peer(|p| p.public_key = key(2), "its key is taken");
    check_bad_peer(|p| p.id = peer(2).id, "its id is taken");
    check_bad_peer(|p| p.name = peer(2).name, "its name is taken");
    check_bad_peer(|p| p.allowed_ips = peer(2).allowed_ips, "an address is taken");
    let own = AllowedIp::host(netmap().node.addresses.mesh_ip6.into());
    check_bad_peer(|p| p.allowed_ips = vec![own], "an address is taken");
}

#[test]
fn a_peer_that_the_org_has_not_signed_is_refused() {
    let refused = "the org has not signed it";
    check_bad_peer(|p| p.signatures.clear(), refused);
    check_bad_peer(|p| p.name = "other".parse().expect("label"), refused);
    check_bad_peer(|p| p.signatures = peer(2).signatures, refused);
    check_bad_peer(
        |p| {
            p.signatures.clear();
            p.sign(pins().org_id, &SigningPrivateKey::from_random([9; 32]));
        },
        refused,
    );
    let other = SigningPrivateKey::from_random([9; 32]);
    let mut more = peer(3);
    more.sign(pins().org_id, &other);
    let mut map = netmap();
    spoil_peer(&mut map, 1, |peer| *peer = more.clone());
    assert_eq!(map.verify(&pins(), None), Ok(()), "others may sign as well");
    let one = peer(3).signatures[0].clone();
    check_bad_peer(
        |p| p.signatures = vec![one.clone(); SIGNATURES_MAX + 1],
        "it has more than 8 signatures",
    );
}

#[test]
fn a_record_that_is_in_force_is_not_verified_again_and_a_changed_one_is() {
    let mut before = netmap();
    before.generation = Generation(4);
    // As if it had passed: a signature that is no good shows whether it is looked at.
    spoil_peer(&mut before, 1, |peer| peer.signatures.clear());
    let mut map = before.clone();
    map.generation = Generation(5);
    assert_eq!(map.verify(&pins(), Some(&before)), Ok(()));
    assert!(map.verify(&pins(), None).is_err());
    spoil_peer(&mut map, 1, |peer| peer.endpoints.clear());
    assert!(map.verify(&pins(), Some(&before)).is_err());
}

#[test]
fn peers_beyond_their_limits_are_refused() {
    check_bad_peer(|p| p.allowed_ips.clear(), "it must have 1 to 16 allowed IPs");
    let all: AllowedIp = "::/0".parse().expect("block");
    check_bad_peer(
        |p| p.allowed_ips = vec![all],
        "an allowed IP is not a single address",
    );
    let many = vec!["192.0.2.1:1".to_owned(); 17];
    check_bad_peer(|p| p.endpoints.clone_from(&many), "it has more than 16 endpoints");
    for bad in [
        "",
        "host",
        "host:0",
        "host:65536",
        "a b:1",
        "a\n:1",
        &"a".repeat(260),
    ] {
        check_bad_peer(
            |p| p.endpoints = vec![bad.to_owned()],
            "an endpoint is not host:port",
        );
    }
}

#[test]
fn relays_that_cannot_be_are_refused() {
    let check = |spoil: &dyn Fn(&mut Vec<RelayRecord>), expected: &'static str| {
        let mut map = netmap();
        spoil(&mut map.relays);
        assert_eq!(map.verify(&pins(), None), Err(NetmapError::BadRelay(expected)));
    };
    check(&|relays| relays.push(relay()), "its key is named twice");
    check(&|relays| relays.resize(17, relay()), "there are more than 16");
    check(
        &|relays| relays[0].stun_endpoints = vec!["nowhere".to_owned()],
        "an endpoint is not host:port",
    );
    check(
        &|relays| relays[0].endpoints = vec!["nowhere".to_owned()],
        "an endpoint is not host:port",
    );
    for bad in [
        "http://relay.example",
        "wss://relay example",
        &format!("wss://{}", "a".repeat(600)),
    ] {
        check(
            &|relays| relays[0].url = Some(bad.to_owned()),
            "its address is no WebSocket URL",
        );
    }
}

#[test]
fn a_filter_speaks_of_peers_and_may_be_missing() {
    let mut map = netmap();
    let filter = map.filter.as_mut().expect("a filter");
    Arc::make_mut(filter).rules[0].from = peer(4).allowed_ips;
    let refused = NetmapError::BadFilter("a rule names an address of no peer");
    assert_eq!(map.verify(&pins(), None), Err(refused));
    map.filter = None;
    assert_eq!(map.verify(&pins(), None), Ok(()));
    let older = serde_json::to_string(&map).expect("serializes");
    assert!(!older.contains("filter"));
    assert_eq!(serde_json::from_str::<Netmap>(&older).expect("own text"), map);
}

#[test]
fn the_orchestrator_must_be_a_platform_peer() {
    let mut map = netmap();
    spoil_peer(&mut map, 0, |peer| {
        peer.kind = NodeKind::Device;
        peer.sign(pins().org_id, &org_key());
    });
    assert_eq!(map.verify(&pins(), None), Err(NetmapError::OrchestratorMissing));
}
