//! The command line as programs use it: JSON on stdout and nothing else, hints on stderr, exit codes.

use e2e::processes::{ANY_PORT, Runmesh, text};
use e2e::stand_in_model::INSPECT_COMMAND;
use e2e::world::{AGENT, DEVICE, World};
use serde_json::Value;

/// Runs a command and returns exit code, stdout and stderr.
fn run(api: &Runmesh, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = api.command(arguments).output().expect("runmesh starts");
    let utf8 = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code(), utf8(output.stdout), utf8(output.stderr))
}

fn check_json(api: &Runmesh, arguments: &[&str]) -> Value {
    let all: Vec<&str> = arguments.iter().copied().chain(["--json"]).collect();
    let (code, stdout, stderr) = run(api, &all);
    assert_eq!(code, Some(0), "{arguments:?}: {stderr}");
    serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {stdout}"))
}

fn check_error(api: &Runmesh, arguments: &[&str], code: i32, message: &str) {
    let (found, stdout, stderr) = run(api, arguments);
    assert_eq!(
        (found, stdout.as_str()),
        (Some(code), ""),
        "{arguments:?}: {stderr}"
    );
    assert!(
        stderr.contains("error: ") && stderr.contains(message),
        "{arguments:?}: {stderr}"
    );
    let last: Vec<&str> = stderr.trim_end().rsplit('\n').take(2).collect();
    assert!(
        last[0].starts_with("hint: ") && last[1].is_empty(),
        "{arguments:?}: {stderr}"
    );
}

#[test]
fn every_command_prints_one_json_document() {
    let world = World::start(INSPECT_COMMAND).expect("a world");
    let api = &world.api;
    let run = check_json(api, &["run", AGENT, "look", "--detach"]);
    let (run_id, thread_id) = (text(&run, "runId").to_owned(), text(&run, "threadId").to_owned());
    world
        .wait_for_run(&run_id, |status| status == "completed")
        .expect("completed");
    let state_dir = world.state_dir().to_string_lossy().into_owned();
    let device = text(&check_json(api, &["node", DEVICE]), "id").to_owned();
    let commands: [&[&str]; 17] = [
        &["overview"],
        &["nodes"],
        &["nodes", "--all", "--kind", "device", "--status", "online"],
        &["node", DEVICE],
        &["rename", &device, "notebook"],
        &["config", "notebook"],
        &["config", "notebook", "--format", "wg-quick"],
        &["audit", "--limit", "5"],
        &["keys", "list"],
        &["agents", "list"],
        &["agents", "show", AGENT],
        &["runs"],
        &["runs", &run_id],
        &["cancel", &run_id],
        &["threads"],
        &["thread", &thread_id],
        &["status", "--state-dir", &state_dir],
    ];
    for command in commands {
        check_json(api, command);
        let (code, stdout, stderr) = self::run(api, command);
        assert_eq!(code, Some(0), "{command:?}: {stderr}");
        assert!(!stdout.is_empty(), "{command:?} prints nothing for people");
    }
    let key = check_json(
        api,
        &[
            "keys",
            "create",
            "short",
            "--scope",
            "runmesh:read",
            "--expires-in",
            "30d",
        ],
    );
    check_json(api, &["keys", "delete", text(&key, "id")]);
    let person = check_json(api, &["members", "create", "Grace", "--role", "member"]);
    assert!(text(&person["apiKey"], "key").starts_with("rt_live_"));
    let people = check_json(api, &["members", "list"]);
    assert_eq!(people["data"].as_array().map(Vec::len), Some(2), "{people}");
    let grace = text(&person["member"], "userId");
    check_json(api, &["members", "delete", grace]);
    let people = check_json(api, &["members", "list"]);
    assert_eq!(people["data"].as_array().map(Vec::len), Some(1), "{people}");
    check_json(api, &["agents", "delete", AGENT]);
    check_json(api, &["revoke", "notebook"]);
}

#[test]
fn errors_end_with_a_hint_and_leave_stdout_clean() {
    let dir = tempfile::tempdir().expect("a directory");
    let runmesh = Runmesh::find().expect("the program");
    let (_serve, api) = runmesh
        .serve(dir.path(), ANY_PORT, ANY_PORT)
        .expect("a control plane");
    check_error(&api, &["node", "nobody"], 1, "no node is called `nobody`");
    check_error(&api, &["approve", "ABCDEF"], 1, "not_found");
    check_error(&api, &["deny", "ABCDEF"], 1, "not_found");
    check_error(&api, &["runs", "run_nonsense"], 1, "is no run id");
    check_error(&api, &["cancel", "run_nonsense"], 1, "`runmesh runs` lists");
    for follow in [&["thread", "nonsense"][..], &["thread", "nonsense", "--follow"]] {
        check_error(&api, follow, 1, "is no thread id");
        check_error(&api, follow, 1, "`runmesh threads` lists");
    }
    check_error(&api, &["run", "nobody", "hello"], 1, "not_found");
    check_error(&api, &["agents", "create", "Not A Slug"], 1, "slug");
    check_error(
        &api,
        &["keys", "create", "x", "--scope", "everything"],
        1,
        "`everything` is not known",
    );
    check_error(
        &api,
        &["status", "--state-dir", "/nonexistent"],
        1,
        "/nonexistent",
    );
    check_error(&api, &["nodes", "--bogus"], 2, "--bogus");
    check_error(&api, &["explode"], 2, "explode");
    check_error(&api, &[], 2, "");
    let mut stranger = api.clone();
    stranger.key = String::from("rt_live_00000000000000000000000000000000");
    check_error(&stranger, &["nodes"], 1, "invalid_token");
    let mut lost = api.clone();
    lost.url = "http://127.0.0.1:1".to_owned();
    check_error(&lost, &["nodes"], 1, "cannot be reached");
    lost.url = "ftp://127.0.0.1".to_owned();
    check_error(&lost, &["nodes"], 1, "http://");
}

#[test]
fn a_key_without_the_scope_is_refused_with_a_hint() {
    let dir = tempfile::tempdir().expect("a directory");
    let (_serve, api) = Runmesh::find()
        .expect("the program")
        .serve(dir.path(), ANY_PORT, ANY_PORT)
        .expect("serve");
    let key = check_json(&api, &["keys", "create", "reader", "--scope", "runmesh:read"]);
    let mut reader = api.clone();
    reader.key = text(&key, "key").to_owned();
    check_json(&reader, &["nodes"]);
    check_error(&reader, &["agents", "list"], 1, "forbidden");
}

#[test]
fn the_first_key_is_shown_once_and_the_org_survives_a_restart() {
    let dir = tempfile::tempdir().expect("a directory");
    let runmesh = Runmesh::find().expect("the program");
    let (serve, api) = runmesh.serve(dir.path(), ANY_PORT, ANY_PORT).expect("serve");
    assert!(
        api.key.starts_with("rt_live_") && api.key.len() == 40,
        "{}",
        api.key.len()
    );
    drop(serve);
    let (_serve, again) = runmesh
        .serve(dir.path(), ANY_PORT, ANY_PORT)
        .expect("serve again");
    assert_eq!(again.key, "", "a second start makes no key");
    let mut known = again.clone();
    known.key = api.key;
    check_json(&known, &["nodes"]);
}
