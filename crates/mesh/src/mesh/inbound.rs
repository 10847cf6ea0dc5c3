//! What comes out of the tunnel: packets go through the filter, and probes are kept for the paths.

use types::{Monotonic, NodePublicKey};

use crate::endpoint::Endpoint;
use crate::filter::Filter;
use crate::tunnel::PacketSink;

/// Whose probe it is, where it came from, and its bytes.
pub(super) type ReceivedProbe = (NodePublicKey, Endpoint, Vec<u8>);

/// Hands on the packets that the filter lets pass, and keeps probes.
pub(super) struct Inbound<'a, S> {
    pub(super) sink: &'a mut S,
    pub(super) probes: &'a mut Vec<ReceivedProbe>,
    pub(super) filter: &'a mut Filter,
    pub(super) now: Monotonic,
}

impl<S: PacketSink> PacketSink for Inbound<'_, S> {
    fn packet(&mut self, from: &NodePublicKey, packet: &[u8]) {
        if let Ok(Some(whole)) = self.filter.take_in(from, packet, self.now) {
            self.sink.packet(from, whole);
        }
    }

    fn probe(&mut self, from: &NodePublicKey, source: Endpoint, probe: &[u8]) {
        self.probes.push((*from, source, probe.to_vec()));
    }
}
