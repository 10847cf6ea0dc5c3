//! `cargo xtask fuzz-api`: gets the fuzzer, builds the program, and has `e2e::fuzz` fuzz the API of a server of its own.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::{command, tools};

/// How long a run by hand may take, in seconds, for each thousand cases; edges alone take about as long.
const SECONDS_PER_THOUSAND: u32 = 120;

/// The seed when none is said, so that a finding comes again.
const SEED: u64 = 20;

/// How much the tests of a change can afford: cases and seconds.
const IN_TESTS: (u32, u32) = (500, 70);

/// Fuzzes with about `cases` cases; fails on a finding, and where the fuzzer cannot be had.
pub(crate) fn run(cases: u32, seed: Option<u64>) -> Result<()> {
    let schemathesis = tools::install_schemathesis()?;
    let build = [
        "build",
        "--quiet",
        "--package",
        "runmesh",
        "--package",
        "e2e",
        "--bins",
    ];
    command::run(&mut command::cargo(&build))?;
    let seconds = SECONDS_PER_THOUSAND * (1 + cases.div_ceil(1000));
    command::run(&mut built(&schemathesis, (cases, seconds), seed.unwrap_or(SEED)))
}

/// The bounded part of it that `cargo xtask test` runs, with the programs that the tests have built.
pub(crate) fn run_short(schemathesis: &Path) -> Result<()> {
    command::run(&mut built(schemathesis, IN_TESTS, SEED))
}

fn built(schemathesis: &Path, (cases, seconds): (u32, u32), seed: u64) -> Command {
    let binaries = command::target_dir().join("debug");
    let mut fuzz = Command::new(binaries.join("fuzz-api"));
    fuzz.env("RUNMESH_BIN", binaries.join("runmesh"))
        .current_dir(command::root())
        .arg(schemathesis)
        .args([cases.to_string(), seconds.to_string(), seed.to_string()]);
    fuzz
}
