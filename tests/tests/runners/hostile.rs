//! An ACP agent with bad habits (`hostile-agent`, a program of its own): none of them may lose what was said, open the
//! device, or keep a run from its end.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

use node::policy::{Permissions, RunnerPolicy, RunnerType};
use node::runner::executor::Outcome;
use serde_json::{Value, json};
use types::{EventType, RunStatus};

use crate::bench::{Bench, FAILED, reason};

fn agent(habit: &str) -> Bench {
    Bench::new(RunnerPolicy {
        name: "hostile".to_owned(),
        runner_type: RunnerType::Acp,
        program: env!("CARGO_BIN_EXE_hostile-agent").to_owned(),
        args: vec![habit.to_owned()],
        env: BTreeMap::new(),
        env_pass: Vec::new(),
        permissions: Permissions::Allow,
    })
}

/// Everything that the agent said, joined.
fn said(bench: &Bench) -> String {
    let messages = bench.thread.of(EventType::AssistantMessage);
    messages
        .iter()
        .filter_map(|message| message["text"].as_str())
        .collect()
}

async fn completed(bench: &Bench, prompt: &str) -> Outcome {
    let outcome = bench.run(prompt).await;
    assert_eq!(
        outcome.ending.status,
        RunStatus::Completed,
        "{:?}",
        outcome.ending
    );
    outcome
}

#[tokio::test]
async fn an_agent_that_exits_with_zero_before_it_answers_has_failed() {
    let outcome = agent("exits-at-once").run("hello").await;
    assert_eq!(reason(&outcome), (FAILED, Some("agent_exited")));
    let message = outcome.ending.message.expect("a message");
    assert!(
        message.contains("before it began to work, with exit code 0"),
        "{message}"
    );
}

#[tokio::test]
async fn an_agent_that_exits_with_zero_in_its_work_has_failed_and_its_words_are_kept() {
    let bench = agent("dies");
    let outcome = bench.run("hello").await;
    assert_eq!(reason(&outcome), (FAILED, Some("agent_exited")));
    assert_eq!(said(&bench), "Half an ans");
}

#[tokio::test]
async fn an_agent_that_never_answers_initialize_fails_in_time() {
    let mut bench = agent("never-answers");
    bench.limits.opening = Duration::from_millis(300);
    let outcome = bench.run("hello").await;
    assert_eq!(reason(&outcome), (FAILED, Some("no_answer")));
}

#[tokio::test]
async fn an_agent_that_floods_its_stderr_is_cut_off() {
    let mut bench = agent("floods-stderr");
    bench.limits.output_bytes = 4 * 1024 * 1024;
    let outcome = bench.run("hello").await;
    assert_eq!(reason(&outcome), (FAILED, Some("output_limit")));
    let kept = json!(outcome.ending.details).to_string().len();
    assert!(kept < 64 * 1024, "{kept} bytes of it would be stored");
}

#[tokio::test]
async fn an_agent_of_another_version_or_that_cannot_read_fails_at_once() {
    for (habit, wanted) in [
        ("speaks-version-2", "protocol_error"),
        ("cannot-read", "agent_error"),
    ] {
        let outcome = agent(habit).run("hello").await;
        assert_eq!(reason(&outcome), (FAILED, Some(wanted)), "{:?}", outcome.ending);
    }
}

#[tokio::test]
async fn an_error_is_told_with_its_data_as_far_as_there_is_room() {
    let outcome = agent("refuses-with-data").run("hello").await;
    assert_eq!(reason(&outcome), (FAILED, Some("agent_error")));
    let message = outcome.ending.message.expect("a message");
    assert!(
        message.contains("refused to open a session: No [2J (") && message.len() < 9000,
        "{message}"
    );
}

#[tokio::test]
async fn unknown_updates_are_kept_and_unknown_requests_refused() {
    let bench = agent("unknown-words");
    let outcome = completed(&bench, "hello").await;
    let update = json!({"sessionUpdate": "hologram", "beam": [1, 2]});
    assert_eq!(outcome.ending.details["update:hologram"], update);
    assert_eq!(said(&bench), "answered \"r1\" -32601");
}

#[tokio::test]
async fn files_and_terminals_are_not_offered_and_asking_for_them_is_in_vain() {
    let bench = agent("wants-files");
    let outside = tempfile::tempdir().expect("a folder");
    let (secret, link) = (outside.path().join("secret"), bench.folder.path().join("link"));
    let inside = bench.folder.path().join("inside");
    fs::write(&secret, "secret").expect("written");
    fs::write(&inside, "mine").expect("written");
    symlink(outside.path(), &link).expect("linked");
    let paths = [&secret, &inside, &link.join("secret")].map(|path| path.display().to_string());
    completed(&bench, &paths.join(" ")).await;
    assert_eq!(
        serde_json::from_str::<Vec<i64>>(&said(&bench)).expect("codes"),
        [-32601; 7]
    );
    assert_eq!(fs::read_to_string(&secret).expect("there"), "secret");
    assert_eq!(fs::read_to_string(&inside).expect("there"), "mine");
    assert!(!bench.folder.path().join("terminal.txt").exists());
}

#[tokio::test]
async fn requests_are_answered_by_whatever_id_they_have() {
    let bench = agent("odd-ids");
    completed(&bench, "hello").await;
    let expected = "\"text\" \"y\"\n7 \"y\"\n-1 \"y\"\n0 \"y\"\nnull \"y\"\n";
    assert_eq!(said(&bench), expected);
    let calls = bench.thread.of(EventType::ToolCall);
    assert!(
        calls.len() == 5 && calls.iter().all(|call| call["permission"] == "allowed"),
        "{calls:?}"
    );
}

#[tokio::test]
async fn a_batch_is_taken_one_by_one() {
    let bench = agent("batches");
    completed(&bench, "hello").await;
    assert_eq!(said(&bench), "one two -32601");
}

#[tokio::test]
async fn lines_may_come_byte_by_byte() {
    let bench = agent("bytes");
    completed(&bench, "hello").await;
    assert_eq!(said(&bench), "slowly 😀\r\n");
}

#[tokio::test]
async fn bytes_that_are_no_text_cost_only_themselves() {
    let bench = agent("no-text");
    completed(&bench, "hello").await;
    assert_eq!(said(&bench), "a\u{fffd}\u{fffd}b \u{fffd} \0c");
}

#[tokio::test]
async fn a_huge_line_is_taken_up_to_a_limit() {
    let bench = agent("huge-lines");
    completed(&bench, "hello").await;
    let messages = bench.thread.of(EventType::AssistantMessage);
    assert!(
        messages.len() > 30 && said(&bench).len() == 3 << 20,
        "{}",
        messages.len()
    );
    let outcome = agent("too-huge-lines").run("hello").await;
    assert_eq!(reason(&outcome), (FAILED, Some("output_limit")));
}

#[tokio::test]
async fn calls_of_the_same_id_are_each_shown() {
    let bench = agent("same-ids");
    completed(&bench, "hello").await;
    let results = bench.thread.of(EventType::ToolResult);
    let shown: Vec<(&Value, &Value)> = results
        .iter()
        .map(|one| (&one["toolCallId"], &one["content"]))
        .collect();
    assert_eq!(
        shown,
        [(&json!("t"), &json!("first")), (&json!("t#2"), &json!("second"))]
    );
}

#[tokio::test]
async fn what_comes_after_the_answer_to_the_prompt_is_stored() {
    let bench = agent("answers-first");
    completed(&bench, "hello").await;
    assert_eq!(said(&bench), "Too late?");
    assert_eq!(bench.thread.of(EventType::ToolResult)[0]["content"], "late");
}

#[tokio::test]
async fn children_that_outlive_an_agent_do_not_outlive_its_run() {
    let bench = agent("leaves-children");
    let started = Instant::now();
    completed(&bench, "hello").await;
    assert!(bench.folder.path().join("children").exists(), "there were some");
    assert!(started.elapsed() < Duration::from_secs(20));
}

#[tokio::test]
async fn a_session_that_is_replayed_late_is_not_told_twice() {
    let mut bench = agent("replays-late");
    bench.resume = Some("s".to_owned());
    completed(&bench, "hello").await;
    assert_eq!(said(&bench), "a new answer");
}
