//! Calls on our links: whether there is a link, how many calls a node makes, and what comes from there.

use std::net::SocketAddr;

use types::{Monotonic, Now};

use super::Mesh;
use super::inbound::Inbound;
use crate::endpoint::Endpoint;
use crate::paths::{CALLS_PER_SECOND, PeerPaths};
use crate::tunnel::PacketSink;

const SECOND: std::time::Duration = std::time::Duration::from_secs(1);

/// What limits the calls of a node.
#[derive(Default)]
pub(super) struct Calls {
    has_link: bool,
    second: Monotonic,
    count: u32,
}

impl Calls {
    /// Takes one call from the share of this second; tells whether there is something left of it, and a link.
    pub(super) fn admit(&mut self, now: Monotonic) -> bool {
        if now.since(self.second) >= SECOND {
            (self.second, self.count) = (now, 0);
        }
        if !self.has_link || self.count >= CALLS_PER_SECOND {
            return false;
        }
        self.count += 1;
        true
    }
}

impl Mesh {
    /// Takes that we are on a link on which peers can be called, or on other ones than before; with `false`, which is so at
    /// first, nobody is called.
    pub fn set_on_link(&mut self, has_link: bool, now: Now) {
        self.calls.has_link = has_link;
        if has_link {
            for key in self.peers.keys() {
                self.with_paths(&key, now, PeerPaths::link_changed);
            }
        }
    }

    /// Takes one datagram that was sent to everybody on one of our links: only a call for us is answered, from our main
    /// socket to `source`. All else is dropped and counted.
    pub fn handle_call(
        &mut self,
        source: SocketAddr,
        bytes: &mut [u8],
        sink: &mut impl PacketSink,
        now: Now,
    ) {
        let mut probes = Vec::new();
        let mut inbound = Inbound {
            sink,
            probes: &mut probes,
            filter: &mut self.filter,
            now: now.mono,
        };
        self.tunnel
            .handle_call(Endpoint::from(source), bytes, &mut inbound, now);
        self.after_input(probes, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_calls_a_second_and_none_without_a_link() {
        let mut calls = Calls::default();
        let at = |ms| Monotonic::from_start(std::time::Duration::from_millis(ms));
        assert!(!calls.admit(at(0)), "there is no link");
        calls.has_link = true;
        for _ in 0..CALLS_PER_SECOND {
            assert!(calls.admit(at(5000)));
        }
        assert!(!calls.admit(at(5999)));
        assert!(calls.admit(at(6000)));
    }
}
