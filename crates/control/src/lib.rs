//! The control plane: `http` → `app` → `store`, the control stream, the embedded platform node and the orchestrator.
//!
//! Handlers are thin, rules live in `app`, SQL lives in `store`, one file per noun in each. Wire bytes belong to `mesh`,
//! HTTP shapes to `api`.

mod app;
pub mod clock;
mod http;
mod hub;
mod keys;
mod limits;
mod live;
mod orchestrator;
mod platform;
mod secrets;
pub mod serve;
mod store;
mod stream;

pub use serve::{ServeConfig, ServeError, Server, serve};
