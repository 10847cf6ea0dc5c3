//! What a node is: its kind, whether it can be reached, and how.

use serde::{Deserialize, Serialize};

/// What runs behind a node key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeKind {
    /// A machine that a person linked.
    Device,
    /// A sandbox that the platform booted.
    Sandbox,
    /// The control plane's own node: the orchestrator lives there.
    Platform,
}

/// Whether a node may take part, and whether it does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeStatus {
    /// Its control stream is open.
    Online,
    /// Admitted, not connected.
    Offline,
    /// Shut out for ever: its key never comes back.
    Revoked,
}

/// How packets reach a node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PathKind {
    /// Straight from socket to socket.
    Direct,
    /// Through a relay, which sees ciphertext only.
    Relay,
}

/// Why the path is the one it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PathReason {
    /// The peer answered a handshake at an endpoint the netmap names.
    EndpointAnswered,
    /// No handshake has been answered yet.
    Probing,
    /// The netmap names no endpoint of the peer.
    NoCandidate,
    /// The peer has not been heard for longer than a session lives.
    PeerAsleep,
}
