//! `runmesh sessions`: list signed-in browsers, and sign one out.

use anyhow::Result;
use api::sessions::SessionsQuery;
use clap::{Args, Subcommand};

use super::{Api, read_id};
use crate::table::Column;

/// What to do with sessions.
#[derive(Subcommand)]
pub(crate) enum SessionsCommand {
    /// List signed-in browsers
    List(ListArgs),
    /// Sign a browser out: its session stops working at once
    Delete(DeleteArgs),
}

/// What `sessions list` takes.
#[derive(Args)]
pub(crate) struct ListArgs {
    /// Those of everyone in the org (admins only)
    #[arg(long)]
    all: bool,
    /// How many rows, 1 to 100
    #[arg(long)]
    limit: Option<u32>,
    /// Where the page before ended
    #[arg(long)]
    cursor: Option<String>,
}

/// What `sessions delete` takes.
#[derive(Args)]
pub(crate) struct DeleteArgs {
    /// The session's id
    id: String,
}

const COLUMNS: [Column; 6] = [
    ("USER", "/userId"),
    ("METHOD", "/method"),
    ("FROM", "/ip"),
    ("OPENED", "/createdAt"),
    ("EXPIRES", "/expiresAt"),
    ("ID", "/id"),
];

const FIELDS: [Column; 6] = [
    ("id", "/id"),
    ("user", "/userId"),
    ("method", "/method"),
    ("from", "/ip"),
    ("opened", "/createdAt"),
    ("expires", "/expiresAt"),
];

/// Runs one of the commands on sessions.
pub(crate) async fn sessions(command: SessionsCommand, api: &Api) -> Result<()> {
    match command {
        SessionsCommand::List(args) => {
            let query = SessionsQuery {
                all: args.all.then_some(true),
                limit: args.limit,
                cursor: args.cursor,
            };
            api.output.page(&api.client.sessions(&query).await?, &COLUMNS)
        }
        SessionsCommand::Delete(args) => {
            let id = read_id(&args.id, "session", "sessions list")?;
            api.output.record(&api.client.end_session(id).await?, &FIELDS)
        }
    }
}
