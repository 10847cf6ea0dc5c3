//! `runmesh overview`: how many nodes there are.

use anyhow::Result;
use api::overview::OverviewQuery;
use clap::Args;

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

/// What `overview` takes.
#[derive(Args)]
pub(crate) struct OverviewArgs {
    /// Every node of the org (admins only)
    #[arg(long)]
    all: bool,
}

/// Counts the nodes that the caller can see.
pub(crate) async fn overview(args: &OverviewArgs, api: &Api) -> Result<()> {
    let query = OverviewQuery {
        all: args.all.then_some(true),
    };
    api.output.record(&api.client.overview(&query).await?, &FIELDS)
}
