//! Runners against real programs: goose with a stand-in model, and small shell scripts that misbehave in every way that
//! a program can. What is checked is the thread that comes of it, and that nothing of the program is left.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use e2e::stand_in_model::StandInModel;
use node::policy::{Permissions, Permit, RunnerPolicy, RunnerType, builtin, find_program};
use node::runner::asked::Asked;
use node::runner::executor::{Job, Limits, Outcome, Sink, SinkError, Stop, execute};
use serde_json::{Value, json};
use tokio::sync::{oneshot, watch};
use types::{EventDraft, EventType, LiveType, RunId, RunStatus};

/// Keeps everything, as the journal and a watcher would.
#[derive(Default)]
struct Thread {
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
    fn of(&self, event_type: EventType) -> Vec<Value> {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        let fitting = events.iter().filter(|event| event.event_type == event_type);
        fitting.map(|event| event.payload.clone()).collect()
    }

    fn live_text(&self, live_type: LiveType) -> String {
        let live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        let fitting = live.iter().filter(|(kind, _)| *kind == live_type);
        fitting
            .filter_map(|(_, payload)| payload["text"].as_str())
            .collect()
    }

    fn durable_bytes(&self) -> usize {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        events.iter().map(|event| event.payload.to_string().len()).sum()
    }
}

/// A run of one program in a fresh folder.
struct Bench {
    folder: tempfile::TempDir,
    runner: RunnerPolicy,
    env: BTreeMap<String, String>,
    limits: Limits,
    run_id: RunId,
    stop: watch::Sender<Option<Stop>>,
    thread: Thread,
    resume: Option<String>,
    asked: Asked,
}

impl Bench {
    fn new(runner: RunnerPolicy) -> Self {
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
            asked: Asked::default(),
        }
    }

    /// A shell script as a runner; `$0` is `script`.
    fn script(runner_type: RunnerType, script: &str) -> Self {
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

    async fn run(&self, prompt: &str) -> Outcome {
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
            asked: self.asked.clone(),
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
    async fn run_and_stop(&self, prompt: &str, ready: impl Fn(&Thread) -> bool) -> (Outcome, Duration) {
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

fn reason(outcome: &Outcome) -> (RunStatus, Option<&'static str>) {
    (outcome.ending.status, outcome.ending.reason)
}

const FAILED: RunStatus = RunStatus::Failed;

#[tokio::test]
async fn a_program_that_does_not_exist_fails_with_its_name() {
    let mut bench = Bench::script(RunnerType::Command, "");
    bench.runner.program = "/no/such/agent".to_owned();
    let outcome = bench.run("hello").await;
    assert_eq!(reason(&outcome), (FAILED, Some("spawn_failed")));
    let message = outcome.ending.message.expect("a message");
    assert!(message.contains("/no/such/agent"), "{message}");
}

#[tokio::test]
async fn an_agent_that_exits_at_once_fails_with_what_it_said_on_stderr() {
    let bench = Bench::script(RunnerType::Acp, "echo 'no licence found' >&2; exit 3");
    let outcome = bench.run("hello").await;
    assert_eq!(reason(&outcome), (FAILED, Some("agent_exited")));
    assert_eq!(outcome.ending.details["stderr"], "no licence found\n");
    let message = outcome.ending.message.expect("a message");
    assert!(message.contains("exit code 3"), "{message}");
}

#[tokio::test]
async fn an_agent_that_prints_garbage_fails() {
    let script = "i=0; while [ $i -lt 1000 ]; do echo \"Welcome $i\"; i=$((i+1)); done; sleep 60";
    let bench = Bench::script(RunnerType::Acp, script);
    let started = Instant::now();
    let outcome = bench.run("hello").await;
    assert_eq!(reason(&outcome), (FAILED, Some("protocol_error")));
    assert!(started.elapsed() < Duration::from_secs(20));
}

#[tokio::test]
async fn an_agent_that_floods_without_line_breaks_is_cut_off() {
    let bench = Bench::script(RunnerType::Acp, "exec cat /dev/zero");
    let outcome = bench.run("hello").await;
    assert_eq!(reason(&outcome), (FAILED, Some("output_limit")));
}

#[tokio::test]
async fn a_command_that_floods_is_cut_off_and_its_thread_stays_small() {
    let mut bench = Bench::script(RunnerType::Command, "exec yes 'all work and no play'");
    bench.limits.output_bytes = 8 * 1024 * 1024;
    let outcome = bench.run("hello").await;
    assert_eq!(reason(&outcome), (FAILED, Some("output_limit")));
    let results = bench.thread.of(EventType::ToolResult);
    assert_eq!((results.len(), &results[0]["truncated"]), (1, &json!(true)));
    assert!(
        bench.thread.durable_bytes() < 200 * 1024,
        "{}",
        bench.thread.durable_bytes()
    );
}

#[tokio::test]
async fn an_agent_that_never_answers_fails_in_time() {
    let mut bench = Bench::script(RunnerType::Acp, "exec sleep 600");
    bench.limits.opening = Duration::from_millis(300);
    let outcome = bench.run("hello").await;
    assert_eq!(reason(&outcome), (FAILED, Some("no_answer")));
}

#[tokio::test]
async fn a_command_that_takes_too_long_is_ended() {
    let mut bench = Bench::script(RunnerType::Command, "echo begun; exec sleep 600");
    bench.limits.run_time = Duration::from_millis(400);
    let outcome = bench.run("hello").await;
    assert_eq!(reason(&outcome), (FAILED, Some("time_limit")));
    assert_eq!(bench.thread.of(EventType::ToolResult)[0]["content"], "begun\n");
}

#[tokio::test]
async fn a_cancelled_command_gets_sigterm_and_may_tidy_up() {
    let script = "trap 'echo tidied; exit 0' TERM; echo ready; while :; do sleep 0.05; done";
    let bench = Bench::script(RunnerType::Command, script);
    let ready = |thread: &Thread| thread.live_text(LiveType::ToolOutputDelta).contains("ready");
    let (outcome, took) = bench.run_and_stop("hello", ready).await;
    assert_eq!(reason(&outcome), (RunStatus::Cancelled, Some("cancelled")));
    let content = bench.thread.of(EventType::ToolResult)[0]["content"].to_string();
    assert!(
        content.contains("ready") && content.contains("tidied"),
        "{content}"
    );
    assert!(
        took < Duration::from_millis(450),
        "waited for {took:?} although it went by itself"
    );
}

#[tokio::test]
async fn a_command_that_ignores_sigterm_gets_sigkill() {
    let script = "trap '' TERM; echo ready; while :; do sleep 0.05; done";
    let bench = Bench::script(RunnerType::Command, script);
    let ready = |thread: &Thread| thread.live_text(LiveType::ToolOutputDelta).contains("ready");
    let (outcome, took) = bench.run_and_stop("hello", ready).await;
    assert_eq!(reason(&outcome), (RunStatus::Cancelled, Some("cancelled")));
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[tokio::test]
async fn children_that_survive_or_leave_the_group_are_ended_with_the_run() {
    let script = "sleep 600 & setsid sleep 600 & (trap '' TERM HUP; setsid sh -c 'sleep 600' &) ; echo done";
    let bench = Bench::script(RunnerType::Command, script);
    let started = Instant::now();
    let outcome = bench.run("hello").await;
    assert_eq!(
        outcome.ending.status,
        RunStatus::Completed,
        "{:?}",
        outcome.ending
    );
    assert_eq!(outcome.ending.details["result"], "done");
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn the_prompt_and_the_environment_arrive_as_the_policy_says() {
    let mut bench = Bench::script(RunnerType::Command, "cat; echo; pwd; echo \"[$SECRET][$GIVEN]\"");
    bench.env.insert("GIVEN".to_owned(), "yes".to_owned());
    let outcome = bench.run("what $HOME; `x`").await;
    let folder = bench.folder.path().canonicalize().expect("there");
    let expected = format!("what $HOME; `x`\n{}\n[][yes]", folder.display());
    assert_eq!(outcome.ending.details["result"], expected);
    let mut bench = Bench::script(RunnerType::Command, "printf '%s|' \"$@\"");
    bench
        .runner
        .args
        .extend(["name".to_owned(), "-p={prompt}".to_owned()]);
    let outcome = bench.run("a b; rm -rf x").await;
    assert_eq!(outcome.ending.details["result"], "-p=a b; rm -rf x|");
}

#[tokio::test]
async fn a_large_prompt_that_nobody_reads_does_not_block() {
    let bench = Bench::script(RunnerType::Command, "echo no thanks");
    let outcome = bench.run(&"x".repeat(1024 * 1024)).await;
    assert_eq!(outcome.ending.status, RunStatus::Completed);
}

/// Goose as the policy's built-in runner, or `None` said aloud.
async fn goose() -> Option<(Bench, StandInModel)> {
    let Some(goose) = find_goose() else {
        assert!(
            std::env::var_os("RUNMESH_REQUIRE_LAB").is_none(),
            "goose is required here and missing"
        );
        println!("SKIPPED: goose is not installed (cargo xtask test installs it; RUNMESH_GOOSE names it)");
        return None;
    };
    let model = StandInModel::start(([127, 0, 0, 1], 0).into())
        .await
        .expect("the stand-in model");
    let mut runner = builtin::find("goose")
        .expect("built in")
        .runner(Permissions::Allow);
    runner.program = goose.display().to_string();
    let mut bench = Bench::new(runner);
    bench.limits.exit_grace = Duration::from_secs(2);
    bench.env.extend(model.goose_environment());
    let home = bench.folder.path().join("home");
    std::fs::create_dir(&home).expect("made");
    bench.env.insert("HOME".to_owned(), home.display().to_string());
    Some((bench, model))
}

fn find_goose() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("RUNMESH_GOOSE") {
        return Some(PathBuf::from(path)).filter(|path| path.exists());
    }
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/agents");
    ["goose/node_modules/.bin/goose", "node_modules/.bin/goose"]
        .map(|path| target.join(path))
        .into_iter()
        .find(|path| path.exists())
}

#[tokio::test]
async fn goose_runs_a_tool_and_answers_with_its_result() {
    let Some((bench, _model)) = goose().await else {
        return;
    };
    let outcome = bench
        .run("shell: echo from-the-tool > proof.txt; cat proof.txt")
        .await;
    assert_eq!(
        outcome.ending.status,
        RunStatus::Completed,
        "{:?}",
        outcome.ending
    );
    let proof = std::fs::read_to_string(bench.folder.path().join("proof.txt")).expect("the tool ran");
    assert_eq!(proof, "from-the-tool\n");
    let calls = bench.thread.of(EventType::ToolCall);
    assert_eq!(
        (calls.len(), &calls[0]["permission"]),
        (1, &json!("allowed")),
        "{calls:?}"
    );
    let results = bench.thread.of(EventType::ToolResult);
    assert_eq!(
        (results.len(), &results[0]["status"]),
        (1, &json!("completed")),
        "{results:?}"
    );
    assert!(results[0].to_string().contains("from-the-tool"), "{results:?}");
    let answer = outcome.ending.details["result"].as_str().expect("an answer");
    assert!(answer.contains("from-the-tool"), "{answer}");
    let said = bench.thread.of(EventType::AssistantMessage);
    assert_eq!(said.last().expect("said")["text"], answer);
    let shown = bench.thread.live_text(LiveType::AssistantMessageDelta);
    assert!(
        shown.contains(answer),
        "what was shown live is what was stored: {shown}"
    );
}

#[tokio::test]
async fn goose_is_told_no_when_the_policy_rejects_tools() {
    let Some((mut bench, _model)) = goose().await else {
        return;
    };
    bench.runner.permissions = Permissions::Reject;
    let outcome = bench.run("shell: echo x > proof.txt").await;
    assert!(
        !bench.folder.path().join("proof.txt").exists(),
        "{:?}",
        outcome.ending
    );
    assert_eq!(bench.thread.of(EventType::ToolCall)[0]["permission"], "rejected");
}

#[tokio::test]
async fn goose_is_cancelled_in_the_middle_of_a_tool() {
    let Some((bench, _model)) = goose().await else {
        return;
    };
    let begun = bench.folder.path().join("begun");
    let prompt = "shell: touch begun; sleep 600";
    let (outcome, took) = bench.run_and_stop(prompt, |_| begun.exists()).await;
    assert_eq!(
        outcome.ending.status,
        RunStatus::Cancelled,
        "{:?}",
        outcome.ending
    );
    assert_eq!(
        bench.thread.of(EventType::ToolResult).len(),
        1,
        "the open call is closed"
    );
    assert!(took < Duration::from_secs(10), "{took:?}");
}

#[tokio::test]
async fn goose_that_is_killed_leaves_a_thread_with_an_end() {
    let Some((bench, _model)) = goose().await else {
        return;
    };
    let prompt = "shell: kill -9 $(ps -o ppid= -p $$)";
    let outcome = bench.run(prompt).await;
    assert_ne!(outcome.ending.status, RunStatus::Cancelled);
    assert_eq!(
        bench.thread.of(EventType::ToolCall).len(),
        bench.thread.of(EventType::ToolResult).len()
    );
}

#[tokio::test]
async fn goose_goes_on_with_the_session_of_an_earlier_run() {
    let Some((mut bench, _model)) = goose().await else {
        return;
    };
    let outcome = bench.run("say: first").await;
    assert_eq!(
        outcome.ending.status,
        RunStatus::Completed,
        "{:?}",
        outcome.ending
    );
    bench.resume = Some(outcome.session.expect("goose can resume"));
    bench.thread = Thread::default();
    let outcome = bench.run("say: second").await;
    assert_eq!(outcome.ending.details["result"], "second", "{:?}", outcome.ending);
    assert_eq!(outcome.session, bench.resume, "the same session");
    let said = bench.thread.of(EventType::AssistantMessage);
    assert_eq!(
        said,
        [json!({ "text": "second" })],
        "the replay is not told twice"
    );
}

#[tokio::test]
async fn goose_works_with_what_was_said_before_and_what_it_cannot_be_told_is_named() {
    let Some((mut bench, _model)) = goose().await else {
        return;
    };
    bench.asked = Asked {
        model: Some("no-such-model".to_owned()),
        temperature: Some(0.5),
        history: Some("Earlier: User: my name is Ada.".to_owned()),
        ..Asked::default()
    };
    let outcome = bench.run("say: hello").await;
    assert_eq!(
        outcome.ending.status,
        RunStatus::Completed,
        "{:?}",
        outcome.ending
    );
    assert_eq!(
        outcome.ending.details["notApplied"],
        json!(["temperature", "model"]),
        "{:?}",
        outcome.ending
    );
}
