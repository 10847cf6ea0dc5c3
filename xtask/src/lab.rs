//! `cargo xtask lab`: gets what the lab needs, builds it, and becomes the lab (`e2e::lab`).

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Result, anyhow};

use crate::{command, tools};

/// Prepares and runs cells; returns only when they could not be started.
pub(crate) fn run(cells: &[String], json: bool) -> Result<()> {
    tools::install_debian()?;
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
    let binaries = command::target_dir().join("debug");
    let mut lab = Command::new(binaries.join("lab"));
    lab.env("RUNMESH_BIN", binaries.join("runmesh"))
        .current_dir(command::root())
        .args(cells);
    if json {
        lab.arg("--json");
    }
    // It takes this process's place, so that a signal reaches it and its children end with it.
    Err(anyhow!(lab.exec()).context("start the lab"))
}
