//! What goes to relays and comes from them, by UDP and over WebSockets.

use std::net::SocketAddr;

use mesh::relay::server::{Forward, Source};

use super::{MeshWorld, NodeNumber, RELAY_PORT, Received, RelayNumber, STUN_PORT};

/// A message in a WebSocket, or its opening or end.
pub(super) struct StreamMessage {
    pub(super) node: NodeNumber,
    pub(super) relay: RelayNumber,
    pub(super) to_relay: bool,
    /// `None` opens; an empty one closes.
    pub(super) bytes: Option<Vec<u8>>,
}

impl MeshWorld {
    /// The second port answers STUN and nothing else.
    pub(super) fn answer_stun(&mut self, number: RelayNumber, source: SocketAddr, request: &[u8]) {
        let relay = &self.relays[number.0];
        if let Some(request) = mesh::stun::parse_request(request).filter(|_| !relay.is_down) {
            let answer = mesh::stun::response(request.transaction, source);
            self.internet
                .send(relay.host, STUN_PORT, source, answer, self.now.mono);
        }
    }

    pub(super) fn at_relay(&mut self, number: RelayNumber, source: Source, bytes: &mut [u8], len: usize) {
        let now = self.now;
        let relay = &mut self.relays[number.0];
        if relay.is_down {
            return;
        }
        let mut forwarded = Forwarded::default();
        relay
            .server
            .handle_frames(source, bytes, len, &mut forwarded, now);
        while let Some((to, frame)) = self.relays[number.0].server.poll_transmit() {
            self.send_from_relay(number, to, frame);
        }
        for (to, frame) in forwarded.0 {
            self.send_from_relay(number, to, frame);
        }
    }

    pub(super) fn send_from_relay(&mut self, number: RelayNumber, to: Source, frame: Vec<u8>) {
        let mono = self.now.mono;
        match to {
            Source::Udp(address) => {
                let host = self.relays[number.0].host;
                self.internet.send(host, RELAY_PORT, address, frame, mono);
            }
            Source::Stream { id, .. } => self.push_stream(StreamMessage {
                node: NodeNumber(id as usize),
                relay: number,
                to_relay: false,
                bytes: Some(frame),
            }),
        }
    }

    /// Streams keep their order: nothing overtakes.
    pub(super) fn push_stream(&mut self, message: StreamMessage) {
        let at = self.now.mono + self.internet.draw_delay();
        let last = self.streams.back().map_or(at, |(last, _)| *last);
        self.streams.push_back((at.max(last), message));
    }

    pub(super) fn stream_message(&mut self, message: StreamMessage) {
        let StreamMessage {
            node,
            relay,
            to_relay,
            bytes,
        } = message;
        let is_cut = self.relays[relay.0].is_down
            || !self.nodes[node.0].has_tls
            || self.internet.is_offline(self.nodes[node.0].host);
        let (id, now) = (self.relays[relay.0].server.id(), self.now);
        match (to_relay, bytes) {
            _ if is_cut => self.nodes[node.0].mesh.stream_closed(id, now),
            (true, Some(mut bytes)) if !bytes.is_empty() => {
                let len = bytes.len();
                self.at_relay(relay, stream_source(node), &mut bytes, len);
            }
            (true, Some(_)) => self.relays[relay.0].server.stream_closed(stream_source(node)),
            (true, None) => self.push_stream(StreamMessage {
                node,
                relay,
                to_relay: false,
                bytes: None,
            }),
            (false, None) => self.nodes[node.0].mesh.stream_opened(id, now),
            (false, Some(mut bytes)) => {
                let mut sink = Received::default();
                self.nodes[node.0]
                    .mesh
                    .handle_stream(id, &mut bytes, &mut sink, now);
                self.take_packets(node, sink);
            }
        }
        self.collect(node);
    }
}

pub(super) fn to_relay(node: NodeNumber, relay: RelayNumber, bytes: Option<Vec<u8>>) -> StreamMessage {
    StreamMessage {
        node,
        relay,
        to_relay: true,
        bytes,
    }
}

fn stream_source(node: NodeNumber) -> Source {
    Source::Stream {
        id: node.0 as u64,
        remote: SocketAddr::from(([203, 0, 113, 1], 443)),
    }
}

#[derive(Default)]
struct Forwarded(Vec<(Source, Vec<u8>)>);

impl Forward for Forwarded {
    fn forward(&mut self, to: Source, frames: &[u8], frame_len: usize) {
        for frame in frames.chunks(frame_len) {
            self.0.push((to, frame.to_vec()));
        }
    }
}
