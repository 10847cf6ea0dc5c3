//! Executes one run: starts the program, carries bytes between it and its [`super::Runner`], keeps every limit, and makes sure
//! that at the end nothing of it is left. What a run may do was decided before; what happens to its events is the
//! [`Sink`]'s matter.

use std::time::Duration;

use serde_json::Value;
use tokio::sync::{oneshot, watch};
use types::{EventDraft, LiveType, RunId};

use super::Ending;
use super::asked::Asked;
use super::command;
use super::execution::Execution;
use super::process::Program;
use crate::policy::{Permit, RunnerType};

/// How far a run may go before it is ended, and how it is ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// From the start of the program until it works on the prompt.
    pub opening: Duration,
    /// From the start of the program until it is ended.
    pub run_time: Duration,
    /// What the program may write in all, in bytes.
    pub output_bytes: u64,
    /// Events of one run.
    pub events: u64,
    /// From the protocol's cancel to SIGTERM.
    pub cancel_grace: Duration,
    /// From SIGTERM to SIGKILL.
    pub term_grace: Duration,
    /// From the end of the work until the program must be gone by itself.
    pub exit_grace: Duration,
    /// How long events may wait for the journal once the node is being stopped.
    pub drain: Duration,
}

impl Limits {
    /// The usual limits, for a run of at most `run_time`.
    #[must_use]
    pub fn for_run(run_time: Duration) -> Self {
        Self {
            opening: Duration::from_secs(120),
            run_time,
            output_bytes: 64 * 1024 * 1024,
            events: 20_000,
            cancel_grace: Duration::from_secs(3),
            term_grace: Duration::from_secs(5),
            exit_grace: Duration::from_secs(2),
            drain: Duration::from_secs(5),
        }
    }
}

/// Why a run must stop before its program has ended it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stop {
    /// Somebody asked for it.
    Cancelled,
    /// The daemon is being stopped.
    Shutdown,
    /// The run was taken from this node, or the node from its org.
    TakenAway,
}

/// Why events could not be taken.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SinkError {
    /// They cannot be written now: the disk is full or broken. They come back, to be offered again.
    #[error("{reason}")]
    Unwritable {
        /// What the system says.
        reason: String,
        /// The events, in order.
        events: Vec<EventDraft>,
    },
    /// Nobody takes them any more.
    #[error("the run is no longer this node's")]
    Closed,
}

/// Where a run's events go.
pub trait Sink: Send + Sync {
    /// Takes at most [`types::event::APPEND_EVENTS_MAX`] events; they are safe when the receiver says so. While there is no room it
    /// says nothing, and the program is not read from: that is the backpressure.
    fn append(&self, events: Vec<EventDraft>) -> oneshot::Receiver<Result<(), SinkError>>;

    /// Shows a live frame if there is room; never waits.
    fn live(&self, live_type: LiveType, payload: Value);
}

/// One run, ready to be executed.
#[derive(Clone, Debug)]
pub struct Job {
    /// The run.
    pub run_id: RunId,
    /// What is asked.
    pub prompt: String,
    /// What the agent is told about itself.
    pub system_prompt: Option<String>,
    /// What else is asked for.
    pub asked: Asked,
    /// What was decided about it.
    pub permit: Permit,
    /// An earlier session of the same thread to go on with.
    pub resume: Option<String>,
    /// How far it may go.
    pub limits: Limits,
}

/// How a run ended.
#[derive(Clone, PartialEq, Debug)]
pub struct Outcome {
    /// What goes into `run_completed`.
    pub ending: Ending,
    /// The agent's session, if a later run of the thread may resume it.
    pub session: Option<String>,
}

/// Executes a run to its end. Every event was taken by the sink when this returns, unless the ending says otherwise;
/// and nothing of the program is left.
pub async fn execute(job: Job, stop: watch::Receiver<Option<Stop>>, sink: &dyn Sink) -> Outcome {
    let permit = &job.permit;
    let args = match permit.runner.runner_type {
        RunnerType::Acp => permit.runner.args.clone(),
        RunnerType::Command => command::arguments(&permit.runner.args, &job.prompt),
    };
    match Program::spawn(job.run_id, &permit.program, &args, &permit.folder, &permit.env) {
        Ok((program, pipes)) => Execution::new(job, program, pipes, sink).run(stop).await,
        Err(error) => Outcome {
            ending: Ending::failed(
                "spawn_failed",
                format!("{} cannot be started: {error}.", permit.program.display()),
            ),
            session: None,
        },
    }
}
