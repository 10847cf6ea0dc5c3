//! The HTTP contract: requests, answers, errors, pagination, and a typed client.
//!
//! Only shapes live here, one file per noun, named as in `control`. It serves nothing (`control::http`), decides nothing
//! (`control::app`) and knows no web framework. Fields are camelCase, query parameters snake_case, unknown fields of a
//! request are ignored.

pub mod activity;
pub mod agents;
pub mod api_keys;
pub mod audit;
pub mod auth_keys;
pub mod client;
pub mod envelope;
pub mod error;
pub mod events;
pub mod forms;
pub mod invitations;
pub mod json;
pub mod links;
pub mod nodes;
pub mod orgs;
pub mod overview;
pub mod page;
pub mod policy;
pub mod relays;
pub mod runs;
pub mod schema;
pub mod scope;
pub mod sessions;
pub mod threads;

pub use envelope::{ErrorBody, ErrorEnvelope, Meta, Page, PageMeta, Success};
pub use error::ErrorCode;
pub use scope::{Role, Scope};

/// The largest JSON body of a request, in bytes.
pub const BODY_BYTES_MAX: usize = 1024 * 1024;

/// The largest body that starts a run, in bytes: the longest prompt with every character escaped, and what stands beside.
pub const RUN_BODY_BYTES_MAX: usize = 2 * 1024 * 1024;

/// The largest body of an event append, in bytes (contract §6).
pub const APPEND_BODY_BYTES_MAX: usize = types::event::APPEND_BYTES_MAX;

/// The header that names a request in answers and logs.
pub const REQUEST_ID_HEADER: &str = "x-request-id";

/// The header that carries an API key or a session token beside `Authorization: Bearer`.
pub const API_KEY_HEADER: &str = "x-api-key";

/// The header that makes a repeated POST the same POST.
pub const IDEMPOTENCY_KEY_HEADER: &str = "idempotency-key";
