//! Fuzzes the API of a real control plane with schemathesis, by the OpenAPI document that it serves.
//!
//! In three rounds: with `Authorization: Bearer` and the ids of a linked device, an agent that runs on it and a thread; as a
//! stranger to all ids with `X-API-Key`; and the keys by themselves. Whatever schemathesis finds fails it; what the contract wants otherwise than
//! schemathesis stands in `exceptions`, each with its reason.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::device::{Device, Setup};
use crate::processes::{ANY_PORT, Runmesh, text};

/// The agent whose runs the device executes, and the one that may be changed and deleted.
const AGENTS: [&str; 2] = ["fuzzed", "spare"];

/// How much longer than planned the fuzzer may take before it is ended: it finishes what it has begun.
const GRACE: Duration = Duration::from_secs(60);

/// Below this the phases are divided among the rounds: trying edges alone would take all of it.
const SHORT: Duration = Duration::from_secs(180);

/// How the API is fuzzed.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The fuzzer's program.
    pub schemathesis: PathBuf,
    /// About how many cases of fuzzing in all; edges are tried besides, about three thousand.
    pub cases: u32,
    /// How long all rounds may take together.
    pub time: Duration,
    /// The same seed on the same document makes the same cases, as far as the time allows.
    pub seed: u64,
}

/// One way to come to the server.
struct Round<'a> {
    header: String,
    config: &'a Path,
    /// Which operations it is about, as words for schemathesis.
    operations: &'a [&'a str],
    /// How much of the time it may take, in percent.
    share: u32,
    /// What it does of its phases when the time is too short for all of them.
    in_short: &'a str,
}

/// Fuzzes a control plane of its own, and fails on any finding.
pub fn run(plan: &Plan) -> Result<()> {
    let dir = tempfile::Builder::new()
        .prefix("runmesh-fuzz-")
        .tempdir()
        .context("make a directory")?;
    let dir = dir.path();
    let (_serve, api) = Runmesh::find()?.serve(&dir.join("control"), ANY_PORT, ANY_PORT)?;
    let stage = Stage::build(&api, dir)?;
    let (strange, known) = (dir.join("strange.toml"), dir.join("known.toml"));
    fs::write(&strange, exceptions()).context("write the fuzzer's settings")?;
    fs::write(&known, exceptions() + &stage.settings()).context("write the fuzzer's settings")?;
    let key = format!("X-API-Key: {}", api.key);
    // The one that knows the ids goes first, since the next may find the device and revoke it; the last may find its own
    // key and revoke that, or take itself out of the org.
    let rounds = [
        Round {
            header: format!("Authorization: Bearer {}", api.key),
            config: &known,
            operations: &["--exclude-operation-id-regex", "revokeApiKey|removeMember"],
            share: 45,
            in_short: "coverage",
        },
        Round {
            header: key.clone(),
            config: &strange,
            operations: &["--exclude-operation-id-regex", "revokeApiKey|removeMember"],
            share: 45,
            in_short: "fuzzing,stateful",
        },
        Round {
            header: key,
            config: &strange,
            operations: &["--include-operation-id-regex", "ApiKeys?$|Members?$"],
            share: 10,
            in_short: "stateful",
        },
    ];
    let mut found = None;
    for round in rounds {
        api.call(&["overview"])
            .context("the server or its key did not survive the fuzzer")?;
        found = fuzz(plan, &api.url, dir, &round).err().or(found);
    }
    found.map_or(Ok(()), Err)
}

/// Where schemathesis expects something else than the contract says. The reasons stand in docs/reference/api.md, too.
fn exceptions() -> String {
    // A conversation must end with what is asked: JSON Schema cannot speak of the last item of a list.
    let asked = json!(["2xx", "3xx", 400, 401, 403, 404, 409, 429]);
    // Nor of where a thread ends, beyond which nobody can have read.
    let mut settings = String::from("continue-on-failure = true\nrequest-timeout = 40.0\n");
    // What a policy names must be defined in it, and its tests must hold: JSON Schema cannot speak of that either.
    let _ = write!(
        settings,
        "\n[[operations]]\ninclude-operation-id = [\"startRun\", \"startRunOfAgent\", \"putPolicy\", \"testPolicy\", \"explainPolicy\", \"listEvents\"]\n\
         checks.positive_data_acceptance.expected-statuses = {asked}\n"
    );
    // Revoking shuts out and keeps the record, for whoever asks later what became of it (contract section 3).
    settings += "\n[[operations]]\ninclude-operation-id = [\"getNode\", \"listDeviceActivity\"]\nchecks.use_after_free.enabled = false\n";
    settings
}

/// What is there to be found.
struct Stage {
    device: Value,
    spare_device: Value,
    runs: Vec<Value>,
    spare_key: Value,
    _daemon: Device,
}

impl Stage {
    /// Links two devices, makes two agents, and has the first device execute two runs.
    fn build(api: &Runmesh, dir: &Path) -> Result<Self> {
        let folder = dir.join("work");
        fs::create_dir(&folder).context("make a folder to work in")?;
        let setup = Setup::with_command(&folder, "cat");
        let daemon = Device::start(api, &dir.join("node"), &setup)?;
        let device = daemon.link(api, AGENTS[0])?.node;
        let spare = Device::start(api, &dir.join("spare"), &setup)?;
        let spare_device = spare.link(api, AGENTS[1])?.node;
        drop(spare);
        api.call(&[
            "agents",
            "create",
            AGENTS[0],
            "--device",
            AGENTS[0],
            "--runner",
            "command:inspect",
        ])?;
        api.call(&["agents", "create", AGENTS[1], "--mode", "managed"])?;
        for prompt in ["hello", "good day"] {
            api.stream(&["run", AGENTS[0], prompt], |_| ())?;
        }
        let runs = api.call(&["runs"])?;
        Ok(Self {
            device,
            spare_device,
            runs: runs["data"].as_array().cloned().unwrap_or_default(),
            spare_key: api.call(&["keys", "create", AGENTS[1]])?,
            _daemon: daemon,
        })
    }

    /// The ids that each operation is told; what may end something gets what may end.
    fn settings(&self) -> String {
        let (kept, spare) = (&self.runs[0], &self.runs[1]);
        let told: [(&[&str], &str, &str); 9] = [
            (
                &["getNode", "getNodeConfig", "listDeviceActivity"],
                "id",
                text(&self.device, "id"),
            ),
            (
                &["patchNode", "deleteNode", "revokeNode"],
                "id",
                text(&self.spare_device, "id"),
            ),
            (&["getAgent", "startRunOfAgent"], "slug", AGENTS[0]),
            (&["patchAgent", "deleteAgent"], "slug", AGENTS[1]),
            (&["getApiKey"], "id", text(&self.spare_key, "id")),
            (&["getRun", "cancelRun"], "id", text(kept, "runId")),
            (
                &[
                    "getThread",
                    "getThreadOfAgent",
                    "listRollouts",
                    "listThreadActivity",
                    "listEvents",
                ],
                "id",
                text(kept, "threadId"),
            ),
            (
                &["patchThread", "compactThread", "appendEvents"],
                "id",
                text(kept, "threadId"),
            ),
            (
                &["deleteThread", "deleteThreadOfAgent"],
                "id",
                text(spare, "threadId"),
            ),
        ];
        told.iter()
            .flat_map(|(operations, name, value)| {
                operations.iter().map(|operation| tell(operation, name, value))
            })
            .collect()
    }
}

fn tell(operation: &str, name: &str, value: &str) -> String {
    format!(
        "\n[[operations]]\ninclude-operation-id = \"{operation}\"\nparameters = {{ \"path.{name}\" = \"{value}\" }}\n"
    )
}

fn fuzz(plan: &Plan, url: &str, dir: &Path, round: &Round<'_>) -> Result<()> {
    let document = format!("{url}/v1/openapi.json");
    let time = plan.time * round.share / 100;
    let cases = plan.cases.div_ceil(2 * OPERATIONS);
    let mut fuzzer = Command::new(&plan.schemathesis);
    fuzzer
        .arg("--config-file")
        .arg(round.config)
        .arg("run")
        .arg(document);
    // Not `--checks all`: it would undo the exceptions, and all are on anyway.
    fuzzer.args(round.operations);
    if plan.time < SHORT {
        fuzzer.args(["--phases", round.in_short]);
    }
    fuzzer.args(["--no-color", "--output-sanitize", "false", "--header"]);
    fuzzer.arg(&round.header);
    for (name, value) in [
        ("--max-examples", u64::from(cases)),
        ("--seed", plan.seed),
        ("--max-time", time.as_secs()),
    ] {
        fuzzer.arg(name).arg(value.to_string());
    }
    let child = fuzzer.current_dir(dir).spawn().context("start schemathesis")?;
    wait(child, time + GRACE)
}

/// About how many operations the document has: what is asked for in all is divided among them.
const OPERATIONS: u32 = 50;

fn wait(mut child: Child, time: Duration) -> Result<()> {
    let deadline = Instant::now() + time;
    loop {
        match child.try_wait().context("wait for schemathesis")? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => bail!("schemathesis found something, or failed: {status}"),
            None if Instant::now() > deadline => {
                let _ = child.kill();
                let _ = child.wait();
                bail!("schemathesis did not end in time");
            }
            None => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}
