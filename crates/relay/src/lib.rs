//! A relay as a running thing: sockets, TLS, WebSockets and metrics around the relay protocol of `mesh`.
//!
//! What a frame means is not decided here: [`mesh::relay`] does. One thread of the operating system owns the UDP socket and
//! every client ([`Relay`]); WebSockets come in by an axum [`Router`](axum::Router) that another server may merge
//! ([`websocket`]), or that this crate serves itself, in the clear or over TLS ([`door`]).

pub mod door;
mod engine;
mod handle;
pub mod metrics;
mod outbox;
mod places;
pub mod standalone;
pub mod stream;
pub mod tls;
pub mod websocket;

pub use handle::{ExpelError, Relay, RelayOptions, RelayStatus, ShellCounters, StartError, Stopped};
pub use mesh::relay::server::Quota;
pub use stream::{OpenError, Stream};
