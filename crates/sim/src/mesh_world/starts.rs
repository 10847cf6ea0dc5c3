//! Nodes that start, for the first time or anew.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};

use mesh::{Mesh, RelayConfig};
use types::NodePrivateKey;

use super::relays::to_relay;
use super::{MeshWorld, Node, NodeNumber, RelayNumber, STUN_PORT};
use crate::internet::HostId;

/// The UDP port of the main socket of a node that starts for the first time.
const FIRST_PORT: u16 = 41_641;

/// How far the port of each start is from that of the one before: no socket of it has the port of an old one.
const PORT_STRIDE: u16 = 1500;

impl MeshWorld {
    /// Adds a node on a host; it knows every relay that there is, and nobody yet.
    pub fn add_node(&mut self, host: HostId) -> NodeNumber {
        let number = NodeNumber(self.nodes.len());
        let key = NodePrivateKey::from_random(self.dice.seed());
        let mesh = self.new_mesh(key.clone());
        let ip = Ipv4Addr::from(u32::from(Ipv4Addr::new(100, 64, 0, 1)) + number.0 as u32);
        self.nodes.push(Node {
            host,
            port: FIRST_PORT,
            key,
            mesh,
            told: BTreeMap::new(),
            ip,
            sockets: BTreeSet::new(),
            sockets_max: 0,
            has_tls: true,
            has_lan_discovery: true,
            calls: 0,
            received: BTreeMap::new(),
            events: Vec::new(),
        });
        self.tell_local(number);
        number
    }

    /// Ends a node's process and starts another: it has the same key and knows the same peers, but no session, and its
    /// sockets have other ports.
    pub fn restart(&mut self, number: NodeNumber) {
        let mesh = self.new_mesh(self.nodes[number.0].key.clone());
        let node = &mut self.nodes[number.0];
        node.mesh = mesh;
        node.port = node.port.wrapping_add(PORT_STRIDE).max(FIRST_PORT);
        node.sockets.clear();
        self.streams.retain(|(_, message)| message.node != number);
        for relay in (0..self.relays.len()).map(RelayNumber) {
            self.push_stream(to_relay(number, relay, Some(Vec::new())));
        }
        let node = &self.nodes[number.0];
        for (peer, told) in node.told.clone() {
            self.tell(number, peer, told);
        }
        self.tell_local(number);
    }

    fn new_mesh(&mut self, key: NodePrivateKey) -> Mesh {
        let ticket = self.ticket(key.public());
        let mut mesh = Mesh::new(key, self.dice.seed());
        mesh.set_ticket(ticket, self.now);
        let relays = self.relays.iter().map(|relay| RelayConfig {
            id: relay.server.id(),
            udp: vec![relay.address],
            stun: vec![SocketAddr::new(relay.address.ip(), STUN_PORT)],
            has_stream: true,
        });
        mesh.set_relays(relays.collect(), self.now);
        mesh
    }
}
