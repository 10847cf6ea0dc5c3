//! `runmesh overview`: how many nodes there are.

use anyhow::Result;

use super::Api;
use crate::table::Column;

const FIELDS: [Column; 7] = [
    ("total", "/total"),
    ("online", "/online"),
    ("offline", "/offline"),
    ("revoked", "/revoked"),
    ("devices", "/byKind/device"),
    ("sandboxes", "/byKind/sandbox"),
    ("platform", "/byKind/platform"),
];

/// Counts the nodes that the caller can see.
pub(crate) async fn overview(api: &Api) -> Result<()> {
    api.output.record(&api.client.overview().await?, &FIELDS)
}
