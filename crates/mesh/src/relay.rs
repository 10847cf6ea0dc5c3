//! The relay protocol, both ends: how nodes that cannot reach one another directly pass WireGuard datagrams.
//!
//! A relay knows its clients by key and address. It forwards datagrams that it cannot open, between clients of one realm,
//! and keeps nothing of them. Sockets, TLS and metrics are the crate `relay`'s; which relay a node uses is `crate::paths`'.
//!
//! # How a client gets in
//!
//! ```text
//! client                                   relay
//!   │ Hello: Noise_IK 1, ticket inside       │
//!   ├───────────────────────────────────────▶│  under load: Challenge with a cookie, and the Hello once more
//!   │          Welcome: Noise_IK 2, number   │
//!   │◀───────────────────────────────────────┤
//!   │ Confirm (sealed)                       │  from here on the client is where this came from
//!   ├───────────────────────────────────────▶│
//!   │          Confirmed: observed address   │
//!   │◀───────────────────────────────────────┤
//! ```
//!
//! The ticket says that the control plane lets this key in, the handshake that the client has the key. A Hello can be
//! replayed by whoever saw it; it moves nothing. Only a Confirm does, which is sealed and numbered, so that a client that
//! changes its network sends one datagram and is there. A Confirm every 20 s keeps NATs open and the session alive.
//!
//! # How a node is shut out
//!
//! The control plane signs an expulsion ([`types::relay::SignedRelayExpulsion`]), and whoever of the relay's clients has it
//! hands it over, sealed as a Confirm is, until the relay answers that it knows. It voids the tickets that were signed before
//! it, in one realm: their client is dropped, and they let nobody in any more.
//!
//! # How datagrams pass
//!
//! Each client has a number that the relay drew. A client that does not know its peer's number sends by key (40 bytes more);
//! the relay tells it the number, and the peer the sender's. From then on a datagram has 8 bytes more, which are rewritten
//! where they lie. Data frames carry no MAC: they are believed by their source address, as with TURN's channels, and what
//! a forger can gain is what he could send to the peer directly: datagrams that WireGuard drops.
//!
//! Over UDP a frame is a datagram; in a WebSocket it is a binary message. See [`frame`] for the bytes.

pub mod client;
pub mod frame;
mod handshake;
mod sealed;
pub mod server;

#[cfg(test)]
mod tests;

use std::time::Duration;

/// What both ends mix in first.
pub const PROLOGUE: &[u8] = b"runmesh relay v1";

/// How often a client confirms that it is there: below the 30 s for which the shortest common NAT mappings live.
pub const CONFIRM_INTERVAL: Duration = Duration::from_secs(20);

/// A client that did not confirm for so long is forgotten.
pub const CLIENT_SILENCE_MAX: Duration = Duration::from_secs(90);

/// How long a Welcome waits for its Confirm.
pub const HANDSHAKE_LIFETIME: Duration = Duration::from_secs(10);
