//! The demo: the whole way with real processes: serve, link, approve, dispatch, watch, revoke.
//!
//! It uses nothing but the `runmesh` program, as a person would; what it prints is what that program printed. It succeeds
//! only if all of it happened.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::device::Device;
use crate::processes::{ANY_PORT, Runmesh, STEP_TIMEOUT, text};
use crate::repository::Repository;

mod report;
mod runner;

use report::Report;
use runner::Runner;

/// The agent's slug, as in the README.
const AGENT: &str = "code-on-my-mac";
/// What it is asked.
const PROMPT: &str = "Inspect this local repo";
/// What the device is called.
const DEVICE: &str = "demo-laptop";
/// How long a revoked device may take to notice, before the demo fails.
const CUT_OFF_TIMEOUT: Duration = Duration::from_secs(20);

/// Runs the demo; with `json`, the last line of stdout is the report as one JSON object and all else goes to stderr.
pub fn run(json: bool) -> Result<()> {
    let say = Say { json };
    let dir = fresh_dir()?;
    let repository = Repository::create(&dir.join("repo"))?;
    let runner = Runner::choose(repository.path(), &dir, &say)?;

    say.step("starting a control plane");
    let begun = Instant::now();
    let (_serve, api) = Runmesh::find()?.serve(&dir.join("control"), ANY_PORT, ANY_PORT)?;
    say.line(&format!("  {}", api.url));

    say.step("starting a node, as a process of its own, and linking it");
    let device = Device::start(&api, &dir.join("node"), &runner.setup)?;
    let linked = device.link(&api, DEVICE)?;
    let (shown, node) = (&linked.shown, &linked.node);
    say.line(&format!(
        "  code {}   match {}",
        text(shown, "code"),
        text(shown, "match")
    ));
    say.line(&format!(
        "  approved, and linked as {} ({})",
        text(node, "dnsName"),
        text(node, "meshIp6")
    ));

    say.step(&format!("making the agent {AGENT}, bound to {DEVICE}"));
    let bound_to = runner.setup.bound_to();
    api.call(&[
        "agents", "create", AGENT, "--device", DEVICE, "--runner", &bound_to,
    ])?;

    say.step(&format!("runmesh run {AGENT} \"{PROMPT}\""));
    api.stream(&["run", AGENT, PROMPT], |line| say.line(&format!("  {line}")))?;
    let mut report = Report::of_newest_run(&api, &repository, DEVICE)?;
    report.runner = runner.description.to_owned();

    say.step("revoking the device");
    let revoked = Instant::now();
    api.call(&["revoke", DEVICE])?;
    device
        .wait_for("revoked", CUT_OFF_TIMEOUT)
        .context("the revoked device goes on")?;
    report.revoked_cut_off_ms = millis(revoked.elapsed());
    show_cut_off(&api, &device, &say)?;
    report.total_ms = millis(begun.elapsed());

    say.line(&format!("\n{}", report.table()));
    if json {
        println!("{}", report.json());
    }
    Ok(())
}

/// Three witnesses: the API's list, a new run, and the device itself.
fn show_cut_off(api: &Runmesh, device: &Device, say: &Say) -> Result<()> {
    let listed = api.call(&["nodes", "--all", "--status", "revoked"])?;
    let nodes = listed["data"].as_array().context("the API lists no nodes")?;
    ensure!(
        nodes.iter().any(|n| text(n, "name") == DEVICE),
        "the API does not call the device revoked"
    );
    say.line("  the API calls the device revoked");
    let refused = api.fails(&["run", AGENT, PROMPT, "--detach"])?;
    if !refused.contains("device_revoked") {
        bail!("a run on a revoked device must be refused with device_revoked, and was: {refused}");
    }
    say.line(&format!(
        "  a new run is refused: {}",
        refused.lines().next().unwrap_or_default()
    ));
    device.process.wait_for_end(STEP_TIMEOUT)?;
    let status = device.status(api).context("ask the device for its status")?;
    let state = text(&status["link"], "state");
    ensure!(state == "revoked", "the device's own status says {state}");
    say.line("  the device itself says revoked, and its daemon has ended");
    Ok(())
}

/// Where the demo's own words go.
struct Say {
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

/// Everything of an earlier demo is thrown away: the demo shows a first start.
fn fresh_dir() -> Result<PathBuf> {
    let dir = std::env::current_dir()
        .context("find the current directory")?
        .join("target/demo");
    if dir.exists() {
        std::fs::remove_dir_all(&dir).context("clear target/demo")?;
    }
    std::fs::create_dir_all(&dir).context("make target/demo")?;
    Ok(dir)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
