//! A device and its control stream, as a real node has them: link, WebSocket, Noise.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use mesh::control_stream::{Channel, Initiator};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};
use types::control::{CAPABILITY_VERSION, FromNode, Hello, ToNode};
use types::netmap::{InForce, Pins};
use types::{
    Generation, Netmap, NodePrivateKey, NodePublicKey, SignedRelayExpulsion, SignedRelayTicket,
    SigningPrivateKey,
};

use super::Fixture;

/// A linked device.
pub(crate) struct Device {
    pub(crate) key: NodePrivateKey,
    pub(crate) id: String,
    pub(crate) config: Value,
    /// What the API says of it.
    pub(crate) node: Value,
}

/// Its control stream.
pub(crate) struct Stream {
    pub(crate) socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    pub(crate) channel: Channel,
    /// What the device pinned at link.
    pub(crate) pins: Pins,
    /// The netmap in force.
    pub(crate) map: Option<Netmap>,
    /// How many netmaps came as deltas.
    pub(crate) deltas: usize,
}

pub(crate) fn private_key(seed: u8) -> NodePrivateKey {
    NodePrivateKey::from_random([seed; 32])
}

pub(crate) async fn link_as(fixture: &Fixture, approver: &str, seed: u8) -> Device {
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
        node: polled["node"].clone(),
    }
}

pub(crate) async fn link(fixture: &Fixture, seed: u8) -> Device {
    let admin = fixture.admin.clone();
    link_as(fixture, &admin, seed).await
}

pub(crate) async fn second_member(fixture: &Fixture) -> String {
    let org = fixture.get("/v1/organizations/current").await.data(200)["id"].clone();
    let path = format!("/v1/organizations/{}/members", org.as_str().expect("id"));
    let made = fixture
        .post(&path, json!({"name": "Bob", "role": "member"}))
        .await;
    made.data(201)["apiKey"]["key"].as_str().expect("key").to_owned()
}

pub(crate) fn hello(seed: u8, generation: Option<Generation>) -> FromNode {
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
        home_relay: None,
    }))
}

impl Device {
    fn pins(&self) -> Pins {
        let text = |name: &str| self.config[name].as_str().expect("a text").to_owned();
        Pins {
            own_key: self.key.public(),
            org_id: text("orgId").parse().expect("an id"),
            org_signing_key: text("orgSigningKey").parse().expect("a key"),
        }
    }

    /// Opens the stream without a hello.
    pub(crate) async fn handshake(&self, seed: u8) -> Option<Stream> {
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
        Some(Stream {
            socket,
            channel,
            pins: self.pins(),
            map: None,
            deltas: 0,
        })
    }

    pub(crate) async fn open(&self, generation: Option<Generation>) -> Stream {
        let mut stream = self.handshake(7).await.expect("an answer");
        stream.send(&hello(1, generation)).await;
        stream
    }
}

impl Stream {
    pub(crate) async fn send(&mut self, message: &FromNode) {
        let json = serde_json::to_vec(message).expect("serializes");
        for sealed in self.channel.seal(&json).expect("seals") {
            self.socket
                .send(Message::Binary(sealed.into()))
                .await
                .expect("sent");
        }
    }

    /// The next message but those of keys, `None` when the stream was closed; fails after five seconds.
    pub(crate) async fn next(&mut self) -> Option<ToNode> {
        loop {
            match self.next_of_all().await {
                Some(ToNode::KeyInForce { .. }) => {}
                other => return other,
            }
        }
    }

    /// The next message, `None` when the stream was closed; fails after five seconds.
    pub(crate) async fn next_of_all(&mut self) -> Option<ToNode> {
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

    /// The next message but those for relays, which must be a netmap or a delta; puts it into force as a node does, and returns
    /// all of it.
    pub(crate) async fn netmap(&mut self) -> Netmap {
        let mut message = self.next().await;
        while let Some(ToNode::RelayTicket { .. } | ToNode::RelayExpulsion { .. }) = message {
            message = self.next().await;
        }
        let map = match message {
            Some(ToNode::Netmap(map)) => {
                map.verify(&self.pins, self.map.as_ref())
                    .expect("a netmap that nodes accept");
                *map
            }
            Some(ToNode::NetmapDelta(delta)) => {
                self.deltas += 1;
                let before = self.map.take().expect("a delta comes upon a netmap");
                let before = InForce::new(before, &self.pins, None).expect("it was accepted");
                let amended = before.amended(&delta, &self.pins).expect("it fits");
                Netmap::clone(amended.map())
            }
            other => panic!("expected a netmap, got {other:?}"),
        };
        self.map = Some(map.clone());
        map
    }

    /// The next expulsion that comes; everything else is passed over.
    pub(crate) async fn expulsion(&mut self) -> SignedRelayExpulsion {
        loop {
            if let ToNode::RelayExpulsion { expulsion } = self.next_of_all().await.expect("it is open") {
                return expulsion;
            }
        }
    }

    /// The next relay ticket that comes; everything else is passed over.
    pub(crate) async fn ticket(&mut self) -> SignedRelayTicket {
        loop {
            if let ToNode::RelayTicket { ticket } = self.next_of_all().await.expect("it is open") {
                return ticket;
            }
        }
    }

    /// Proves that everything sent before was taken and nothing else was answered.
    pub(crate) async fn ping(&mut self) {
        self.send(&FromNode::Ping).await;
        assert_eq!(self.next().await, Some(ToNode::Pong));
    }
}
