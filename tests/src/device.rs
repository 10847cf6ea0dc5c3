//! A device: the `runmesh up` daemon as a process of its own, with a policy file and a state directory.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::processes::{Process, Runmesh, STEP_TIMEOUT, text};

/// What a device's owner allows and what its daemon's environment has.
#[derive(Debug, Default, Clone)]
pub struct Setup {
    /// The only folder in which runs may work.
    pub folder: PathBuf,
    /// How the only runner is spoken to: `acp` or `command`.
    pub kind: &'static str,
    /// Its name.
    pub runner: String,
    /// The lines of that runner in the policy file.
    pub runner_policy: String,
    /// Added to the daemon's environment.
    pub environment: Vec<(OsString, OsString)>,
    /// Names taken away from it before.
    pub removed: Vec<OsString>,
}

impl Setup {
    /// A device whose runner `inspect` is a shell command; the prompt is its standard input.
    #[must_use]
    pub fn with_command(folder: &Path, command: &str) -> Self {
        let command = toml_text(command);
        Self {
            folder: folder.to_owned(),
            kind: "command",
            runner: "inspect".to_owned(),
            runner_policy: format!("type = \"command\"\nprogram = \"sh\"\nargs = [\"-c\", {command}]\n"),
            environment: Vec::new(),
            removed: Vec::new(),
        }
    }

    /// What an agent of the API is bound to: `acp:NAME` or `command:NAME`.
    #[must_use]
    pub fn bound_to(&self) -> String {
        format!("{}:{}", self.kind, self.runner)
    }
}

/// A running daemon. Dropping it stops it; its state directory stays.
#[derive(Debug)]
pub struct Device {
    /// The process.
    pub process: Process,
    state_dir: PathBuf,
}

/// What linking showed and gave.
#[derive(Debug)]
pub struct Linked {
    /// What the device showed: `code`, `match`, `url`.
    pub shown: Value,
    /// The node that came of it.
    pub node: Value,
}

impl Device {
    /// Starts the daemon; writes its policy first when there is none.
    pub fn start(api: &Runmesh, state_dir: &Path, setup: &Setup) -> Result<Self> {
        Self::start_with(api, state_dir, setup, &[])
    }

    /// Like [`Device::start`], with more words for `runmesh up`.
    pub fn start_with(api: &Runmesh, state_dir: &Path, setup: &Setup, more: &[&str]) -> Result<Self> {
        write_policy(state_dir, setup)?;
        let dir = state_dir.to_string_lossy();
        let mut up = api.command(&[
            "up",
            "--server",
            &api.url,
            "--state-dir",
            &dir,
            "--label",
            "Demo laptop",
        ]);
        up.args(["--listen", "127.0.0.1:0", "--json"]).args(more);
        let environment = setup.environment.iter().map(|(name, value)| (name, value));
        for name in &setup.removed {
            up.env_remove(name);
        }
        up.env_remove("RUNTOOLS_API_KEY").envs(environment);
        Ok(Self {
            process: Process::start("runmesh up", &mut up)?,
            state_dir: state_dir.to_owned(),
        })
    }

    /// Waits for the code, approves it after comparing the match number, and waits until runs can arrive.
    pub fn link(&self, api: &Runmesh, name: &str) -> Result<Linked> {
        let shown = self.wait_for("link_code", STEP_TIMEOUT)?;
        let node = api.call(&["approve", text(&shown, "code"), "--name", name])?;
        self.wait_for("linked", STEP_TIMEOUT)?;
        self.wait_for("ready", STEP_TIMEOUT)?;
        Ok(Linked { shown, node })
    }

    /// Waits until the daemon says one thing on its stdout.
    pub fn wait_for(&self, event: &str, timeout: Duration) -> Result<Value> {
        let said = self
            .process
            .wait_for(timeout, |said| text(said, "event") == event);
        said.with_context(|| format!("wait for the device to say {event}"))
    }

    /// Asks the device itself, over its local socket or, when the daemon has ended, from its disk.
    pub fn status(&self, api: &Runmesh) -> Result<Value> {
        api.call(&["status", "--state-dir", &self.state_dir.to_string_lossy()])
    }
}

fn write_policy(state_dir: &Path, setup: &Setup) -> Result<()> {
    let mut dir = fs::DirBuilder::new();
    dir.recursive(true)
        .mode(0o700)
        .create(state_dir)
        .context("make the device's state directory")?;
    let file = state_dir.join("policy.toml");
    if file.exists() {
        return Ok(());
    }
    let folder = toml_text(&setup.folder.to_string_lossy());
    let Setup {
        runner,
        runner_policy,
        ..
    } = setup;
    let policy = format!(
        "# What this device lets RunMesh do.\nallowed_folders = [{folder}]\ndefault_folder = {folder}\n\
         default_runner = \"{runner}\"\n\n[runners.{runner}]\n{runner_policy}"
    );
    fs::write(file, policy).context("write the device's policy")
}

/// A JSON string is a TOML basic string, too.
fn toml_text(text: &str) -> String {
    Value::from(text).to_string()
}
