//! Foreign WireGuards as nodes: each joins by a key and an exported configuration, and reaches a device from behind a NAT.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use e2e::lab::device::{Device, EXPOSED, exchange};
use e2e::lab::namespace::Namespace;
use e2e::lab::nat::Nat;
use e2e::lab::platform::Platform;
use e2e::lab::world::{CONTROL_HOST, Internet, Site};
use e2e::processes::text;
use serde_json::Value;
use tempfile::TempDir;
use types::NodePrivateKey;

use crate::lab::missing_for_lab;

/// The name of the foreign node.
const FOREIGN: &str = "foreign";

/// A device of ours on the internet, and a network behind a NAT for a foreign WireGuard of the same owner.
struct World {
    device: Device,
    site: Site,
    platform: Platform,
    _internet: Internet,
    dir: TempDir,
}

impl World {
    /// Builds it, or says why it cannot be built.
    fn start() -> anyhow::Result<Option<Self>> {
        if !e2e::lab::can_run() {
            return Ok(None);
        }
        let dir = tempfile::tempdir()?;
        let internet = Internet::new()?;
        let platform = Platform::start(&internet, dir.path())?;
        let mut device = Device::start(&platform, internet.site(Nat::None, 1)?, dir.path(), "device")?;
        device.link(&platform)?;
        device.wait_for("ready")?;
        device.offer()?;
        Ok(Some(Self {
            site: internet.site(Nat::PortRestricted, 2)?,
            device,
            platform,
            _internet: internet,
            dir,
        }))
    }

    /// Makes the foreign node by its public key, and returns its configuration as `wg-quick` takes it, with its key in it.
    fn join(&self, key: &NodePrivateKey) -> anyhow::Result<String> {
        let body = format!(r#"{{"publicKey":"{}","deviceLabel":"{FOREIGN}"}}"#, key.public());
        let started = post(&self.site.host, "/v1/runmesh/devices/link/start", &body)?;
        let api = &self.platform.api;
        api.call(&["approve", text(&started["data"], "code"), "--name", FOREIGN])?;
        let config = api
            .lines(&["config", FOREIGN, "--format", "wg-quick"])?
            .join("\n");
        let marked = config.find("# PrivateKey").context("the key has no place")?;
        let (before, after) = config.split_at(marked);
        let key = String::from_utf8_lossy(key.to_base64().as_bytes()).into_owned();
        Ok(format!("{before}PrivateKey = {key}\n{after}\n"))
    }

    /// The device's addresses inside the mesh: IPv4 first.
    fn device_address(&self) -> anyhow::Result<Ipv4Addr> {
        let status = self.device.status()?;
        let address = status["node"]["addresses"][0]
            .as_str()
            .context("it has no address")?;
        Ok(address.parse()?)
    }
}

/// Posts JSON to the control plane from a machine, and returns what it answers.
fn post(machine: &Namespace, path: &str, body: &str) -> anyhow::Result<Value> {
    let address = SocketAddr::from(([203, 0, 113, 2], 443));
    let mut stream = machine.within(|| TcpStream::connect(address))??;
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nHost: {CONTROL_HOST}:443\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let start = answer.find("\r\n\r\n").context("no answer")?;
    let parsed = serde_json::from_str(answer[start..].trim());
    parsed.with_context(|| format!("no JSON: {answer}"))
}

/// Every value of a key of a configuration, in order.
fn values<'a>(config: &'a str, key: &'a str) -> impl Iterator<Item = &'a str> {
    let lines = config.lines().filter_map(|line| line.split_once(" = "));
    let values = lines.filter(move |(name, _)| *name == key);
    values.flat_map(|(_, value)| value.split(", "))
}

/// A foreign WireGuard that runs as a process with a TUN device; dropping it ends it.
struct Running {
    child: Child,
    device: String,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Not all remove it when they are killed.
        let _ = std::fs::remove_file(socket_of(&self.device));
    }
}

/// A foreign WireGuard as a program.
struct Program {
    path: PathBuf,
    words: &'static [&'static str],
    /// The first letters of its devices' names: `wg` finds those of all namespaces.
    prefix: &'static str,
    /// Whether it begins a session in order to keep it open, before anything else is to be sent.
    begins_for_keepalive: bool,
}

impl Program {
    fn wireguard_go() -> Self {
        Self {
            path: "wireguard-go".into(),
            words: &["-f"],
            prefix: "rmx",
            begins_for_keepalive: true,
        }
    }

    /// One that `cargo xtask test` builds from crates.io; none, and a word about it, where that was not done.
    fn from_crates(name: &str, prefix: &'static str) -> Option<Self> {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/foreign/bin");
        let path = dir.join(name);
        if path.exists() {
            return Some(Self {
                path,
                // They would become somebody who may not make a device.
                words: &["--foreground", "--disable-drop-privileges"],
                prefix,
                begins_for_keepalive: name != "boringtun-cli",
            });
        }
        e2e::skipped::skipped(&format!("{name} is not built: `cargo xtask test` does it"));
        None
    }

    /// Starts it with a configuration on a machine, as `wg-quick` would.
    fn start(&self, machine: &Namespace, config: &str, dir: &Path) -> anyhow::Result<Running> {
        let device = format!("{}{}", self.prefix, std::process::id());
        let run = |program: &str, words: &[&str]| {
            let output = machine.command(program, words).output().context("start it")?;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            ensure!(output.status.success(), "{program} {words:?}: {said}");
            anyhow::Ok(output.stdout)
        };
        let words = [self.words, &[&*device]].concat();
        let mut command = machine.command(&self.path.to_string_lossy(), &words);
        command.env("WG_I_PREFER_BUGGY_USERSPACE_TO_POLISHED_KMOD", "1");
        let log = std::fs::File::create(dir.join("foreign.log"))?;
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let running = Running {
            child: child.spawn().context("a foreign WireGuard")?,
            device: device.clone(),
        };
        let file = dir.join("foreign.conf");
        std::fs::write(&file, config)?;
        let stripped = run("wg-quick", &["strip", &file.to_string_lossy()])?;
        std::fs::write(&file, stripped)?;
        let deadline = Instant::now() + Duration::from_secs(10);
        while UnixStream::connect(socket_of(&device)).is_err() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        run("wg", &["setconf", &device, &file.to_string_lossy()])?;
        let mtu = values(config, "MTU").next().context("there is no MTU")?;
        for address in values(config, "Address") {
            run("ip", &["addr", "add", address, "dev", &device])?;
        }
        run("ip", &["link", "set", &device, "mtu", mtu, "up"])?;
        for block in values(config, "AllowedIPs") {
            run("ip", &["route", "add", block, "dev", &device])?;
        }
        Ok(running)
    }
}

/// Where a WireGuard listens for `wg`.
fn socket_of(device: &str) -> String {
    format!("/var/run/wireguard/{device}.sock")
}

/// Has a foreign WireGuard join as a process, and its host's own TCP reach a device of ours from behind a NAT, and the other way.
fn joins_as_a_process(number: u8, program: &Program) -> anyhow::Result<()> {
    let Some(world) = World::start()? else {
        return Ok(());
    };
    if let Some(reason) = missing_for_lab() {
        e2e::skipped::skipped(&reason);
        return Ok(());
    }
    let config = world.join(&NodePrivateKey::from_random([number; 32]))?;
    let host = &world.site.host;
    let running = program.start(host, &config, world.dir.path())?;
    // A handshake, and a stream of the kernel's own TCP through it.
    let address = SocketAddr::from((world.device_address()?, EXPOSED));
    let stream = host.within(|| TcpStream::connect_timeout(&address, Duration::from_secs(10)))?;
    exchange(stream.context("connect to the device")?, 300_000)?;
    let wanted = if program.begins_for_keepalive { 2 } else { 1 };
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        // Not all: those of other tests are found by their sockets, whatever their namespace.
        let transferred = host
            .command("wg", &["show", &running.device, "transfer"])
            .output()?;
        let shown = String::from_utf8_lossy(&transferred.stdout).into_owned();
        // Bytes, since not all tell the time of a handshake. The platform's peer is kept open by a keepalive.
        let has_answered = |line: &&str| line.split('\t').nth(1).is_some_and(|received| received != "0");
        if shown.lines().count() == 2 && shown.lines().filter(has_answered).count() == wanted {
            break;
        }
        ensure!(Instant::now() < deadline, "{shown}");
        std::thread::sleep(Duration::from_millis(50));
    }
    // The device follows it as WireGuard would, and says so.
    let path = world.device.path_to(FOREIGN)?;
    ensure!(path.kind == "direct", "{path:?}");
    Ok(())
}

#[test]
fn wireguard_go_behind_a_nat_reaches_a_device_by_an_exported_configuration() -> anyhow::Result<()> {
    joins_as_a_process(41, &Program::wireguard_go())
}

#[test]
fn boringtun_as_a_process_behind_a_nat_reaches_a_device_by_an_exported_configuration() -> anyhow::Result<()> {
    let Some(program) = Program::from_crates("boringtun-cli", "rmb") else {
        return Ok(());
    };
    joins_as_a_process(44, &program)
}

#[test]
fn gotatun_as_a_process_behind_a_nat_reaches_a_device_by_an_exported_configuration() -> anyhow::Result<()> {
    let Some(program) = Program::from_crates("gotatun", "rmg") else {
        return Ok(());
    };
    joins_as_a_process(45, &program)
}
