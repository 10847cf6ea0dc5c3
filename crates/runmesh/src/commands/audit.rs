//! `runmesh audit`: who did what, newest first.

use anyhow::Result;
use api::audit::AuditQuery;
use clap::Args;

use super::Api;
use crate::table::Column;

/// What `audit` takes.
#[derive(Args)]
pub(crate) struct AuditArgs {
    /// How many rows, 1 to 100
    #[arg(long)]
    limit: Option<u32>,
    /// Where the page before ended
    #[arg(long)]
    cursor: Option<String>,
}

const COLUMNS: [Column; 6] = [
    ("WHEN", "/createdAt"),
    ("WHO", "/actorType"),
    ("ACTION", "/action"),
    ("TARGET", "/targetType"),
    ("ID", "/targetId"),
    ("FROM", "/ip"),
];

/// Lists audit events.
pub(crate) async fn list(args: AuditArgs, api: &Api) -> Result<()> {
    let query = AuditQuery {
        limit: args.limit,
        cursor: args.cursor,
        ..AuditQuery::default()
    };
    api.output.page(&api.client.audit(&query).await?, &COLUMNS)
}
