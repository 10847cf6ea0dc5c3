//! One run of one program in a folder of its own, and the thread that comes of it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use node::policy::{Permissions, Permit, RunnerPolicy, RunnerType, find_program};
use node::runner::asked::Asked;
use node::runner::executor::{Job, Limits, Outcome, Sink, SinkError, Stop, execute};
use serde_json::Value;
use tokio::sync::{oneshot, watch};
use types::{EventDraft, EventType, LiveType, RunId, RunStatus};

/// Keeps everything, as the journal and a watcher would.
#[derive(Default)]
pub(crate) struct Thread {
    events: Mutex<Vec<EventDraft>>,
    live: Mutex<Vec<(LiveType, Value)>>,
}

impl Sink for Thread {
    fn append(&self, events: Vec<EventDraft>) -> oneshot::Receiver<Result<(), SinkError>> {
        self.events
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(events);
        let (reply, answer) = oneshot::channel();
        drop(reply.send(Ok(())));
        answer
    }

    fn live(&self, live_type: LiveType, payload: Value) {
        self.live
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push((live_type, payload));
    }
}

impl Thread {
    pub(crate) fn of(&self, event_type: EventType) -> Vec<Value> {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        let fitting = events.iter().filter(|event| event.event_type == event_type);
        fitting.map(|event| event.payload.clone()).collect()
    }

    pub(crate) fn live_text(&self, live_type: LiveType) -> String {
        let live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        let fitting = live.iter().filter(|(kind, _)| *kind == live_type);
        fitting
            .filter_map(|(_, payload)| payload["text"].as_str())
            .collect()
    }

    pub(crate) fn durable_bytes(&self) -> usize {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        events.iter().map(|event| event.payload.to_string().len()).sum()
    }
}

/// A run of one program in a fresh folder.
pub(crate) struct Bench {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) runner: RunnerPolicy,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) limits: Limits,
    run_id: RunId,
    stop: watch::Sender<Option<Stop>>,
    pub(crate) thread: Thread,
    pub(crate) resume: Option<String>,
}

impl Bench {
    pub(crate) fn new(runner: RunnerPolicy) -> Self {
        let path = std::env::var("PATH").unwrap_or_default();
        Self {
            folder: tempfile::tempdir().expect("temporary folder"),
            runner,
            env: BTreeMap::from([("PATH".to_owned(), path)]),
            limits: Limits {
                opening: Duration::from_secs(30),
                cancel_grace: Duration::from_millis(500),
                term_grace: Duration::from_millis(500),
                exit_grace: Duration::from_millis(500),
                ..Limits::for_run(Duration::from_secs(60))
            },
            run_id: RunId::from_random(net::random::bytes()),
            stop: watch::Sender::new(None),
            thread: Thread::default(),
            resume: None,
        }
    }

    /// A shell script as a runner; `$0` is `script`.
    pub(crate) fn script(runner_type: RunnerType, script: &str) -> Self {
        Self::new(RunnerPolicy {
            name: "script".to_owned(),
            runner_type,
            program: "sh".to_owned(),
            args: vec!["-c".to_owned(), script.to_owned()],
            env: BTreeMap::new(),
            env_pass: Vec::new(),
            permissions: Permissions::Allow,
        })
    }

    pub(crate) async fn run(&self, prompt: &str) -> Outcome {
        let program = find_program(&self.runner.program, self.env.get("PATH").map(String::as_str));
        let permit = Permit {
            runner: self.runner.clone(),
            program: program.unwrap_or_else(|| PathBuf::from(&self.runner.program)),
            folder: self.folder.path().canonicalize().expect("there"),
            env: self.env.clone(),
            run_time_max: self.limits.run_time,
        };
        let job = Job {
            run_id: self.run_id,
            asked: Asked::default(),
            prompt: prompt.to_owned(),
            system_prompt: None,
            permit,
            resume: self.resume.clone(),
            limits: self.limits,
        };
        let outcome = execute(job, self.stop.subscribe(), &self.thread).await;
        self.nothing_is_left();
        outcome
    }

    /// Runs, and stops once `ready` says that it is time.
    pub(crate) async fn run_and_stop(
        &self,
        prompt: &str,
        ready: impl Fn(&Thread) -> bool,
    ) -> (Outcome, Duration) {
        let stopper = async {
            while !ready(&self.thread) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            self.stop.send_replace(Some(Stop::Cancelled));
            Instant::now()
        };
        let (outcome, stopped) = tokio::join!(self.run(prompt), stopper);
        (outcome, stopped.elapsed())
    }

    fn nothing_is_left(&self) {
        let mark = format!("RUNMESH_RUN_ID={}", self.run_id);
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let left: Vec<PathBuf> = entries
            .map(|entry| entry.path())
            .filter(|path| {
                let environ = std::fs::read(path.join("environ")).unwrap_or_default();
                environ
                    .split(|&b| b == 0)
                    .any(|variable| variable == mark.as_bytes())
            })
            .collect();
        assert!(left.is_empty(), "still running: {left:?}");
    }
}

pub(crate) fn reason(outcome: &Outcome) -> (RunStatus, Option<&'static str>) {
    (outcome.ending.status, outcome.ending.reason)
}

pub(crate) const FAILED: RunStatus = RunStatus::Failed;
