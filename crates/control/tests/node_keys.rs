//! A node that changes its key, and the keys that it had.

mod support;

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use support::Fixture;
use support::device::{Device, Stream, hello, link, private_key};
use types::control::{FromNode, ToNode};
use types::policy::OVERLAP;
use types::{NodePublicKey, Timestamp};

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
    let mut stream = device.open(None).await;
    stream.netmap().await;
    noted(&mut stream, private_key(seed).public()).await;
    let (stream, key, until) = open_with(device, seed).await;
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
    map.verify(&private_key(11).public(), None)
        .expect("its own netmap");
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
        let peer = map
            .peers
            .into_iter()
            .find(|peer| peer.id.to_string() == device.id);
        let peer = peer.expect("the sibling");
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
