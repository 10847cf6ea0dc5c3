//! `cargo xtask sim`: many seeds of the simulation, in a build that makes a thousand of them cheap.

use std::process::Command;

use anyhow::Result;

use crate::command;

/// How many seeds `cargo xtask test` runs.
pub(crate) const SEEDS_OF_TEST: u64 = 1000;

/// Which seeds run.
#[derive(Clone, Copy)]
pub(crate) enum Seeds {
    /// The first so many.
    First(u64),
    /// That one.
    One(u64),
}

/// Runs seeds; fails when one does, which is then named with the commit and the command that repeats it.
pub(crate) fn run(seeds: Seeds, is_json: bool) -> Result<()> {
    let (flag, number) = match seeds {
        Seeds::First(count) => ("--seeds", count),
        Seeds::One(seed) => ("--seed", seed),
    };
    let mut sim = command::cargo(&[
        "run",
        "--quiet",
        "--profile",
        "sim",
        "-p",
        "sim",
        "--bin",
        "sim",
        "--",
    ]);
    sim.args([flag, &number.to_string(), "--commit", &commit()]);
    if is_json {
        sim.arg("--json");
    }
    command::run(&mut sim)
}

/// Returns the commit that is checked out, marked when something was changed since.
fn commit() -> String {
    let mut git = Command::new("git");
    git.current_dir(command::root());
    let output = git
        .args(["describe", "--always", "--dirty", "--abbrev=12"])
        .output();
    let hash = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    hash.ok()
        .filter(|hash| !hash.is_empty())
        .unwrap_or_else(|| "unknown".to_owned())
}
