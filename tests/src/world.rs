//! A control plane, a linked device and an agent, each real, in a directory that goes away with them.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tempfile::TempDir;

use crate::device::{Device, Setup};
use crate::processes::{ANY_PORT, Process, Runmesh, text};
use crate::repository::Repository;

/// The agent of every world.
pub const AGENT: &str = "inspector";
/// The device of every world.
pub const DEVICE: &str = "laptop";
/// How long something that happens by itself may take.
pub const SOON: Duration = Duration::from_secs(60);

/// Everything that a test needs. What is dropped first is stopped first: the device, then the control plane.
#[derive(Debug)]
pub struct World {
    /// The device's daemon; `None` while it is stopped.
    pub device: Option<Device>,
    /// The control plane; `None` while it is stopped.
    pub serve: Option<Process>,
    /// The program, with address and key.
    pub api: Runmesh,
    /// A checkout on the device.
    pub repository: Repository,
    setup: Setup,
    /// The same at every start, as it is where people run a control plane.
    mesh_listen: String,
    dir: TempDir,
}

impl World {
    /// Starts a control plane and a device whose only runner is a shell command, links it and binds an agent to it.
    pub fn start(command: &str) -> Result<Self> {
        Self::start_with(|repository, _| Ok(Setup::with_command(repository, command)))
    }

    /// Starts a control plane and a device that is set up for a checkout and a directory of the world's own.
    pub fn start_with(set_up: impl FnOnce(&Path, &Path) -> Result<Setup>) -> Result<Self> {
        let dir = tempfile::tempdir().context("make a directory")?;
        let repository = Repository::create(&dir.path().join("repo"))?;
        let setup = set_up(repository.path(), dir.path())?;
        let mesh_listen = free_udp_address()?;
        let (serve, api) = Runmesh::find()?.serve(&dir.path().join("control"), ANY_PORT, &mesh_listen)?;
        let mut world = Self {
            device: None,
            serve: Some(serve),
            api,
            repository,
            setup,
            mesh_listen,
            dir,
        };
        let device = Device::start(&world.api, &world.state_dir(), &world.setup)?;
        device.link(&world.api, DEVICE)?;
        world.device = Some(device);
        let runner = world.setup.bound_to();
        world
            .api
            .call(&["agents", "create", AGENT, "--device", DEVICE, "--runner", &runner])?;
        Ok(world)
    }

    /// Where the device keeps its state.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.dir.path().join("node")
    }

    /// Where the control plane's own node is reached by UDP.
    #[must_use]
    pub fn mesh_listen(&self) -> &str {
        &self.mesh_listen
    }

    /// The directory of this world.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Starts the device again with the state it had, and waits until runs can arrive.
    pub fn start_device(&mut self) -> Result<()> {
        let device = Device::start(&self.api, &self.state_dir(), &self.setup)?;
        device.wait_for("ready", SOON)?;
        self.device = Some(device);
        Ok(())
    }

    /// Starts the control plane again at the same address with the data it had.
    pub fn start_control(&mut self) -> Result<()> {
        let listen = self.api.url.trim_start_matches("http://").to_owned();
        let (serve, _) = self
            .api
            .serve(&self.dir.path().join("control"), &listen, &self.mesh_listen)?;
        self.serve = Some(serve);
        Ok(())
    }

    /// Gives the agent work without waiting for its end; returns the receipt.
    pub fn dispatch(&self, prompt: &str) -> Result<Value> {
        self.api.call(&["run", AGENT, prompt, "--detach"])
    }

    /// Waits until a run is in a status.
    pub fn wait_for_run(&self, run_id: &str, wanted: impl Fn(&str) -> bool) -> Result<Value> {
        self.wait_for_run_within(SOON, run_id, wanted)
    }

    /// Waits for a time of the caller's until a run is in a status.
    pub fn wait_for_run_within(
        &self,
        time_max: Duration,
        run_id: &str,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<Value> {
        let deadline = Instant::now() + time_max;
        let mut last = Value::Null;
        while Instant::now() < deadline {
            // The control plane may be away for a moment: that is what some tests are about.
            if let Ok(run) = self.api.call(&["runs", run_id]) {
                if wanted(text(&run, "status")) {
                    return Ok(run);
                }
                last = run;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        bail!("the run never came there: {last}")
    }

    /// Returns the durable events of a thread.
    pub fn events(&self, thread_id: &str) -> Result<Vec<Value>> {
        let thread = self.api.call(&["thread", thread_id])?;
        Ok(thread["events"]
            .as_array()
            .context("the thread has no events")?
            .clone())
    }
}

/// An address that is free now; nobody else takes it before whoever asks does, or its start fails loudly.
pub fn free_udp_address() -> Result<String> {
    let socket = std::net::UdpSocket::bind(ANY_PORT).context("find a free port")?;
    Ok(socket.local_addr().context("learn the free port")?.to_string())
}

/// Fails unless events are numbered from 1 without gaps and exactly one of them ends the run.
pub fn check_events(events: &[Value], run_id: &str) -> Result<()> {
    for (event, number) in events.iter().zip(1_u64..) {
        if event["sequence"] != number {
            bail!("event {number} is numbered {}", event["sequence"]);
        }
    }
    let ends = |e: &&Value| text(e, "type") == "run_completed" && text(e, "runId") == run_id;
    match events.iter().filter(ends).count() {
        1 => Ok(()),
        count => bail!("{count} events end the run"),
    }
}
