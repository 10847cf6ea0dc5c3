//! `cargo xtask demo`: the whole way, with real processes: serve, link, approve, dispatch, watch, revoke.
//!
//! It uses nothing but the `runmesh` program, as a person would; what it prints is what that program printed.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::command;

mod process;
mod report;
mod repository;
mod runner;

use process::{Process, Runmesh};
use report::Report;
use repository::Repository;
use runner::Runner;

/// The agent's slug, as in the README.
const AGENT: &str = "code-on-my-mac";
/// What it is asked.
const PROMPT: &str = "Inspect this local repo";
/// How long a process may take to say what is expected of it.
const STEP_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a revoked device may take to notice, before the demo fails.
const CUT_OFF_TIMEOUT: Duration = Duration::from_secs(20);

/// Runs the demo; with `json`, the last line of stdout is the report as one JSON object and all else goes to stderr.
pub(crate) fn run(json: bool) -> Result<()> {
    let say = Say { json };
    let begun = Instant::now();
    say.step("building runmesh and the stand-in model");
    let binaries = build()?;
    let dir = fresh_dir()?;
    let repository = Repository::create(&dir.join("repo"))?;
    let runner = Runner::choose(&binaries, &dir, &say)?;

    say.step("starting a control plane");
    let started = Instant::now();
    let serve = Runmesh::new(&binaries.runmesh).serve(&dir.join("control"))?;
    let api = Runmesh::new(&binaries.runmesh).with_api(&serve)?;
    say.line(&format!("  {}", api.url));

    say.step("starting a node, as a process of its own, and linking it");
    let node = Node::start(&api, &runner, &repository, &dir)?;
    let linked = node.link(&api, &say)?;

    say.step(&format!(
        "making the agent {AGENT}, bound to {}",
        text(&linked, "name")
    ));
    let runner_name = format!("{}:{}", runner.kind(), runner.name());
    let device = text(&linked, "id");
    api.call(&[
        "agents",
        "create",
        AGENT,
        "--device",
        device,
        "--runner",
        &runner_name,
    ])?;

    say.step(&format!("runmesh run {AGENT} \"{PROMPT}\""));
    api.stream(&["run", AGENT, PROMPT], |line| say.line(&format!("  {line}")))?;
    let mut report = Report::default();
    report.runner = runner.describe().to_owned();
    report.read_run(&api, &repository, device)?;

    say.step("revoking the device");
    let revoked = Instant::now();
    api.call(&["revoke", device])?;
    node.wait_for("revoked", CUT_OFF_TIMEOUT)
        .context("the revoked device goes on")?;
    report.revoked_cut_off_ms = millis(revoked.elapsed());
    shows_cut_off(&api, &node, &say)?;
    report.total_ms = millis(started.elapsed());

    say.line("");
    say.line(&report.table());
    eprintln!(
        "all of it took {} s, the build included",
        begun.elapsed().as_secs()
    );
    if json {
        println!("{}", report.json());
    }
    Ok(())
}

/// Where the demo's own words go.
pub(crate) struct Say {
    json: bool,
}

impl Say {
    fn step(&self, text: &str) {
        self.line(&format!("\n== {text}"));
    }

    fn line(&self, text: &str) {
        if self.json {
            eprintln!("{text}");
        } else {
            println!("{text}");
        }
    }
}

/// The programs of this repository that the demo starts.
struct Binaries {
    runmesh: PathBuf,
    stand_in_model: PathBuf,
}

fn build() -> Result<Binaries> {
    let packages = ["--package", "runmesh", "--package", "e2e", "--bins"];
    let mut build = command::cargo(&["build", "--quiet"]);
    command::run(build.args(packages))?;
    let dir = command::target_dir().join("debug");
    Ok(Binaries {
        runmesh: dir.join("runmesh"),
        stand_in_model: dir.join("stand-in-model"),
    })
}

/// Everything of an earlier demo is thrown away: the demo shows a first start.
fn fresh_dir() -> Result<PathBuf> {
    let dir = command::root().join("target/demo");
    if dir.exists() {
        std::fs::remove_dir_all(&dir).context("clear target/demo")?;
    }
    std::fs::create_dir_all(&dir).context("make target/demo")?;
    Ok(dir)
}

/// The node daemon and where it keeps its state.
struct Node {
    process: Process,
    state_dir: String,
}

impl Node {
    fn start(api: &Runmesh, runner: &Runner, repository: &Repository, dir: &std::path::Path) -> Result<Self> {
        let state_dir = dir.join("node");
        runner.write_policy(&state_dir, repository.path())?;
        let state_dir = state_dir.to_string_lossy().into_owned();
        let arguments = [
            "up",
            "--server",
            &api.url,
            "--state-dir",
            &state_dir,
            "--label",
            "Demo laptop",
        ];
        let mut up = api.command(&arguments);
        up.args(["--listen", "127.0.0.1:0", "--json"]);
        up.env_remove("RUNTOOLS_API_KEY").envs(runner.environment());
        let process = Process::start("runmesh up", &mut up)?;
        Ok(Self { process, state_dir })
    }

    /// Waits for the code, shows it, compares the match number, approves, and waits until the node is ready.
    fn link(&self, api: &Runmesh, say: &Say) -> Result<Value> {
        let shown = self.wait_for("link_code", STEP_TIMEOUT)?;
        let (code, number) = (text(&shown, "code"), text(&shown, "match"));
        say.line(&format!(
            "  code {code}   match {number}   {}",
            text(&shown, "url")
        ));
        let approved = api.call_loudly(&["approve", code, "--name", "demo-laptop"], say)?;
        self.wait_for("linked", STEP_TIMEOUT)?;
        self.wait_for("ready", STEP_TIMEOUT)?;
        say.line(&format!(
            "  linked as {} ({})",
            text(&approved, "dnsName"),
            text(&approved, "meshIp6")
        ));
        Ok(approved)
    }

    /// Waits until the daemon says one thing on its stdout.
    fn wait_for(&self, event: &str, timeout: Duration) -> Result<Value> {
        self.process
            .wait_for(timeout, |said| text(said, "event") == event)
    }
}

/// Three witnesses: the API's node, a new run, and the device itself.
fn shows_cut_off(api: &Runmesh, node: &Node, say: &Say) -> Result<()> {
    let listed = api.call(&["nodes", "--all", "--status", "revoked"])?;
    let gone = listed["data"]
        .as_array()
        .is_some_and(|nodes| nodes.iter().any(|n| text(n, "name") == "demo-laptop"));
    ensure!(gone, "the API does not call the device revoked");
    say.line("  the API calls the device revoked");
    let refused = api.fails(&["run", AGENT, PROMPT, "--detach"])?;
    if !refused.contains("device_revoked") {
        bail!("a run on a revoked device must be refused with device_revoked, and was: {refused}");
    }
    say.line(&format!(
        "  a new run is refused: {}",
        refused.lines().next().unwrap_or_default()
    ));
    let status = node.status_after_revoke(api)?;
    say.line(&format!("  the device itself says: {status}"));
    Ok(())
}

impl Node {
    /// The daemon ends when it is shut out, and what is on its disk says so, too.
    fn status_after_revoke(&self, api: &Runmesh) -> Result<String> {
        self.process.wait_for_end(STEP_TIMEOUT)?;
        match api.call(&["status", "--state-dir", &self.state_dir]) {
            Ok(status) => {
                let state = status["link"]["state"].as_str().unwrap_or_default();
                ensure!(state == "revoked", "the device's own status says {state}");
                Ok("link revoked, daemon ended".to_owned())
            }
            Err(error) => Err(error.context("ask the device for its status")),
        }
    }
}

/// A field of a JSON object as text; empty when it is not there.
fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
