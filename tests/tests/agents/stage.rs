//! An agent in its world, and a look at its processes.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use e2e::agents::Agent;
use e2e::processes::{Process, STEP_TIMEOUT, text};
use e2e::skipped::skipped;
use e2e::world::{AGENT, World, check_events};
use serde_json::Value;

/// How long an agent may take for one step: some need many seconds to start on a machine that has other work.
const STEP_TIME_MAX: Duration = Duration::from_secs(180);

/// A linked device whose only runner is a real agent, and the model that it talks to.
pub(crate) struct Stage {
    pub(crate) world: World,
    home: tempfile::TempDir,
    _model: Process,
}

impl Stage {
    /// Sets up the agent under a policy that allows or rejects tools; `None`, and said aloud, when it is not installed.
    pub(crate) fn set(name: &'static str, permissions: &str) -> Option<Self> {
        let agent = match Agent::find(name) {
            Ok(agent) => agent,
            Err(why) => {
                skipped(&why.to_string());
                return None;
            }
        };
        let model = Process::start(
            "the stand-in model",
            &mut Command::new(env!("CARGO_BIN_EXE_stand-in-model")),
        )
        .expect("the stand-in model starts");
        let base_url = model.line(STEP_TIMEOUT).expect("its address");
        // Not in the system's directory for temporary files: codex would not work there.
        let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a home");
        let set_up =
            |repository: &Path, _: &Path| agent.setup(repository, home.path(), &base_url, permissions);
        let world = World::start_with(set_up).expect("a world");
        Some(Self {
            world,
            home,
            _model: model,
        })
    }

    /// A file in the folder where the agent works.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.world.repository.path().join(name)
    }

    /// Gives the agent work, in a new thread or an earlier one, and waits for the end; returns the run.
    pub(crate) fn run(&self, prompt: &str, thread: Option<&str>) -> Run {
        let mut arguments = vec!["run", AGENT, prompt, "--detach"];
        arguments.extend(thread.into_iter().flat_map(|thread| ["--thread", thread]));
        self.run_by(&arguments)
    }

    /// Runs what a command line says, and waits for the end.
    pub(crate) fn run_by(&self, arguments: &[&str]) -> Run {
        let receipt = self.world.api.call(arguments).expect("dispatched");
        self.end_of(&receipt)
    }

    /// Waits until a run has ended, whatever the end, and checks that its thread is whole.
    pub(crate) fn end_of(&self, receipt: &Value) -> Run {
        let run_id = text(receipt, "runId");
        let run = self
            .world
            .wait_for_run_within(STEP_TIME_MAX, run_id, has_ended)
            .expect("the run ends");
        let events = self.world.events(text(&run, "threadId")).expect("events");
        check_events(&events, run_id).expect("a whole thread");
        let own = events.into_iter().filter(|event| text(event, "runId") == run_id);
        Run {
            events: own.collect(),
            run,
        }
    }

    /// Waits until the agent's tool has made a file; returns the processes of the run by then.
    pub(crate) fn wait_for_file(&self, name: &str, run_id: &str) -> Vec<Seen> {
        let file = self.file(name);
        wait_until(&format!("{name} is there"), || {
            let run = self.world.api.call(&["runs", run_id]).expect("the run");
            assert!(
                !has_ended(text(&run, "status")),
                "it ended before {name} was there: {run:#}"
            );
            file.exists()
        });
        let seen = processes_of(run_id);
        assert!(!seen.is_empty(), "no process carries the run's id");
        seen
    }

    /// Fails unless the run's processes, their groups and whatever sleeps for its tools are gone soon.
    pub(crate) fn nothing_is_left(&self, run_id: &str, seen: &[Seen]) {
        let is_left = || {
            let alive: Vec<Seen> = all_processes().collect();
            let left = alive.iter().filter(|process| {
                let same_group = seen.iter().any(|one| one.group == process.group);
                same_group || process.run_id.as_deref() == Some(run_id) || process.works_in(self.home.path())
            });
            left.count() > 0
        };
        wait_until("every process of the run is gone", || !is_left());
    }
}

/// A run that has ended.
pub(crate) struct Run {
    pub(crate) run: Value,
    /// Its own events.
    pub(crate) events: Vec<Value>,
}

impl Run {
    pub(crate) fn of(&self, event_type: &str) -> Vec<&Value> {
        let fitting = self
            .events
            .iter()
            .filter(|event| text(event, "type") == event_type);
        fitting.map(|event| &event["payload"]).collect()
    }

    pub(crate) fn end(&self) -> &Value {
        self.of("run_completed")[0]
    }

    pub(crate) fn status(&self) -> &str {
        text(&self.run, "status")
    }

    /// What it said last.
    pub(crate) fn answer(&self) -> String {
        let said = self.of("assistant_message");
        said.last()
            .map_or_else(String::new, |said| text(said, "text").to_owned())
    }
}

/// A process as the system shows it.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) id: u32,
    pub(crate) parent: u32,
    pub(crate) group: u32,
    run_id: Option<String>,
    folder: Option<PathBuf>,
}

impl Seen {
    fn works_in(&self, dir: &Path) -> bool {
        self.folder.as_ref().is_some_and(|folder| folder.starts_with(dir))
    }
}

/// The processes that carry a run's id in their environment.
pub(crate) fn processes_of(run_id: &str) -> Vec<Seen> {
    all_processes()
        .filter(|process| process.run_id.as_deref() == Some(run_id))
        .collect()
}

fn all_processes() -> impl Iterator<Item = Seen> {
    let entries = std::fs::read_dir("/proc").expect("Linux");
    entries.flatten().filter_map(|entry| {
        let id: u32 = entry.file_name().to_str()?.parse().ok()?;
        let path = entry.path();
        let stat = std::fs::read_to_string(path.join("stat")).ok()?;
        // The name stands in brackets and may hold anything, even brackets.
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
        let state = fields.next()?;
        let mut number = || fields.next()?.parse::<u32>().ok();
        let (parent, group) = (number()?, number()?);
        let environment = std::fs::read(path.join("environ")).unwrap_or_default();
        let mut variables = environment.split(|&b| b == 0);
        let run_id = variables.find_map(|variable| variable.strip_prefix(b"RUNMESH_RUN_ID="));
        (state != "Z").then(|| Seen {
            id,
            parent,
            group,
            run_id: run_id.map(|id| String::from_utf8_lossy(id).into_owned()),
            folder: std::fs::read_link(path.join("cwd")).ok(),
        })
    })
}

fn has_ended(status: &str) -> bool {
    ["completed", "failed", "cancelled"].contains(&status)
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + STEP_TIME_MAX;
    while !condition() {
        assert!(Instant::now() < deadline, "it never came to that: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
