//! The control stream and the platform node, as a real node uses them: WebSocket, Noise, WireGuard.

mod support;

use std::net::IpAddr;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use mesh::MeshPeer;
use mesh::control_stream::{Channel, Initiator};
use mesh::tunnel::Mobility;
use net::mesh_net::{MeshNet, MeshNetConfig};
use reqwest::Method;
use serde_json::{Value, json};
use support::Fixture;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};
use types::control::{CAPABILITY_VERSION, FromNode, Hello, ToNode};
use types::{Generation, Netmap, NodePrivateKey, NodePublicKey, PathKind, PathReason, SigningPrivateKey};

/// A linked device.
struct Device {
    key: NodePrivateKey,
    id: String,
    config: Value,
}

/// Its control stream.
struct Stream {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    channel: Channel,
}

fn private_key(seed: u8) -> NodePrivateKey {
    NodePrivateKey::from_random([seed; 32])
}

async fn link_as(fixture: &Fixture, approver: &str, seed: u8) -> Device {
    let key = private_key(seed);
    let public = key.public().to_string();
    let body = Some(json!({"publicKey": public, "hostname": format!("host{seed}")}));
    let started = fixture
        .call(None, Method::POST, "/v1/runmesh/devices/link/start", body)
        .await;
    let code = started.data(201)["code"].clone();
    let body = Some(json!({"code": code}));
    let path = "/v1/runmesh/devices/link/approve";
    fixture
        .call(Some(approver), Method::POST, path, body)
        .await
        .data(200);
    let body = Some(json!({"code": code, "publicKey": public}));
    let polled = fixture
        .call(None, Method::POST, "/v1/runmesh/devices/link/poll", body)
        .await;
    let polled = polled.data(200);
    Device {
        key,
        id: polled["node"]["id"].as_str().expect("id").to_owned(),
        config: polled["config"].clone(),
    }
}

async fn link(fixture: &Fixture, seed: u8) -> Device {
    let admin = fixture.admin.clone();
    link_as(fixture, &admin, seed).await
}

async fn second_member(fixture: &Fixture) -> String {
    let org = fixture.get("/v1/organizations/current").await.data(200)["id"].clone();
    let path = format!("/v1/organizations/{}/members", org.as_str().expect("id"));
    let made = fixture
        .post(&path, json!({"name": "Bob", "role": "member"}))
        .await;
    made.data(201)["apiKey"]["key"].as_str().expect("key").to_owned()
}

fn hello(seed: u8, generation: Option<Generation>) -> FromNode {
    FromNode::Hello(Box::new(Hello {
        capability_version: CAPABILITY_VERSION,
        app_version: "0.1.0".parse().ok(),
        os: "linux".parse().ok(),
        hostname: None,
        signing_key: SigningPrivateKey::from_random([seed; 32]).public(),
        generation,
        endpoints: vec![
            "192.0.2.1:4000".to_owned(),
            "0.0.0.0:1".to_owned(),
            "rubbish".to_owned(),
        ],
    }))
}

impl Device {
    /// Opens the stream without a hello.
    async fn handshake(&self, seed: u8) -> Option<Stream> {
        let url = self.config["control"]["url"].as_str().expect("url");
        let control: NodePublicKey = self.config["control"]["publicKey"]
            .as_str()
            .expect("key")
            .parse()
            .expect("a key");
        let (mut socket, _) = connect_async(url).await.expect("a WebSocket");
        let initiator = Initiator::new(&self.key, &control, [seed; 32]);
        socket
            .send(Message::Binary(initiator.message().into()))
            .await
            .expect("sent");
        let second = match socket.next().await {
            Some(Ok(Message::Binary(bytes))) => bytes,
            _ => return None,
        };
        let channel = initiator.finish(&second).expect("the pinned server");
        Some(Stream { socket, channel })
    }

    async fn open(&self, generation: Option<Generation>) -> Stream {
        let mut stream = self.handshake(7).await.expect("an answer");
        stream.send(&hello(1, generation)).await;
        stream
    }
}

impl Stream {
    async fn send(&mut self, message: &FromNode) {
        let json = serde_json::to_vec(message).expect("serializes");
        for sealed in self.channel.seal(&json).expect("seals") {
            self.socket
                .send(Message::Binary(sealed.into()))
                .await
                .expect("sent");
        }
    }

    /// The next message, `None` when the stream was closed; fails after five seconds.
    async fn next(&mut self) -> Option<ToNode> {
        let wait = Duration::from_secs(5);
        loop {
            let frame = tokio::time::timeout(wait, self.socket.next())
                .await
                .expect("in time");
            match frame {
                Some(Ok(Message::Binary(bytes))) => {
                    if let Some(json) = self.channel.open(&bytes).expect("authentic") {
                        return Some(serde_json::from_slice(&json).expect("a message"));
                    }
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                _ => return None,
            }
        }
    }

    async fn netmap(&mut self) -> Netmap {
        match self.next().await {
            Some(ToNode::Netmap(map)) => *map,
            other => panic!("expected a netmap, got {other:?}"),
        }
    }

    /// Proves that everything sent before was taken and nothing else was answered.
    async fn ping(&mut self) {
        self.send(&FromNode::Ping).await;
        assert_eq!(self.next().await, Some(ToNode::Pong));
    }
}

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
    map.verify(&device.key.public(), None)
        .expect("a netmap that nodes accept");
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
    second
        .verify(&device.key.public(), Some(first.generation))
        .expect("newer");

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

    let path = format!("/v1/runmesh/nodes/{}/revoke", device.id);
    fixture.post(&path, json!({})).await.data(200);
    let wait = Duration::from_secs(2);
    let again = net.connect_within(map.peers[0].public_key, remote, wait).await;
    assert!(again.is_err());
}
