//! What a node and the control plane say to each other on the control stream, once it is authenticated.
//!
//! The stream itself (Noise_IK inside a WebSocket, fragments, bytes) is `mesh::control_stream`. Each message is one JSON
//! object; unknown fields are ignored and an unknown `type` is skipped, so either end may be newer.

use serde::{Deserialize, Serialize};

use crate::ids::NodeId;
use crate::keys::{NodePublicKey, SigningPublicKey};
use crate::names::DisplayText;
use crate::netmap::{ENDPOINTS_MAX, Generation, Netmap, NetmapDelta};
use crate::node::{PathKind, PathReason};
use crate::relay::{RelayId, SignedRelayExpulsion, SignedRelayTicket};
use crate::time::Timestamp;

/// The largest message either side accepts, in bytes of JSON.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What this build understands: one integer, raised with a dated line here whenever a node understands something new.
///
/// - 1 (2026-11-22): full netmaps, presence, endpoints, path reports.
/// - 2 (2026-11-26): relays in the netmap, relay tickets.
/// - 3 (2026-11-26): packet filters in the netmap.
/// - 4 (2026-11-26): netmap deltas; the whole netmap is sent again when a delta was refused.
/// - 5 (2026-11-26): another key for the same node, home relays of peers.
/// - 6 (2026-11-26): expulsions, carried to the relays.
pub const CAPABILITY_VERSION: u32 = 6;

/// From the control plane to a node.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToNode {
    /// The whole state the node should have.
    Netmap(Box<Netmap>),
    /// What is different from the netmap that the node was sent before.
    NetmapDelta(Box<NetmapDelta>),
    /// The leave to use the relays of the netmap; the next one comes before this one ends.
    RelayTicket {
        /// The ticket.
        ticket: SignedRelayTicket,
    },
    /// Somebody of the org is shut out: the node tells the relays at which it is.
    RelayExpulsion {
        /// Who, signed so that a relay believes it whoever carries it.
        expulsion: SignedRelayExpulsion,
    },
    /// Which key is the node's: said first on every stream, to a node that understands it. On a stream that was opened with
    /// the key before, it is also the last thing that is said.
    #[serde(rename_all = "camelCase")]
    KeyInForce {
        /// The key.
        public_key: NodePublicKey,
        /// How long the key before is still taken; absent when it is not.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        previous_until: Option<Timestamp>,
    },
    /// The answer to [`FromNode::OfferKey`]: the key is noted, and takes effect with the first stream that is opened with it.
    #[serde(rename_all = "camelCase")]
    KeyNoted {
        /// Which key.
        public_key: NodePublicKey,
    },
    /// The other answer: the key is not taken, and nothing has changed.
    #[serde(rename_all = "camelCase")]
    KeyRefused {
        /// Which key.
        public_key: NodePublicKey,
        /// Why, for people.
        reason: DisplayText,
    },
    /// The node's key has expired: it must be approved anew, and is the same node then.
    KeyExpired,
    /// The node is shut out: it forgets its netmap and does not come back.
    Revoked,
    /// The answer to [`FromNode::Ping`].
    Pong,
}

/// From a node to the control plane.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromNode {
    /// The first message; only after it does the node count as online.
    Hello(Box<Hello>),
    /// Where the node's mesh socket can be reached, best first.
    #[serde(rename_all = "camelCase")]
    Endpoints {
        /// `ip:port` texts, at most [`ENDPOINTS_MAX`].
        endpoints: Vec<String>,
    },
    /// The netmap of this generation is in force.
    #[serde(rename_all = "camelCase")]
    NetmapApplied {
        /// Which one.
        generation: Generation,
    },
    /// The netmap of this generation was refused, and why. Of a delta it asks for the whole netmap.
    #[serde(rename_all = "camelCase")]
    NetmapRefused {
        /// Which one.
        generation: Generation,
        /// The reason, for people.
        reason: String,
    },
    /// How a peer is reached now.
    #[serde(rename_all = "camelCase")]
    Path {
        /// The peer.
        peer_id: NodeId,
        /// How it is reached; absent when it is not.
        path: Option<PathKind>,
        /// Why so.
        reason: PathReason,
    },
    /// The node wants to go by this key, whose private half it has written down; the stream that it opens next proves that it
    /// has it.
    #[serde(rename_all = "camelCase")]
    OfferKey {
        /// The public half.
        public_key: NodePublicKey,
    },
    /// The relay at which the node is found best is another one.
    HomeRelay {
        /// Which one; absent when it reaches none.
        relay: Option<RelayId>,
    },
    /// Keeps the stream alive through middle boxes.
    Ping,
}

/// What a node says of itself when its control stream opens.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hello {
    /// The sender's [`CAPABILITY_VERSION`].
    pub capability_version: u32,
    /// The version of the program.
    pub app_version: Option<DisplayText>,
    /// The operating system, such as `linux`.
    pub os: Option<DisplayText>,
    /// The host name.
    pub hostname: Option<DisplayText>,
    /// The key with which the node signs records.
    pub signing_key: SigningPublicKey,
    /// The netmap it has, if any.
    pub generation: Option<Generation>,
    /// Where its mesh socket can be reached, best first.
    pub endpoints: Vec<String>,
    /// The relay at which it is found best, if it knows one already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub home_relay: Option<RelayId>,
}

impl Hello {
    /// Cuts what a peer sent to its limits.
    pub fn clamp(&mut self) {
        self.endpoints.truncate(ENDPOINTS_MAX);
    }
}
