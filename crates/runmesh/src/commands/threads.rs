//! `runmesh threads` and `runmesh thread`.

use anyhow::Result;
use api::events::{EventsQuery, Frame};
use api::page::EVENTS_LIMIT_MAX;
use api::threads::{ThreadQuery, ThreadsQuery};
use clap::Args;
use serde_json::json;

use super::follow::Follower;
use super::thread_text::ThreadText;
use super::{Api, read_id};
use crate::interrupts::Interrupts;
use crate::output::talk;
use crate::table::Column;

/// What `threads` takes.
#[derive(Args)]
pub(crate) struct ThreadsArgs {
    /// Those of everyone in the org (admins only)
    #[arg(long)]
    all: bool,
    /// Those that were put away
    #[arg(long)]
    archived: bool,
    /// Only threads of this agent: slug or id
    #[arg(long)]
    agent: Option<String>,
    /// How many rows, 1 to 100
    #[arg(long)]
    limit: Option<u32>,
    /// Where the page before ended
    #[arg(long)]
    cursor: Option<String>,
}

/// What `thread` takes.
#[derive(Args)]
pub(crate) struct ThreadArgs {
    /// The thread's id
    thread: String,
    /// Go on showing what happens until ctrl-C
    #[arg(long)]
    follow: bool,
    /// Only events with a higher number than this
    #[arg(long, default_value_t = 0)]
    after: u64,
}

const COLUMNS: [Column; 5] = [
    ("THREAD", "/id"),
    ("TITLE", "/title"),
    ("MODE", "/executionMode"),
    ("UPDATED", "/updatedAt"),
    ("ARCHIVED", "/archived"),
];

/// The most events that are read into one answer; a longer thread is read in parts, by --after.
const EVENTS_MAX: usize = 20_000;

/// Lists threads.
pub(crate) async fn list(args: ThreadsArgs, api: &Api) -> Result<()> {
    let query = ThreadsQuery {
        all: args.all.then_some(true),
        archived: args.archived.then_some(true),
        agent: args.agent,
        limit: args.limit,
        cursor: args.cursor,
    };
    api.output.page(&api.client.threads(&query).await?, &COLUMNS)
}

/// Shows a thread's events, and what follows them if asked.
pub(crate) async fn show(args: ThreadArgs, api: &Api) -> Result<()> {
    let id = read_id(&args.thread, "thread", "threads")?;
    if args.follow {
        let mut interrupts = Interrupts::listen()?;
        let mut follower = Follower::new(api, &args.thread, args.after);
        tokio::select! {
            end = follower.until(|_| false) => { end?; }
            () = interrupts.next() => {}
        }
        return Ok(());
    }
    let metadata = ThreadQuery {
        limit: Some(1),
        ..ThreadQuery::default()
    };
    let thread = api.client.thread(id, &metadata).await?.thread;
    let mut after = args.after;
    let mut events = Vec::new();
    while events.len() < EVENTS_MAX {
        let query = EventsQuery {
            after: Some(after),
            limit: Some(EVENTS_LIMIT_MAX),
            ..EventsQuery::default()
        };
        let page = api.client.events(id, &query).await?;
        let Some(last) = page.data.last() else {
            break;
        };
        after = last.sequence;
        let more = page.has_more;
        events.extend(page.data);
        if !more {
            break;
        }
    }
    if events.len() >= EVENTS_MAX {
        talk(&format!("there is more: pass --after {after}"));
    }
    let mut text = ThreadText::default();
    let document = json!({ "thread": thread, "events": events });
    let shown = events
        .into_iter()
        .map(|event| text.frame(&Frame::Event(Box::new(event))));
    api.output.text(&document, &shown.collect::<String>())
}
