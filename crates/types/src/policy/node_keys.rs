//! What a policy says of the keys of the org's nodes.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::PolicyError;
use crate::span::Span;

/// How long a key is taken after another one took its place, when the policy does not say: longer than a device that
/// crashed takes to come back, and no longer than somebody should profit who has stolen it.
pub const OVERLAP: Duration = Duration::from_secs(10 * 60);

/// The longest that a policy may say.
const OVERLAP_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// What a policy says of the keys of the org's nodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct NodeKeyRules {
    /// How long a key is taken after another one took its place; ten minutes when absent, a day at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlap: Option<Span>,
}

impl NodeKeyRules {
    /// Returns how long a key is taken after another one took its place.
    #[must_use]
    pub fn overlap(&self) -> Duration {
        self.overlap.map_or(OVERLAP, Span::duration)
    }

    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn check(&self) -> Result<(), PolicyError> {
        if self.overlap() > OVERLAP_MAX {
            return Err(PolicyError::new("nodeKeys.overlap", "must be at most 24h"));
        }
        Ok(())
    }
}
