//! The nouns at the seam between a mesh and its caller.

use std::net::SocketAddr;
use std::time::Duration;

use types::{AllowedIp, NodePublicKey, RelayId};

use super::relays::RelayView;
use crate::endpoint::{Endpoint, SocketNumber};
use crate::paths::{PathTimer, PathView, Pong};
use crate::relay::client::ClientTimer;
use crate::tunnel::{CALL_LEN, DownReason, Mobility, PresharedKey, Timer};

/// What a peer should be.
#[derive(Clone, Debug)]
pub struct MeshPeer {
    /// The peer's identity.
    pub public_key: NodePublicKey,
    /// A secret shared with the peer.
    pub preshared_key: Option<PresharedKey>,
    /// The addresses the peer may send from and is sent to.
    pub allowed_ips: Vec<AllowedIp>,
    /// Where it is said to be reachable directly, best first.
    pub endpoints: Vec<SocketAddr>,
    /// The relays at which it is found best; others are used when we reach none of these. Empty when that is not known.
    pub relays: Vec<RelayId>,
    /// `Managed` for one of ours, `Roams` for a plain WireGuard.
    pub mobility: Mobility,
    /// How long the path may stay without traffic before an empty packet is sent.
    pub persistent_keepalive: Option<Duration>,
}

/// Datagrams for one address.
#[derive(Debug, PartialEq, Eq)]
pub struct Datagrams {
    /// From which of our sockets.
    pub socket: SocketNumber,
    /// Where to.
    pub to: SocketAddr,
    /// The length of each but the last, which may be shorter.
    pub segment_len: usize,
    /// The datagrams, one after another.
    pub bytes: Vec<u8>,
}

/// Frames for a relay's WebSocket, each a message of its own.
#[derive(Debug, PartialEq, Eq)]
pub struct StreamFrames {
    /// Which relay's.
    pub relay: RelayId,
    /// The length of each but the last, which may be shorter.
    pub frame_len: usize,
    /// The frames, one after another.
    pub bytes: Vec<u8>,
}

/// What the mesh wants done.
#[derive(Debug, PartialEq, Eq)]
pub enum Output {
    /// Send these by UDP.
    Datagrams(Datagrams),
    /// Send these over the relay's WebSocket; dropped when it is closed.
    Stream(StreamFrames),
    /// Open a WebSocket to a relay.
    OpenStream(RelayId),
    /// Close it.
    CloseStream(RelayId),
    /// Open another UDP socket, on any port of the main socket's address. Until it is open, and when it cannot be, what it
    /// should send is dropped.
    OpenSocket(SocketNumber),
    /// Close it, and drop what it has still to send.
    CloseSocket(SocketNumber),
    /// Send this datagram from our main socket to everybody on every link that we are on, once each and best effort.
    Call([u8; CALL_LEN]),
}

/// Something that happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MeshEvent {
    /// Data can be sent to the peer at once, which it could not before.
    SessionUp(NodePublicKey),
    /// Data can no longer be sent at once.
    SessionDown(NodePublicKey, DownReason),
    /// Ninety seconds of handshakes had no answer; packets that waited are gone.
    HandshakeFailed(NodePublicKey),
    /// A peer that roams was heard from another place, and is sent to there.
    Roamed(NodePublicKey, Endpoint),
    /// A peer is reached another way, or for another reason.
    Path(NodePublicKey, PathView),
    /// A ping that was asked for was answered.
    Pong(NodePublicKey, Pong),
    /// What we say of ourselves changed: the control plane should hear it.
    Candidates,
    /// A relay came up, went down or was measured.
    Relay(RelayView),
    /// Another relay is the nearest now.
    HomeRelay(Option<RelayId>),
}

/// What a mesh waits for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum MeshTimer {
    /// A timer of a WireGuard session.
    Tunnel(Timer),
    /// A timer of the paths to a peer.
    Path(PathTimer),
    /// A timer of a relay's session.
    Relay(ClientTimer),
    /// A relay that is reached over TLS is tried by UDP, or the other way round.
    RelayTransport,
}
