//! The sockets beside the main one, which the mesh core opens to have one of their ports guessed: where data goes and comes
//! from is the core's to say.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;

use mesh::SocketNumber;
use rustix::event::{PollFd, PollFlags};

use super::RECEIVE_FAILURES_MAX;
use crate::udp::UdpSocket;

struct Extra {
    socket: UdpSocket,
    /// Receives that failed since the last that did not.
    failures: u32,
    is_ready: bool,
}

/// Sockets with a number each, all of them on ports that the system chose.
pub(super) struct ExtraSockets {
    listen: SocketAddr,
    open: BTreeMap<SocketNumber, Extra>,
}

impl ExtraSockets {
    /// `main` is the address of the main socket; the others have it too.
    pub(super) fn new(main: SocketAddr) -> Self {
        Self {
            listen: SocketAddr::new(main.ip(), 0),
            open: BTreeMap::new(),
        }
    }

    /// Opens a socket; fails as [`UdpSocket::bind`] does, in practice for want of descriptors.
    pub(super) fn open(&mut self, number: SocketNumber) -> io::Result<()> {
        let extra = Extra {
            socket: UdpSocket::bind(self.listen)?,
            failures: 0,
            is_ready: false,
        };
        self.open.insert(number, extra);
        Ok(())
    }

    pub(super) fn close(&mut self, number: SocketNumber) {
        self.open.remove(&number);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    pub(super) fn get_mut(&mut self, number: SocketNumber) -> Option<&mut UdpSocket> {
        self.open.get_mut(&number).map(|extra| &mut extra.socket)
    }

    /// Returns what is waited for: something to receive, and on `held_up` room to send.
    pub(super) fn interests(&self, held_up: Option<SocketNumber>) -> impl Iterator<Item = PollFd<'_>> {
        self.open.iter().map(move |(number, extra)| {
            let room = if held_up == Some(*number) {
                PollFlags::OUT
            } else {
                PollFlags::empty()
            };
            PollFd::new(&extra.socket, PollFlags::IN | room)
        })
    }

    /// Notes what became of [`ExtraSockets::interests`], in the same order.
    pub(super) fn note_ready(&mut self, ready: &[PollFlags]) {
        for (extra, ready) in self.open.values_mut().zip(ready) {
            extra.is_ready = ready.intersects(PollFlags::IN | PollFlags::ERR);
        }
    }

    /// Returns a socket that has something to receive; each once.
    pub(super) fn take_ready(&mut self) -> Option<SocketNumber> {
        let (number, extra) = self.open.iter_mut().find(|(_, extra)| extra.is_ready)?;
        extra.is_ready = false;
        Some(*number)
    }

    /// Notes whether a receive failed; tells whether the socket is beyond help.
    pub(super) fn note_receive(&mut self, number: SocketNumber, has_failed: bool) -> bool {
        let Some(extra) = self.open.get_mut(&number) else {
            return false;
        };
        extra.failures = if has_failed { extra.failures + 1 } else { 0 };
        extra.failures >= RECEIVE_FAILURES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_that_keeps_failing_is_beyond_help_and_one_that_recovers_is_not() {
        let mut sockets = ExtraSockets::new("127.0.0.1:9".parse().expect("address"));
        let number = SocketNumber(3);
        sockets.open(number).expect("opens");
        for _ in 1..RECEIVE_FAILURES_MAX {
            assert!(!sockets.note_receive(number, true));
        }
        assert!(!sockets.note_receive(number, false));
        for _ in 1..RECEIVE_FAILURES_MAX {
            assert!(!sockets.note_receive(number, true));
        }
        assert!(sockets.note_receive(number, true));
    }
}
