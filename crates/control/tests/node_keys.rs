//! A node that changes its key, and the keys that it had.

mod support;

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use support::Fixture;
use support::device::{Device, Stream, hello, link, private_key};
use types::control::{FromNode, ToNode};
use types::policy::OVERLAP;
use types::{NodePublicKey, SigningPublicKey, Timestamp};

async fn node(fixture: &Fixture, device: &Device) -> Value {
    let path = format!("/v1/runmesh/nodes/{}", device.id);
    fixture.get(&path).await.data(200).clone()
}

async fn offer(stream: &mut Stream, key: NodePublicKey) -> ToNode {
    stream.send(&FromNode::OfferKey { public_key: key }).await;
    stream.next().await.expect("an answer")
}

async fn noted(stream: &mut Stream, key: NodePublicKey) {
    let noted = ToNode::KeyNoted { public_key: key };
    assert_eq!(offer(stream, key).await, noted);
}

async fn refused(stream: &mut Stream, key: NodePublicKey) -> String {
    match offer(stream, key).await {
        ToNode::KeyRefused { public_key, reason } if public_key == key => reason.to_string(),
        other => panic!("not refused: {other:?}"),
    }
}

/// Opens a stream with the key of this seed; what is said of keys first.
async fn open_with(device: &mut Device, seed: u8) -> (Stream, NodePublicKey, Option<Timestamp>) {
    device.key = private_key(seed);
    let mut stream = device.open(None).await;
    match stream.next_of_all().await {
        Some(ToNode::KeyInForce {
            public_key,
            previous_until,
        }) => (stream, public_key, previous_until),
        other => panic!("nothing of keys: {other:?}"),
    }
}

/// Changes the key of a device to that of this seed.
async fn rotate(device: &mut Device, seed: u8) -> Stream {
    let mut stream = Box::pin(device.open(None)).await;
    Box::pin(stream.netmap()).await;
    noted(&mut stream, private_key(seed).public()).await;
    let (stream, key, until) = Box::pin(open_with(device, seed)).await;
    assert_eq!(key, private_key(seed).public());
    assert!(until.is_some());
    stream
}

#[tokio::test]
async fn a_node_with_a_new_key_is_the_same_node_and_others_are_told() {
    let fixture = Fixture::start().await;
    let mut device = link(&fixture, 1).await;
    let sibling = link(&fixture, 2).await;
    let mut watching = sibling.open(None).await;
    watching.netmap().await;
    let before = node(&fixture, &device).await;

    let mut stream = rotate(&mut device, 11).await;
    let map = stream.netmap().await;
    assert_eq!(map.node.public_key, private_key(11).public());
    let mut after = node(&fixture, &device).await;
    assert_eq!(after["publicKey"], json!(private_key(11).public()));
    for field in [
        "id",
        "name",
        "dnsName",
        "meshIp4",
        "meshIp6",
        "tags",
        "ownerUserId",
        "createdAt",
    ] {
        assert_eq!(after[field], before[field], "{field}");
    }
    assert_eq!(after["status"].take(), "online");
    let seen = loop {
        let map = watching.netmap().await;
        let peer = map.peers.iter().find(|peer| peer.id.to_string() == device.id);
        let peer = peer.expect("the sibling").clone();
        if peer.public_key != private_key(1).public() {
            break peer;
        }
    };
    assert_eq!(seen.public_key, private_key(11).public());
    let audit = fixture
        .get("/v1/runmesh/audit?limit=5")
        .await
        .data(200)
        .to_string();
    assert!(audit.contains("node.key_rotated") && audit.contains(&private_key(1).public().to_string()));
    let activity = fixture.get("/v1/activity?limit=5").await.data(200).to_string();
    assert!(activity.contains("runmesh.device.key_rotated"));
}

#[tokio::test]
async fn at_every_point_of_a_change_one_of_the_keys_is_taken() {
    let fixture = Fixture::start().await;
    let mut device = link(&fixture, 1).await;
    let next = private_key(11).public();
    // The offer was noted, and the device crashed before it knew.
    let (mut stream, key, until) = open_with(&mut device, 1).await;
    assert_eq!((key, until), (private_key(1).public(), None));
    stream.netmap().await;
    noted(&mut stream, next).await;
    drop(stream);
    let (mut stream, key, _) = open_with(&mut device, 1).await;
    assert_eq!(key, private_key(1).public());
    stream.netmap().await;
    noted(&mut stream, next).await;
    // The handshake alone may be a replay, and changes nothing.
    device.key = private_key(11);
    drop(device.handshake(9).await.expect("an answer"));
    assert_eq!(
        node(&fixture, &device).await["publicKey"],
        json!(private_key(1).public())
    );
    // The key was put into force, and the device crashed before it knew.
    drop(open_with(&mut device, 11).await);
    let (mut stream, key, until) = open_with(&mut device, 1).await;
    assert_eq!(key, next, "the old one is told of the new one");
    assert!(until.is_some());
    assert_eq!(stream.next_of_all().await, None, "and of nothing else");
    let (mut stream, key, _) = open_with(&mut device, 11).await;
    assert_eq!(key, next);
    stream.netmap().await;
    stream.ping().await;
}

#[tokio::test]
async fn the_old_key_does_not_take_the_place_of_the_new_ones_stream() {
    let fixture = Fixture::start().await;
    let mut device = link(&fixture, 1).await;
    let mut stream = rotate(&mut device, 11).await;
    stream.netmap().await;
    drop(open_with(&mut device, 1).await);
    stream.ping().await;
    assert_eq!(node(&fixture, &device).await["status"], "online");
}

#[tokio::test]
async fn the_old_key_is_refused_when_its_time_is_over_and_never_comes_back() {
    let fixture = Fixture::start().await;
    let mut device = link(&fixture, 1).await;
    let started = fixture.clock.wall();
    drop(rotate(&mut device, 11).await);
    let elapsed = fixture.clock.wall().since(started);
    // So near that the test itself does not run over it.
    fixture.clock.advance(OVERLAP - elapsed - Duration::from_secs(20));
    let (_, key, until) = open_with(&mut device, 1).await;
    assert_eq!(key, private_key(11).public());
    let left = until.expect("still taken").since(fixture.clock.wall());
    fixture.clock.advance(left);
    device.key = private_key(1);
    assert!(device.handshake(9).await.is_none(), "a stranger now");
    let (_, key, until) = open_with(&mut device, 11).await;
    assert_eq!((key, until), (private_key(11).public(), None));

    let body = json!({"publicKey": private_key(1).public(), "hostname": "again"});
    let path = "/v1/runmesh/devices/link/start";
    let answer = fixture.call(None, Method::POST, path, Some(body)).await;
    assert_eq!((answer.status.as_u16(), answer.code()), (409, "device_revoked"));
    let made = fixture.post("/v1/runmesh/auth-keys", json!({"name": "k"})).await;
    let auth_key = made.data(201)["key"].clone();
    let body = json!({"authKey": auth_key, "publicKey": private_key(1).public()});
    let answer = fixture
        .call(None, Method::POST, "/v1/runmesh/devices/join", Some(body))
        .await;
    assert_eq!((answer.status.as_u16(), answer.code()), (409, "device_revoked"));
}

#[tokio::test]
async fn only_a_key_that_is_nobodys_is_noted_and_not_soon_after_another() {
    let fixture = Fixture::start().await;
    let mut device = link(&fixture, 1).await;
    let sibling = link(&fixture, 2).await;
    let mut other = sibling.open(None).await;
    other.netmap().await;
    noted(&mut other, private_key(12).public()).await;
    let mut stream = device.open(None).await;
    stream.netmap().await;
    let server = device.config["control"]["publicKey"].as_str().expect("key");
    let server: NodePublicKey = server.parse().expect("a key");
    for key in [1, 2, 12]
        .map(|seed| private_key(seed).public())
        .into_iter()
        .chain([server])
    {
        assert!(refused(&mut stream, key).await.contains("somebody's"));
    }
    let mut stream = rotate(&mut device, 11).await;
    stream.netmap().await;
    assert!(
        refused(&mut stream, private_key(1).public())
            .await
            .contains("somebody's")
    );
    assert!(
        refused(&mut stream, private_key(13).public())
            .await
            .contains("again after")
    );
    fixture.clock.advance(OVERLAP);
    noted(&mut stream, private_key(13).public()).await;
}

#[tokio::test]
async fn a_key_that_was_only_offered_does_not_keep_its_owner_from_linking() {
    let fixture = Fixture::start().await;
    let device = link(&fixture, 1).await;
    let mut stream = device.open(None).await;
    stream.netmap().await;
    noted(&mut stream, private_key(3).public()).await;
    let owner = link(&fixture, 3).await;
    assert_ne!(owner.id, device.id);
    let mut stream = owner.open(None).await;
    assert_eq!(stream.netmap().await.node.id.to_string(), owner.id);
}

#[tokio::test]
async fn a_revoked_node_comes_back_with_no_key() {
    let fixture = Fixture::start().await;
    let mut device = link(&fixture, 1).await;
    let mut stream = device.open(None).await;
    stream.netmap().await;
    noted(&mut stream, private_key(11).public()).await;
    let path = format!("/v1/runmesh/nodes/{}/revoke", device.id);
    fixture.post(&path, json!({})).await.data(200);
    for seed in [1, 11] {
        device.key = private_key(seed);
        let mut stream = device.handshake(seed).await.expect("an answer");
        stream.send(&hello(1, None)).await;
        assert_eq!(stream.next_of_all().await, Some(ToNode::Revoked), "{seed}");
    }
}

#[tokio::test]
async fn a_control_plane_that_starts_anew_knows_both_keys() {
    let mut fixture = Fixture::start().await;
    let mut device = link(&fixture, 1).await;
    drop(rotate(&mut device, 11).await);
    fixture.server.shutdown().await;
    fixture.server = control::serve(fixture.config.clone())
        .await
        .expect("starts again");
    let path = format!("/v1/runmesh/nodes/{}/config", device.id);
    device.config = fixture.get(&path).await.data(200).clone();
    let (mut stream, key, until) = open_with(&mut device, 1).await;
    assert_eq!(key, private_key(11).public());
    assert!(until.is_some());
    assert_eq!(stream.next_of_all().await, None);
    let (mut stream, ..) = open_with(&mut device, 11).await;
    stream.netmap().await;
    assert_eq!(node(&fixture, &device).await["status"], "online");
}

/// Has the keys of the org's nodes expire after so long.
async fn set_life(fixture: &Fixture, expire_after: &str) {
    let path = "/v1/runmesh/policy";
    let mut document = fixture.get(path).await.data(200)["document"].clone();
    document["nodeKeys"]["expireAfter"] = json!(expire_after);
    let body = Some(json!({"document": document}));
    let admin = Some(fixture.admin.as_str());
    fixture.call(admin, Method::PUT, path, body).await.data(200);
}

async fn expires_at(fixture: &Fixture, device: &Device) -> Timestamp {
    let node = node(fixture, device).await;
    let text = node["keyExpiresAt"].as_str().expect("it expires");
    Timestamp::parse(text).expect("a time")
}

/// Waits until the audit log says that a key has expired.
async fn until_noted(fixture: &Fixture) {
    for _ in 0..200 {
        let audit = fixture
            .get("/v1/runmesh/audit?limit=5")
            .await
            .data(200)
            .to_string();
        if audit.contains("node.key_expired") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("nobody noted that the key has expired");
}

const DAY: Duration = Duration::from_secs(86_400);

#[tokio::test]
async fn a_key_expires_as_the_policy_says_and_never_before_its_node_could_change_it() {
    let fixture = Fixture::start().await;
    let old = link(&fixture, 1).await;
    assert_eq!(node(&fixture, &old).await["keyExpiresAt"], Value::Null);
    fixture.clock.advance(80 * DAY);
    set_life(&fixture, "90d").await;
    let (now, expires) = (fixture.clock.wall(), expires_at(&fixture, &old).await);
    assert!(
        expires.since(now) > 30 * DAY - Duration::from_secs(60),
        "{expires}"
    );
    assert!(expires <= now + 30 * DAY);
    let new = link(&fixture, 2).await;
    let expires = expires_at(&fixture, &new).await;
    assert!(expires.since(now) >= 90 * DAY && expires <= fixture.clock.wall() + 90 * DAY);
    // The policy says something else, and nothing of keys has changed.
    set_life(&fixture, "90d").await;
    assert_eq!(expires_at(&fixture, &new).await, expires);

    let mut stream = old.open(None).await;
    let life = stream.netmap().await.node.key_life.expect("it is told");
    assert!(life.rotate_at.since(now) <= 30 * DAY / 4 && life.rotate_at < life.expires_at);
    let platform = fixture.get("/v1/runmesh/nodes?kind=platform").await;
    assert_eq!(platform.data(200)[0]["keyExpiresAt"], Value::Null);
}

#[tokio::test]
async fn a_key_is_good_to_its_last_millisecond_and_then_cuts_its_node_off() {
    let fixture = Fixture::start().await;
    set_life(&fixture, "90d").await;
    let device = link(&fixture, 1).await;
    fixture.clock.advance(DAY);
    let sibling = link(&fixture, 2).await;
    let expires = expires_at(&fixture, &device).await;
    let left = expires.since(fixture.clock.wall());
    // The test itself must not run over it.
    fixture.clock.advance(left - Duration::from_secs(30));
    let mut stream = device.open(None).await;
    assert_eq!(stream.netmap().await.peers.len(), 2);
    let mut watching = sibling.open(None).await;
    assert_eq!(watching.netmap().await.peers.len(), 2);

    fixture.clock.advance(expires.since(fixture.clock.wall()));
    // Whether it was noted already or not.
    let mut late = device.handshake(9).await.expect("an answer");
    late.send(&hello(1, None)).await;
    assert_eq!(late.next_of_all().await, Some(ToNode::KeyExpired));
    assert_eq!(late.next_of_all().await, None);
    until_noted(&fixture).await;
    loop {
        if watching.netmap().await.peers.len() == 1 {
            break;
        }
    }
    let node = node(&fixture, &device).await;
    assert_eq!(
        (&node["status"], &node["revokedAt"]),
        (&json!("offline"), &Value::Null)
    );
}

#[tokio::test]
async fn a_stream_that_is_open_when_the_key_expires_is_told_so() {
    let fixture = Fixture::start().await;
    set_life(&fixture, "90d").await;
    let device = link(&fixture, 1).await;
    let mut stream = device.open(None).await;
    stream.netmap().await;
    fixture.clock.advance(90 * DAY);
    let said = loop {
        match stream.next_of_all().await {
            Some(ToNode::KeyExpired) => break true,
            Some(_) => {}
            None => break false,
        }
    };
    assert!(said);
}

#[tokio::test]
async fn relays_hear_of_a_key_that_has_expired_and_take_the_node_in_again_when_it_is_approved() {
    let fixture = Fixture::start_with_relay().await;
    set_life(&fixture, "90d").await;
    let device = link(&fixture, 1).await;
    fixture.clock.advance(DAY);
    let sibling = link(&fixture, 2).await;
    let mut watching = sibling.open(None).await;
    watching.netmap().await;
    fixture
        .clock
        .advance(expires_at(&fixture, &device).await.since(fixture.clock.wall()));
    let expulsion = watching.expulsion().await;
    assert_eq!(&expulsion.claim().node, device.key.public().as_bytes());
    let again = link(&fixture, 1).await;
    let ticket = again.open(None).await.ticket().await;
    let relays = fixture.get("/v1/runmesh/relays").await.data(200).clone();
    let authority: SigningPublicKey = relays["authority"]
        .as_str()
        .expect("a key")
        .parse()
        .expect("a key");
    let ticket = ticket.open(&authority, fixture.clock.wall()).expect("a ticket");
    assert!(
        !expulsion
            .open(&authority)
            .expect("signed for relays")
            .voids(&ticket)
    );
}

#[tokio::test]
async fn a_node_whose_key_has_expired_is_the_same_node_when_it_is_approved_again_and_changes_its_key() {
    let fixture = Fixture::start().await;
    set_life(&fixture, "90d").await;
    let device = link(&fixture, 1).await;
    let mut stream = device.open(None).await;
    stream.netmap().await;
    noted(&mut stream, private_key(11).public()).await;
    fixture.clock.advance(90 * DAY);
    until_noted(&fixture).await;
    // What it offered before does not help it.
    let offered = Device {
        key: private_key(11),
        id: device.id.clone(),
        config: device.config.clone(),
        node: device.node.clone(),
    };
    assert!(offered.handshake(9).await.is_none(), "the offer is forgotten");

    let mut again = link(&fixture, 1).await;
    assert_eq!(again.id, device.id);
    let (now, expires) = (fixture.clock.wall(), expires_at(&fixture, &again).await);
    assert!(expires <= now + 30 * DAY && expires.since(now) > 29 * DAY);
    let life = again.open(None).await.netmap().await.node.key_life;
    assert!(life.expect("it is told").rotate_at.since(now) <= 30 * DAY / 4);
    let mut stream = rotate(&mut again, 12).await;
    let life = stream.netmap().await.node.key_life.expect("it is told");
    assert!(life.expires_at.since(now) >= 90 * DAY);
}

#[tokio::test]
async fn a_node_that_joined_by_an_auth_key_must_be_approved_when_its_key_has_expired() {
    let fixture = Fixture::start().await;
    set_life(&fixture, "1h").await;
    let made = fixture
        .post(
            "/v1/runmesh/auth-keys",
            json!({"name": "k", "reusable": true, "expiresIn": 86_400}),
        )
        .await;
    let auth_key = made.data(201)["key"].clone();
    let body = json!({"authKey": auth_key, "publicKey": private_key(1).public()});
    let path = "/v1/runmesh/devices/join";
    let join = || fixture.call(None, Method::POST, path, Some(body.clone()));
    join().await.data(201);
    join().await.data(201);
    fixture.clock.advance(Duration::from_secs(3600));
    let answer = join().await;
    assert_eq!((answer.status.as_u16(), answer.code()), (409, "conflict"));
}
