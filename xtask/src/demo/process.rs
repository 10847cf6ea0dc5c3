//! Child processes that cannot outlive the demo, and the `runmesh` program called as a person would.

use std::cell::RefCell;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{STEP_TIMEOUT, Say, text};
use crate::command;

/// How long a process may take to end after it was asked to.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// A child that says JSON lines on stdout. Dropping it ends it.
pub(super) struct Process {
    name: String,
    child: RefCell<Child>,
    lines: Receiver<String>,
}

impl Process {
    /// Starts a program. Where the system can, it also ends when the demo is killed.
    pub(super) fn start(name: &str, program: &mut Command) -> Result<Self> {
        let mut command = bound_to_us(program);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("start {name}"))?;
        let stdout = child.stdout.take().context("the child has no stdout")?;
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self {
            name: name.to_owned(),
            child: RefCell::new(child),
            lines,
        })
    }

    /// Waits for the next line, whatever it is.
    pub(super) fn line(&self, timeout: Duration) -> Result<String> {
        match self.lines.recv_timeout(timeout) {
            Ok(line) => Ok(line),
            Err(RecvTimeoutError::Timeout) => bail!("{} said nothing for {} s", self.name, timeout.as_secs()),
            Err(RecvTimeoutError::Disconnected) => bail!("{} ended", self.name),
        }
    }

    /// Waits for a JSON line of a kind; other lines are passed over.
    pub(super) fn wait_for(&self, timeout: Duration, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let deadline = Instant::now() + timeout;
        loop {
            let line = self.line(deadline.saturating_duration_since(Instant::now()))?;
            if let Ok(value) = serde_json::from_str::<Value>(&line)
                && wanted(&value)
            {
                return Ok(value);
            }
        }
    }

    /// Waits until the process has ended by itself.
    pub(super) fn wait_for_end(&self, timeout: Duration) -> Result<()> {
        let deadline = Instant::now() + timeout;
        while Instant::now() < deadline {
            if self
                .child
                .borrow_mut()
                .try_wait()
                .context("wait for a child")?
                .is_some()
            {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("{} goes on running", self.name)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let child = self.child.get_mut();
        if child.try_wait().is_ok_and(|ended| ended.is_some()) {
            return;
        }
        // Asked first, so that it can end its own children; std can only kill.
        let _ = Command::new("kill").arg(child.id().to_string()).status();
        let deadline = Instant::now() + STOP_TIMEOUT;
        while Instant::now() < deadline && child.try_wait().is_ok_and(|ended| ended.is_none()) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// Wraps a command so that the kernel ends it when this process ends in whatever way.
fn bound_to_us(program: &Command) -> Command {
    let mut command = if command::exists("setpriv") {
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "TERM", "--"])
            .arg(program.get_program());
        command
    } else {
        Command::new(program.get_program())
    };
    command.args(program.get_args());
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
}

/// The `runmesh` program, with the address and key of a control plane.
pub(super) struct Runmesh {
    program: PathBuf,
    /// The control plane.
    pub(super) url: String,
    key: String,
}

impl Runmesh {
    pub(super) fn new(program: &Path) -> Self {
        Self {
            program: program.to_owned(),
            url: String::new(),
            key: String::new(),
        }
    }

    /// Starts a control plane on free ports.
    pub(super) fn serve(&self, data_dir: &Path) -> Result<Process> {
        let mut serve = self.command(&["serve", "--listen", "127.0.0.1:0", "--json", "--data-dir"]);
        let log = std::env::var("RUST_LOG").unwrap_or_else(|_| "warn".to_owned());
        Process::start("runmesh serve", serve.arg(data_dir).env("RUST_LOG", log))
    }

    /// Reads address and key from what `serve` says first.
    pub(super) fn with_api(mut self, serve: &Process) -> Result<Self> {
        let started = serve.wait_for(STEP_TIMEOUT, |said| said["url"].is_string())?;
        self.url = text(&started, "url").to_owned();
        self.key = text(&started, "apiKey").to_owned();
        Ok(self)
    }

    /// Makes a command that knows address and key.
    pub(super) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(arguments)
            .env("RUNTOOLS_API_URL", &self.url)
            .env("RUNTOOLS_API_KEY", &self.key);
        command
    }

    /// Runs a command with `--json` and returns its document.
    pub(super) fn call(&self, arguments: &[&str]) -> Result<Value> {
        let mut command = self.command(arguments);
        let output = command.arg("--json").output().context("start runmesh")?;
        if !output.status.success() {
            bail!(
                "runmesh {}: {}",
                arguments.join(" "),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("runmesh {} is no JSON", arguments.join(" ")))
    }

    /// The same, and shows what the command says on stderr.
    pub(super) fn call_loudly(&self, arguments: &[&str], say: &Say) -> Result<Value> {
        let mut command = self.command(arguments);
        let output = command.arg("--json").output().context("start runmesh")?;
        let talk = String::from_utf8_lossy(&output.stderr);
        talk.lines().for_each(|line| say.line(&format!("  {line}")));
        if !output.status.success() {
            bail!("runmesh {} failed", arguments.join(" "));
        }
        serde_json::from_slice(&output.stdout).context("it printed no JSON")
    }

    /// Runs a command and shows its lines as they come.
    pub(super) fn stream(&self, arguments: &[&str], show: impl Fn(&str)) -> Result<()> {
        let mut command = bound_to_us(&self.command(arguments));
        let mut child = command.stdout(Stdio::piped()).spawn().context("start runmesh")?;
        let stdout = child.stdout.take().context("the child has no stdout")?;
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            show(&line);
        }
        let status = child.wait().context("wait for runmesh")?;
        if !status.success() {
            bail!("runmesh {}: {status}", arguments.join(" "));
        }
        Ok(())
    }

    /// Runs a command that must fail, and returns what it says about it.
    pub(super) fn fails(&self, arguments: &[&str]) -> Result<String> {
        let output = self.command(arguments).output().context("start runmesh")?;
        if output.status.success() {
            bail!("runmesh {} should have failed", arguments.join(" "));
        }
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}
