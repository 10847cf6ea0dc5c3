//! The main path with real processes: dispatch, follow, cancel, revoke, and restarts in the middle of it.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use e2e::processes::text;
use e2e::stand_in_model::INSPECT_COMMAND;
use e2e::world::{AGENT, DEVICE, SOON, World, check_events};
use node::LocalClient;
use node::local_api::StartRun;
use serde_json::Value;

/// A command that tells when it has begun and goes on until it is let go or stopped.
fn waiting_command(marker: &str) -> String {
    format!("echo begun; while [ ! -e {marker} ]; do sleep 0.1; done; git log --oneline -3")
}

fn types(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| text(event, "type")).collect()
}

#[test]
fn a_dispatched_run_leaves_a_whole_thread() {
    let world = World::start(INSPECT_COMMAND).expect("a world");
    let mut lines = Vec::new();
    let follow = world
        .api
        .lines(&["run", AGENT, "Inspect this local repo", "--json"]);
    for line in follow.expect("the run completes") {
        lines.push(serde_json::from_str::<Value>(&line).expect("every line is JSON"));
    }
    let (first, last) = (&lines[0], lines.last().expect("a last line"));
    assert_eq!((text(first, "type"), text(last, "type")), ("receipt", "run"));
    assert_eq!(text(last, "status"), "completed");
    let events = world.events(text(last, "threadId")).expect("events");
    check_events(&events, text(last, "runId")).expect("a whole thread");
    let types = types(&events);
    for wanted in [
        "user_message",
        "run_started",
        "tool_call",
        "tool_result",
        "assistant_message",
    ] {
        assert!(types.contains(&wanted), "{wanted} is missing: {types:?}");
    }
    let commit = world.repository.newest_commit().expect("a commit");
    let result = events
        .iter()
        .find(|e| text(e, "type") == "tool_result")
        .expect("a result");
    assert!(result["payload"].to_string().contains(&commit), "{result}");
    let live: Vec<_> = lines
        .iter()
        .filter(|l| l["sequence"].is_u64())
        .map(|l| l["sequence"].clone())
        .collect();
    assert_eq!(
        live,
        events.iter().map(|e| e["sequence"].clone()).collect::<Vec<_>>(),
        "the live view misses nothing"
    );
}

#[test]
fn a_run_that_the_device_starts_itself_is_registered() {
    let world = World::start(INSPECT_COMMAND).expect("a world");
    let request = StartRun {
        agent: AGENT.parse().expect("a slug"),
        prompt: "Inspect this local repo".to_owned(),
        thread_id: None,
        idempotency_key: Some("once".to_owned()),
    };
    let local = LocalClient::new(&world.state_dir());
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let started = runtime
        .block_on(local.start_run(&request))
        .expect("the device starts it");
    assert_eq!(started.status.as_str(), "registered");
    let again = runtime.block_on(local.start_run(&request)).expect("the same run");
    assert_eq!(again.run_id, started.run_id, "the same key is the same run");
    let run_id = started.run_id.to_string();
    let run = world
        .wait_for_run(&run_id, |status| status == "completed")
        .expect("completed");
    assert_eq!(text(&run, "origin"), "device");
    check_events(&world.events(text(&run, "threadId")).expect("events"), &run_id).expect("a whole thread");
}

#[test]
fn a_thread_goes_on_with_a_second_run() {
    let world = World::start("cat").expect("a world");
    let first = world.dispatch("one").expect("dispatched");
    let thread = text(&first, "threadId").to_owned();
    world
        .wait_for_run(text(&first, "runId"), |status| status == "completed")
        .expect("completed");
    let lines = world
        .api
        .lines(&["run", AGENT, "two", "--thread", &thread])
        .expect("completed");
    assert!(lines.iter().any(|line| line == "two"), "{lines:?}");
    assert!(
        !lines.iter().any(|line| line == "one"),
        "only what is new is shown: {lines:?}"
    );
    let whole = world
        .api
        .lines(&["thread", &thread])
        .expect("the thread")
        .join("\n");
    let (one, two) = (
        whole.find("> one").expect("the first"),
        whole.find("> two").expect("the second"),
    );
    assert!(one < two, "{whole}");
}

#[test]
fn a_runner_cannot_draw_on_the_watching_terminal() {
    let world = World::start("printf 'a\\033[2Jb\\233c'").expect("a world");
    let lines = world
        .api
        .lines(&["run", AGENT, "draw"])
        .expect("completed")
        .join("\n");
    assert!(
        lines.contains("[2Jb") && !lines.chars().any(|c| c.is_control() && c != '\n'),
        "{lines:?}"
    );
}

#[test]
fn a_cancelled_run_stops_its_program() {
    let world = World::start("echo begun; sleep 3217").expect("a world");
    let run = world.dispatch("wait").expect("dispatched");
    let run_id = text(&run, "runId");
    world
        .wait_for_run(run_id, |status| status == "running")
        .expect("running");
    wait_until(|| program_runs("sleep 3217"));
    world.api.call(&["cancel", run_id]).expect("cancel is taken");
    let run = world
        .wait_for_run(run_id, |status| status == "cancelled")
        .expect("cancelled");
    check_events(&world.events(text(&run, "threadId")).expect("events"), run_id).expect("a whole thread");
    wait_until(|| !program_runs("sleep 3217"));
    world
        .api
        .call(&["cancel", run_id])
        .expect("cancelling twice is no error");
}

#[test]
fn the_first_ctrl_c_cancels_the_run_and_waits_for_its_end() {
    let world = World::start("echo begun; sleep 3218").expect("a world");
    let mut run = world.api.command(&["run", AGENT, "wait"]);
    let child = run
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("runmesh starts");
    wait_until(|| program_runs("sleep 3218"));
    Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()
        .expect("kill runs");
    let output = child.wait_with_output().expect("it ends");
    let talk = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{talk}");
    assert!(
        talk.contains("error: the run was cancelled") && talk.contains("\nhint: "),
        "{talk}"
    );
    wait_until(|| !program_runs("sleep 3218"));
}

#[test]
fn a_run_that_fails_says_why_in_thread_and_exit_code() {
    let world = World::start("echo to stderr >&2; exit 3").expect("a world");
    let said = world
        .api
        .fails(&["run", AGENT, "fail"])
        .expect("the command fails");
    assert!(said.contains("code 3") && said.contains("\nhint: "), "{said}");
    let runs = world.api.call(&["runs", "--status", "failed"]).expect("runs");
    assert_eq!(text(&runs["data"][0], "reason"), "exit_code");
}

#[test]
fn runs_wait_for_a_device_that_is_away() {
    let mut world = World::start(INSPECT_COMMAND).expect("a world");
    world.device = None;
    let run = world.dispatch("later").expect("accepted");
    assert_eq!(text(&run, "status"), "queued");
    world
        .start_device()
        .expect("the device comes back without a new code");
    let run = world
        .wait_for_run(text(&run, "runId"), |status| status == "completed")
        .expect("completed");
    check_events(
        &world.events(text(&run, "threadId")).expect("events"),
        text(&run, "runId"),
    )
    .expect("whole");
}

#[test]
fn a_control_plane_restart_in_the_middle_loses_nothing() {
    let marker = std::env::temp_dir().join(format!("runmesh-e2e-control-{}", std::process::id()));
    let mut world = World::start(&waiting_command(&marker.to_string_lossy())).expect("a world");
    let run = world.dispatch("wait").expect("dispatched");
    let run_id = text(&run, "runId");
    world
        .wait_for_run(run_id, |status| status == "running")
        .expect("running");
    world.serve = None;
    std::fs::write(&marker, "").expect("let the command go on while nobody listens");
    world.start_control().expect("the same control plane again");
    let run = world
        .wait_for_run(run_id, |status| status == "completed")
        .expect("completed");
    let events = world.events(text(&run, "threadId")).expect("events");
    check_events(&events, run_id).expect("a whole thread");
    let result = events
        .iter()
        .find(|e| text(e, "type") == "tool_result")
        .expect("a result");
    assert!(
        result["payload"]
            .to_string()
            .contains("Note where the figures come from"),
        "{result}"
    );
    std::fs::remove_file(&marker).expect("clean up");
}

#[test]
fn a_device_restart_in_the_middle_ends_the_run_once_and_takes_the_next() {
    let marker = std::env::temp_dir().join(format!("runmesh-e2e-device-{}", std::process::id()));
    let mut world = World::start(&waiting_command(&marker.to_string_lossy())).expect("a world");
    let run = world.dispatch("wait").expect("dispatched");
    let run_id = text(&run, "runId");
    world
        .wait_for_run(run_id, |status| status == "running")
        .expect("running");
    world
        .device
        .take()
        .expect("a device")
        .process
        .kill()
        .expect("killed");
    world.start_device().expect("it comes back");
    let ended = |status: &str| !["queued", "dispatched", "running"].contains(&status);
    let run = world.wait_for_run(run_id, ended).expect("a terminal state");
    assert_ne!(text(&run, "status"), "completed", "its program was killed");
    check_events(&world.events(text(&run, "threadId")).expect("events"), run_id).expect("a whole thread");
    std::fs::write(&marker, "").expect("let the next one through");
    let next = world.dispatch("again").expect("dispatched");
    world
        .wait_for_run(text(&next, "runId"), |status| status == "completed")
        .expect("completed");
    std::fs::remove_file(&marker).expect("clean up");
}

#[test]
fn a_revoked_device_is_cut_off() {
    let world = World::start(INSPECT_COMMAND).expect("a world");
    world.api.call(&["revoke", DEVICE]).expect("revoked");
    world
        .api
        .call(&["revoke", DEVICE])
        .expect("a second revoke is no error");
    let device = world.device.as_ref().expect("a device");
    device.wait_for("revoked", SOON).expect("the device notices");
    device.process.wait_for_end(SOON).expect("its daemon ends");
    let status = device.status(&world.api).expect("its disk remembers");
    assert_eq!(text(&status["link"], "state"), "revoked");
    let refused = world.api.fails(&["run", AGENT, "more"]).expect("refused");
    assert!(
        refused.contains("device_revoked") && refused.contains("\nhint: "),
        "{refused}"
    );
    let again =
        e2e::device::Device::start(&world.api, &world.state_dir(), &Default::default()).expect("it starts");
    again
        .process
        .wait_for_end(SOON)
        .expect("a revoked key does not come back");
}

fn program_runs(words: &str) -> bool {
    let wanted: Vec<&str> = words.split(' ').collect();
    let processes = std::fs::read_dir("/proc").expect("Linux");
    processes.flatten().any(|process| {
        let line = std::fs::read_to_string(process.path().join("cmdline")).unwrap_or_default();
        line.split('\0').take(wanted.len()).eq(wanted.iter().copied())
    })
}

fn wait_until(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + SOON;
    while !condition() {
        assert!(Instant::now() < deadline, "it never came to that");
        std::thread::sleep(Duration::from_millis(50));
    }
}
