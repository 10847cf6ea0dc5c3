//! Where the frames that a relay passes on leave: to the UDP socket or to a WebSocket's queue.
//!
//! A batch leaves in the buffer in which it came, with one call. Datagrams that came one by one are laid together first, for
//! the end of the turn, so that they too leave as batches: copying one costs far less than a call of the system.

use std::net::SocketAddr;

use mesh::relay::frame::FRAME_LEN_MAX;
use mesh::relay::server::{Forward, Source};
use net::udp::{SendOutcome, UdpSocket};

use crate::handle::ShellCounters;
use crate::stream::Streams;

/// From how many bytes on a run is worth a call of its own.
const BATCH_BYTES_MIN: usize = 8 * 1024;

/// How many datagrams the system cuts one send into at most.
const SEGMENTS_MAX: usize = 64;

/// For how many destinations datagrams are laid together at once.
const PILES: usize = 16;

/// The ways out of a relay.
pub(crate) struct Outbox {
    socket: UdpSocket,
    pub(crate) streams: Streams,
    pub(crate) counters: ShellCounters,
    piles: Vec<Pile>,
    /// Which pile has to go when there is none left for another destination.
    oldest: usize,
}

/// Datagrams for one address: each `frame_len` bytes, the last may be shorter.
struct Pile {
    to: SocketAddr,
    frame_len: usize,
    bytes: Vec<u8>,
}

impl Pile {
    /// Tells whether frames can follow those that lie here already.
    fn has_room(&self, frames: &[u8], frame_len: usize) -> bool {
        // After a shorter one there can be no other, and a longer one has no place.
        let is_closed = !self.bytes.len().is_multiple_of(self.frame_len);
        let fits_shape = frame_len == self.frame_len || frames.len() < self.frame_len;
        let total = self.bytes.len() + frames.len();
        !is_closed && fits_shape && total <= FRAME_LEN_MAX && total.div_ceil(self.frame_len) <= SEGMENTS_MAX
    }
}

impl Outbox {
    pub(crate) fn new(socket: UdpSocket, streams: Streams) -> Self {
        Self {
            socket,
            streams,
            counters: ShellCounters::default(),
            piles: Vec::with_capacity(PILES),
            oldest: 0,
        }
    }

    pub(crate) fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    /// Sends what was laid together.
    pub(crate) fn flush(&mut self) {
        for index in 0..self.piles.len() {
            self.flush_pile(index);
        }
    }

    fn pile_for(&mut self, to: SocketAddr) -> usize {
        if let Some(index) = self.piles.iter().position(|pile| pile.to == to) {
            return index;
        }
        if let Some(index) = self.piles.iter().position(|pile| pile.bytes.is_empty()) {
            self.piles[index].to = to;
            return index;
        }
        if self.piles.len() < PILES {
            self.piles.push(Pile {
                to,
                frame_len: 1,
                bytes: Vec::with_capacity(FRAME_LEN_MAX),
            });
            return self.piles.len() - 1;
        }
        self.oldest = (self.oldest + 1) % PILES;
        self.flush_pile(self.oldest);
        self.piles[self.oldest].to = to;
        self.oldest
    }

    fn flush_pile(&mut self, index: usize) {
        let pile = &mut self.piles[index];
        if pile.bytes.is_empty() {
            return;
        }
        send(
            &mut self.socket,
            &mut self.counters,
            pile.to,
            &pile.bytes,
            pile.frame_len,
        );
        pile.bytes.clear();
    }

    fn forward_udp(&mut self, to: SocketAddr, frames: &[u8], frame_len: usize) {
        if frames.len() >= BATCH_BYTES_MIN {
            // What was laid together for the same address came before.
            if let Some(index) = self.piles.iter().position(|pile| pile.to == to) {
                self.flush_pile(index);
            }
            return send(&mut self.socket, &mut self.counters, to, frames, frame_len);
        }
        let index = self.pile_for(to);
        if !self.piles[index].bytes.is_empty() && !self.piles[index].has_room(frames, frame_len) {
            self.flush_pile(index);
        }
        let pile = &mut self.piles[index];
        if pile.bytes.is_empty() {
            pile.frame_len = frame_len.min(frames.len()).max(1);
        }
        pile.bytes.extend_from_slice(frames);
    }
}

impl Forward for Outbox {
    fn forward(&mut self, to: Source, frames: &[u8], frame_len: usize) {
        match to {
            Source::Udp(address) => self.forward_udp(address, frames, frame_len),
            Source::Stream { id, .. } => {
                if !self.streams.forward(id, frames, frame_len) {
                    self.counters.stream_full += frames.len().div_ceil(frame_len.max(1)) as u64;
                }
            }
        }
    }
}

fn send(
    socket: &mut UdpSocket,
    counters: &mut ShellCounters,
    to: SocketAddr,
    frames: &[u8],
    frame_len: usize,
) {
    let mut sent = 0;
    match socket.send(to, frames, frame_len, &mut sent) {
        SendOutcome::Sent => {}
        SendOutcome::Blocked => {
            counters.sends_blocked += (frames.len() - sent).div_ceil(frame_len.max(1)) as u64;
        }
        SendOutcome::Dropped => counters.sends_refused += 1,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use net::wake::Bell;

    use super::*;

    fn outbox() -> Outbox {
        let socket = UdpSocket::bind("127.0.0.1:0".parse().expect("address")).expect("binds");
        Outbox::new(socket, Streams::new(Arc::new(Bell::new().expect("bell")), 1))
    }

    fn receiver() -> (std::net::UdpSocket, Source) {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("binds");
        socket
            .set_read_timeout(Some(Duration::from_secs(10)))
            .expect("a limit");
        let source = Source::Udp(socket.local_addr().expect("bound"));
        (socket, source)
    }

    fn received(socket: &std::net::UdpSocket, count: usize) -> Vec<Vec<u8>> {
        let mut buffer = vec![0; 65_535];
        let mut all = Vec::new();
        for _ in 0..count {
            let len = socket.recv(&mut buffer).expect("a datagram in time");
            all.push(buffer[..len].to_vec());
        }
        all
    }

    #[test]
    fn datagrams_of_any_lengths_leave_whole_and_in_order() {
        let (mut outbox, (socket, to)) = (outbox(), receiver());
        let lens = [100, 100, 40, 100, 300, 100, 300, 300, 9000, 20];
        let sent: Vec<Vec<u8>> = (0..).zip(lens).map(|(fill, len)| vec![fill; len]).collect();
        for frame in &sent {
            outbox.forward(to, frame, frame.len());
        }
        outbox.flush();
        assert_eq!(received(&socket, sent.len()), sent);
    }

    #[test]
    fn more_destinations_than_piles_all_get_theirs() {
        let mut outbox = outbox();
        let receivers: Vec<_> = (0..PILES + 5).map(|_| receiver()).collect();
        for round in 0..3 {
            for (_, to) in &receivers {
                outbox.forward(*to, &[round; 50], 50);
            }
        }
        outbox.flush();
        for (socket, _) in &receivers {
            assert_eq!(received(socket, 3), [[0; 50], [1; 50], [2; 50]]);
        }
    }

    #[test]
    fn a_pile_is_no_larger_than_one_send_may_be() {
        let (mut outbox, (socket, to)) = (outbox(), receiver());
        for count in [SEGMENTS_MAX + 1, 2] {
            for _ in 0..count {
                outbox.forward(to, &[7; 1000], 1000);
            }
            assert!(outbox.piles[0].bytes.len() <= SEGMENTS_MAX * 1000);
        }
        outbox.flush();
        let all = received(&socket, SEGMENTS_MAX + 3);
        assert!(all.iter().all(|frame| frame == &[7; 1000]));
    }

    #[test]
    fn what_the_system_has_no_way_for_is_counted_and_dropped() {
        let mut outbox = outbox();
        let nowhere = Source::Udp("127.0.0.1:0".parse().expect("address"));
        outbox.forward(nowhere, &[1; 10], 10);
        outbox.flush();
        assert_eq!(outbox.counters.sends_refused, 1);
        let remote = "192.0.2.1:1".parse().expect("address");
        outbox.forward(Source::Stream { id: 7, remote }, &[1; 20], 10);
        assert_eq!(outbox.counters.stream_full, 2);
    }
}
