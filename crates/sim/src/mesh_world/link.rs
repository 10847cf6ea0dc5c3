//! Calls on links: from a node to everybody in its network.

use super::{MeshWorld, NodeNumber, Received};
use crate::internet::Arrival;

impl MeshWorld {
    /// Has a node call nobody on its link any more, and hear nobody there.
    pub fn switch_lan_discovery_off(&mut self, node: NodeNumber) {
        self.nodes[node.0].has_lan_discovery = false;
        self.tell_link(node);
    }

    /// Returns how many calls a node has made on its link.
    #[must_use]
    pub fn calls(&self, node: NodeNumber) -> u64 {
        self.nodes[node.0].calls
    }

    pub(super) fn tell_link(&mut self, number: NodeNumber) {
        let now = self.now;
        let node = &mut self.nodes[number.0];
        let has_link = node.has_lan_discovery && self.internet.has_link(node.host);
        node.mesh.set_on_link(has_link, now);
        self.collect(number);
    }

    pub(super) fn send_call(&mut self, number: NodeNumber, call: &[u8]) {
        let node = &mut self.nodes[number.0];
        assert!(node.has_lan_discovery, "who is told of no link calls nobody");
        node.calls += 1;
        let (host, port) = (node.host, node.port);
        self.internet.send_to_link(host, port, call, self.now.mono);
    }

    pub(super) fn hear_call(&mut self, number: NodeNumber, arrival: Arrival) {
        let now = self.now;
        let node = &mut self.nodes[number.0];
        if node.has_lan_discovery {
            let (mut sink, mut bytes) = (Received::default(), arrival.bytes);
            node.mesh.handle_call(arrival.source, &mut bytes, &mut sink, now);
            self.take_packets(number, sink);
            self.collect(number);
        }
    }
}
