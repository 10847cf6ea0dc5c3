//! How many nodes there are (contract §3).

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Counts over the nodes that the caller can see.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Overview {
    /// All of them, the revoked ones too.
    pub total: u64,
    /// Connected now.
    pub online: u64,
    /// Admitted, not connected.
    pub offline: u64,
    /// Shut out.
    pub revoked: u64,
    /// By kind, the revoked ones not counted.
    pub by_kind: KindCounts,
}

/// Counts by kind.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct KindCounts {
    /// Devices.
    pub device: u64,
    /// Sandboxes.
    pub sandbox: u64,
    /// The platform's own node.
    pub platform: u64,
}
