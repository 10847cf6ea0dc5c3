//! What `runmesh up` and `runmesh status` say about a state directory that is not as it should be: nothing is thrown away
//! silently, nothing is guessed, and the person is told what to do.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use e2e::processes::{Runmesh, in_search_path, send_signal, text, wait_for_end};
use e2e::world::{SOON, World};
use serde_json::Value;

fn up(api: &Runmesh, dir: &Path, more: &[&str]) -> Command {
    let mut command = api.command(&["up", "--listen", "127.0.0.1:0", "--state-dir"]);
    command.arg(dir).args(more);
    command
}

/// Starts a node that must not come up; returns what it said on stderr.
fn refused(mut command: Command) -> String {
    let output: Output = command.output().expect("runmesh starts");
    let said = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(output.stdout.is_empty(), "{said}");
    said
}

fn check_refused(command: Command, message: &str) {
    let said = refused(command);
    assert!(said.contains(message), "{message}: {said}");
    let last: Vec<&str> = said.trim_end().rsplit('\n').take(2).collect();
    assert!(last[0].starts_with("hint: ") && last[1].is_empty(), "{said}");
    assert!(!last[0].contains("RUST_LOG"), "a hint of its own: {said}");
}

fn error_of(said: &str) -> Value {
    let last = said.trim_end().lines().last().expect("a line");
    let value: Value = serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {said}"));
    value["error"].clone()
}

#[test]
fn a_node_that_cannot_start_says_why_and_what_to_do() {
    let dir = tempfile::tempdir().expect("a directory");
    let api = Runmesh::find().expect("the program");
    let fresh = dir.path().join("fresh");
    check_refused(up(&api, &fresh, &[]), "no control plane is known yet");
    check_refused(up(&api, &fresh, &["--server", "ftp://a.example"]), "http://");
    check_refused(
        up(
            &api,
            Path::new("/proc/runmesh"),
            &["--server", "http://a.example"],
        ),
        "/proc/runmesh",
    );
    let said = refused(up(&api, &fresh, &["--json"]));
    let error = error_of(&said);
    assert_eq!(text(&error, "code"), "failed", "{said}");
    assert!(text(&error, "hint").contains("--server"), "{said}");

    fs::write(fresh.join("node.key"), "rubbish").expect("written");
    check_refused(
        up(&api, &fresh, &["--server", "http://a.example"]),
        "holds no key",
    );
    assert_eq!(fs::read(fresh.join("node.key")).expect("there"), b"rubbish");
    let seeded = dir.path().join("seeded");
    let words = [
        "--server",
        "http://a.example",
        "--allow-folder",
        "/nonexistent-folder",
    ];
    check_refused(up(&api, &seeded, &words), "/nonexistent-folder");
}

#[test]
fn a_linked_node_refuses_what_is_damaged_and_goes_on_without_what_it_can_fetch_anew() {
    let mut world = World::start("cat").expect("a world");
    let dir = world.state_dir();
    check_refused(up(&world.api, &dir, &[]), "another runmesh daemon is using");
    drop(world.device.take());
    check_refused(
        up(&world.api, &dir, &["--server", "http://other.example"]),
        "choose another --state-dir",
    );

    let damaged = |name: &str, message: &str| {
        let path = dir.join(name);
        let kept = fs::read(&path).expect("there");
        fs::write(&path, "{ rubbish").expect("damaged");
        check_refused(up(&world.api, &dir, &[]), message);
        assert_eq!(
            fs::read(&path).expect("there"),
            b"{ rubbish",
            "{name} is left to its owner"
        );
        fs::write(&path, kept).expect("restored");
    };
    damaged("link.json", "link.json cannot be read");
    damaged("journal", "this is no journal");

    fs::write(dir.join("netmap.json"), "{ rubbish").expect("damaged");
    fs::write(dir.join("sessions.json"), "{ rubbish").expect("damaged");
    world.start_device().expect("the control plane has the netmap");
    let run = world.dispatch("hello").expect("dispatched");
    world
        .wait_for_run(text(&run, "runId"), |status| status == "completed")
        .expect("completed");
}

#[test]
fn a_policy_that_cannot_be_read_stops_runs_and_is_shown_and_an_open_key_is_closed() {
    let mut world = World::start("cat").expect("a world");
    let dir = world.state_dir();
    drop(world.device.take());
    let policy = dir.join("policy.toml");
    let kept = fs::read(&policy).expect("there");
    fs::write(&policy, "allowed_folders = 7\n").expect("damaged");
    let key = dir.join("node.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).expect("own file");

    let mut command = up(&world.api, &dir, &[]);
    let mut child = command.stderr(Stdio::piped()).spawn().expect("it starts");
    let deadline = std::time::Instant::now() + SOON;
    let status = loop {
        let status = world.api.call(&["status", "--state-dir", &dir.to_string_lossy()]);
        match status {
            Ok(status) if status["sidecar"]["connected"] == true => break status,
            _ => assert!(std::time::Instant::now() < deadline, "it never came up"),
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    assert!(text(&status, "policyError").contains("line 1"), "{status}");
    let run = world.dispatch("hello").expect("dispatched");
    let run = world
        .wait_for_run(text(&run, "runId"), |status| status == "failed")
        .expect("refused");
    assert_eq!(text(&run, "reason"), "policy", "{run}");
    fs::write(&policy, kept).expect("restored");
    let run = world.dispatch("hello").expect("dispatched");
    world
        .wait_for_run(text(&run, "runId"), |status| status == "completed")
        .expect("no restart is needed");

    let status = world
        .api
        .call(&["status", "--state-dir", &dir.to_string_lossy()])
        .expect("status");
    let traffic = &status["traffic"];
    assert!(
        traffic["packetsReceived"].as_u64() > Some(0) && traffic["dropped"].is_object(),
        "{status}"
    );
    assert_eq!(
        fs::metadata(&key).expect("there").permissions().mode() & 0o777,
        0o600
    );
    send_signal(&child, "TERM").expect("signalled");
    wait_for_end(&mut child, SOON).expect("it stops");
    let output = child.wait_with_output().expect("it ended");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("a private key had mode 0644"), "{said}");
}

#[test]
fn dropped_datagrams_are_counted_by_reason() {
    let world = World::start("cat").expect("a world");
    let dir = world.state_dir().to_string_lossy().into_owned();
    let status = world.api.call(&["status", "--state-dir", &dir]).expect("status");
    let address = text(&status, "meshAddress").to_owned();
    let stranger = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
    for _ in 0..3 {
        stranger.send_to(b"this is no WireGuard", &address).expect("sent");
    }
    let deadline = std::time::Instant::now() + SOON;
    loop {
        let status = world.api.call(&["status", "--state-dir", &dir]).expect("status");
        if status["traffic"]["dropped"]["unknown_type"] == 3 {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "{status}");
    }
    let lines = world.api.lines(&["status", "--state-dir", &dir]).expect("status");
    let row = lines
        .iter()
        .find(|line| line.starts_with("unknown_type"))
        .expect("a row");
    assert!(row.ends_with('3'), "{row}");
}

/// Runs a command that fails with `--json`, and checks what it says and how it ends.
fn check_failure(api: &Runmesh, words: &[&str], exit: i32, code: &str) {
    let output = api.command(words).arg("--json").output().expect("runmesh starts");
    let said = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!(output.status.code(), Some(exit), "{words:?}: {said}");
    assert!(output.stdout.is_empty(), "{words:?}");
    let error = error_of(&said);
    assert_eq!(text(&error, "code"), code, "{words:?}: {said}");
    assert!(
        !text(&error, "message").is_empty() && !text(&error, "hint").is_empty(),
        "{said}"
    );
}

const NO_ID: &str = "00000000-0000-4000-8000-000000000000";

const ABOUT_NOTHING: [&[&str]; 13] = [
    &["node", NO_ID],
    &["revoke", NO_ID],
    &["config", NO_ID],
    &["rename", NO_ID, "x"],
    &["approve", "ABCDEF"],
    &["deny", "ABCDEF"],
    &["agents", "show", "nobody"],
    &["agents", "delete", "nobody"],
    &["keys", "delete", NO_ID],
    &["run", "nobody", "x"],
    &["runs", "run_00000000000040008000000000000000"],
    &["cancel", "run_00000000000040008000000000000000"],
    &["thread", "thr_00000000000040008000000000000000"],
];

const QUESTIONS: [&[&str]; 7] = [
    &["overview"],
    &["nodes"],
    &["audit"],
    &["keys", "list"],
    &["agents", "list"],
    &["runs"],
    &["threads"],
];

const NOT_UNDERSTOOD: [&[&str]; 5] = [
    &["explode"],
    &["nodes", "--bogus"],
    &["approve"],
    &[],
    &["nodes", "--limit", "many"],
];

#[test]
fn errors_are_json_for_those_who_ask_for_json() {
    let dir = tempfile::tempdir().expect("a directory");
    let runmesh = Runmesh::find().expect("the program");
    let (_serve, api) = runmesh
        .serve(dir.path(), "127.0.0.1:0", "127.0.0.1:0")
        .expect("serve");
    for words in ABOUT_NOTHING {
        check_failure(&api, words, 1, "not_found");
    }
    let mut stranger = api.clone();
    stranger.key = "rt_live_00000000000000000000000000000000".to_owned();
    let mut nameless = api.clone();
    nameless.key = String::new();
    for words in QUESTIONS {
        check_failure(&stranger, words, 1, "invalid_token");
    }
    check_failure(&nameless, &["nodes"], 1, "invalid_token");
    let mut lost = api.clone();
    lost.url = "http://127.0.0.1:1".to_owned();
    for words in [&["nodes"][..], &["run", "a", "b"], &["overview"]] {
        check_failure(&lost, words, 1, "failed");
    }
    check_failure(&api, &["status", "--state-dir", "/nonexistent"], 1, "failed");
    let taken = dir.path().to_string_lossy();
    let again = ["serve", "--data-dir", &taken, "--listen", "127.0.0.1:0"];
    check_failure(&api, &again, 1, "failed");
    for words in NOT_UNDERSTOOD {
        check_failure(&api, words, 2, "usage");
    }
}

#[test]
fn a_terminal_gets_no_colour_when_it_wants_none() {
    if !in_search_path("script") {
        println!("SKIPPED: `script` is not installed");
        return;
    }
    let api = Runmesh::find().expect("the program");
    let program = api.command(&[]).get_program().to_string_lossy().into_owned();
    let on_terminal = |words: &str, no_color: bool| {
        let mut command = Command::new("script");
        command
            .args(["-qec", &format!("{program} {words}"), "/dev/null"])
            .env("TERM", "xterm");
        command.stdin(Stdio::null());
        match no_color {
            true => command.env("NO_COLOR", "1"),
            false => command.env_remove("NO_COLOR"),
        };
        command.output().expect("script starts").stdout
    };
    assert!(
        on_terminal("--help", false).contains(&0x1b),
        "help has colour on a terminal"
    );
    for words in ["--help", "explode", "status --state-dir /nonexistent"] {
        assert!(!on_terminal(words, true).contains(&0x1b), "{words}");
    }
    assert!(
        !on_terminal("explode", false).contains(&0x1b),
        "an error never has colour"
    );
}
