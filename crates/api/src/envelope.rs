//! What every answer is wrapped in (contract §1).

use serde::{Deserialize, Serialize};
use types::RequestId;
use utoipa::ToSchema;

use crate::error::ErrorCode;
use crate::schema;

/// `{ "data": …, "meta": { "requestId" } }`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Success<T> {
    /// What was asked for.
    pub data: T,
    /// About the answer.
    pub meta: Meta,
}

/// About an answer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Meta {
    /// Names the request in the server's log.
    #[schema(value_type = schema::RequestId)]
    pub request_id: RequestId,
}

/// One page of a list. `hasMore` and `nextCursor` stand both here and in `meta`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Page<T> {
    /// The rows.
    pub data: Vec<T>,
    /// Whether another page follows.
    pub has_more: bool,
    /// What to pass as `cursor` for the next page; opaque.
    #[schema(value_type = Option<schema::Cursor>)]
    pub next_cursor: Option<String>,
    /// About the answer.
    pub meta: PageMeta,
}

/// About a page.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PageMeta {
    /// Names the request in the server's log.
    #[schema(value_type = schema::RequestId)]
    pub request_id: RequestId,
    /// Whether another page follows.
    pub has_more: bool,
    /// What to pass as `cursor` for the next page; opaque.
    #[schema(value_type = Option<schema::Cursor>)]
    pub next_cursor: Option<String>,
}

impl<T> Page<T> {
    /// Wraps one page.
    #[must_use]
    pub fn new(data: Vec<T>, next_cursor: Option<String>, request_id: RequestId) -> Self {
        let has_more = next_cursor.is_some();
        Self {
            data,
            has_more,
            next_cursor: next_cursor.clone(),
            meta: PageMeta {
                request_id,
                has_more,
                next_cursor,
            },
        }
    }
}

/// `{ "error": { "code", "message", "requestId" } }`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct ErrorEnvelope {
    /// What went wrong.
    pub error: ErrorBody,
}

/// What went wrong.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ErrorBody {
    /// For programs: one of the codes of the contract.
    #[schema(value_type = schema::ErrorCode)]
    pub code: ErrorCode,
    /// For people.
    pub message: String,
    /// Names the request in the server's log.
    #[schema(value_type = schema::RequestId)]
    pub request_id: RequestId,
}
