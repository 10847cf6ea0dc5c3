//! `runmesh runs` and `runmesh cancel`.

use anyhow::Result;
use api::runs::RunsQuery;
use clap::Args;

use super::nodes::word;
use super::{Api, read_id};
use crate::table::Column;

/// What `runs` takes.
#[derive(Args)]
pub(crate) struct RunsArgs {
    /// Show this run instead of listing
    run: Option<String>,
    /// Only runs of this agent: slug or id
    #[arg(long)]
    agent: Option<String>,
    /// Only runs in this status
    #[arg(long, value_parser = ["registered", "queued", "dispatched", "running", "completed", "failed", "cancelled", "expired", "lost"])]
    status: Option<String>,
    /// Only runs of this thread
    #[arg(long)]
    thread: Option<String>,
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

/// What `cancel` takes.
#[derive(Args)]
pub(crate) struct CancelArgs {
    /// The run's id
    run: String,
}

const COLUMNS: [Column; 6] = [
    ("RUN", "/runId"),
    ("AGENT", "/agentSlug"),
    ("STATUS", "/status"),
    ("REASON", "/reason"),
    ("CREATED", "/createdAt"),
    ("THREAD", "/threadId"),
];

/// The lines of one run.
const FIELDS: [Column; 18] = [
    ("run", "/runId"),
    ("status", "/status"),
    ("reason", "/reason"),
    ("message", "/message"),
    ("agent", "/agentSlug"),
    ("thread", "/threadId"),
    ("rollout", "/rolloutId"),
    ("mode", "/executionMode"),
    ("device", "/targetDeviceId"),
    ("origin", "/origin"),
    ("attempt", "/attempt"),
    ("queue position", "/queuePosition"),
    ("queue expires", "/queueExpiresAt"),
    ("created", "/createdAt"),
    ("accepted", "/acceptedAt"),
    ("started", "/startedAt"),
    ("completed", "/completedAt"),
    ("usage", "/usage"),
];

/// Lists runs, or shows one.
pub(crate) async fn runs(args: RunsArgs, api: &Api) -> Result<()> {
    if let Some(run) = &args.run {
        let id = read_id(run, "run", "runs")?;
        return api.output.record(&api.client.run(id).await?, &FIELDS);
    }
    let thread = args.thread.map(|text| read_id(&text, "thread", "threads"));
    let query = RunsQuery {
        agent: args.agent,
        status: args.status.map(word).transpose()?,
        thread_id: thread.transpose()?,
        all: args.all.then_some(true),
        limit: args.limit,
        cursor: args.cursor,
    };
    api.output.page(&api.client.runs(&query).await?, &COLUMNS)
}

/// Asks to stop a run.
pub(crate) async fn cancel(args: &CancelArgs, api: &Api) -> Result<()> {
    let id = read_id(&args.run, "run", "runs")?;
    api.output.record(&api.client.cancel_run(id).await?, &FIELDS)
}
