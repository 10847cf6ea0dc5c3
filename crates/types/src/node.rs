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
    /// Direct: the peer answered at this endpoint.
    EndpointAnswered,
    /// Direct paths are being tried; the relay carries meanwhile.
    Probing,
    /// The peer names no address at which it might be reached.
    NoCandidate,
    /// Its addresses were tried, and none answered: firewalls, or networks that do not reach each other.
    NoAnswer,
    /// No UDP reaches this node's network.
    UdpBlocked,
    /// No UDP reaches the peer's network.
    PeerUdpBlocked,
    /// The NATs of both ends give every destination another port, so that neither can be foretold.
    SymmetricBoth,
    /// The NAT of one end gives every destination another port, and guessing it has not succeeded.
    SymmetricOne,
    /// The direct path went silent; it is looked for again.
    PathLost,
    /// Neither a relay nor a direct path answers.
    NoRelay,
    /// The peer has not been heard for longer than a session lives.
    PeerAsleep,
    /// One end has only IPv4 and the other only IPv6, so that no datagram goes straight from one to the other.
    NoCommonFamily,
    /// Nothing was sent to the peer yet; a path is looked for at the first packet.
    Idle,
}

impl PathReason {
    /// Says it to a person, in a clause without a full stop.
    #[must_use]
    pub fn as_words(self) -> &'static str {
        match self {
            Self::EndpointAnswered => "it answers directly",
            Self::Probing => "direct paths are being tried",
            Self::NoCandidate => "it names no address at which it might be reached directly",
            Self::NoAnswer => {
                "none of its addresses answers: a firewall, or networks that do not reach each other"
            }
            Self::UdpBlocked => "no UDP reaches this network",
            Self::PeerUdpBlocked => "no UDP reaches its network",
            Self::SymmetricBoth => "the NATs of both ends give every destination another port",
            Self::SymmetricOne => {
                "the NAT of one end gives every destination another port, and none was guessed yet"
            }
            Self::PathLost => "the direct path went silent, another is looked for",
            Self::NoRelay => "neither a relay nor a direct path answers",
            Self::PeerAsleep => "it is not connected to any relay: it is off or away",
            Self::NoCommonFamily => "one end has only IPv4 and the other only IPv6",
            Self::Idle => "nothing was sent to it yet",
        }
    }
}
