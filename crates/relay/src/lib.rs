//! The room that is kept for the relay: sockets and TLS around the relay protocol of `mesh`.
//!
//! Nothing is in it yet. Nodes reach each other directly, at the endpoints that the netmap names.
