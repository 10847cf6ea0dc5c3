//! The sockets of a node beside the main one, all of them for guessing ports: how many there may be, and whose each is.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use types::NodePublicKey;

use super::Output;
use crate::endpoint::SocketNumber;

/// How many sockets there are beside the main one at most: those of two attempts, and of 32 paths that were met so. A
/// process has 1,024 descriptors on most systems.
pub const EXTRA_SOCKETS_MAX: usize = 320;

/// With how many peers ports are guessed at a time: 320 datagrams a second at most.
pub const GUESSES_AT_ONCE: usize = 2;

/// How long an attempt for which there is no room is put off.
const PUT_OFF: Duration = Duration::from_secs(30);

#[derive(Default)]
pub(super) struct Sockets {
    owners: BTreeMap<SocketNumber, NodePublicKey>,
    /// The peers with whom ports are being guessed.
    guessing: BTreeSet<NodePublicKey>,
    last: u16,
    out: VecDeque<Output>,
}

impl Sockets {
    /// Begins an attempt with so many sockets; or says for how long it is put off.
    pub(super) fn begin(&mut self, peer: NodePublicKey, count: usize) -> Result<Vec<SocketNumber>, Duration> {
        let has_room =
            self.owners.len() + count <= EXTRA_SOCKETS_MAX && self.guessing.len() < GUESSES_AT_ONCE;
        if !has_room || !self.guessing.insert(peer) {
            return Err(PUT_OFF);
        }
        Ok((0..count).map(|_| self.open(peer)).collect())
    }

    /// The attempt is over; its sockets may stay.
    pub(super) fn over(&mut self, peer: &NodePublicKey) {
        self.guessing.remove(peer);
    }

    pub(super) fn close(&mut self, sockets: &[SocketNumber]) {
        for socket in sockets {
            if self.owners.remove(socket).is_some() {
                self.out.push_back(Output::CloseSocket(*socket));
            }
        }
    }

    /// A socket is gone by itself; returns whose it was.
    pub(super) fn broken(&mut self, socket: SocketNumber) -> Option<NodePublicKey> {
        self.owners.remove(&socket)
    }

    /// A peer is gone, and whatever it had.
    pub(super) fn forget(&mut self, peer: &NodePublicKey) {
        self.over(peer);
        let theirs = self.owners.iter().filter(|(_, owner)| *owner == peer);
        let theirs: Vec<_> = theirs.map(|(socket, _)| *socket).collect();
        self.close(&theirs);
    }

    /// A peer goes by another key from now on.
    pub(super) fn rename(&mut self, old: &NodePublicKey, new: NodePublicKey) {
        if self.guessing.remove(old) {
            self.guessing.insert(new);
        }
        for owner in self.owners.values_mut().filter(|owner| *owner == old) {
            *owner = new;
        }
    }

    pub(super) fn poll_output(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    /// A number is not used again soon, so that nothing late comes out of another's socket.
    fn open(&mut self, peer: NodePublicKey) -> SocketNumber {
        loop {
            self.last = self.last.checked_add(1).unwrap_or(1);
            let socket = SocketNumber(self.last);
            if let Entry::Vacant(entry) = self.owners.entry(socket) {
                entry.insert(peer);
                self.out.push_back(Output::OpenSocket(socket));
                return socket;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use types::NodePrivateKey;

    use super::*;

    fn key(number: u8) -> NodePublicKey {
        NodePrivateKey::from_random([number; 32]).public()
    }

    fn outputs(sockets: &mut Sockets) -> Vec<Output> {
        std::iter::from_fn(|| sockets.poll_output()).collect()
    }

    #[test]
    fn so_many_attempts_at_a_time_and_not_one_more() {
        let mut sockets = Sockets::default();
        for peer in 0..GUESSES_AT_ONCE {
            assert_eq!(sockets.begin(key(peer as u8), 0), Ok(vec![]));
        }
        assert_eq!(sockets.begin(key(9), 0), Err(PUT_OFF));
        sockets.over(&key(0));
        assert_eq!(sockets.begin(key(1), 0), Err(PUT_OFF), "one with each peer");
        assert_eq!(sockets.begin(key(9), 0), Ok(vec![]));
    }

    #[test]
    fn so_many_sockets_and_not_one_more_until_some_are_closed() {
        let mut sockets = Sockets::default();
        let open = sockets.begin(key(1), EXTRA_SOCKETS_MAX).expect("room for all");
        assert_eq!(open.first(), Some(&SocketNumber(1)), "never the main one");
        assert_eq!(outputs(&mut sockets).len(), EXTRA_SOCKETS_MAX);
        assert_eq!(sockets.begin(key(2), 1), Err(PUT_OFF));
        sockets.close(&open[..1]);
        sockets.close(&open[..1]);
        assert_eq!(outputs(&mut sockets), [Output::CloseSocket(open[0])]);
        let next = sockets.begin(key(2), 1).expect("room for one");
        assert!(!open.contains(&next[0]), "no number is used again soon");
    }

    #[test]
    fn a_peer_that_goes_leaves_no_socket_and_numbers_start_again_after_the_last() {
        let mut sockets = Sockets {
            last: u16::MAX - 1,
            ..Sockets::default()
        };
        let theirs = sockets.begin(key(1), 3).expect("room");
        assert_eq!(theirs, [u16::MAX, 1, 2].map(SocketNumber));
        assert_eq!(sockets.broken(SocketNumber(1)), Some(key(1)));
        outputs(&mut sockets);
        sockets.forget(&key(1));
        let closed = [2, u16::MAX].map(|number| Output::CloseSocket(SocketNumber(number)));
        assert_eq!(outputs(&mut sockets), closed);
        assert_eq!(sockets.broken(SocketNumber(2)), None);
        assert!(sockets.begin(key(1), 1).is_ok(), "its attempt is over, too");
    }
}
