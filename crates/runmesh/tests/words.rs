//! The words of the command line, as the built program knows them.

use std::process::{Command, Output};

fn runmesh(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_runmesh"));
    command
        .args(arguments)
        .env_remove("RUNTOOLS_API_KEY")
        .env_remove("RUNTOOLS_API_URL");
    command.output().expect("the program starts")
}

/// Every command of the documentation, and nothing else: a word is a promise.
const COMMANDS: &[&str] = &[
    "serve",
    "relay",
    "up",
    "forward",
    "expose",
    "ports",
    "ping",
    "netcheck",
    "bugreport",
    "status",
    "rotate-key",
    "approve",
    "deny",
    "overview",
    "nodes",
    "node",
    "rename",
    "revoke",
    "config",
    "relays",
    "tag",
    "policy",
    "audit",
    "members",
    "keys",
    "auth-keys",
    "invitations",
    "sessions",
    "agents",
    "run",
    "runs",
    "cancel",
    "threads",
    "thread",
];

#[test]
fn help_lists_exactly_the_documented_commands() {
    let help = String::from_utf8(runmesh(&["--help"]).stdout).expect("UTF-8");
    let after = help.split_once("Commands:\n").expect("a list of commands").1;
    let section = after.split_once("\n\n").expect("the end of the list").0;
    let names: Vec<_> = section
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert_eq!(names, COMMANDS);
}

#[test]
fn every_command_explains_itself_on_stdout_and_takes_json() {
    for command in COMMANDS {
        let output = runmesh(&[command, "--help"]);
        let help = String::from_utf8(output.stdout).expect("UTF-8");
        assert!(
            output.status.success() && help.contains("--json"),
            "{command}: {help}"
        );
        assert!(
            output.stderr.is_empty(),
            "{command} talks where data was asked for"
        );
    }
}

#[test]
fn what_is_not_understood_ends_with_2_and_a_hint() {
    for words in [
        &["explode"][..],
        &["nodes", "--bogus"],
        &["approve"],
        &["forward", "8080"],
        &["forward", "8080", "--background"],
        &["forward", "8080", "laptop:80", "--background", "--off"],
        &["expose", "80", "--background", "--off"],
        &["serve", "--oidc-issuer", "https://id.example.com"],
        &["serve", "--oidc-client-id", "runmesh"],
        &["invitations", "create", "--role", "owner"],
        &[],
    ] {
        let output = runmesh(words);
        let said = String::from_utf8(output.stderr).expect("UTF-8");
        assert_eq!(output.status.code(), Some(2), "{words:?}: {said}");
        assert!(
            said.trim_end()
                .lines()
                .last()
                .is_some_and(|line| line.starts_with("hint: ")),
            "{words:?}: {said}"
        );
    }
}

#[test]
fn the_key_never_stands_in_help() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_runmesh"));
    let help = command
        .args(["nodes", "--help"])
        .env("RUNTOOLS_API_KEY", "rt_live_secret")
        .output();
    let help = String::from_utf8(help.expect("the program starts").stdout).expect("UTF-8");
    assert!(!help.contains("rt_live_secret"), "{help}");
}

#[test]
fn a_provider_that_cannot_be_trusted_stops_the_start() {
    let dir = std::env::temp_dir().join(format!("runmesh-words-{}", std::process::id()));
    let data = dir.to_string_lossy();
    let serve = [
        "serve",
        "--data-dir",
        &data,
        "--listen",
        "127.0.0.1:0",
        "--oidc-client-id",
        "runmesh",
    ];
    for (issuer, more, said) in [
        ("http://id.example.com", &[][..], "must be an https:// address"),
        (
            "https://id.example.com",
            &["--oidc-join", "ada"],
            "is not ROLE:sub:SUBJECT",
        ),
        (
            "https://id.example.com",
            &["--oidc-client-secret-file", "/nowhere"],
            "read the client secret",
        ),
    ] {
        let words = [&serve[..], &["--oidc-issuer", issuer], more].concat();
        let output = runmesh(&words);
        let text = String::from_utf8(output.stderr).expect("UTF-8");
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains(said), "{text}");
    }
    let _ = std::fs::remove_dir_all(dir);
}
