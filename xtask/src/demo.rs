//! `cargo xtask demo`: gets what the demo needs, builds it, and becomes the demo (`e2e::demo`).

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Result, anyhow};

use crate::{command, tools};

/// Prepares and runs the demo; returns only when it could not be started.
pub(crate) fn run(json: bool) -> Result<()> {
    let goose = tools::install_goose();
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
    let binaries = command::target_dir().join("debug");
    let mut demo = Command::new(binaries.join("demo"));
    demo.env("RUNMESH_BIN", binaries.join("runmesh"))
        .current_dir(command::root());
    match goose {
        Ok(goose) => demo.env("RUNMESH_GOOSE", goose),
        Err(error) => {
            eprintln!("note: goose cannot be had here: {error:#}");
            demo.env_remove("RUNMESH_GOOSE")
        }
    };
    if json {
        demo.arg("--json");
    }
    // It takes this process's place, so that a signal reaches it and its children end with it.
    Err(anyhow!(demo.exec()).context("start the demo"))
}
