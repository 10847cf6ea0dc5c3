//! The pure mesh core: WireGuard sessions, relays, STUN, names, the control stream's encryption, and the framing of streams.
//!
//! Nothing here performs I/O, reads a clock, draws randomness or starts a thread. Datagrams, packets, a [`types::Now`]
//! and seeds come in; datagrams, packets, events and the next deadline with its reason come out. Only this crate knows
//! bytes on the wire; every layout is documented where it is defined and pinned by a test. The same formats in prose:
//! `docs/protocol/`.

pub mod control_stream;
mod crypto;
pub mod dns;
mod endpoint;
pub mod filter;
pub mod frame;
pub mod ip;
pub mod load;
mod mesh;
pub mod paths;
pub mod port_mapping;
pub mod probe;
pub mod proxy;
pub mod relay;
pub mod stun;
pub mod tunnel;

pub use endpoint::{Endpoint, SocketNumber};
pub use mesh::{
    Datagrams, EXTRA_SOCKETS_MAX, GUESSES_AT_ONCE, Mesh, MeshEvent, MeshPeer, MeshTimer, Output, RelayConfig,
    RelayView, StreamFrames,
};
