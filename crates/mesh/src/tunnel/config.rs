//! What a peer should be, and what is known of it: the nouns at the seam.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use types::{AllowedIp, Monotonic, NodePublicKey, Timestamp};
use zeroize::Zeroizing;

use crate::endpoint::Endpoint;

/// A secret that two peers share beside their keys (WireGuard paper, section 5.2). It does not print.
#[derive(Clone)]
pub struct PresharedKey(Zeroizing<[u8; 32]>);

impl PresharedKey {
    /// Takes 32 random bytes that only the two peers know.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Returns the 32 bytes, for the handshake.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for PresharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PresharedKey(…)")
    }
}

/// Who decides where a peer is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mobility {
    /// WireGuard's rule: a peer is where its last authentic datagram came from.
    #[default]
    Roams,
    /// The caller's: datagrams may come from anywhere, and go where
    /// [`set_endpoint`](super::Tunnel::set_endpoint) says. Only such a peer is sent probes, which no other WireGuard knows.
    Managed,
}

/// What a peer should be.
#[derive(Clone, Debug)]
pub struct PeerConfig {
    /// The peer's identity. A tunnel ignores a peer with its own key.
    pub public_key: NodePublicKey,
    /// A secret shared with the peer; none by default. It takes effect with the next handshake.
    pub preshared_key: Option<PresharedKey>,
    /// The addresses the peer may send from and is sent to. A block that another peer had moves to this one.
    pub allowed_ips: Vec<AllowedIp>,
    /// Where the peer is said to be. Applied when it differs from what was said last, so that repeating an old
    /// configuration does not undo roaming.
    pub endpoint: Option<SocketAddr>,
    /// Who decides where the peer is from then on.
    pub mobility: Mobility,
    /// How long the path to the peer may stay without traffic, before an empty packet is sent; none by default.
    pub persistent_keepalive: Option<Duration>,
}

/// What is known of a peer at the moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerStatus {
    /// Where datagrams to it go.
    pub endpoint: Option<Endpoint>,
    /// Whether data can be sent at once.
    pub has_session: bool,
    /// When the last handshake was completed.
    pub last_handshake: Option<(Monotonic, Timestamp)>,
    /// When the last authentic datagram came.
    pub last_received: Option<Monotonic>,
    /// Where it came from.
    pub heard_from: Option<Endpoint>,
    /// When the last packet came from it, probes and keepalives not counted.
    pub last_packet: Option<Monotonic>,
    /// When the last packet was sealed for it, probes and keepalives not counted.
    pub last_sent: Option<Monotonic>,
    /// Bytes of packets sent, without padding.
    pub bytes_sent: u64,
    /// Bytes of packets received.
    pub bytes_received: u64,
    /// Whether a handshake of ours waits for its answer.
    pub is_handshaking: bool,
    /// Packets that wait for a session.
    pub packets_queued: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preshared_key_does_not_print() {
        let key = PresharedKey::from_bytes([7; 32]);
        assert_eq!(format!("{key:?}"), "PresharedKey(…)");
    }
}
