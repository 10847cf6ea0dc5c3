//! How lists are cut into pages.

use serde::{Deserialize, Serialize};
use utoipa::IntoParams;

/// How many rows a page has when the caller does not say.
pub const LIMIT_DEFAULT: u32 = 50;

/// The most rows of a page.
pub const LIMIT_MAX: u32 = 100;

/// The most events of a page.
pub const EVENTS_LIMIT_MAX: u32 = 500;

/// The longest cursor that is looked at.
pub const CURSOR_LEN_MAX: usize = 512;

/// Which page is asked for.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PageQuery {
    /// How many rows: 1 to 100, default 50; more is cut to the cap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(minimum = 1)]
    pub limit: Option<u32>,
    /// The `nextCursor` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}
