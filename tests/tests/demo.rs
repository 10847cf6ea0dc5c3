//! The demo as people get it who lack something or have something: no npm and so no agent, or a model of their own.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use e2e::agents::Agent;
use e2e::processes::{Process, STEP_TIMEOUT};
use e2e::skipped::skipped;
use serde_json::Value;

/// What the demo and the programs that it starts need of a system.
const PROGRAMS: [&str; 6] = ["git", "kill", "ls", "setpriv", "sh", "cargo"];

/// Runs the demo in a directory of its own; returns its report and its talk.
fn run(prepare: impl FnOnce(&mut Command, &Path)) -> (Value, String) {
    let dir = tempfile::tempdir().expect("a directory");
    let mut demo = Command::new(env!("CARGO_BIN_EXE_demo"));
    demo.arg("--json").current_dir(dir.path());
    for name in [
        "RUNMESH_GOOSE",
        "OPENAI_API_KEY",
        "OPENAI_HOST",
        "OPENAI_BASE_URL",
        "GOOSE_MODEL",
    ] {
        demo.env_remove(name);
    }
    prepare(&mut demo, dir.path());
    let output = demo.output().expect("the demo starts");
    let talk = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{}: {talk}", output.status);
    let stdout = String::from_utf8(output.stdout).expect("text");
    let last = stdout.lines().last().expect("a last line");
    (serde_json::from_str(last).expect("one JSON object"), talk)
}

fn check_report(report: &Value, runner: &str) {
    let expected = [
        ("runner", Value::from(runner)),
        ("status", Value::from("completed")),
        ("linked", Value::from(true)),
    ];
    for (name, value) in expected {
        assert_eq!(report[name], value, "{report}");
    }
    for name in ["path", "pathReason", "runId", "threadId", "rolloutId"] {
        assert!(
            report[name].as_str().is_some_and(|text| !text.is_empty()),
            "{name}: {report}"
        );
    }
    for name in ["events", "dispatchMs", "totalMs", "revokedCutOffMs"] {
        assert!(report[name].is_u64(), "{name}: {report}");
    }
    assert_eq!(report.as_object().map(serde_json::Map::len), Some(12), "{report}");
}

#[test]
fn without_npm_and_node_a_command_does_the_work_and_it_is_said() {
    let (report, talk) = run(|demo, dir| {
        let bin = dir.join("bin");
        std::fs::create_dir(&bin).expect("made");
        for program in PROGRAMS {
            let found = node::policy::find_program(program, std::env::var("PATH").ok().as_deref());
            if let Some(found) = found {
                symlink(found, bin.join(program)).expect("linked");
            }
        }
        demo.env("PATH", &bin);
    });
    check_report(&report, "command");
    assert!(
        talk.contains("runner: a plain command, since goose cannot be had here"),
        "{talk}"
    );
}

#[test]
fn with_a_key_the_model_that_the_environment_names_does_the_work() {
    let goose = match Agent::find("goose") {
        Ok(goose) => goose,
        Err(why) => return skipped(&why.to_string()),
    };
    let model = Process::start(
        "the model",
        &mut Command::new(env!("CARGO_BIN_EXE_stand-in-model")),
    );
    let model = model.expect("the model starts");
    let base_url = format!("{}/v1", model.line(STEP_TIMEOUT).expect("its address"));
    let (report, talk) = run(|demo, _| {
        demo.env("RUNMESH_GOOSE", goose.program())
            .env("OPENAI_API_KEY", "a-key-of-their-own")
            .env("OPENAI_BASE_URL", base_url);
    });
    check_report(&report, "goose, real model");
    assert!(
        talk.contains("I looked into the repository"),
        "the model's own words: {talk}"
    );
}
