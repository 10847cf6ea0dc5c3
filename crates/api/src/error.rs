//! The error codes of the contract, and which HTTP status each one has.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! error_codes {
    ($($(#[$doc:meta])* $variant:ident = $text:literal, $status:literal;)+) => {
        /// What went wrong, for programs.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum ErrorCode {
            $($(#[$doc])* $variant,)+
            /// A code that this build does not know; never sent.
            #[serde(other)]
            Unknown,
        }

        impl ErrorCode {
            /// Every code that is sent, in the order of the contract.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// Returns the HTTP status that goes with the code.
            #[must_use]
            pub fn status(self) -> u16 {
                match self { $(Self::$variant => $status,)+ Self::Unknown => 500 }
            }

            /// Returns the text that stands in the envelope.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ Self::Unknown => "unknown" }
            }
        }
    };
}

error_codes! {
    /// The request cannot be understood, or breaks a rule that the message names.
    BadRequest = "bad_request", 400;
    /// No credential was given.
    Unauthorized = "unauthorized", 401;
    /// The credential is unknown or revoked.
    InvalidToken = "invalid_token", 401;
    /// The credential was good once.
    TokenExpired = "token_expired", 401;
    /// Nothing left to pay with.
    InsufficientCredits = "insufficient_credits", 402;
    /// The credential is good, but not for this.
    Forbidden = "forbidden", 403;
    /// There is no such thing, or the caller may not know of it.
    NotFound = "not_found", 404;
    /// The path exists, the method does not.
    MethodNotAllowed = "method_not_allowed", 405;
    /// The request disagrees with what is.
    Conflict = "conflict", 409;
    /// The device is not connected and the request cannot wait.
    DeviceOffline = "device_offline", 409;
    /// The device was shut out for ever.
    DeviceRevoked = "device_revoked", 409;
    /// It was there, and its time is over.
    Gone = "gone", 410;
    /// The body is larger than the limit that the message names.
    PayloadTooLarge = "payload_too_large", 413;
    /// The body is not `application/json`.
    UnsupportedMediaType = "unsupported_media_type", 415;
    /// Too many requests; `Retry-After` says when to come back.
    RateLimited = "rate_limited", 429;
    /// Our fault.
    InternalError = "internal_error", 500;
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_a_code_is_its_json() {
        for code in ErrorCode::ALL {
            let json = serde_json::to_value(code).expect("a code serializes");
            assert_eq!(json, code.as_str());
        }
    }

    #[test]
    fn a_code_of_a_newer_server_is_read_as_unknown() {
        let code: ErrorCode = serde_json::from_str("\"brand_new\"").expect("any text is read");
        assert_eq!(code, ErrorCode::Unknown);
    }
}
