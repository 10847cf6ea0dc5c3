//! The control stream and the platform node, as a real node uses them: WebSocket, Noise, WireGuard.

mod support;

use std::net::IpAddr;
use std::time::Duration;

use control::Tuning;
use futures_util::SinkExt as _;
use mesh::MeshPeer;
use mesh::tunnel::Mobility;
use net::mesh_net::{MeshNet, MeshNetConfig};
use reqwest::Method;
use serde_json::{Value, json};
use support::device::{Stream, hello, link, link_as, private_key, second_member};
use support::{Fixture, relay_elsewhere};
use tokio_tungstenite::tungstenite::Message;
use types::control::{FromNode, ToNode};
use types::{Generation, Netmap, NodePrivateKey, PathKind, PathReason, RelayId};

async fn node(fixture: &Fixture, id: &str) -> Value {
    fixture
        .get(&format!("/v1/runmesh/nodes/{id}"))
        .await
        .data(200)
        .clone()
}

/// Waits until a node's field is what is expected.
async fn until(fixture: &Fixture, id: &str, field: &str, value: Value) {
    for _ in 0..100 {
        if node(fixture, id).await[field] == value {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{field} is {}", node(fixture, id).await[field]);
}

#[tokio::test]
async fn a_node_is_online_from_hello_to_the_end_of_its_stream() {
    let fixture = Fixture::start().await;
    let device = link(&fixture, 1).await;
    let mut stream = device.handshake(7).await.expect("an answer");
    assert_eq!(node(&fixture, &device.id).await["status"], "offline");
    stream.send(&hello(1, None)).await;
    let map = stream.netmap().await;
    assert_eq!(map.peers.len(), 1);
    assert!(map.orchestrator.is_some());
    assert_eq!(node(&fixture, &device.id).await["status"], "online");
    assert_eq!(fixture.get("/v1/runmesh/overview").await.data(200)["online"], 2);
    drop(stream);
    until(&fixture, &device.id, "status", json!("offline")).await;
    assert!(node(&fixture, &device.id).await["lastSeenAt"].is_string());
}

#[tokio::test]
async fn a_stranger_gets_no_answer() {
    let fixture = Fixture::start().await;
    let mut device = link(&fixture, 1).await;
    device.key = private_key(99);
    assert!(device.handshake(7).await.is_none());
}

#[tokio::test]
async fn a_newer_stream_takes_the_place_of_the_older() {
    let fixture = Fixture::start().await;
    let device = link(&fixture, 1).await;
    let mut older = device.open(None).await;
    let map = older.netmap().await;
    let mut newer = device.open(Some(map.generation)).await;
    assert_eq!(older.next().await, None);
    // The node has this generation already: the next thing it hears is the pong.
    newer.ping().await;
    assert_eq!(node(&fixture, &device.id).await["status"], "online");
}

#[tokio::test]
async fn a_change_is_pushed_to_whom_it_concerns_and_to_nobody_else() {
    let fixture = Fixture::start().await;
    let bob = second_member(&fixture).await;
    let device = link(&fixture, 1).await;
    let mut stream = device.open(None).await;
    let first = stream.netmap().await;

    let sibling = link(&fixture, 2).await;
    let second = stream.netmap().await;
    assert!(second.generation > first.generation);
    assert_eq!(second.peers.len(), 2);
    let peer = second
        .peers
        .iter()
        .find(|peer| peer.id.to_string() == sibling.id)
        .expect("the sibling");
    assert_eq!(peer.allowed_ips.len(), 2);
    let mut sibling_stream = sibling.open(None).await;
    sibling_stream.netmap().await;
    let third = stream.netmap().await;
    let peer = third
        .peers
        .iter()
        .find(|peer| peer.id.to_string() == sibling.id)
        .expect("the sibling");
    assert_eq!(peer.endpoints, ["192.0.2.1:4000"]);

    link_as(&fixture, &bob, 3).await;
    stream.ping().await;

    let path = format!("/v1/runmesh/nodes/{}", sibling.id);
    let body = Some(json!({"deviceLabel": "renamed"}));
    let renamed = fixture
        .call(Some(&fixture.admin), Method::PATCH, &path, body)
        .await;
    assert_eq!(renamed.data(200)["name"], "renamed");
    let fourth = stream.netmap().await;
    assert!(fourth.peers.iter().any(|peer| peer.name.as_str() == "renamed"));

    fixture
        .call(Some(&fixture.admin), Method::DELETE, &path, None)
        .await
        .data(200);
    assert_eq!(stream.netmap().await.peers.len(), 1);
}

#[tokio::test]
async fn a_revoked_node_is_told_cut_off_and_sent_away_for_ever() {
    let fixture = Fixture::start().await;
    let device = link(&fixture, 1).await;
    let mut stream = device.open(None).await;
    stream.netmap().await;
    let path = format!("/v1/runmesh/nodes/{}/revoke", device.id);
    fixture.post(&path, json!({})).await.data(200);
    assert_eq!(stream.next().await, Some(ToNode::Revoked));
    assert_eq!(stream.next().await, None);

    let mut again = device.open(None).await;
    assert_eq!(again.next().await, Some(ToNode::Revoked));
    assert_eq!(node(&fixture, &device.id).await["status"], "revoked");
}

/// Revokes a node, as the admin; returns the counts.
async fn cut_off(fixture: &Fixture, id: &str) -> Value {
    let path = format!("/v1/runmesh/nodes/{id}/revoke");
    fixture.post(&path, json!({})).await.data(200)["cutOff"].clone()
}

/// Takes a netmap that does not name a node, and says that it is in force.
async fn drop_peer(stream: &mut Stream, id: &str) -> Netmap {
    let map = stream.netmap().await;
    assert!(map.peers.iter().all(|peer| peer.id.to_string() != id));
    let generation = map.generation;
    stream.send(&FromNode::NetmapApplied { generation }).await;
    map
}

#[tokio::test]
async fn a_revocation_counts_who_has_dropped_the_node_also_those_who_return_later() {
    let fixture = Fixture::start().await;
    let here = link(&fixture, 1).await;
    let away = link(&fixture, 2).await;
    let lost = link(&fixture, 3).await;
    assert_eq!(node(&fixture, &lost.id).await["cutOff"], json!(null));
    let old = away.open(None).await.netmap().await;
    until(&fixture, &away.id, "status", json!("offline")).await;
    let mut stream = here.open(None).await;
    let before = stream.netmap().await;
    let (counts, map) = tokio::join!(cut_off(&fixture, &lost.id), async {
        // What is in force from before the revocation is no answer.
        let generation = before.generation;
        stream.send(&FromNode::NetmapApplied { generation }).await;
        drop_peer(&mut stream, &lost.id).await
    });
    assert!(map.generation > before.generation);
    let count = |of: &Value| {
        (
            of["nodes"].clone(),
            of["confirmed"].clone(),
            of["offline"].clone(),
        )
    };
    assert_eq!(count(&counts), (json!(3), json!(2), json!(1)));

    let mut back = away.open(Some(old.generation)).await;
    back.map = Some(old);
    let map = drop_peer(&mut back, &lost.id).await;
    back.ping().await;
    let counts = node(&fixture, &lost.id).await["cutOff"].clone();
    assert_eq!(count(&counts), (json!(3), json!(3), json!(0)));
    assert_eq!(cut_off(&fixture, &lost.id).await, counts);
    let listed = fixture.get("/v1/runmesh/nodes?status=revoked").await;
    assert_eq!(listed.data(200)[0]["cutOff"], counts);

    // It was in force already; nothing is sent.
    let mut again = away.open(Some(map.generation)).await;
    again.ping().await;
}

#[tokio::test]
async fn a_node_whose_answer_was_lost_is_counted_by_its_next_hello() {
    let fixture = Fixture::start().await;
    let here = link(&fixture, 1).await;
    let lost = link(&fixture, 2).await;
    let mut stream = here.open(None).await;
    stream.netmap().await;
    let (counts, map) = tokio::join!(cut_off(&fixture, &lost.id), stream.netmap());
    assert_eq!(
        counts["confirmed"], 1,
        "only the platform, also after two seconds"
    );
    assert_eq!((&counts["nodes"], &counts["offline"]), (&json!(2), &json!(0)));
    drop(stream);
    until(&fixture, &here.id, "status", json!("offline")).await;
    assert_eq!(node(&fixture, &lost.id).await["cutOff"]["offline"], 1);
    let mut back = here.open(Some(map.generation)).await;
    back.ping().await;
    let counts = node(&fixture, &lost.id).await["cutOff"].clone();
    assert_eq!((&counts["confirmed"], &counts["offline"]), (&json!(2), &json!(0)));
}

#[tokio::test]
async fn the_path_to_the_platform_is_shown_while_the_node_is_there() {
    let fixture = Fixture::start().await;
    let device = link(&fixture, 1).await;
    let mut stream = device.open(None).await;
    let map = stream.netmap().await;
    let report = FromNode::Path {
        peer_id: map.orchestrator.expect("an orchestrator").node_id,
        path: Some(PathKind::Direct),
        reason: PathReason::EndpointAnswered,
    };
    stream.send(&report).await;
    stream.ping().await;
    let shown = node(&fixture, &device.id).await;
    assert_eq!(
        (&shown["path"], &shown["pathReason"]),
        (&json!("direct"), &json!("endpoint_answered"))
    );
    drop(stream);
    until(&fixture, &device.id, "status", json!("offline")).await;
    let shown = node(&fixture, &device.id).await;
    assert_eq!(
        (&shown["path"], &shown["pathReason"]),
        (&json!(null), &json!(null))
    );
}

#[tokio::test]
async fn a_node_that_reports_too_often_is_cut_off() {
    let fixture = Fixture::start().await;
    let device = link(&fixture, 1).await;
    let mut stream = device.open(None).await;
    stream.netmap().await;
    let report = FromNode::Endpoints { endpoints: vec![] };
    for _ in 0..60 {
        let json = serde_json::to_vec(&report).expect("serializes");
        for sealed in stream.channel.seal(&json).expect("seals") {
            // The server may have closed it already.
            stream.socket.send(Message::Binary(sealed.into())).await.ok();
        }
    }
    while stream.next().await.is_some() {}
}

#[tokio::test]
async fn a_change_is_told_by_a_delta_that_leads_where_the_whole_netmap_does() {
    let fixture = Fixture::start().await;
    let device = link(&fixture, 1).await;
    let mut stream = device.open(None).await;
    stream.netmap().await;
    assert_eq!(stream.deltas, 0, "the first is whole");
    // Two nodes more, so that one that changes is less than all of them.
    for seed in 2..4 {
        let sibling = link(&fixture, seed).await;
        stream.netmap().await;
        let mut theirs = sibling.open(None).await;
        theirs.netmap().await;
        stream.netmap().await;
    }
    let gone = link(&fixture, 4).await;
    stream.netmap().await;
    let path = format!("/v1/runmesh/nodes/{}", device.id);
    let renamed = json!({"name": "renamed"});
    let admin = Some(fixture.admin.as_str());
    let patched = fixture.call(admin, Method::PATCH, &path, Some(renamed)).await;
    patched.data(200);
    assert_eq!(stream.netmap().await.node.name.as_str(), "renamed");
    let path = format!("/v1/runmesh/nodes/{}", gone.id);
    fixture.call(admin, Method::DELETE, &path, None).await.data(200);
    let by_deltas = stream.netmap().await;
    assert!(stream.deltas >= 6, "{} deltas", stream.deltas);

    let whole = device.open(None).await.netmap().await;
    assert_eq!(by_deltas, whole);
    // A node that comes back is told what it missed.
    drop(stream);
    link(&fixture, 5).await;
    let mut back = device.open(Some(whole.generation)).await;
    back.map = Some(whole);
    back.netmap().await;
    assert_eq!(back.deltas, 1);
}

#[tokio::test]
async fn a_node_that_refuses_a_delta_is_sent_the_whole_netmap() {
    let fixture = Fixture::start().await;
    let device = link(&fixture, 1).await;
    let mut stream = device.open(None).await;
    stream.netmap().await;
    link(&fixture, 2).await;
    stream.netmap().await;
    assert_eq!(stream.deltas, 1);
    let generation = stream.map.as_ref().expect("a netmap").generation;
    let reason = "it starts from another".to_owned();
    let refusal = FromNode::NetmapRefused { generation, reason };
    stream.send(&refusal).await;
    let Some(ToNode::Netmap(whole)) = stream.next().await else {
        panic!("expected a whole netmap");
    };
    assert_eq!(Some(&*whole), stream.map.as_ref());
    // Refused once more it is not sent again; what comes next is whole.
    stream.send(&refusal).await;
    stream.ping().await;
    link(&fixture, 3).await;
    assert!(matches!(stream.next().await, Some(ToNode::Netmap(_))));
}

#[tokio::test]
async fn a_node_that_knows_no_deltas_and_one_with_a_netmap_that_is_forgotten_get_whole_ones() {
    let fixture = Fixture::start().await;
    let device = link(&fixture, 1).await;
    let mut stream = device.handshake(7).await.expect("an answer");
    let FromNode::Hello(mut older) = hello(1, None) else {
        panic!("a hello");
    };
    older.capability_version = 3;
    stream.send(&FromNode::Hello(older)).await;
    stream.netmap().await;
    link(&fixture, 2).await;
    stream.netmap().await;
    assert_eq!(stream.deltas, 0);

    let mut back = device.open(Some(Generation(1))).await;
    back.netmap().await;
    assert_eq!(back.deltas, 0);
}

/// Starts a node's data plane with the platform as its peer.
async fn join(map: &Netmap, key: &NodePrivateKey) -> (MeshNet, IpAddr) {
    let listen = "127.0.0.1:0".parse().expect("address");
    let net = MeshNet::start(MeshNetConfig {
        private_key: key.clone(),
        listen,
    })
    .expect("a data plane");
    let peer = &map.peers[0];
    let config = MeshPeer {
        public_key: peer.public_key,
        preshared_key: None,
        allowed_ips: peer.allowed_ips.clone(),
        endpoints: vec![peer.endpoints[0].parse().expect("an address")],
        relays: Vec::new(),
        mobility: Mobility::Managed,
        persistent_keepalive: None,
    };
    net.upsert_peer(config, vec![map.node.addresses.mesh_ip6.into()])
        .await;
    (net, peer.allowed_ips[0].address())
}

#[tokio::test]
async fn the_platform_is_reached_over_the_mesh_until_the_node_is_revoked() {
    let fixture = Fixture::start().await;
    let device = link(&fixture, 1).await;
    let mut stream = device.open(None).await;
    let map = stream.netmap().await;
    let (net, platform) = join(&map, &device.key).await;
    let port = map.orchestrator.as_ref().expect("an orchestrator").port;
    let remote = (platform, port).into();
    let reached = net.connect(map.peers[0].public_key, remote).await;
    assert!(reached.is_ok(), "{reached:?}");
    let wait = Duration::from_secs(2);
    let other = net
        .connect_within(map.peers[0].public_key, (platform, port + 1).into(), wait)
        .await;
    assert_eq!(
        other.expect_err("closed"),
        net::ConnectError::TimedOut,
        "not even refused"
    );

    let path = format!("/v1/runmesh/nodes/{}/revoke", device.id);
    fixture.post(&path, json!({})).await.data(200);
    let again = net.connect_within(map.peers[0].public_key, remote, wait).await;
    assert!(again.is_err());
}

#[tokio::test]
async fn the_home_relay_of_a_node_is_told_to_those_that_see_it() {
    let relays = [8, 9].map(relay_elsewhere);
    let [near, far] = [relays[0].id, relays[1].id];
    let fixture = Fixture::start_with(Tuning::default(), |start| {
        start.relays_elsewhere = relays.to_vec();
    })
    .await;
    let (device, sibling) = (link(&fixture, 1).await, link(&fixture, 2).await);
    let mut watching = sibling.open(None).await;
    let mut stream = device.open(None).await;
    for (said, told) in [
        (Some(near), Some(near)),
        (Some(far), Some(far)),
        // Netmaps do not name it.
        (Some(RelayId(private_key(7).public())), None),
    ] {
        stream.send(&FromNode::HomeRelay { relay: said }).await;
        loop {
            let map = watching.netmap().await;
            let peer = map.peers.iter().find(|peer| peer.id.to_string() == device.id);
            if peer.expect("the sibling").home_relay == told {
                break;
            }
        }
        assert_eq!(node(&fixture, &device.id).await["homeRelay"], json!(told));
    }
    // A node that comes back and has not measured yet is where it was.
    stream.send(&FromNode::HomeRelay { relay: Some(near) }).await;
    until(&fixture, &device.id, "homeRelay", json!(near)).await;
    drop(stream);
    device.open(None).await.next().await;
    assert_eq!(node(&fixture, &device.id).await["homeRelay"], json!(near));
    let path = format!("/v1/runmesh/nodes/{}/config", sibling.id);
    let config = fixture.get(&path).await.data(200).clone();
    let peers = config["peers"].as_array().expect("peers");
    assert!(peers.iter().any(|peer| peer["homeRelay"] == json!(near)));
}
