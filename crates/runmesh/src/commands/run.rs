//! `runmesh run`: give an agent work and watch it to the end.
//!
//! The first ctrl-C cancels the run and waits for its end, the second leaves it alone. One that comes while the server
//! has not yet answered waits for the answer, for only that names the run.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Error, Result};
use api::events::Frame;
use api::runs::{Run, RunConfig, RunReceipt, StartRun};
use api::threads::ThreadQuery;
use clap::Args;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::follow::{End, Follower};
use super::{Api, read_id};
use crate::failure::hinted;
use crate::interrupts::Interrupts;
use crate::output::talk;
use crate::table::Column;

/// What `run` takes.
#[derive(Args)]
pub(crate) struct RunArgs {
    /// The agent's slug or id
    agent: String,
    /// What it is asked
    prompt: String,
    /// The thread to go on with; a new one when left out
    #[arg(long)]
    thread: Option<String>,
    /// Return as soon as the run is accepted, without watching it
    #[arg(long)]
    detach: bool,
    /// How many seconds it may wait for its device, at most 2592000; 0 refuses it while the device is away
    #[arg(long, value_name = "SECONDS")]
    queue_ttl: Option<u32>,
    /// The most tokens, 1 to 128000
    #[arg(long)]
    max_tokens: Option<u32>,
    /// The most turns of the agent, 1 to 100
    #[arg(long)]
    max_turns: Option<u32>,
    /// The same key within a day answers with the same run; made up when left out
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
}

const RECEIPT: [Column; 6] = [
    ("run", "/runId"),
    ("status", "/status"),
    ("thread", "/threadId"),
    ("device", "/targetDeviceId"),
    ("queue position", "/queuePosition"),
    ("queue expires", "/queueExpiresAt"),
];

/// After ctrl-C, how long the server may take to answer that it has started, cancelled or read the run.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Starts a run and, unless told otherwise, shows it to its end.
pub(crate) async fn run(args: RunArgs, api: &Api) -> Result<()> {
    let (request, after) = request(&args, api).await?;
    let mut interrupts = Interrupts::listen()?;
    let key = args.idempotency_key.unwrap_or_else(made_up_key);
    let (receipt, is_cancelled) = start(&request, &key, &mut interrupts, api).await?;
    if args.detach && !is_cancelled {
        return api.output.record(&receipt, &RECEIPT);
    }
    if api.output.is_json() {
        api.output.stream(&tagged("receipt", &receipt)?, "")?;
    }
    talk(&opening(&receipt));
    if watch(&receipt, (after, is_cancelled), &mut interrupts, api).await? == Watched::Left {
        return Err(left(&receipt));
    }
    let run = tokio::select! {
        run = api.client.run(receipt.run_id) => run?,
        () = interrupts.next() => return Err(left(&receipt)),
    };
    if api.output.is_json() {
        api.output.stream(&tagged("run", &run)?, "")?;
    }
    verdict(&run)
}

/// Makes the request, and tells after which event of its thread the run's own begin.
async fn request(args: &RunArgs, api: &Api) -> Result<(StartRun, u64)> {
    let mut request = StartRun {
        agent: Some(args.agent.clone()),
        prompt: Some(args.prompt.clone()),
        queue_ttl: args.queue_ttl,
        ..StartRun::default()
    };
    if args.max_tokens.is_some() || args.max_turns.is_some() {
        request.config = Some(RunConfig {
            max_tokens: args.max_tokens,
            max_turns: args.max_turns,
            temperature: None,
        });
    }
    let Some(thread) = &args.thread else {
        return Ok((request, 0));
    };
    let id = read_id(thread, "thread", "threads")?;
    request.thread_id = Some(id);
    let snapshot = api.client.thread(id, &ThreadQuery::default()).await?;
    Ok((request, snapshot.last_sequence))
}

#[derive(PartialEq, Eq)]
enum Watched {
    ToTheEnd,
    Left,
}

/// Asks for the run; `true` when ctrl-C was pressed meanwhile, so that it is to be cancelled.
async fn start(
    request: &StartRun,
    key: &str,
    interrupts: &mut Interrupts,
    api: &Api,
) -> Result<(RunReceipt, bool)> {
    let starting = api.client.start_run(request, Some(key));
    tokio::pin!(starting);
    tokio::select! {
        receipt = &mut starting => return Ok((receipt?, false)),
        () = interrupts.next() => {}
    }
    talk("the server has not answered yet; the run is cancelled when it does; press ctrl-C again to leave");
    let unknown = || {
        hinted(
            "left before the server answered: the run may have been started",
            format!("`runmesh runs` shows it; --idempotency-key {key} asks for the same run again"),
        )
    };
    tokio::select! {
        receipt = &mut starting => Ok((receipt?, true)),
        () = interrupts.next() => Err(unknown()),
        () = sleep(ANSWER_TIMEOUT) => Err(unknown()),
    }
}

/// Shows the run to its end; with `is_cancelled` it is cancelled first.
async fn watch(
    receipt: &RunReceipt,
    (after, is_cancelled): (u64, bool),
    interrupts: &mut Interrupts,
    api: &Api,
) -> Result<Watched> {
    let mut follower = Follower::new(api, &receipt.thread_id.to_string(), after);
    let run_id = receipt.run_id;
    let ours = |frame: &Frame| match frame {
        Frame::Event(event) => event.run_id == Some(run_id) && event.event_type.as_str() == "run_completed",
        _ => false,
    };
    let following = follower.until(ours);
    tokio::pin!(following);
    if !is_cancelled {
        tokio::select! {
            end = &mut following => return watched(end?),
            () = interrupts.next() => {}
        }
    }
    talk("cancelling the run; press ctrl-C again to leave without waiting for its end");
    let cancelling = async {
        match timeout(ANSWER_TIMEOUT, api.client.cancel_run(run_id)).await {
            Ok(cancelled) => cancelled.map_err(Error::from),
            Err(_) => Err(hinted("the server did not answer the cancel", LEFT_HINT)),
        }
    };
    tokio::select! {
        cancelled = cancelling => cancelled?,
        () = interrupts.next() => return Ok(Watched::Left),
    };
    tokio::select! {
        end = &mut following => watched(end?),
        () = interrupts.next() => Ok(Watched::Left),
    }
}

fn watched(end: End) -> Result<Watched> {
    match end {
        End::Seen => Ok(Watched::ToTheEnd),
        End::Deleted => Err(hinted(
            "the thread was deleted under the run",
            "start the run again",
        )),
    }
}

const LEFT_HINT: &str = "the run may go on: `runmesh runs` shows it, `runmesh cancel RUN` asks again";

/// The person left before the run was seen to end.
fn left(receipt: &RunReceipt) -> Error {
    hinted(
        format!("left before {} ended", receipt.run_id),
        format!(
            "see how it ends with `runmesh thread --follow {}`",
            receipt.thread_id
        ),
    )
}

fn opening(receipt: &RunReceipt) -> String {
    let waits = match receipt.queue_position {
        Some(position) if receipt.status.as_str() == "queued" => {
            format!("; the device is away, {position} runs stand before it")
        }
        _ => String::new(),
    };
    format!(
        "{} {} in {}{waits}",
        receipt.run_id, receipt.status, receipt.thread_id
    )
}

/// A run that did not complete makes the command fail.
fn verdict(run: &Run) -> Result<()> {
    let status = run.receipt.status;
    if status.as_str() == "completed" {
        return Ok(());
    }
    let why = run
        .message
        .as_deref()
        .or(run.reason.as_deref())
        .unwrap_or("no reason was given");
    Err(hinted(
        format!("the run {status}: {why}", status = past(status.as_str())),
        format!(
            "`runmesh thread {}` shows everything that happened",
            run.receipt.thread_id
        ),
    ))
}

fn past(status: &str) -> &str {
    match status {
        "cancelled" => "was cancelled",
        "lost" => "was lost",
        other => other,
    }
}

fn tagged<T: serde::Serialize>(kind: &str, value: &T) -> Result<Value> {
    let mut value = serde_json::to_value(value).context("write JSON")?;
    value["type"] = json!(kind);
    Ok(value)
}

/// Unique enough for one caller within a day: the process and the nanosecond.
fn made_up_key() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("cli-{}-{}", std::process::id(), since.as_nanos())
}
