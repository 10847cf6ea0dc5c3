//! What a device's own limits and policy do to runs, with real processes.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use e2e::processes::text;
use e2e::world::{AGENT, World, check_events};
use node::LocalClient;
use node::local_api::StartRun;
use node::local_client::LocalClientError;

#[test]
fn a_queue_that_comes_at_once_is_worked_off_within_the_limit() {
    let mut world = World::start("ls at-work-* 2>/dev/null; touch at-work-$$; sleep 0.3; rm at-work-$$")
        .expect("a world");
    drop(world.device.take());
    let runs: Vec<_> = (0..6)
        .map(|n| world.dispatch(&n.to_string()).expect("queued"))
        .collect();
    world.start_device().expect("it starts");
    let mut starts = Vec::new();
    for run in &runs {
        let run_id = text(run, "runId");
        let run = world
            .wait_for_run(run_id, |status| status == "completed")
            .expect("completed");
        assert_eq!(run["attempt"], 1, "nothing is offered that would be refused");
        starts.push(text(&run, "startedAt").to_owned());
        let events = world.events(text(&run, "threadId")).expect("events");
        check_events(&events, run_id).expect("a whole thread");
        let result = events
            .iter()
            .find(|event| text(event, "type") == "tool_result")
            .expect("a result");
        let others = result["payload"]["content"]
            .as_str()
            .expect("text")
            .lines()
            .count();
        assert!(others <= 1, "at most two at once: {result}");
    }
    // Two are decided on at once, and may change places; those two do not change places with others.
    let pairs: Vec<_> = starts.chunks(2).collect();
    for (earlier, later) in pairs.iter().zip(&pairs[1..]) {
        assert!(earlier.iter().max() <= later.iter().min(), "{starts:?}");
    }
}

#[test]
fn an_app_on_the_device_is_told_why_its_run_is_refused() {
    let world = World::start("cat").expect("a world");
    let policy = world.state_dir().join("policy.toml");
    let text_of_policy = fs::read_to_string(&policy).expect("there");
    let closed = text_of_policy.replace("type = \"command\"", "enabled = false\ntype = \"command\"");
    fs::write(&policy, closed.replace("default_runner", "# default_runner")).expect("written");
    let request = StartRun {
        agent: AGENT.parse().expect("a slug"),
        prompt: "hello".to_owned(),
        thread_id: None,
        idempotency_key: None,
    };
    let local = LocalClient::new(&world.state_dir());
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    match runtime.block_on(local.start_run(&request)) {
        Err(LocalClientError::Refused(error)) => {
            assert_eq!(error.code, "forbidden");
            assert!(
                error.message.contains("is not enabled on this device"),
                "{}",
                error.message
            );
        }
        other => panic!("{other:?}"),
    }
    let runs = world.api.call(&["runs"]).expect("runs");
    let run = runs
        .as_array()
        .and_then(|runs| runs.first())
        .or_else(|| runs["data"].as_array()?.first());
    let run_id = text(run.expect("it was registered"), "runId").to_owned();
    let run = world
        .wait_for_run(&run_id, |status| status == "failed")
        .expect("failed");
    assert_eq!(text(&run, "reason"), "policy");
    assert!(
        text(&run, "message").contains("is not enabled on this device"),
        "{run}"
    );
}

#[test]
fn a_refusal_on_the_device_has_the_status_of_its_code() {
    let world = World::start("cat").expect("a world");
    let body = r#"{"agent":"nobodys","prompt":"hello"}"#;
    let request = format!(
        "POST /runs HTTP/1.1\r\nhost: device\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut socket = UnixStream::connect(world.state_dir().join("runmesh.sock")).expect("connected");
    socket.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).expect("answered");
    assert!(
        answer.starts_with("HTTP/1.1 404 ") && answer.contains("\"code\":\"not_found\""),
        "{answer}"
    );
}

#[test]
fn a_run_that_an_app_asks_for_while_the_control_plane_restarts_is_registered_once_when_it_is_back() {
    let mut world = World::start("cat").expect("a world");
    world.serve.as_ref().expect("running").kill().expect("killed");
    let request = StartRun {
        agent: AGENT.parse().expect("a slug"),
        prompt: "hello".to_owned(),
        thread_id: None,
        idempotency_key: None,
    };
    let local = LocalClient::new(&world.state_dir());
    // At once: the device has not noticed that the session is dead.
    let asking = std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let asked = Instant::now();
        (runtime.block_on(local.start_run(&request)), asked.elapsed())
    });
    std::thread::sleep(Duration::from_secs(1));
    world.start_control().expect("it starts again");
    let (started, took) = asking.join().expect("no panic");
    let started = started.unwrap_or_else(|error| panic!("{error} after {took:?}"));
    assert!(took < Duration::from_secs(15), "{took:?}");
    let run_id = started.run_id.to_string();
    world
        .wait_for_run(&run_id, |status| status == "completed")
        .expect("completed");
    let runs = world.api.call(&["runs"]).expect("runs");
    assert_eq!(runs["data"].as_array().map(Vec::len), Some(1), "{runs}");
}
