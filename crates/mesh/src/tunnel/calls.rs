//! Calls: handshake initiations that go to everybody on our links, for a peer of which nobody knows where it is.
//!
//! A call is an ordinary initiation and names nobody in the clear: the first MAC is made with the called peer's public key,
//! and who calls is sealed for it. The peer answers from its own address as it would answer any other.

use std::net::{Ipv4Addr, Ipv6Addr};

use types::{NodePublicKey, Now};

use super::message::INITIATION_LEN;
use super::{DropReason, PacketSink, Received, SendError, Tunnel};
use crate::endpoint::Endpoint;

/// The group to which calls go by IPv4: of the local scope (RFC 2365), which no router lets out of a site, and sent with a TTL
/// of 1 besides.
pub const CALL_GROUP_V4: Ipv4Addr = Ipv4Addr::new(239, 255, 0x53, 0x41);

/// The same by IPv6: of the link's scope and transient (`ff12`, RFC 4291), since nobody registered it, with a number of those
/// that anybody may take (0x80000000 and above, RFC 3307).
pub const CALL_GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff12, 0, 0, 0, 0, 0, 0x8000, 0x5341);

/// The UDP port of both groups. Answers come from, and go to, the main sockets.
pub const CALL_PORT: u16 = 0x5341;

/// How many bytes a call has, always.
pub const CALL_LEN: usize = INITIATION_LEN;

/// How a call begins: an initiation's type.
const CALL_START: [u8; 4] = [1, 0, 0, 0];

impl Tunnel {
    /// Has a handshake with a peer tried with everybody on our links, too: [`poll_call`](Self::poll_call) has it. One that
    /// was sent just before is said again, so that either of both may arrive first.
    ///
    /// Initiations need not be [`REKEY_TIMEOUT`](super::REKEY_TIMEOUT) apart for this: how often is the caller's to limit.
    pub fn call(&mut self, peer: &NodePublicKey, now: Now) -> Result<(), SendError> {
        self.with_peer(peer, |peer, shared| peer.call(shared, now))
    }

    /// Returns the next call to be sent to everybody on our links.
    pub fn poll_call(&mut self) -> Option<[u8; CALL_LEN]> {
        self.shared.take_call()
    }

    /// Takes one datagram that was sent to everybody on one of our links. Only a call for us goes further, and is answered
    /// like any other initiation or not at all; everything else is dropped and counted.
    pub fn handle_call(&mut self, source: Endpoint, bytes: &mut [u8], sink: &mut impl PacketSink, now: Now) {
        if bytes.len() != CALL_LEN || !bytes.starts_with(&CALL_START) {
            return self.shared.counters.drop_for(DropReason::NoCall);
        }
        if !self.shared.is_addressed(bytes) {
            return self.shared.counters.drop_for(DropReason::CallForOthers);
        }
        let received = Received {
            source,
            bytes,
            segment_len: 0,
        };
        self.handle_received(received, sink, now);
    }
}
