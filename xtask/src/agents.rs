//! The real agents that the demo and the tests start, from npm, each in a directory of its own under `target/agents`. Every
//! version, those of dependencies included, stands in `xtask/agents/NAME/package-lock.json`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::{command, npm};

/// How long an agent may take to say its version.
const PROBE_TIME_MAX: Duration = Duration::from_secs(60);

/// An agent: its name is that of its built-in runner, and of its program.
#[derive(Clone, Copy)]
struct Agent {
    name: &'static str,
    /// A script of the package's own that puts its program in place; no other script of any package runs.
    finish: Option<&'static str>,
}

/// The demo's own: native code, so it starts in milliseconds. Works with Node 20, as all of them do.
const GOOSE: Agent = Agent {
    name: "goose",
    finish: None,
};

const ALL: [Agent; 5] = [
    GOOSE,
    Agent {
        name: "codex-acp",
        finish: None,
    },
    Agent {
        name: "claude-agent-acp",
        finish: None,
    },
    Agent {
        name: "opencode",
        finish: Some("node_modules/opencode-ai/postinstall.mjs"),
    },
    Agent {
        name: "gemini",
        finish: None,
    },
];

/// Where all of them are installed.
pub(crate) fn dir() -> PathBuf {
    command::root().join("target/agents")
}

/// Installs goose unless it is there; returns its program.
pub(crate) fn install_goose() -> Result<PathBuf> {
    install(GOOSE)
}

/// Installs all agents that are not there, at the same time; says aloud which cannot be had, and goes on without them.
pub(crate) fn install_all() {
    let start = Instant::now();
    let results = std::thread::scope(|scope| {
        let installs = ALL.map(|agent| (agent.name, scope.spawn(move || install(agent))));
        installs.map(|(name, install)| (name, install.join()))
    });
    for (name, result) in results {
        let error = match result {
            Ok(Ok(_)) => continue,
            Ok(Err(error)) => format!("{error:#}"),
            Err(_) => "its installation panicked".to_owned(),
        };
        eprintln!("WARNING: {name} cannot be had here, and its tests are skipped: {error}");
    }
    eprintln!("agents: ready after {} s", start.elapsed().as_secs());
}

fn install(agent: Agent) -> Result<PathBuf> {
    let source = command::root().join("xtask/agents").join(agent.name);
    let dir = dir().join(agent.name);
    let program = dir.join("node_modules/.bin").join(agent.name);
    npm::install(&source, &dir, || {
        if let Some(script) = agent.finish {
            let mut node = Command::new("node");
            command::run_within(node.arg(dir.join(script)).stdout(Stdio::null()), PROBE_TIME_MAX)?;
        }
        probe(&program, &dir)
    })?;
    Ok(program)
}

/// An agent that does not start here, for want of a library perhaps, is as good as none.
fn probe(program: &Path, dir: &Path) -> Result<()> {
    let mut probe = Command::new(program);
    probe.arg("--version").env("HOME", dir);
    command::run_within(probe.stdin(Stdio::null()).stdout(Stdio::null()), PROBE_TIME_MAX)
        .context("it was installed and does not start")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_agent_is_locked_to_exact_versions_with_checksums() {
        for agent in ALL {
            npm::check_lock(&command::root().join("xtask/agents").join(agent.name));
        }
    }
}
