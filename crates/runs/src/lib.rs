//! Dispatch without I/O: the run's state machine, leases and fences, the sidecar's journal rules, a thread as a fold.
//!
//! Pure: time and input come in; messages, writes and the next deadline come out. The store, the network and the
//! journal file are elsewhere (`control::store`, `net`, `node`).

pub mod append;
pub mod dispatch;
pub mod frames;
pub mod journal;
pub mod protocol;
pub mod thread;
