//! What the control plane does: authorisation, rules, and one write per change. One file per noun.
//!
//! It knows neither HTTP (`http`) nor SQL (`store`). Every change writes its audit row, and its activity row where people
//! care, in its own transaction; what must be told to nodes is told after the commit.

pub(crate) mod access;
pub(crate) mod activity;
pub(crate) mod api_keys;
pub(crate) mod audit;
mod error;
pub(crate) mod orgs;
pub(crate) mod page;
pub(crate) mod users;

use types::DisplayText;
use url::Url;

pub(crate) use access::{Access, Actor, Caller};
pub(crate) use error::{AppError, RateLimit};
pub(crate) use page::{Page, Window};

use crate::clock::Clock;
use crate::store::Store;

/// Everything a request needs, shared by all of them.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) store: Store,
    pub(crate) clock: Clock,
    pub(crate) config: AppConfig,
}

/// What does not change while the process runs.
#[derive(Clone, Debug)]
pub(crate) struct AppConfig {
    /// Where people and devices reach this server.
    pub(crate) public_url: Url,
}

/// Parses text that people or peers chose; the message names the field.
pub(crate) fn display_text(field: &str, text: &str) -> Result<DisplayText, AppError> {
    text.parse()
        .map_err(|error| AppError::bad_request(format!("{field} {error}")))
}
