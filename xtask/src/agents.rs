//! The real agents that the demo and the tests start, from npm, each in a directory of its own under `target/agents`. Every
//! version, those of dependencies included, stands in `xtask/agents/NAME/package-lock.json`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::command;

/// How long npm may take for one agent: on two busy cores the largest took half a minute.
const INSTALL_TIME_MAX: Duration = Duration::from_secs(300);
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
    let lock = fs::read_to_string(source.join("package-lock.json")).context("read an agent's lock file")?;
    let dir = dir().join(agent.name);
    let program = dir.join("node_modules/.bin").join(agent.name);
    let stamp = dir.join("installed");
    if fs::read_to_string(&stamp).is_ok_and(|text| text == lock) && program.exists() {
        return Ok(program);
    }
    if !command::exists("npm") || !command::exists("node") {
        bail!("npm is not installed");
    }
    fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
    // An older one must not pass for this one when npm fails half-way.
    if stamp.exists() {
        fs::remove_file(&stamp).context("forget the agent that was installed")?;
    }
    for file in ["package.json", "package-lock.json"] {
        fs::copy(source.join(file), dir.join(file)).with_context(|| format!("copy {file}"))?;
    }
    // Not `npm ci`: it wants programs for other systems in the lock file, which npm leaves out where it writes one.
    let mut npm = Command::new("npm");
    npm.args([
        "install",
        "--no-audit",
        "--no-fund",
        "--ignore-scripts",
        "--loglevel=error",
        "--prefix",
    ]);
    command::run_within(npm.arg(&dir).stdout(Stdio::null()), INSTALL_TIME_MAX)?;
    if let Some(script) = agent.finish {
        let mut node = Command::new("node");
        command::run_within(node.arg(dir.join(script)).stdout(Stdio::null()), PROBE_TIME_MAX)?;
    }
    probe(&program, &dir)?;
    fs::write(&stamp, lock).context("remember that an agent is installed")?;
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
            let dir = command::root().join("xtask/agents").join(agent.name);
            let read = |file: &str| -> serde_json::Value {
                let text = fs::read_to_string(dir.join(file)).expect("there");
                serde_json::from_str(&text).expect("JSON")
            };
            let wanted = read("package.json");
            let wanted = wanted["dependencies"].as_object().expect("one dependency");
            let is_exact = |version: &serde_json::Value| {
                let version = version.as_str().unwrap_or_default();
                version.starts_with(|c: char| c.is_ascii_digit()) && !version.contains(['x', '*', ' ', '|'])
            };
            assert!(wanted.len() == 1 && wanted.values().all(is_exact), "{wanted:?}");
            let lock = read("package-lock.json");
            let packages = lock["packages"].as_object().expect("packages");
            for (name, package) in packages.iter().filter(|(name, _)| !name.is_empty()) {
                assert!(
                    package["integrity"].is_string(),
                    "{}: {name} has no checksum",
                    agent.name
                );
                assert!(
                    package.get("resolved").is_none(),
                    "{}: {name} names a host",
                    agent.name
                );
            }
        }
    }
}
