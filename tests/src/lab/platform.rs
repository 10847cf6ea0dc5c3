//! The control plane of a world, and the relays that run elsewhere.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::namespace::Namespace;
use super::tls::{Certificates, Proxy};
use super::world::{CONTROL_HOST, Internet, RELAY_HOSTS};
use crate::processes::{Process, Runmesh, STEP_TIMEOUT, text};

/// Where the control plane listens behind a proxy that ends TLS.
const BEHIND_PROXY: u16 = 8443;

/// A running control plane. Dropping it stops it; its data stays.
#[derive(Debug)]
pub struct Platform {
    /// The program, with address and key, on the control plane's machine.
    pub api: Runmesh,
    /// The process; `None` while it is stopped.
    pub serve: Option<Process>,
    dir: PathBuf,
    /// What its start says of relays, besides the usual.
    relays: Vec<String>,
    /// What stands before it, unless it speaks HTTP in the clear.
    tls: Option<(Certificates, Proxy)>,
}

impl Platform {
    /// Starts a control plane with a relay beside it, both at port 443 in the clear.
    pub fn start(internet: &Internet, dir: &Path) -> Result<Self> {
        Self::start_behind(internet, dir, None)
    }

    /// Starts both behind TLS, with a certificate of an authority that the program is told to trust.
    pub fn start_encrypted(internet: &Internet, dir: &Path) -> Result<Self> {
        let certificates = Certificates::issue(dir)?;
        let proxy = Proxy::start(&internet.control, &certificates, BEHIND_PROXY)?;
        Self::start_behind(internet, dir, Some((certificates, proxy)))
    }

    fn start_behind(internet: &Internet, dir: &Path, tls: Option<(Certificates, Proxy)>) -> Result<Self> {
        let mut api = Runmesh::find()?;
        api.place = internet.control.prefix();
        api.authority = tls
            .as_ref()
            .map(|(certificates, _)| certificates.authority.clone());
        let mut platform = Self {
            tls,
            api,
            serve: None,
            dir: dir.join("control"),
            relays: Vec::new(),
        };
        platform.start_again()?;
        Ok(platform)
    }

    /// Starts it once more with the data it had.
    pub fn start_again(&mut self) -> Result<()> {
        self.serve = None;
        let (listen, url) = match self.tls {
            None => ("[::]:443".to_owned(), format!("http://{CONTROL_HOST}:443")),
            Some(_) => (
                format!("127.0.0.1:{BEHIND_PROXY}"),
                format!("https://{CONTROL_HOST}"),
            ),
        };
        let mut serve = self.api.command(&["serve", "--json", "--listen", &listen]);
        serve
            .args(["--mesh-listen", "[::]:7421", "--public-url", &url])
            .arg("--data-dir")
            .arg(&self.dir);
        if self.relays.is_empty() {
            serve.args(["--relay-listen", "[::]:7422"]);
        } else {
            serve.args(&self.relays);
        }
        let process = start("runmesh serve", &mut serve, &self.dir)?;
        let started = process.wait_for(STEP_TIMEOUT, |said| said["url"].is_string())?;
        self.api.url = text(&started, "url").to_owned();
        if let Some(key) = started["apiKey"].as_str() {
            self.api.key = key.to_owned();
        }
        self.serve = Some(process);
        Ok(())
    }

    /// Replaces the relay beside it by others, each on a machine of its own; returns those that run.
    pub fn move_relays(&mut self, internet: &Internet, count: usize) -> Result<Vec<RelayMachine>> {
        let relays = self.api.call(&["relays"])?;
        let authority = text(&relays, "authority").to_owned();
        let machines = (0..count).map(|number| {
            let machine = internet.relay_machine(number)?;
            RelayMachine::start(self, machine, number, &authority)
        });
        let machines = machines.collect::<Result<Vec<_>>>()?;
        let records: Vec<&Value> = machines.iter().map(|machine| &machine.record).collect();
        let file = self.dir.with_file_name("relays.json");
        std::fs::write(&file, serde_json::to_vec(&records)?).context("write the records of the relays")?;
        let file = file.to_string_lossy().into_owned();
        self.relays = ["--no-relay".to_owned(), "--relays".to_owned(), file].to_vec();
        self.start_again()?;
        Ok(machines)
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        // One that is asked first gives its nodes seconds to go elsewhere.
        let _ = self.serve.take().map(|serve| serve.kill());
    }
}

/// A relay by itself. Dropping it stops it.
#[derive(Debug)]
pub struct RelayMachine {
    /// The process.
    pub process: Process,
    /// What nodes are told of it.
    pub record: Value,
    _machine: Namespace,
}

impl Drop for RelayMachine {
    fn drop(&mut self) {
        let _ = self.process.kill();
    }
}

impl RelayMachine {
    fn start(platform: &Platform, machine: Namespace, number: usize, authority: &str) -> Result<Self> {
        let mut program = platform.api.clone();
        program.place = machine.prefix();
        let name = format!("relay-{number}");
        let mut relay = program.command(&["relay", "--json", "--authority", authority, "--name", &name]);
        relay
            .args(["--public-host", RELAY_HOSTS[number]])
            .args(["--web-listen", "[::]:443", "--data-dir"])
            .arg(platform.dir.with_file_name(&name));
        if let Some((certificates, _)) = &platform.tls {
            relay.arg("--tls-cert").arg(&certificates.server);
            relay.arg("--tls-key").arg(&certificates.key);
        }
        let process = start(&name, &mut relay, &platform.dir.with_file_name(&name))?;
        let record = process.wait_for(STEP_TIMEOUT, |said| said["id"].is_string())?;
        Ok(Self {
            process,
            record,
            _machine: machine,
        })
    }
}

/// Starts a program whose talk goes into a file beside its directory, or to the terminal when `RUST_LOG` asks for it.
pub(super) fn start(name: &str, command: &mut Command, dir: &Path) -> Result<Process> {
    if std::env::var_os("RUST_LOG").is_some() {
        return Process::start(name, command);
    }
    command.env("RUST_LOG", "info");
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(dir.with_extension("log"));
    Process::start_with_stderr(name, command, file.context("open a log")?)
}
