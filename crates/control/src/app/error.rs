//! What `app` answers instead of a result: a code of the contract and a sentence for people.

use std::time::Duration;

use api::ErrorCode;

use crate::store::StoreError;

/// A refusal. The message is for the caller: it names what to do, never how the server is built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub(crate) struct AppError {
    pub(crate) code: ErrorCode,
    pub(crate) message: String,
    pub(crate) limit: Option<RateLimit>,
}

/// How a limited route stands, for the `X-RateLimit-*` headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RateLimit {
    /// How many requests at once.
    pub(crate) limit: u32,
    /// How many are left now.
    pub(crate) remaining: u32,
    /// How long until one more is allowed (when none is left) or until all are.
    pub(crate) reset: Duration,
}

impl AppError {
    /// Makes a refusal.
    pub(crate) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            limit: None,
        }
    }

    /// 400: the request breaks a rule that the message names.
    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::BadRequest, message)
    }

    /// 404: `what` is not there, or not for the caller.
    pub(crate) fn not_found(what: &str) -> Self {
        Self::new(ErrorCode::NotFound, format!("there is no such {what}"))
    }

    /// 409: the request disagrees with what is.
    pub(crate) fn conflict(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Conflict, message)
    }

    /// 403: the credential is good, but not for this.
    pub(crate) fn forbidden(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Forbidden, message)
    }

    /// 429: too many requests.
    pub(crate) fn rate_limited(limit: RateLimit) -> Self {
        Self {
            code: ErrorCode::RateLimited,
            message: "too many requests; wait and try again".to_owned(),
            limit: Some(limit),
        }
    }

    /// 500: our fault. The particulars belong in the log.
    pub(crate) fn internal() -> Self {
        Self::new(
            ErrorCode::InternalError,
            "the server failed to do this; nothing was changed",
        )
    }
}

impl From<StoreError> for AppError {
    fn from(error: StoreError) -> Self {
        if matches!(error, StoreError::Nul) {
            return Self::bad_request("a text must not contain the NUL character");
        }
        tracing::error!(%error, "the store failed");
        match error {
            StoreError::Full => Self::new(
                ErrorCode::InternalError,
                "the server's storage is full; nothing was changed",
            ),
            StoreError::Busy => Self::new(
                ErrorCode::InternalError,
                "the server is too busy; nothing was changed, try again",
            ),
            _ => Self::internal(),
        }
    }
}
