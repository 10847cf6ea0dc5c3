//! How many nodes there are (contract §3).

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// Counts over the nodes that a list of them has.
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

/// Over which nodes to count.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct OverviewQuery {
    /// Every node of the org (admins only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub all: Option<bool>,
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
