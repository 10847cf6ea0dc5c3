//! What the tests of whole meshes share.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use mesh::tunnel::Mobility;
use mesh::{MeshEvent, MeshPeer};
use net::netstack::StackConfig;
use net::{MeshNet, MeshNetConfig, MeshStream, random};
use sha2::{Digest as _, Sha256};
use tokio::net::UdpSocket;
use tokio::sync::{Mutex, broadcast};
use types::{AllowedIp, NodePrivateKey, NodePublicKey};

/// Where the tests listen.
pub(crate) const PORT: u16 = 7420;

/// A mesh with a key and addresses of its own.
pub(crate) struct Node {
    pub(crate) mesh: MeshNet,
    key: NodePublicKey,
    pub(crate) v4: IpAddr,
    pub(crate) v6: IpAddr,
}

pub(crate) fn v6(number: u8) -> IpAddr {
    Ipv6Addr::new(0xfd00, 7, 7, 0, 0, 0, 0, u16::from(number)).into()
}

impl Node {
    pub(crate) fn start(number: u8) -> Self {
        let private_key = NodePrivateKey::from_random(random::bytes());
        Self::start_as(
            number,
            private_key,
            SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0),
        )
    }

    pub(crate) fn start_as(number: u8, private_key: NodePrivateKey, listen: SocketAddr) -> Self {
        let key = private_key.public();
        let config = MeshNetConfig { private_key, listen };
        Self {
            mesh: MeshNet::start(config).expect("starts"),
            key,
            v4: Ipv4Addr::new(100, 64, 0, number).into(),
            v6: v6(number),
        }
    }

    /// A mesh whose peers may have so many connections each.
    pub(crate) fn start_limited(number: u8, connections_max: usize) -> Self {
        let mut node = Self::start(number);
        let private_key = NodePrivateKey::from_random(random::bytes());
        node.key = private_key.public();
        let listen = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0);
        let stack = StackConfig {
            connections_max,
            ..StackConfig::default()
        };
        node.mesh = MeshNet::start_with(MeshNetConfig { private_key, listen }, stack).expect("starts");
        node
    }

    pub(crate) fn public(&self) -> NodePublicKey {
        self.key
    }

    pub(crate) fn locals(&self) -> Vec<IpAddr> {
        vec![self.v4, self.v6]
    }

    pub(crate) fn v4_port(&self, port: u16) -> SocketAddr {
        (self.v4, port).into()
    }

    pub(crate) fn v6_port(&self, port: u16) -> SocketAddr {
        (self.v6, port).into()
    }

    pub(crate) async fn stream_to(&self, other: &Self) -> MeshStream {
        let connecting = self.mesh.connect(other.public(), other.v6_port(PORT));
        connecting.await.expect("connects")
    }

    pub(crate) fn as_peer(&self) -> MeshPeer {
        MeshPeer {
            public_key: self.key,
            preshared_key: None,
            allowed_ips: vec![AllowedIp::host(self.v4), AllowedIp::host(self.v6)],
            endpoints: vec![self.mesh.local_addr()],
            relays: Vec::new(),
            mobility: Mobility::Roams,
            persistent_keepalive: None,
        }
    }
}

pub(crate) async fn link(a: &Node, b: &Node) {
    a.mesh.upsert_peer(b.as_peer(), a.locals()).await;
    b.mesh.upsert_peer(a.as_peer(), b.locals()).await;
}

/// Two nodes that know each other.
pub(crate) async fn linked() -> (Node, Node) {
    let (a, b) = (Node::start(1), Node::start(2));
    link(&a, &b).await;
    (a, b)
}

/// Two nodes that know each other, and the two ends of a stream from the first to the second.
pub(crate) async fn streams() -> (Node, Node, MeshStream, MeshStream) {
    let (a, b) = linked().await;
    let mut listener = b.mesh.listen(PORT).await.expect("listens");
    let (near, far) = guarded(async { tokio::join!(a.stream_to(&b), listener.accept()) }).await;
    (a, b, near, far.expect("accepts"))
}

/// Answers every stream on [`PORT`] with what it says.
pub(crate) async fn serve_echo(node: &Node) {
    let mut listener = node.mesh.listen(PORT).await.expect("listens");
    tokio::spawn(async move {
        while let Ok(stream) = listener.accept().await {
            tokio::spawn(async move {
                let (mut reader, mut writer) = tokio::io::split(stream);
                if tokio::io::copy(&mut reader, &mut writer).await.is_ok() {
                    let _ = tokio::io::AsyncWriteExt::shutdown(&mut writer).await;
                }
            });
        }
    });
}

/// A guard against a hang, nothing more.
pub(crate) async fn guarded<T>(work: impl Future<Output = T>) -> T {
    let limit = Duration::from_secs(90);
    tokio::time::timeout(limit, Box::pin(work))
        .await
        .expect("no hang")
}

pub(crate) fn pattern(len: usize) -> Vec<u8> {
    (0..len)
        .map(|index| (index as u32).wrapping_mul(2_654_435_761).to_le_bytes()[3])
        .collect()
}

pub(crate) fn digest(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

pub(crate) async fn next_move(events: &mut broadcast::Receiver<MeshEvent>, who: NodePublicKey) -> SocketAddr {
    loop {
        if let MeshEvent::Roamed(peer, endpoint) = events.recv().await.expect("event")
            && peer == who
        {
            return endpoint.remote().expect("no relay here");
        }
    }
}

/// Sends datagrams of every small type and many lengths, most of them nonsense.
pub(crate) fn flood(target: SocketAddr, count: u32) {
    let socket = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("socket");
    let mut state = 1_u64;
    for _ in 0..count {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let lens = [0, 1, 4, 16, 31, 32, 64, 92, 148, 149, 1452, 9000];
        let mut datagram = vec![(state >> 40) as u8; lens[(state >> 33) as usize % lens.len()]];
        for (slot, byte) in datagram.iter_mut().zip([(state >> 50) as u8 % 6, 0, 0, 0]) {
            *slot = byte;
        }
        let _ = socket.send_to(&datagram, target);
    }
}

/// A translator between one inside client and a fixed server, whose outside port can change.
pub(crate) struct Nat {
    inside: SocketAddr,
    server: SocketAddr,
    client: Arc<Mutex<Option<SocketAddr>>>,
    inner: Arc<UdpSocket>,
    outer: Arc<Mutex<Arc<UdpSocket>>>,
}

impl Nat {
    pub(crate) async fn start(server: SocketAddr) -> Self {
        let inner = Arc::new(free_socket().await);
        let nat = Self {
            inside: inner.local_addr().expect("bound"),
            server,
            client: Arc::default(),
            inner,
            outer: Arc::new(Mutex::new(Arc::new(free_socket().await))),
        };
        let (inner, client, outer) = (nat.inner.clone(), nat.client.clone(), nat.outer.clone());
        tokio::spawn(async move {
            let mut buffer = vec![0; 65_535];
            while let Ok((len, from)) = inner.recv_from(&mut buffer).await {
                *client.lock().await = Some(from);
                let outer = outer.lock().await.clone();
                let _ = outer.send_to(&buffer[..len], server).await;
            }
        });
        nat.carry_back().await;
        nat
    }

    pub(crate) fn inside(&self) -> SocketAddr {
        self.inside
    }

    /// The next datagram goes out of a new port; what comes to the old one is lost.
    pub(crate) async fn rebind(&self) {
        *self.outer.lock().await = Arc::new(free_socket().await);
        self.carry_back().await;
    }

    async fn carry_back(&self) {
        let outer = self.outer.lock().await.clone();
        let (inner, client, current, server) = (
            self.inner.clone(),
            self.client.clone(),
            self.outer.clone(),
            self.server,
        );
        tokio::spawn(async move {
            let mut buffer = vec![0; 65_535];
            while let Ok((len, from)) = outer.recv_from(&mut buffer).await {
                let is_current = Arc::ptr_eq(&outer, &*current.lock().await);
                let client = *client.lock().await;
                if let (true, true, Some(client)) = (is_current, from == server, client) {
                    let _ = inner.send_to(&buffer[..len], client).await;
                }
            }
        });
    }
}

async fn free_socket() -> UdpSocket {
    UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("socket")
}
