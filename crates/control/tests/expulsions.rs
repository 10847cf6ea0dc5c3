//! What the nodes of an org carry to relays: who is shut out.

mod support;

use control::serve;
use serde_json::json;
use support::Fixture;
use support::device::{Device, Stream, hello, link};
use types::control::FromNode;
use types::{NodePublicKey, RelayExpulsion, SignedRelayExpulsion, SigningPublicKey};

async fn authority(fixture: &Fixture) -> SigningPublicKey {
    let relays = fixture.get("/v1/runmesh/relays").await.data(200).clone();
    let text = relays["authority"].as_str().expect("a key");
    text.parse().expect("a key")
}

async fn opened(fixture: &Fixture, expulsion: SignedRelayExpulsion) -> RelayExpulsion {
    expulsion
        .open(&authority(fixture).await)
        .expect("signed for relays")
}

async fn revoke(fixture: &Fixture, device: &Device) {
    let path = format!("/v1/runmesh/nodes/{}/revoke", device.id);
    fixture.post(&path, json!({})).await.data(200);
}

/// Opens a stream of a node that understands so much, and takes its netmap.
async fn open(device: &Device, capability: u32) -> Stream {
    let mut stream = device.handshake(7).await.expect("an answer");
    let FromNode::Hello(mut said) = hello(1, None) else {
        panic!("a hello");
    };
    said.capability_version = capability;
    stream.send(&FromNode::Hello(said)).await;
    stream.netmap().await;
    stream
}

fn key_of(device: &Device) -> NodePublicKey {
    device.key.public()
}

#[tokio::test]
async fn those_that_are_there_and_those_that_come_are_told_of_a_revoked_node_by_the_relays_authority() {
    let fixture = Fixture::start_with_relay().await;
    let (device, sibling) = (link(&fixture, 1).await, link(&fixture, 2).await);
    let (mut stays, mut goes) = (device.open(None).await, sibling.open(None).await);
    let authority = authority(&fixture).await;
    let had = goes.ticket().await.open(&authority, fixture.clock.wall());
    revoke(&fixture, &sibling).await;
    let told = opened(&fixture, stays.expulsion().await).await;
    assert_eq!(told.node, key_of(&sibling));
    assert!(told.voids(&had.expect("a ticket")));
    let late = link(&fixture, 3).await;
    let again = late.open(None).await.expulsion().await;
    assert_eq!(opened(&fixture, again).await, told);
}

#[tokio::test]
async fn a_node_of_an_earlier_version_is_not_told() {
    let fixture = Fixture::start_with_relay().await;
    let (device, sibling) = (link(&fixture, 1).await, link(&fixture, 2).await);
    let mut earlier = open(&device, 5).await;
    revoke(&fixture, &sibling).await;
    assert_eq!(earlier.netmap().await.peers.len(), 1);
    for _ in 0..3 {
        earlier.ping().await;
    }
}

#[tokio::test]
async fn a_control_plane_that_starts_anew_tells_it_again() {
    let fixture = Fixture::start_with_relay().await;
    let (device, sibling) = (link(&fixture, 1).await, link(&fixture, 2).await);
    revoke(&fixture, &sibling).await;
    fixture.server.shutdown().await;
    let server = serve(fixture.config.clone()).await.expect("starts again");
    let fixture = Fixture { server, ..fixture };
    let path = format!("/v1/runmesh/nodes/{}/config", device.id);
    let config = fixture.get(&path).await.data(200).clone();
    let device = Device { config, ..device };
    let told = opened(&fixture, device.open(None).await.expulsion().await).await;
    assert_eq!(told.node, key_of(&sibling));
}
