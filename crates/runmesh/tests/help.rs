//! The help of every command, pinned: a word of it is a promise. `RUNMESH_BLESS=1` writes `help.txt` anew.

use std::fs;
use std::path::Path;
use std::process::Command;

/// Every command that has help of its own.
const COMMANDS: &[&[&str]] = &[
    &[],
    &["serve"],
    &["relay"],
    &["up"],
    &["forward"],
    &["expose"],
    &["ports"],
    &["ping"],
    &["netcheck"],
    &["bugreport"],
    &["status"],
    &["approve"],
    &["deny"],
    &["overview"],
    &["nodes"],
    &["node"],
    &["rename"],
    &["revoke"],
    &["config"],
    &["relays"],
    &["tag"],
    &["policy"],
    &["policy", "get"],
    &["policy", "set"],
    &["policy", "check"],
    &["policy", "test"],
    &["policy", "explain"],
    &["audit"],
    &["members"],
    &["members", "create"],
    &["members", "list"],
    &["members", "delete"],
    &["keys"],
    &["keys", "create"],
    &["keys", "list"],
    &["keys", "delete"],
    &["auth-keys"],
    &["auth-keys", "create"],
    &["auth-keys", "list"],
    &["auth-keys", "delete"],
    &["agents"],
    &["agents", "create"],
    &["agents", "list"],
    &["agents", "show"],
    &["agents", "delete"],
    &["run"],
    &["runs"],
    &["cancel"],
    &["threads"],
    &["thread"],
    &["--version"],
];

fn all_help() -> String {
    let mut text = String::new();
    for words in COMMANDS {
        let mut command = Command::new(env!("CARGO_BIN_EXE_runmesh"));
        command.args(*words);
        if !words.contains(&"--version") {
            command.arg("--help");
        }
        for name in [
            "RUNTOOLS_API_KEY",
            "RUNTOOLS_API_URL",
            "RUNMESH_STATE_DIR",
            "RUNMESH_DATA_DIR",
            "RUNMESH_DATABASE_URL",
        ] {
            command.env_remove(name);
        }
        let output = command
            .env("COLUMNS", "100")
            .output()
            .expect("the program starts");
        assert!(output.status.success(), "{words:?}");
        assert!(
            !output.stdout.contains(&0x1b),
            "{words:?}: colour where there is no terminal"
        );
        let help = String::from_utf8(output.stdout).expect("UTF-8");
        text.push_str(&format!("$ runmesh {}\n{}\n\n", words.join(" "), help.trim_end()));
    }
    text
}

#[test]
fn the_help_of_every_command_is_pinned() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/help.txt");
    let help = all_help();
    if std::env::var_os("RUNMESH_BLESS").is_some() {
        fs::write(&path, &help).expect("written");
    }
    let pinned = fs::read_to_string(&path).expect("there");
    for (now, then) in help.lines().zip(pinned.lines()) {
        assert_eq!(now, then, "help has changed; RUNMESH_BLESS=1 pins it anew");
    }
    assert_eq!(
        help.len(),
        pinned.len(),
        "help has changed; RUNMESH_BLESS=1 pins it anew"
    );
}
