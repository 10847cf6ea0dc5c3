//! Datagrams that are ready to send, gathered into sends of equal segments.

use std::collections::VecDeque;

use super::Transmit;
use crate::endpoint::Endpoint;
use crate::relay::frame::DATA_HEADER_LEN;

/// How many datagrams one send carries at most (Linux's UDP_MAX_SEGMENTS).
pub const SEGMENTS_MAX: usize = 64;
/// How many bytes one send carries at most: the largest payload of UDP over IPv4.
pub const TRANSMIT_BYTES_MAX: usize = 65_507;
/// Zero bytes before each datagram to a relayed endpoint: room for the relay's header.
pub const RELAY_HEADROOM: usize = DATA_HEADER_LEN;
/// How many sends wait at most for a caller that does not collect them.
pub const TRANSMITS_MAX: usize = 1024;

/// How many sent buffers are kept for the next sends.
const SPARE_MAX: usize = 16;

/// The sends that wait to be collected, and buffers for the next ones.
#[derive(Default)]
pub(crate) struct Outbox {
    ready: VecDeque<Transmit>,
    spare: Vec<Vec<u8>>,
}

impl Outbox {
    /// Makes room for a datagram of `len` bytes to `destination`; the caller appends exactly so many.
    ///
    /// The datagram joins the last send when that goes to the same place and stays a run of equal segments with a last
    /// one that may be shorter. `None` when too many sends wait.
    pub(crate) fn append(&mut self, destination: Endpoint, len: usize) -> Option<&mut Vec<u8>> {
        let headroom = if destination.is_direct() {
            0
        } else {
            RELAY_HEADROOM
        };
        let len = len + headroom;
        debug_assert!(len > headroom && len <= TRANSMIT_BYTES_MAX);
        let joins = self
            .ready
            .back()
            .is_some_and(|last| last.destination == destination && last.takes(len));
        if !joins {
            if self.ready.len() >= TRANSMITS_MAX {
                return None;
            }
            let bytes = self.spare.pop().unwrap_or_default();
            let segment_len = len;
            self.ready.push_back(Transmit {
                destination,
                segment_len,
                bytes,
            });
        }
        let bytes = &mut self.ready.back_mut()?.bytes;
        bytes.resize(bytes.len() + headroom, 0);
        Some(bytes)
    }

    /// Takes the oldest send.
    pub(crate) fn pop(&mut self) -> Option<Transmit> {
        self.ready.pop_front()
    }

    /// Keeps a buffer for later sends.
    pub(crate) fn recycle(&mut self, mut bytes: Vec<u8>) {
        if self.spare.len() < SPARE_MAX && bytes.capacity() <= 2 * TRANSMIT_BYTES_MAX {
            bytes.clear();
            self.spare.push(bytes);
        }
    }
}

impl Transmit {
    /// Tells whether a datagram of `len` bytes may follow.
    fn takes(&self, len: usize) -> bool {
        let last_is_full = self.bytes.len().is_multiple_of(self.segment_len);
        let segments = self.bytes.len() / self.segment_len;
        last_is_full
            && len <= self.segment_len
            && segments < SEGMENTS_MAX
            && self.bytes.len() + len <= TRANSMIT_BYTES_MAX
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn place(port: u16) -> Endpoint {
        std::net::SocketAddr::from(([192, 0, 2, 1], port)).into()
    }

    fn add(outbox: &mut Outbox, port: u16, len: usize) -> bool {
        let slot = outbox.append(place(port), len);
        slot.map(|bytes| bytes.resize(bytes.len() + len, 0)).is_some()
    }

    fn lens(outbox: &mut Outbox) -> Vec<(usize, usize)> {
        std::iter::from_fn(|| outbox.pop())
            .map(|transmit| (transmit.segment_len, transmit.bytes.len()))
            .collect()
    }

    #[test]
    fn equal_datagrams_are_one_send_and_a_shorter_one_ends_it() {
        let mut outbox = Outbox::default();
        for len in [100, 100, 60, 60, 100] {
            assert!(add(&mut outbox, 1, len));
        }
        assert!(add(&mut outbox, 2, 100));
        assert_eq!(lens(&mut outbox), [(100, 260), (60, 60), (100, 100), (100, 100)]);
    }

    #[test]
    fn a_send_has_at_most_64_segments() {
        let mut outbox = Outbox::default();
        for _ in 0..65 {
            assert!(add(&mut outbox, 1, 100));
        }
        assert_eq!(lens(&mut outbox), [(100, 6400), (100, 100)]);
    }

    #[test]
    fn a_caller_that_does_not_collect_is_limited() {
        let mut outbox = Outbox::default();
        for port in 0..TRANSMITS_MAX {
            assert!(add(&mut outbox, port as u16, 100));
        }
        assert!(!add(&mut outbox, 9999, 100));
        outbox.pop();
        assert!(add(&mut outbox, 9999, 100));
    }

    #[test]
    fn a_recycled_buffer_is_used_again() {
        let mut outbox = Outbox::default();
        add(&mut outbox, 1, 1000);
        let sent = outbox.pop().expect("one").bytes;
        let place = sent.as_ptr();
        outbox.recycle(sent);
        add(&mut outbox, 1, 500);
        let next = outbox.pop().expect("one").bytes;
        assert_eq!((next.as_ptr(), next.len()), (place, 500));
        for _ in 0..100 {
            outbox.recycle(Vec::with_capacity(10));
        }
        outbox.recycle(Vec::with_capacity(10 << 20));
        assert!(outbox.spare.len() <= SPARE_MAX);
    }

    proptest! {
        #[test]
        fn datagrams_come_out_as_they_went_in(datagrams in prop::collection::vec((0_u16..3, prop::sample::select(vec![32, 60, 1452, 30_000])), 0..300)) {
            let mut outbox = Outbox::default();
            for (number, (port, len)) in datagrams.iter().enumerate() {
                let bytes = outbox.append(place(*port), *len).expect("room");
                bytes.extend(std::iter::repeat_n(number as u8, *len));
            }
            let mut seen = Vec::new();
            while let Some(transmit) = outbox.pop() {
                prop_assert!(transmit.bytes.len() <= TRANSMIT_BYTES_MAX);
                let segments = transmit.bytes.chunks(transmit.segment_len);
                prop_assert!(segments.len() <= SEGMENTS_MAX);
                for segment in segments {
                    prop_assert!(segment.iter().all(|byte| *byte == seen.len() as u8));
                    let port = transmit.destination.remote().map_or(0, |remote| remote.port());
                    seen.push((port, segment.len()));
                }
            }
            prop_assert_eq!(seen, datagrams);
        }
    }
}
