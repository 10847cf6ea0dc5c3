//! How lists are cut into pages.

use serde::{Deserialize, Serialize};
use utoipa::IntoParams;

use crate::schema;

/// How many rows a page has when the caller does not say.
pub const LIMIT_DEFAULT: u32 = 50;

/// The most rows of a page.
pub const LIMIT_MAX: u32 = 100;

/// The most events of a page.
pub const EVENTS_LIMIT_MAX: u32 = 500;

/// The longest cursor that is looked at.
pub const CURSOR_LEN_MAX: usize = 84;

/// The form of a cursor: a number, and where rows share one, a dot and the id of the row.
pub const CURSOR_PATTERN: &str = r"^[0-9]{1,18}(\.[A-Za-z0-9_-]{1,64})?$";

/// Which page is asked for.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PageQuery {
    /// How many rows: 1 to 100, default 50; more is cut to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<schema::Whole>, inline)]
    pub limit: Option<u32>,
    /// The `nextCursor` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<schema::Cursor>, inline)]
    pub cursor: Option<String>,
}
