//! `cargo xtask demo`: gets what the demo needs, builds it, and becomes the demo (`e2e::demo`).

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, anyhow};

use crate::{agents, command};

/// Prepares and runs the demo; returns only when it could not be started.
pub(crate) fn run(json: bool) -> Result<()> {
    let goose = agents::install_goose();
    if let Err(error) = &goose {
        eprintln!("note: goose cannot be had here: {error:#}");
    }
    let packages = [
        "build",
        "--quiet",
        "--package",
        "runmesh",
        "--package",
        "e2e",
        "--bins",
    ];
    command::run(&mut command::cargo(&packages))?;
    let mut demo = built(goose.as_deref().ok());
    if json {
        demo.arg("--json");
    }
    // It takes this process's place, so that a signal reaches it and its children end with it.
    Err(anyhow!(demo.exec()).context("start the demo"))
}

/// Makes the command that runs a demo which is built already.
pub(crate) fn built(goose: Option<&Path>) -> Command {
    let binaries = command::target_dir().join("debug");
    let mut demo = Command::new(binaries.join("demo"));
    demo.env("RUNMESH_BIN", binaries.join("runmesh"))
        .current_dir(command::root());
    match goose {
        Some(goose) => demo.env("RUNMESH_GOOSE", goose),
        None => demo.env_remove("RUNMESH_GOOSE"),
    };
    demo
}
