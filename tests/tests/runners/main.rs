//! Runners against programs that misbehave in every way that a program can: small shell scripts, and an agent with bad
//! habits. What is checked is the thread that comes of it, and that nothing of the program is left.

mod bench;
mod hostile;

use std::time::{Duration, Instant};

use node::policy::RunnerType;
use serde_json::json;
use types::{EventType, LiveType, RunStatus};

use crate::bench::{Bench, FAILED, Thread, reason};

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
