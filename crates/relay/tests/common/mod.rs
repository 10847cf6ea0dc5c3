//! Real clients at a real relay: over UDP, driven by hand, and over WebSockets.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mesh::relay::client::{ClientEvent, RelayClient};
use mesh::relay::frame;
use net::alarm::Alarm;
use net::clock::Clock;
use net::random;
use net::udp::{ReceiveBuffer, UdpSocket};
use relay::{Relay, RelayOptions, RelayStatus};
use rustix::event::{PollFd, PollFlags};
use tokio::runtime::Runtime;
use types::{
    NodePrivateKey, NodePublicKey, Realm, RelayExpulsion, RelayTicket, SignedRelayExpulsion,
    SigningPrivateKey,
};

/// How long anything may take before a test gives up.
pub(crate) const GIVE_UP: Duration = Duration::from_secs(30);

pub(crate) fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

pub(crate) fn authority() -> SigningPrivateKey {
    SigningPrivateKey::from_random([0xaa; 32])
}

pub(crate) fn key(who: u8) -> NodePrivateKey {
    NodePrivateKey::from_random([who; 32])
}

pub(crate) fn known(bytes: &[u8; 32]) -> Option<NodePublicKey> {
    (1..=20)
        .map(|who| key(who).public())
        .find(|key| key.as_bytes() == bytes)
}

pub(crate) fn options() -> RelayOptions {
    RelayOptions::new(loopback(), key(0xee), authority().public())
}

pub(crate) fn client(relay: &Relay, who: u8) -> RelayClient {
    let clock = Clock::new();
    let ticket = RelayTicket {
        node: key(who).public(),
        realm: Realm([1; 16]),
        expires_at: clock.now().wall + Duration::from_secs(300),
    };
    let ticket = Some(ticket.sign(&authority()));
    let mut client = RelayClient::new(relay.id(), key(who), ticket, random::bytes());
    client.connect(clock.mono());
    client
}

/// The control plane's word that a client is shut out.
pub(crate) fn expulsion(who: u8) -> SignedRelayExpulsion {
    let now = Clock::new().now().wall;
    RelayExpulsion::of_tickets_until(now, key(who).public(), Realm([1; 16])).sign(&authority())
}

/// A relay, and a runtime to ask it from tests that are not async.
pub(crate) struct World {
    pub(crate) runtime: Runtime,
    pub(crate) relay: Relay,
}

impl World {
    pub(crate) fn new(options: RelayOptions) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        Self {
            runtime,
            relay: Relay::start(options).expect("starts"),
        }
    }

    pub(crate) fn status(&self) -> RelayStatus {
        self.runtime.block_on(self.relay.status()).expect("runs")
    }

    /// Waits until the relay is in some state.
    pub(crate) fn until(&self, is_so: impl Fn(&RelayStatus) -> bool) {
        let end = Instant::now() + GIVE_UP;
        while !is_so(&self.status()) {
            assert!(Instant::now() < end, "waited in vain: {:?}", self.status());
            std::thread::yield_now();
        }
    }

    /// Lets a node work until the relay is in some state.
    pub(crate) fn until_with(&self, node: &mut UdpNode, is_so: impl Fn(&RelayStatus) -> bool) {
        let end = Instant::now() + GIVE_UP;
        while !is_so(&self.status()) {
            assert!(Instant::now() < end, "waited in vain: {:?}", self.status());
            node.works_until(|_| false, Duration::from_millis(5));
        }
    }

    pub(crate) fn node(&self, who: u8) -> UdpNode {
        let mut node = UdpNode::new(&self.relay, who);
        node.until(|node| node.client.is_up());
        node
    }
}

/// A client over UDP.
pub(crate) struct UdpNode {
    pub(crate) who: u8,
    pub(crate) client: RelayClient,
    pub(crate) socket: UdpSocket,
    pub(crate) relay: SocketAddr,
    pub(crate) inbox: Vec<(NodePublicKey, Vec<u8>)>,
    pub(crate) events: Vec<ClientEvent>,
    /// How many datagrams each receive brought with one batch.
    pub(crate) batches: Vec<usize>,
    clock: Clock,
    alarm: Alarm,
    buffer: ReceiveBuffer,
}

impl UdpNode {
    pub(crate) fn new(relay: &Relay, who: u8) -> Self {
        Self {
            who,
            client: client(relay, who),
            socket: UdpSocket::bind(loopback()).expect("binds"),
            relay: relay.local_addr(),
            inbox: Vec::new(),
            events: Vec::new(),
            batches: Vec::new(),
            clock: Clock::new(),
            alarm: Alarm::new().expect("alarm"),
            buffer: ReceiveBuffer::default(),
        }
    }

    pub(crate) fn key(&self) -> NodePublicKey {
        key(self.who).public()
    }

    pub(crate) fn raw(&mut self, bytes: &[u8], segment_len: usize) {
        let _ = self.socket.send(self.relay, bytes, segment_len, &mut 0);
    }

    /// Sends equal datagrams in one batch, if the client is in.
    pub(crate) fn send(&mut self, to: u8, datagrams: &[&[u8]]) {
        let Some(header) = self.client.header(&key(to).public()) else {
            return;
        };
        let mut bytes = Vec::new();
        for datagram in datagrams {
            bytes.extend_from_slice(header.as_bytes());
            bytes.extend_from_slice(datagram);
        }
        self.raw(&bytes, header.as_bytes().len() + datagrams[0].len());
    }

    /// Works until something is so.
    pub(crate) fn until(&mut self, is_so: impl Fn(&Self) -> bool) {
        assert!(
            self.works_until(is_so, GIVE_UP),
            "waited in vain: {:?}",
            self.events
        );
    }

    /// Works until something is so, or the time is over; tells which.
    pub(crate) fn works_until(&mut self, is_so: impl Fn(&Self) -> bool, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        loop {
            self.turn();
            if is_so(self) {
                return true;
            }
            if Instant::now() >= end {
                return false;
            }
            let due = self.clock.mono() + end.saturating_duration_since(Instant::now());
            let due = self.client.poll_timeout().map_or(due, |(at, _)| at.min(due));
            let fd = PollFd::new(&self.socket, PollFlags::IN);
            self.alarm.wait([fd], Some(due));
        }
    }

    /// Does what is due and takes what is there.
    pub(crate) fn turn(&mut self) {
        let now = self.clock.mono();
        self.client.handle_timeout(now);
        let _ = self.socket.fill(&mut self.buffer);
        for batch in self.buffer.batches() {
            self.batches.push(batch.bytes.len().div_ceil(batch.segment_len));
            for frame in batch.bytes.chunks_mut(batch.segment_len) {
                let delivered = self.client.handle_frame(frame, known, now);
                if let Ok(Some(delivered)) = delivered {
                    self.inbox.push((delivered.from, delivered.datagram.to_vec()));
                }
            }
        }
        while let Some(event) = self.client.poll_event() {
            self.events.push(event);
        }
        while let Some(frame) = self.client.poll_transmit() {
            let _ = self.socket.send(self.relay, &frame, frame.len(), &mut 0);
        }
    }

    /// Sends to a peer until it knows the peer's number, and the peer ours.
    pub(crate) fn get_acquainted(&mut self, peer: &mut Self) {
        self.send(peer.who, &[b"hello"]);
        let number_known = |node: &Self, who: u8| {
            let header = node.client.header(&key(who).public());
            header.is_some_and(|header| header.as_bytes().len() == frame::DATA_HEADER_LEN)
        };
        let (near, far) = (self.who, peer.who);
        self.until(|node| number_known(node, far));
        peer.until(|node| number_known(node, near) && !node.inbox.is_empty());
        peer.inbox.clear();
    }
}

/// Asks a server for something by a plain GET; returns the whole answer.
pub(crate) async fn get(address: SocketAddr, path: &str) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(address).await.expect("connects");
    let request = format!("GET {path} HTTP/1.1\r\nHost: relay\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("asks");
    let mut answer = String::new();
    let read = stream.read_to_string(&mut answer);
    tokio::time::timeout(GIVE_UP, read)
        .await
        .expect("in time")
        .expect("an answer");
    answer
}
