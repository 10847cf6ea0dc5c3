//! Child processes that cannot outlive whoever started them, and the `runmesh` program called as a person would.

use std::cell::RefCell;
use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// A free port of this machine.
pub const ANY_PORT: &str = "127.0.0.1:0";
/// How long a process may take to say what is expected of it.
pub const STEP_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a process may take to end after it was asked to.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// A child that says JSON lines on stdout. Dropping it ends it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: RefCell<Child>,
    lines: Receiver<String>,
}

impl Process {
    /// Starts a program. Where the system can, it also ends when the demo is killed.
    pub fn start(name: &str, program: &mut Command) -> Result<Self> {
        Self::start_with_stderr(name, program, Stdio::inherit())
    }

    /// Like [`Process::start`], with a stderr of the caller's.
    pub fn start_with_stderr(name: &str, program: &mut Command, stderr: impl Into<Stdio>) -> Result<Self> {
        let mut command = bound_to_us(program);
        command.stderr(stderr);
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
    pub fn line(&self, timeout: Duration) -> Result<String> {
        match self.lines.recv_timeout(timeout) {
            Ok(line) => Ok(line),
            Err(RecvTimeoutError::Timeout) => bail!("{} said nothing for {} s", self.name, timeout.as_secs()),
            Err(RecvTimeoutError::Disconnected) => bail!("{} ended", self.name),
        }
    }

    /// Waits for a JSON line of a kind; other lines are passed over.
    pub fn wait_for(&self, timeout: Duration, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
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

    /// Returns how much memory of the process is resident, in KiB (Linux).
    pub fn resident_kib(&self) -> Result<u64> {
        let path = format!("/proc/{}/status", self.child.borrow().id());
        let status = std::fs::read_to_string(path).context("read the status of a child")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        number.context("the status of a child names no resident memory")
    }

    /// Ends the process at once, without asking.
    pub fn kill(&self) -> Result<()> {
        let mut child = self.child.borrow_mut();
        child.kill().context("kill a child")?;
        child.wait().context("wait for a child")?;
        Ok(())
    }

    /// Sends it a signal, such as `INT`.
    pub fn signal(&self, name: &str) -> Result<()> {
        send_signal(&self.child.borrow(), name)
    }

    /// Waits until the process has ended by itself; returns its exit code, `None` when a signal ended it.
    pub fn wait_for_end(&self, timeout: Duration) -> Result<Option<i32>> {
        wait_for_end(&mut self.child.borrow_mut(), timeout).with_context(|| self.name.clone())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let child = self.child.get_mut();
        if child.try_wait().is_ok_and(|ended| ended.is_some()) {
            return;
        }
        // Asked first, so that it can end its own children; std can only kill.
        let _ = send_signal(child, "TERM");
        let deadline = Instant::now() + STOP_TIMEOUT;
        while Instant::now() < deadline && child.try_wait().is_ok_and(|ended| ended.is_none()) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// Sends a signal, such as `INT`, to a child.
pub fn send_signal(child: &Child, name: &str) -> Result<()> {
    let mut kill = Command::new("kill");
    let status = kill.args(["-s", name, &child.id().to_string()]).status();
    if !status.context("start kill")?.success() {
        bail!("kill -s {name}: no such process");
    }
    Ok(())
}

/// Returns how long all threads of a process had a processor so far, the system's share included.
pub fn processor_time(process: u32) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    // Behind the name, which may hold anything: user and system time are the 12th and 13th field.
    let (_, fields) = stat.rsplit_once(')').context("a process has a name")?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks = fields
        .get(11)
        .zip(fields.get(12))
        .context("it had no processor")?;
    let ticks = ticks.0.parse::<u64>()? + ticks.1.parse::<u64>()?;
    let per_second = rustix::param::clock_ticks_per_second();
    Ok(Duration::from_secs_f64(ticks as f64 / per_second as f64))
}

/// Waits until a child has ended by itself; returns its exit code, `None` when a signal ended it.
pub fn wait_for_end(child: &mut Child, timeout: Duration) -> Result<Option<i32>> {
    let deadline = Instant::now() + timeout;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait().context("wait for a child")? {
            return Ok(status.code());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    bail!("it goes on running")
}

/// Wraps a command so that the kernel ends it when this process ends in whatever way.
fn bound_to_us(program: &Command) -> Command {
    let mut command = if in_search_path("setpriv") {
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

/// Builds `runmesh` into the directory that this program was built into; does nothing when it is up to date.
fn build() -> Result<PathBuf> {
    let this = std::env::current_exe().context("find this program")?;
    let in_profile = |dir: &Path| dir.join("deps").is_dir();
    let profile = this
        .ancestors()
        .skip(1)
        .find(|dir| in_profile(dir))
        .context("find the build directory")?;
    let target = profile.parent().context("find the target directory")?;
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args(["build", "--quiet", "--package", "runmesh", "--target-dir"])
        .arg(target);
    let status = cargo
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .context("start cargo")?;
    if !status.success() {
        bail!("cargo build --package runmesh: {status}");
    }
    Ok(profile.join("runmesh"))
}

/// Tells whether a program stands in the search path.
#[must_use]
pub fn in_search_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// Returns a field of a JSON object as text; empty when it is not there.
#[must_use]
pub fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

/// The `runmesh` program, with the address and key of a control plane.
#[derive(Clone, Debug)]
pub struct Runmesh {
    program: PathBuf,
    /// What makes the program run where it shall: the words before it, such as `ip netns exec NAME`. Empty for here.
    pub place: Vec<OsString>,
    /// The control plane's address; empty before there is one.
    pub url: String,
    /// The API key; empty before there is one.
    pub key: String,
    /// The file of the only certificates that the program trusts, instead of those of the system.
    pub authority: Option<PathBuf>,
}

impl Runmesh {
    /// Finds the program: `RUNMESH_BIN`, or built now, beside the program that asks.
    pub fn find() -> Result<Self> {
        let program = match std::env::var_os("RUNMESH_BIN") {
            Some(program) => PathBuf::from(program),
            None => build()?,
        };
        Ok(Self {
            program,
            place: Vec::new(),
            url: String::new(),
            key: String::new(),
            authority: None,
        })
    }

    /// Starts a control plane, and returns it with the program that knows its address and, at a first start, its key.
    ///
    /// `listen` and `mesh_listen` are addresses such as `127.0.0.1:0`; its relay is somewhere else at every start.
    pub fn serve(&self, data_dir: &Path, listen: &str, mesh_listen: &str) -> Result<(Process, Self)> {
        let mut serve = self.command(&[
            "serve",
            "--listen",
            listen,
            "--mesh-listen",
            mesh_listen,
            "--relay-listen",
            "127.0.0.1:0",
            "--json",
        ]);
        let log = std::env::var("RUST_LOG").unwrap_or_else(|_| "warn".to_owned());
        let process = Process::start(
            "runmesh serve",
            serve.arg("--data-dir").arg(data_dir).env("RUST_LOG", log),
        )?;
        let started = process.wait_for(STEP_TIMEOUT, |said| said["url"].is_string())?;
        let mut api = self.clone();
        api.url = text(&started, "url").to_owned();
        if let Some(key) = started["apiKey"].as_str() {
            api.key = key.to_owned();
        }
        Ok((process, api))
    }

    /// Makes a command that knows address and key.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut words = self
            .place
            .iter()
            .map(OsString::as_os_str)
            .chain([self.program.as_os_str()]);
        let mut command = Command::new(words.next().unwrap_or_default());
        command
            .args(words)
            .args(arguments)
            .env("RUNTOOLS_API_URL", &self.url)
            .env("RUNTOOLS_API_KEY", &self.key)
            .envs(self.authority.iter().map(|file| ("SSL_CERT_FILE", file)));
        command
    }

    /// Runs a command with `--json` and returns its document.
    pub fn call(&self, arguments: &[&str]) -> Result<Value> {
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

    /// Runs a command and shows its lines as they come.
    pub fn stream(&self, arguments: &[&str], show: impl Fn(&str)) -> Result<()> {
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

    /// Runs a command that must succeed, and returns the lines of its stdout.
    pub fn lines(&self, arguments: &[&str]) -> Result<Vec<String>> {
        let output = self.command(arguments).output().context("start runmesh")?;
        if !output.status.success() {
            bail!(
                "runmesh {}: {}",
                arguments.join(" "),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        let text = String::from_utf8(output.stdout).context("stdout is no UTF-8")?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// Runs a command that must fail, and returns what it says about it.
    pub fn fails(&self, arguments: &[&str]) -> Result<String> {
        let output = self.command(arguments).output().context("start runmesh")?;
        if output.status.success() {
            bail!("runmesh {} should have failed", arguments.join(" "));
        }
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}
