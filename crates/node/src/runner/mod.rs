//! Runners: how a program is spoken to while it executes a run.
//!
//! A [`Runner`] is a translator without I/O: what the program wrote goes in; what to write to it, events of the thread,
//! and finally an ending come out. One [`executor`] does the processes, pipes, limits and signals for all of them. Which
//! program may run at all was decided before, by [`crate::policy`].

pub mod acp;
mod acp_message;
mod acp_model;
mod acp_questions;
mod acp_rpc;
mod acp_tools;
pub mod asked;
pub mod bounded;
pub mod coalescer;
pub mod command;
mod event_queue;
mod execution;
pub mod executor;
pub mod process;

use std::time::Duration;

use serde_json::{Map, Value};
use types::{EventDraft, EventType, LiveType, RunStatus};

/// What a runner can do beside executing one prompt.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Capabilities {
    /// It can be asked to stop by its protocol, before any signal.
    pub cancel: bool,
    /// It asks before it uses a tool.
    pub permission: bool,
    /// It can go on with an earlier session; known only after it was started.
    pub resume: bool,
}

/// How far a runner is with its program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// The program was started and has not said that it works on the prompt: this phase has a time limit of its own.
    Opening,
    /// It works on the prompt.
    Working,
}

/// A translator between one program and the thread.
pub trait Runner: Send {
    /// Tells what it can do, as far as is known by now.
    fn capabilities(&self) -> Capabilities;

    /// How far it is.
    fn phase(&self) -> Phase;

    /// Goes on with an earlier session of the program, if it still knows it. To be called before `start`.
    fn resume(&mut self, session: &str);

    /// The program is up.
    fn start(&mut self, out: &mut Output);

    /// Hands over what is asked. To be called once, before or after `start`.
    fn prompt(&mut self, prompt: &str, out: &mut Output);

    /// Asks the program to stop; nothing happens when its protocol has no word for it.
    fn cancel(&mut self, out: &mut Output);

    /// Answers a request that came as [`Produced::Permission`].
    fn permission(&mut self, request: u64, allow: bool, out: &mut Output);

    /// How long the program must have written nothing before [`Runner::silence`] is called; `None` while that is of no use.
    fn wants_silence(&self) -> Option<Duration> {
        None
    }

    /// The program has written nothing for as long as was wanted.
    fn silence(&mut self, _out: &mut Output) {}

    /// The program wrote to its standard output; cut anywhere.
    fn stdout(&mut self, bytes: &[u8], out: &mut Output);

    /// The program wrote to its standard error; cut anywhere.
    fn stderr(&mut self, bytes: &[u8], out: &mut Output);

    /// The program is gone. Sets an ending unless there was one.
    fn exited(&mut self, exit: ProgramExit, out: &mut Output);

    /// What was under way is over, for whatever reason: everything held back becomes events.
    fn flush(&mut self, out: &mut Output);
}

/// How a program ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProgramExit {
    /// By itself, with this exit code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

impl std::fmt::Display for ProgramExit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// Something for the thread or for the executor.
#[derive(Clone, PartialEq, Debug)]
pub enum Produced {
    /// To be stored.
    Event(EventDraft),
    /// To be shown while it happens.
    Live(LiveType, Value),
    /// A piece of text to be shown; pieces of one item may be joined.
    Delta {
        /// What it is a piece of.
        live_type: LiveType,
        /// The tool call it belongs to, if any.
        tool_call_id: Option<String>,
        /// The piece.
        text: String,
    },
    /// The program asks whether it may use a tool; to be answered by [`Runner::permission`].
    Permission {
        /// What to answer it with.
        request: u64,
        /// What it wants to do, for people.
        title: String,
    },
}

/// What a runner gives back for one input.
#[derive(Default, Debug)]
pub struct Output {
    /// To be written to the program.
    pub stdin: Vec<u8>,
    /// The program's standard input is to be closed after that.
    pub close_stdin: bool,
    /// For the thread, in order.
    pub produced: Vec<Produced>,
    /// How the run ended, once it has.
    pub ending: Option<Ending>,
    /// The program's own name for the session, to resume it in a later run.
    pub session: Option<String>,
}

impl Output {
    fn event(&mut self, event_type: EventType, payload: Value) {
        self.produced.push(Produced::Event(EventDraft {
            event_type,
            payload,
            client_event_id: None,
        }));
    }

    fn delta(&mut self, live_type: LiveType, tool_call_id: Option<&str>, text: &str) {
        if !text.is_empty() {
            self.produced.push(Produced::Delta {
                live_type,
                tool_call_id: tool_call_id.map(str::to_owned),
                text: text.to_owned(),
            });
        }
    }

    fn end(&mut self, ending: Ending) {
        self.ending.get_or_insert(ending);
    }
}

/// How a run ended: what goes into `run_completed`.
#[derive(Clone, PartialEq, Debug)]
pub struct Ending {
    /// `completed`, `failed` or `cancelled`.
    pub status: RunStatus,
    /// A word for programs; absent when it completed.
    pub reason: Option<&'static str>,
    /// A sentence for people; absent when it completed.
    pub message: Option<String>,
    /// What else is known: `result`, `stopReason`, `exitCode`, `usage`…
    pub details: Map<String, Value>,
}

impl Ending {
    /// It did what was asked.
    #[must_use]
    pub fn completed() -> Self {
        Self {
            status: RunStatus::Completed,
            reason: None,
            message: None,
            details: Map::new(),
        }
    }

    /// It did not.
    #[must_use]
    pub fn failed(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            status: RunStatus::Failed,
            reason: Some(reason),
            message: Some(bounded::printable(&message.into(), bounded::MESSAGE_CHARS_MAX)),
            details: Map::new(),
        }
    }

    /// It was stopped on request.
    #[must_use]
    pub fn cancelled() -> Self {
        Self {
            status: RunStatus::Cancelled,
            reason: Some("cancelled"),
            message: Some("The run was cancelled.".to_owned()),
            details: Map::new(),
        }
    }

    /// Adds a detail.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.details.insert(key.to_owned(), value.into());
        self
    }

    /// The payload of `run_completed`.
    #[must_use]
    pub fn payload(&self) -> Value {
        let mut payload = self.details.clone();
        payload.insert("status".to_owned(), self.status.as_str().into());
        if let Some(reason) = self.reason {
            payload.insert("reason".to_owned(), reason.into());
        }
        if let Some(message) = &self.message {
            payload.insert("message".to_owned(), message.clone().into());
        }
        Value::Object(payload)
    }
}
