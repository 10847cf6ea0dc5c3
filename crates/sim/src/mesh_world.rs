//! Nodes of a mesh on an internet with NATs and relays, and time that leaps from one happening to the next.
//!
//! The state machines are the product's; hosts, NATs, the weather and the relays' sockets are simulated. What must be true
//! is checked by the tests and by [`MeshWorld`] itself: no packet comes out twice, changed, or at the wrong node.

mod link;
mod relays;
mod starts;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use mesh::relay::server::{Quota, RelayConfig as ServerConfig, RelayServer, Source};
use mesh::tunnel::{Mobility, PacketSink};
use mesh::{EXTRA_SOCKETS_MAX, Mesh, MeshEvent, MeshPeer, Output, SocketNumber};
use types::{
    AllowedIp, Monotonic, NodePrivateKey, NodePublicKey, Now, Realm, RelayExpulsion, RelayId, RelayTicket,
    SignedRelayTicket, SigningPrivateKey, Timestamp,
};

use self::relays::{StreamMessage, to_relay};
use crate::dice::Dice;
use crate::internet::{Arrival, HostId, Internet};
use crate::packet;

/// The realm of every node.
const REALM: Realm = Realm([1; 16]);

/// For how long a ticket is good that a node gets when it is added or changes its key.
const TICKET_LIFETIME: Duration = Duration::from_secs(86_400);

/// The UDP port of every relay.
const RELAY_PORT: u16 = 3478;

/// The UDP port of every relay that answers STUN besides.
const STUN_PORT: u16 = 3479;

/// A node of the world, by its number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NodeNumber(pub usize);

/// Where a peer can be reached, and its home relays.
type Told = (Vec<SocketAddr>, Vec<RelayId>);

/// A relay of the world, by its number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RelayNumber(pub usize);

struct Node {
    host: HostId,
    /// The UDP port of its main socket.
    port: u16,
    key: NodePrivateKey,
    mesh: Mesh,
    /// What it was told of its peers.
    told: BTreeMap<NodeNumber, Told>,
    ip: Ipv4Addr,
    /// The sockets besides the main one, and the most there ever were.
    sockets: BTreeSet<SocketNumber>,
    sockets_max: usize,
    /// Whether WebSockets to relays can be opened.
    has_tls: bool,
    /// Whether it calls peers on its link, and is called there.
    has_lan_discovery: bool,
    /// How often it called.
    calls: u64,
    received: BTreeMap<u64, Monotonic>,
    events: Vec<MeshEvent>,
}

struct Relay {
    host: HostId,
    address: SocketAddr,
    key: NodePrivateKey,
    server: RelayServer,
    is_down: bool,
}

/// Nodes, relays and the internet between them.
pub struct MeshWorld {
    /// Where it all happens; may be changed at any time.
    pub internet: Internet,
    /// For choices of the test.
    pub dice: Dice,
    now: Now,
    nodes: Vec<Node>,
    relays: Vec<Relay>,
    streams: VecDeque<(Monotonic, StreamMessage)>,
    authority: SigningPrivateKey,
    sent: u64,
    destinations: BTreeMap<u64, NodeNumber>,
}

impl MeshWorld {
    /// Makes a world without nodes.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed, 0);
        let authority = SigningPrivateKey::from_random(dice.seed());
        Self {
            internet: Internet::new(seed),
            dice,
            now: Now {
                mono: Monotonic::from_start(Duration::from_secs(1)),
                wall: Timestamp::from_unix_ms(1_800_000_000_000),
            },
            nodes: Vec::new(),
            relays: Vec::new(),
            streams: VecDeque::new(),
            authority,
            sent: 0,
            destinations: BTreeMap::new(),
        }
    }

    /// Returns the time.
    #[must_use]
    pub fn now(&self) -> Monotonic {
        self.now.mono
    }

    /// Adds a relay on a public host.
    pub fn add_relay(&mut self) -> RelayNumber {
        let host = self.internet.add_host(None);
        let address = SocketAddr::new(self.internet.addresses(host)[0], RELAY_PORT);
        let key = NodePrivateKey::from_random(self.dice.seed());
        let server = self.new_server(key.clone());
        self.relays.push(Relay {
            host,
            address,
            key,
            server,
            is_down: false,
        });
        RelayNumber(self.relays.len() - 1)
    }

    fn new_server(&mut self, private_key: NodePrivateKey) -> RelayServer {
        RelayServer::new(ServerConfig {
            private_key,
            authority: self.authority.public(),
            quota: Quota {
                bytes_per_second: 100_000_000,
                burst_bytes: 10_000_000,
            },
            clients_max: 10_000,
            seed: self.dice.seed(),
        })
    }

    /// Stops a relay's process or starts it again; its key stays, its clients are forgotten.
    pub fn set_relay_down(&mut self, relay: RelayNumber, is_down: bool) {
        let was_down = std::mem::replace(&mut self.relays[relay.0].is_down, is_down);
        if was_down && !is_down {
            let key = self.relays[relay.0].key.clone();
            self.relays[relay.0].server = self.new_server(key);
        }
        if is_down {
            self.streams.retain(|(_, message)| message.relay != relay);
            for number in 0..self.nodes.len() {
                let id = self.relays[relay.0].server.id();
                let now = self.now;
                self.nodes[number].mesh.stream_closed(id, now);
                self.collect(NodeNumber(number));
            }
        }
    }

    /// Tells a relay's clients that it stops soon.
    pub fn drain_relay(&mut self, relay: RelayNumber) {
        self.relays[relay.0].server.drain(Duration::from_secs(30));
        while let Some((to, frame)) = self.relays[relay.0].server.poll_transmit() {
            self.send_from_relay(relay, to, frame);
        }
    }

    /// Takes a node off every network, or brings it back; it notices neither, as a machine that sleeps does not.
    pub fn set_asleep(&mut self, node: NodeNumber, is_asleep: bool) {
        let host = self.nodes[node.0].host;
        self.internet.set_offline(host, is_asleep);
    }

    /// Blocks every UDP datagram of a node, or lets them through again.
    pub fn block_udp(&mut self, node: NodeNumber, is_blocked: bool) {
        let host = self.nodes[node.0].host;
        self.internet.block_udp(host, is_blocked);
    }

    /// Returns the host of a node.
    #[must_use]
    pub fn host(&self, node: NodeNumber) -> HostId {
        self.nodes[node.0].host
    }

    /// Tells whether a node can open WebSockets.
    #[must_use]
    pub fn has_tls(&self, node: NodeNumber) -> bool {
        self.nodes[node.0].has_tls
    }

    /// Returns every node.
    pub fn nodes(&self) -> impl Iterator<Item = NodeNumber> + use<> {
        (0..self.nodes.len()).map(NodeNumber)
    }

    /// Returns every relay, and whether it is down.
    pub fn relays(&self) -> impl Iterator<Item = (RelayNumber, bool)> + '_ {
        let relays = self.relays.iter().enumerate();
        relays.map(|(number, relay)| (RelayNumber(number), relay.is_down))
    }

    /// Lets a node open no WebSocket, or lets it again.
    pub fn set_tls(&mut self, node: NodeNumber, has_tls: bool) {
        self.nodes[node.0].has_tls = has_tls;
    }

    fn ticket(&self, node: NodePublicKey) -> SignedRelayTicket {
        let ticket = RelayTicket {
            node,
            realm: REALM,
            expires_at: self.now.wall + TICKET_LIFETIME,
        };
        ticket.sign(&self.authority)
    }

    /// Tells one node that another is shut out of the relays: the control plane has signed it.
    pub fn tell_expelled(&mut self, at: NodeNumber, node: NodeNumber) {
        let expulsion = RelayExpulsion {
            node: self.key(node),
            realm: REALM,
            void_until: self.now.wall + TICKET_LIFETIME,
        };
        let (expulsion, now) = (expulsion.sign(&self.authority), self.now);
        self.nodes[at.0].mesh.expel_from_relays(expulsion, now);
        self.collect(at);
    }

    /// Gives a node another key, and tells everybody of it at once.
    pub fn change_key(&mut self, node: NodeNumber) {
        let (old, next) = (self.key(node), NodePrivateKey::from_random(self.dice.seed()));
        let (new, now) = (next.public(), self.now);
        let ticket = self.ticket(new);
        self.nodes[node.0].key = next.clone();
        self.nodes[node.0].mesh.set_keys(next, None);
        self.nodes[node.0].mesh.set_ticket(ticket, now);
        for other in self.nodes() {
            self.nodes[other.0].mesh.rename_peer(&old, new, now);
            self.collect(other);
        }
    }

    /// Tells a node at which relay a peer of it is found best.
    pub fn tell_home(&mut self, at: NodeNumber, peer: NodeNumber, relay: RelayNumber) {
        let relay = self.relays[relay.0].server.id();
        self.tell(at, peer, (Vec::new(), vec![relay]));
    }

    /// Makes two nodes peers of each other.
    pub fn introduce(&mut self, one: NodeNumber, other: NodeNumber) {
        self.tell_of(one, other, Vec::new());
        self.tell_of(other, one, Vec::new());
    }

    /// Makes one node a peer of another, which is told where it can be reached.
    pub fn tell_of(&mut self, at: NodeNumber, peer: NodeNumber, endpoints: Vec<SocketAddr>) {
        self.tell(at, peer, (endpoints, Vec::new()));
    }

    fn tell(&mut self, at: NodeNumber, peer: NodeNumber, told: Told) {
        self.nodes[at.0].told.insert(peer, told.clone());
        let (endpoints, relays) = told;
        let peer = &self.nodes[peer.0];
        let config = MeshPeer {
            public_key: peer.mesh.public_key(),
            preshared_key: None,
            allowed_ips: vec![AllowedIp::host(IpAddr::V4(peer.ip))],
            endpoints,
            relays,
            mobility: Mobility::Managed,
            persistent_keepalive: None,
        };
        let now = self.now;
        self.nodes[at.0].mesh.upsert_peer(config, now);
        self.collect(at);
    }

    /// Makes one node forget another.
    pub fn forget(&mut self, at: NodeNumber, peer: NodeNumber) {
        let key = self.key(peer);
        self.nodes[at.0].told.remove(&peer);
        self.nodes[at.0].mesh.remove_peer(&key);
        self.collect(at);
    }

    /// Carries a node's host into another network; the node notices at once.
    pub fn roam(&mut self, node: NodeNumber, nat: Option<crate::internet::NatId>) {
        let host = self.nodes[node.0].host;
        self.internet.move_host(host, nat);
        let now = self.now;
        self.nodes[node.0].mesh.network_changed(now);
        self.tell_local(node);
    }

    /// Sends one packet; returns its number.
    pub fn send(&mut self, from: NodeNumber, to: NodeNumber) -> u64 {
        self.sent += 1;
        self.destinations.insert(self.sent, to);
        let filler = self.dice.index(1200);
        let packet = packet::numbered(self.nodes[from.0].ip, self.nodes[to.0].ip, self.sent, filler);
        let (key, now) = (self.key(to), self.now);
        let sent = self.nodes[from.0].mesh.send_packets(&key, &[&packet], now);
        sent.expect("peers were introduced");
        self.collect(from);
        self.sent
    }

    /// Returns when a packet arrived.
    #[must_use]
    pub fn arrived(&self, packet: u64) -> Option<Monotonic> {
        let to = self.destinations.get(&packet)?;
        self.nodes[to.0].received.get(&packet).copied()
    }

    /// Returns how many sockets a node has besides the main one, and the most it ever had.
    #[must_use]
    pub fn extra_sockets(&self, node: NodeNumber) -> (usize, usize) {
        let node = &self.nodes[node.0];
        (node.sockets.len(), node.sockets_max)
    }

    /// Returns the mesh of a node.
    #[must_use]
    pub fn mesh(&self, node: NodeNumber) -> &Mesh {
        &self.nodes[node.0].mesh
    }

    /// Returns what a relay did.
    #[must_use]
    pub fn relay(&self, relay: RelayNumber) -> &RelayServer {
        &self.relays[relay.0].server
    }

    /// Returns the key of a node.
    #[must_use]
    pub fn key(&self, node: NodeNumber) -> NodePublicKey {
        self.nodes[node.0].mesh.public_key()
    }

    /// Returns how one node reaches another.
    ///
    /// # Panics
    ///
    /// When they are no peers.
    #[must_use]
    pub fn path(&self, from: NodeNumber, to: NodeNumber) -> mesh::paths::PathView {
        self.mesh(from).path(&self.key(to)).expect("peers")
    }

    /// Takes what happened at a node.
    pub fn take_events(&mut self, node: NodeNumber) -> Vec<MeshEvent> {
        std::mem::take(&mut self.nodes[node.0].events)
    }

    /// Lets time pass.
    pub fn run_for(&mut self, span: Duration) {
        let end = self.now.mono + span;
        self.run_until(end, |_| false);
    }

    /// Lets time pass until something is so; tells whether it became so within `span`.
    pub fn run_until_true(&mut self, span: Duration, is_so: impl Fn(&Self) -> bool) -> bool {
        let end = self.now.mono + span;
        self.run_until(end, &is_so);
        is_so(self)
    }

    fn run_until(&mut self, end: Monotonic, is_so: impl Fn(&Self) -> bool) {
        while !is_so(self) {
            let Some(next) = self.next_happening().filter(|next| *next <= end) else {
                self.leap_to(end);
                return;
            };
            self.leap_to(next);
            self.deliver();
            self.fire_timers();
        }
    }

    fn next_happening(&self) -> Option<Monotonic> {
        let nodes = self
            .nodes
            .iter()
            .filter(|node| !self.internet.is_offline(node.host));
        let nodes = nodes
            .filter_map(|node| node.mesh.poll_timeout())
            .map(|(due, _)| due);
        let relays = self.relays.iter().filter_map(|relay| relay.server.poll_timeout());
        let relays = relays.map(|(due, _)| due);
        let streams = self.streams.front().map(|(at, _)| *at);
        nodes
            .chain(relays)
            .chain(streams)
            .chain(self.internet.next_arrival())
            .min()
    }

    fn leap_to(&mut self, to: Monotonic) {
        let span = to.since(self.now.mono);
        self.now = self.now + span;
    }

    fn deliver(&mut self) {
        let mono = self.now.mono;
        while let Some(arrival) = self.internet.take_arrival(mono) {
            if let Some(relay) = self.relays.iter().position(|relay| relay.host == arrival.host) {
                if arrival.destination.port() == STUN_PORT {
                    self.answer_stun(RelayNumber(relay), arrival.source, &arrival.bytes);
                    continue;
                }
                let mut bytes = arrival.bytes;
                let len = bytes.len();
                self.at_relay(RelayNumber(relay), Source::Udp(arrival.source), &mut bytes, len);
            } else if let Some(node) = self.nodes.iter().position(|node| node.host == arrival.host) {
                self.at_node(NodeNumber(node), arrival);
            }
        }
        while self.streams.front().is_some_and(|(at, _)| *at <= mono) {
            if let Some((_, message)) = self.streams.pop_front() {
                self.stream_message(message);
            }
        }
    }

    fn at_node(&mut self, number: NodeNumber, arrival: Arrival) {
        let now = self.now;
        let node = &mut self.nodes[number.0];
        if arrival.destination.ip().is_multicast() {
            return self.hear_call(number, arrival);
        }
        let socket = SocketNumber(arrival.destination.port().wrapping_sub(node.port));
        if !node.has_socket(socket) {
            return;
        }
        let mut sink = Received::default();
        let mut bytes = arrival.bytes;
        node.mesh
            .handle_datagrams(socket, arrival.source, &mut bytes, 0, &mut sink, now);
        self.take_packets(number, sink);
        self.collect(number);
    }

    fn take_packets(&mut self, number: NodeNumber, sink: Received) {
        for (from, bytes) in sink.0 {
            let packet = packet::number(&bytes).expect("packets arrive unchanged");
            assert_eq!(self.destinations.get(&packet), Some(&number), "at the right node");
            assert!(self.nodes.iter().any(|node| node.mesh.public_key() == from));
            let before = self.nodes[number.0].received.insert(packet, self.now.mono);
            assert_eq!(before, None, "packet {packet} came out twice");
        }
    }

    fn fire_timers(&mut self) {
        let now = self.now;
        for relay in &mut self.relays {
            relay.server.handle_timeout(now);
        }
        for number in 0..self.nodes.len() {
            let node = &mut self.nodes[number];
            let is_awake = !self.internet.is_offline(node.host);
            if is_awake && node.mesh.poll_timeout().is_some_and(|(due, _)| due <= now.mono) {
                node.mesh.handle_timeout(now);
                self.collect(NodeNumber(number));
            }
        }
    }

    fn tell_local(&mut self, number: NodeNumber) {
        let now = self.now;
        let node = &mut self.nodes[number.0];
        let addresses = self.internet.addresses(node.host).iter();
        let local = addresses.map(|ip| SocketAddr::new(*ip, node.port)).collect();
        node.mesh.set_local(local, now);
        self.tell_link(number);
    }

    /// Carries out what a node wants done.
    fn collect(&mut self, number: NodeNumber) {
        while let Some(output) = self.nodes[number.0].mesh.poll_output() {
            match output {
                Output::Datagrams(datagrams) => {
                    let node = &self.nodes[number.0];
                    if !node.has_socket(datagrams.socket) {
                        continue;
                    }
                    let (host, port) = (node.host, node.port.wrapping_add(datagrams.socket.0));
                    for bytes in datagrams.bytes.chunks(datagrams.segment_len) {
                        self.internet
                            .send(host, port, datagrams.to, bytes.to_vec(), self.now.mono);
                    }
                }
                Output::Stream(frames) => {
                    let relay = self.relay_number(frames.relay);
                    for frame in frames.bytes.chunks(frames.frame_len) {
                        self.push_stream(to_relay(number, relay, Some(frame.to_vec())));
                    }
                }
                Output::OpenStream(id) => {
                    let relay = self.relay_number(id);
                    self.push_stream(to_relay(number, relay, None));
                }
                Output::CloseStream(id) => {
                    let relay = self.relay_number(id);
                    self.push_stream(to_relay(number, relay, Some(Vec::new())));
                }
                Output::Call(call) => self.send_call(number, &call),
                Output::OpenSocket(socket) => self.nodes[number.0].open(socket),
                Output::CloseSocket(socket) => {
                    let was_open = self.nodes[number.0].sockets.remove(&socket);
                    assert!(was_open, "a socket is closed once");
                }
            }
        }
        while let Some(event) = self.nodes[number.0].mesh.poll_event() {
            self.nodes[number.0].events.push(event);
        }
    }

    fn relay_number(&self, id: RelayId) -> RelayNumber {
        let found = self.relays.iter().position(|relay| relay.server.id() == id);
        RelayNumber(found.expect("nodes know the relays of the world"))
    }
}

impl Node {
    fn has_socket(&self, socket: SocketNumber) -> bool {
        socket == SocketNumber::MAIN || self.sockets.contains(&socket)
    }

    fn open(&mut self, socket: SocketNumber) {
        assert!(self.sockets.insert(socket), "a socket is opened once");
        assert!(self.sockets.len() <= EXTRA_SOCKETS_MAX, "too many sockets");
        self.sockets_max = self.sockets_max.max(self.sockets.len());
    }
}

#[derive(Default)]
struct Received(Vec<(NodePublicKey, Vec<u8>)>);

impl PacketSink for Received {
    fn packet(&mut self, from: &NodePublicKey, packet: &[u8]) {
        self.0.push((*from, packet.to_vec()));
    }
}

/// The packets of a run that must all have arrived.
#[derive(Default)]
pub struct Expected(BTreeSet<u64>);

impl Expected {
    /// Adds a packet.
    pub fn add(&mut self, packet: u64) {
        self.0.insert(packet);
    }

    /// Returns those that have not arrived.
    #[must_use]
    pub fn missing(&self, world: &MeshWorld) -> Vec<u64> {
        let missing = self.0.iter().filter(|packet| world.arrived(**packet).is_none());
        missing.copied().collect()
    }
}
