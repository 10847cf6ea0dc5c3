//! The control plane: `http` → `app` → `store`, the control stream, the embedded platform node and the orchestrator.
//!
//! Handlers are thin, rules live in `app`, SQL lives in `store`, one file per noun in each. Wire bytes belong to `mesh`,
//! HTTP shapes to `api`.

mod app;
mod bare;
pub mod clock;
mod cut_offs;
mod door;
mod given;
mod http;
mod hub;
mod keys;
mod limits;
mod live;
mod orchestrator;
mod platform;
pub mod provider;
pub mod relays;
mod secrets;
pub mod serve;
mod store;
mod stream;
mod unread;

pub use relays::{RelayBeside, RelayKeys, RelayStart};
pub use serve::{ServeConfig, ServeError, Server, Tuning, serve, serve_with};
pub use types::RelayRecord;

/// Writes the OpenAPI 3.1 document of every route: the committed `openapi/runmesh.json` is exactly this.
#[must_use]
pub fn openapi() -> String {
    http::document_text()
}

/// Lists every route as method, path and what it demands of its caller: `open`, `signed in`, a scope, or a scope and
/// ` (admin)`. The authorisation test covers each of them.
#[must_use]
pub fn route_table() -> Vec<(String, String, String)> {
    let routes = http::routes();
    let rows = routes.table().iter();
    rows.map(|((path, method), access)| (method.clone(), path.clone(), access.to_string()))
        .collect()
}

/// Makes an empty PostgreSQL database for one test in the server at `url`, and returns its address.
#[doc(hidden)]
pub async fn scratch_database(url: &str) -> Result<String, ServeError> {
    let made = store::scratch::database(url).await;
    made.map_err(|error| ServeError::Database(error.to_string()))
}
