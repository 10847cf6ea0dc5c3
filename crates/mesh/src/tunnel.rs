//! WireGuard, whole: every peer of one key on one socket, as a pure state machine.

mod counters;
mod peer;
mod timers;

use std::net::{IpAddr, SocketAddr};

use types::{Monotonic, NodePrivateKey, NodePublicKey, Now};

pub use self::counters::{Counters, DropReason};
pub use self::peer::{PeerConfig, PeerStatus, PresharedKey};
pub use self::timers::{
    JITTER_MAX, KEEPALIVE_TIMEOUT, REJECT_AFTER_MESSAGES, REJECT_AFTER_TIME, REKEY_AFTER_MESSAGES,
    REKEY_AFTER_TIME, REKEY_ATTEMPT_TIME, REKEY_TIMEOUT, Timer,
};

/// What the socket received with one call: one datagram, or several of one source that the kernel joined (UDP_GRO).
#[derive(Debug)]
pub struct Received<'a> {
    /// Where it came from.
    pub source: SocketAddr,
    /// The datagrams, one after another; their content is of no use afterwards.
    pub bytes: &'a mut [u8],
    /// The length of each datagram but the last, which may be shorter. Zero means that `bytes` is one datagram.
    pub segment_len: usize,
}

/// One send of equal datagrams to one destination (UDP_SEGMENT).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transmit {
    /// Where to.
    pub destination: SocketAddr,
    /// The length of each datagram but the last, which may be shorter. Never zero.
    pub segment_len: usize,
    /// The datagrams, one after another: at most 64 of them and 65,507 bytes.
    pub bytes: Vec<u8>,
}

/// Where decrypted packets go.
pub trait PacketSink {
    /// Takes a well-formed IP packet whose source address is one of the peer's allowed IPs.
    fn packet(&mut self, from: &NodePublicKey, packet: &[u8]);
}

/// Something that happened to a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TunnelEvent {
    /// Data can be sent at once, which it could not before.
    SessionUp {
        /// The peer.
        peer: NodePublicKey,
        /// Where it is.
        endpoint: SocketAddr,
    },
    /// Data can no longer be sent at once.
    SessionDown {
        /// The peer.
        peer: NodePublicKey,
        /// Why.
        reason: DownReason,
    },
    /// An authentic datagram came from a new place; data goes there now.
    EndpointChanged {
        /// The peer.
        peer: NodePublicKey,
        /// The new place.
        endpoint: SocketAddr,
    },
    /// Ninety seconds of handshakes had no answer; packets that waited are gone. The next packet starts again.
    HandshakeFailed {
        /// The peer.
        peer: NodePublicKey,
    },
}

/// Why a session ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DownReason {
    /// It was not renewed within 180 s.
    Expired,
    /// The peer was removed.
    Removed,
}

/// Why packets were not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The key is no peer's.
    #[error("the key is no peer's")]
    UnknownPeer,
}

/// Every peer of one private key on one UDP socket.
pub struct Tunnel {
    counters: Counters,
}

impl Tunnel {
    /// Makes a tunnel without peers. `seed` is 32 bytes of the operating system's randomness.
    #[must_use]
    pub fn new(_private_key: NodePrivateKey, _seed: [u8; 32]) -> Self {
        Self {
            counters: Counters::default(),
        }
    }

    /// Adds a peer or changes it; its sessions stay.
    pub fn upsert_peer(&mut self, _config: PeerConfig, _now: Now) {}

    /// Forgets a peer and erases its sessions; tells whether there was one.
    pub fn remove_peer(&mut self, _peer: &NodePublicKey) -> bool {
        false
    }

    /// Returns what is known of a peer.
    #[must_use]
    pub fn peer_status(&self, _peer: &NodePublicKey) -> Option<PeerStatus> {
        None
    }

    /// Returns what went through and what was dropped.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Returns the peer that packets to `address` belong to.
    #[must_use]
    pub fn route(&self, _address: IpAddr) -> Option<NodePublicKey> {
        None
    }

    /// Seals packets to a peer; without a session it queues them and starts a handshake.
    pub fn send_packets(
        &mut self,
        _to: &NodePublicKey,
        _packets: &[&[u8]],
        _now: Now,
    ) -> Result<(), SendError> {
        Err(SendError::UnknownPeer)
    }

    /// Takes what the socket received.
    pub fn handle_received(&mut self, _received: Received<'_>, _sink: &mut impl PacketSink, _now: Now) {}

    /// Returns the next thing to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        None
    }

    /// Takes back the buffer of a [`Transmit`] that was sent.
    pub fn recycle(&mut self, _bytes: Vec<u8>) {}

    /// Returns the next thing that happened.
    pub fn poll_event(&mut self) -> Option<TunnelEvent> {
        None
    }

    /// Returns when [`Tunnel::handle_timeout`] must be called next, and for which timer.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Monotonic, Timer)> {
        None
    }

    /// Acts on every timer that is due.
    pub fn handle_timeout(&mut self, _now: Now) {}
}
