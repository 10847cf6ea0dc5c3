//! The packets of one peer that wait for a session.

use std::collections::VecDeque;

/// How many packets wait at most.
pub const QUEUE_PACKETS_MAX: usize = 64;
/// How many bytes wait at most.
pub const QUEUE_BYTES_MAX: usize = 128 * 1024;

/// A queue that gives up its oldest packet for a new one: by the time a handshake is through, the newest matter most.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    packets: VecDeque<Vec<u8>>,
    bytes: usize,
}

impl Queue {
    pub(crate) fn len(&self) -> usize {
        self.packets.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// Adds a packet; returns how many had to go for it.
    pub(crate) fn push(&mut self, packet: &[u8]) -> usize {
        self.bytes += packet.len();
        self.packets.push_back(packet.to_vec());
        let mut gone = 0;
        while self.packets.len() > QUEUE_PACKETS_MAX || self.bytes > QUEUE_BYTES_MAX {
            self.pop();
            gone += 1;
        }
        gone
    }

    /// Takes the oldest packet.
    pub(crate) fn pop(&mut self) -> Option<Vec<u8>> {
        let packet = self.packets.pop_front()?;
        self.bytes -= packet.len();
        Some(packet)
    }

    /// Forgets every packet; returns how many there were.
    pub(crate) fn clear(&mut self) -> usize {
        let gone = self.packets.len();
        *self = Self::default();
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_packets_go_first() {
        let mut queue = Queue::default();
        for byte in 0..64 {
            assert_eq!(queue.push(&[byte]), 0);
        }
        assert_eq!(queue.push(&[64]), 1);
        assert_eq!(queue.len(), QUEUE_PACKETS_MAX);
        assert_eq!(queue.pop(), Some(vec![1]));
        assert_eq!(queue.clear(), 63);
        assert!(queue.is_empty());
    }

    #[test]
    fn the_bytes_are_limited_too() {
        let mut queue = Queue::default();
        for _ in 0..4 {
            assert_eq!(queue.push(&[0; 32 * 1024]), 0);
        }
        assert_eq!(queue.push(&[0; 33 * 1024]), 2);
        assert_eq!((queue.len(), queue.bytes), (3, 97 * 1024));
        // One that alone is over the limit cannot stay either.
        assert_eq!(queue.push(&[0; QUEUE_BYTES_MAX + 1]), 4);
        assert_eq!((queue.len(), queue.bytes), (0, 0));
    }
}
