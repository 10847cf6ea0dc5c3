//! Nodes with tunnels on one network, and time that leaps from one happening to the next.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use mesh::tunnel::{Counters, Mobility, PacketSink, PeerConfig, PeerStatus, Received, Tunnel, TunnelEvent};
use types::{AllowedIp, Monotonic, NodePrivateKey, NodePublicKey, Now, Timestamp};

use crate::dice::Dice;
use crate::link::{Datagram, Link};
use crate::packet;

/// A node of a world, by its number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct NodeId(usize);

/// A node: a tunnel at a place.
struct Node {
    private_key: NodePrivateKey,
    place: SocketAddr,
    ip: Ipv4Addr,
    tunnel: Tunnel,
    peers: Vec<PeerConfig>,
    /// The numbers of the packets that came out of the tunnel.
    received: BTreeSet<u64>,
    events: Vec<TunnelEvent>,
}

/// Nodes that are all peers of each other. Every packet has a number; no number may come out twice.
pub struct World {
    /// The network; its faults may be changed at any time.
    pub link: Link,
    /// For choices of the test.
    pub dice: Dice,
    now: Now,
    nodes: Vec<Node>,
    sent: u64,
    /// Every datagram that any node ever sent, when recording.
    recorded: Option<Vec<Datagram>>,
}

impl World {
    /// Makes a world of `count` nodes that know each other's keys, addresses and places.
    #[must_use]
    pub fn new(seed: u64, count: u8) -> Self {
        let mut dice = Dice::new(seed, 0);
        let now = Now {
            mono: Monotonic::from_start(Duration::from_secs(1)),
            wall: Timestamp::from_unix_ms(1_700_000_000_000),
        };
        let nodes = (0..count).map(|number| Node::new(number, &mut dice)).collect();
        let mut world = Self {
            link: Link::new(seed),
            dice,
            now,
            nodes,
            sent: 0,
            recorded: None,
        };
        world.introduce(None);
        world
    }

    /// Returns the ids of all nodes.
    pub fn ids(&self) -> impl Iterator<Item = NodeId> + use<> {
        (0..self.nodes.len()).map(NodeId)
    }

    /// Returns the time.
    #[must_use]
    pub fn now(&self) -> Now {
        self.now
    }

    /// Gives every peer of every node this persistent keepalive.
    pub fn introduce(&mut self, persistent_keepalive: Option<Duration>) {
        let config = |node: &Node| PeerConfig {
            public_key: node.private_key.public(),
            preshared_key: None,
            allowed_ips: vec![AllowedIp::host(node.ip.into())],
            endpoint: Some(node.place),
            mobility: Mobility::Roams,
            persistent_keepalive,
        };
        let configs: Vec<_> = self.nodes.iter().map(config).collect();
        for node in &mut self.nodes {
            let own = node.tunnel.public_key();
            node.peers = configs
                .iter()
                .filter(|config| config.public_key != own)
                .cloned()
                .collect();
            node.configure(self.now);
        }
    }

    /// Sends one packet of a drawn length from one node to another; returns its number.
    pub fn send(&mut self, from: NodeId, to: NodeId) -> u64 {
        self.sent += 1;
        let filler = self.dice.index(1300);
        let packet = packet::numbered(self.node(from).ip, self.node(to).ip, self.sent, filler);
        let key = self.node(to).tunnel.public_key();
        let now = self.now;
        let sent = self.node_mut(from).tunnel.send_packets(&key, &[&packet], now);
        sent.expect("every node is a peer of every other");
        self.collect(from);
        self.sent
    }

    /// Lets a node doubt that another still has their session.
    ///
    /// # Panics
    ///
    /// When the two are no peers.
    pub fn renew(&mut self, at: NodeId, with: NodeId) {
        let key = self.node(with).tunnel.public_key();
        let now = self.now;
        self.node_mut(at).tunnel.renew(&key, now).expect("a peer");
        self.collect(at);
    }

    /// Tells whether the packet of this number came out at the node.
    #[must_use]
    pub fn has_received(&self, node: NodeId, number: u64) -> bool {
        self.node(node).received.contains(&number)
    }

    /// Lets time pass.
    ///
    /// # Panics
    ///
    /// When a packet comes out changed or twice, or when ten million things happen.
    pub fn run(&mut self, span: Duration) {
        let end = self.now.mono + span;
        for _ in 0..10_000_000 {
            let arrival = self.link.next_arrival();
            let timers = self
                .nodes
                .iter()
                .filter_map(|node| node.tunnel.poll_timeout().map(|(due, _)| due));
            let next = timers.chain(arrival).min().filter(|next| *next <= end);
            self.leap(next.unwrap_or(end));
            if next.is_none() {
                return;
            }
            while let Some(datagram) = self.link.take_arrived(self.now.mono) {
                self.deliver(datagram);
            }
            for id in self.ids() {
                let now = self.now;
                self.node_mut(id).tunnel.handle_timeout(now);
                self.collect(id);
            }
        }
        panic!("the world does not come to rest");
    }

    /// Hands a datagram to whoever is at its destination, now.
    pub fn deliver(&mut self, datagram: Datagram) {
        let at = self
            .nodes
            .iter()
            .position(|node| node.place == datagram.destination);
        let Some(id) = at.map(NodeId) else {
            return;
        };
        let (now, mut bytes) = (self.now, datagram.bytes);
        let node = self.node_mut(id);
        let received = Received {
            source: datagram.source.into(),
            bytes: &mut bytes,
            segment_len: 0,
        };
        node.tunnel
            .handle_received(received, &mut Receipts(&mut node.received), now);
        self.collect(id);
    }

    /// Moves a node to a new place, without its knowing.
    pub fn roam(&mut self, id: NodeId) {
        let port = 1024 + u16::try_from(self.dice.number(0..60_000)).expect("a port");
        let net = u8::try_from(self.dice.number(1..255)).expect("a byte");
        self.node_mut(id).place = SocketAddr::from(([203, 0, net, 1], port));
    }

    /// Gives a node a new tunnel with the same key, as a restart of its process does.
    pub fn restart(&mut self, id: NodeId) {
        let (seed, now) = (self.dice.seed(), self.now);
        let node = self.node_mut(id);
        node.tunnel = Tunnel::new(node.private_key.clone(), seed);
        node.configure(now);
    }

    /// Starts recording every datagram sent.
    pub fn record(&mut self) {
        self.recorded = Some(Vec::new());
    }

    /// Returns every datagram recorded so far, and goes on recording.
    pub fn recording(&mut self) -> Vec<Datagram> {
        self.recorded.replace(Vec::new()).unwrap_or_default()
    }

    /// Returns what happened at a node so far.
    #[must_use]
    pub fn events(&self, id: NodeId) -> &[TunnelEvent] {
        &self.node(id).events
    }

    /// Returns a node's counters.
    #[must_use]
    pub fn counters(&self, id: NodeId) -> &Counters {
        self.node(id).tunnel.counters()
    }

    /// Returns what one node knows of another.
    ///
    /// # Panics
    ///
    /// When the two are no peers.
    #[must_use]
    pub fn status(&self, at: NodeId, of: NodeId) -> PeerStatus {
        let key = self.node(of).tunnel.public_key();
        self.node(at).tunnel.peer_status(&key).expect("a peer")
    }

    /// Returns where a node is.
    #[must_use]
    pub fn place(&self, id: NodeId) -> SocketAddr {
        self.node(id).place
    }

    fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0]
    }

    fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id.0]
    }

    fn leap(&mut self, to: Monotonic) {
        self.now = self.now + to.since(self.now.mono);
    }

    /// Takes everything out of a node's tunnel and puts it on the network.
    fn collect(&mut self, id: NodeId) {
        let node = &mut self.nodes[id.0];
        while let Some(transmit) = node.tunnel.poll_transmit() {
            for segment in transmit.bytes.chunks(transmit.segment_len) {
                let datagram = Datagram {
                    source: node.place,
                    destination: transmit.destination.remote().expect("no relay here"),
                    bytes: segment.to_vec(),
                };
                if let Some(recorded) = &mut self.recorded {
                    recorded.push(datagram.clone());
                }
                self.link.send(datagram, self.now.mono);
            }
            node.tunnel.recycle(transmit.bytes);
        }
        node.events
            .extend(std::iter::from_fn(|| node.tunnel.poll_event()));
    }
}

impl Node {
    fn new(number: u8, dice: &mut Dice) -> Self {
        let private_key = NodePrivateKey::from_random(dice.seed());
        Self {
            tunnel: Tunnel::new(private_key.clone(), dice.seed()),
            private_key,
            place: SocketAddr::from(([192, 0, 2, number + 1], 51820)),
            ip: Ipv4Addr::new(100, 64, 0, number + 1),
            peers: Vec::new(),
            received: BTreeSet::new(),
            events: Vec::new(),
        }
    }

    fn configure(&mut self, now: Now) {
        for peer in &self.peers {
            self.tunnel.upsert_peer(peer.clone(), now);
        }
    }
}

/// Notes what comes out of a tunnel.
struct Receipts<'a>(&'a mut BTreeSet<u64>);

impl PacketSink for Receipts<'_> {
    fn packet(&mut self, _from: &NodePublicKey, packet: &[u8]) {
        let number = packet::number(packet).expect("a packet comes out as it went in");
        assert!(self.0.insert(number), "packet {number} came out twice");
    }
}
