//! Output that cannot be written: stdout or stderr on a full disk, or a pipe that nobody reads any more. Talk and logs are
//! lost and nothing else; data that cannot be written is an error that says so.

use std::fs::{File, OpenOptions};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use e2e::processes::{ANY_PORT, Process, Runmesh, STEP_TIMEOUT, text};
use e2e::world::{World, check_events};

/// A file that takes nothing: every write fails as on a full disk.
fn full() -> Stdio {
    let file: File = OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .expect("Linux has it");
    file.into()
}

/// A pipe without a reader.
fn closed() -> Stdio {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    writer.into()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The device's daemon again, with every step of it logged to a stderr that takes nothing.
fn start_mute(world: &World, stderr: Stdio) -> Process {
    let mut up = world
        .api
        .command(&["up", "--listen", "127.0.0.1:0", "--json", "--state-dir"]);
    up.arg(world.state_dir()).env("RUST_LOG", "trace");
    let process = Process::start_with_stderr("runmesh up", &mut up, stderr).expect("it starts");
    process
        .wait_for(STEP_TIMEOUT, |said| text(said, "event") == "ready")
        .expect("it is ready");
    process
}

fn check_run(world: &World) {
    let run = world.dispatch("hello").expect("dispatched");
    let run_id = text(&run, "runId");
    world
        .wait_for_run(run_id, |status| status == "completed")
        .expect("completed");
    check_events(&world.events(text(&run, "threadId")).expect("events"), run_id).expect("a whole thread");
}

#[test]
fn a_node_and_a_control_plane_that_cannot_log_work_on() {
    let mut world = World::start("cat").expect("a world");
    for stderr in [full, closed] {
        drop(world.device.take());
        drop(world.serve.take());
        let listen = world.api.url.trim_start_matches("http://").to_owned();
        let mut serve = world.api.command(&["serve", "--json", "--listen", &listen]);
        serve.args(["--mesh-listen", world.mesh_listen(), "--data-dir"]);
        serve.arg(world.dir().join("control")).env("RUST_LOG", "trace");
        let serve = Process::start_with_stderr("runmesh serve", &mut serve, stderr()).expect("it starts");
        serve
            .wait_for(STEP_TIMEOUT, |said| said["url"].is_string())
            .expect("it serves");
        let up = start_mute(&world, stderr());
        check_run(&world);
        for process in [up, serve] {
            process.signal("TERM").expect("there");
            let code = process.wait_for_end(Duration::from_secs(20)).expect("it ends");
            assert_eq!(code, Some(0));
        }
    }
}

#[test]
fn a_command_whose_stderr_takes_nothing_does_what_it_is_for() {
    let world = World::start("cat").expect("a world");
    for stderr in [full, closed] {
        let mut run = world.api.command(&["run", "inspector", "hello", "--json"]);
        let output = run
            .env("RUST_LOG", "trace")
            .stderr(stderr())
            .output()
            .expect("started");
        assert_eq!(output.status.code(), Some(0));
        assert!(String::from_utf8_lossy(&output.stdout).contains("\"completed\""));
        let mut fails = world.api.command(&["runs", "run_none"]);
        let output = fails
            .env("RUST_LOG", "trace")
            .stderr(stderr())
            .output()
            .expect("started");
        assert_eq!(
            output.status.code(),
            Some(1),
            "an error nobody can read is an error"
        );
    }
}

#[test]
fn data_that_cannot_be_written_is_an_error_that_says_so() {
    let world = World::start("cat").expect("a world");
    let state_dir = world.state_dir().to_string_lossy().into_owned();
    let commands: [&[&str]; 6] = [
        &["nodes"],
        &["nodes", "--json"],
        &["status", "--state-dir", &state_dir],
        &["run", "inspector", "hello", "--json"],
        &["--help"],
        &["--version"],
    ];
    for arguments in commands {
        let mut command = world.api.command(arguments);
        let output = command.stdout(full()).output().expect("started");
        let said = said(&output);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        assert!(
            said.contains("write to stdout: No space left on device"),
            "{arguments:?}: {said}"
        );
        assert!(said.contains("there is no room left"), "{arguments:?}: {said}");
        let mut command = world.api.command(arguments);
        let output = command.stdout(closed()).output().expect("started");
        assert_eq!(
            output.status.code(),
            Some(0),
            "a reader that had enough is no failure"
        );
    }
}

#[test]
fn a_control_plane_that_cannot_show_its_key_ends_and_says_what_to_do() {
    let dir = tempfile::tempdir().expect("a directory");
    let api = Runmesh::find().expect("the program");
    let first = dir.path().join("first");
    for (stdout, data_dir) in [(full(), &first), (closed(), &dir.path().join("second"))] {
        let output = serve(&api, data_dir).stdout(stdout).output().expect("started");
        let said = said(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("write to stdout"), "{said}");
        assert!(said.contains("the key that was just made is lost"), "{said}");
    }
    let output = serve(&api, &first).stdout(full()).output().expect("started");
    let said = said(&output);
    assert!(
        !said.contains("the key that was"),
        "there is none at a second start: {said}"
    );
}

fn serve(api: &Runmesh, data_dir: &Path) -> Command {
    let mut command = api.command(&[
        "serve",
        "--listen",
        ANY_PORT,
        "--mesh-listen",
        ANY_PORT,
        "--data-dir",
    ]);
    command.arg(data_dir);
    command
}

/// A node goes on when whoever started it stops reading what it says.
#[test]
fn a_node_whose_stdout_takes_nothing_links_and_works() {
    let dir = tempfile::tempdir().expect("a directory");
    let (_serve, api) = Runmesh::find()
        .and_then(|api| api.serve(&dir.path().join("control"), ANY_PORT, ANY_PORT))
        .expect("a control plane");
    let state_dir = dir.path().join("node");
    let mut up = api.command(&[
        "up",
        "--listen",
        ANY_PORT,
        "--json",
        "--server",
        &api.url,
        "--state-dir",
    ]);
    let mut child = up.arg(&state_dir).stdout(full()).spawn().expect("it starts");
    let status = |wanted: &dyn Fn(&serde_json::Value) -> bool| {
        let deadline = Instant::now() + STEP_TIMEOUT;
        loop {
            let status = api.call(&["status", "--state-dir", &state_dir.to_string_lossy()]);
            match status {
                Ok(status) if wanted(&status) => return status,
                other => assert!(Instant::now() < deadline, "{other:?}"),
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    let shown = status(&|status| status["link"]["code"].is_string());
    api.call(&["approve", text(&shown["link"], "code"), "--name", "mute"])
        .expect("approved");
    status(&|status| status["sidecar"]["connected"] == true);
    e2e::processes::send_signal(&child, "TERM").expect("there");
    let code = e2e::processes::wait_for_end(&mut child, Duration::from_secs(20)).expect("it ends");
    assert_eq!(code, Some(0));
}
