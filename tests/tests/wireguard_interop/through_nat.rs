//! Foreign WireGuards as nodes: each joins by a key and an exported configuration, and reaches a device from behind a NAT.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, ToSocketAddrs as _, UdpSocket};
use std::path::Path;
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
use types::{NodePrivateKey, NodePublicKey};

use crate::bare::{Bare, Boringtun, Gotatun};
use crate::lab::missing_for_lab;
use crate::ours::{icmp_echo, text as question};

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

/// A wireguard-go that runs; dropping it ends it.
struct WireguardGo {
    child: Child,
    device: String,
}

impl Drop for WireguardGo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts wireguard-go with a configuration on a machine, as `wg-quick` would.
fn start_wireguard_go(machine: &Namespace, config: &str, dir: &Path) -> anyhow::Result<WireguardGo> {
    let device = format!("rmx{}", std::process::id());
    let run = |program: &str, words: &[&str]| {
        let output = machine.command(program, words).output().context("start it")?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "{program} {words:?}: {said}");
        anyhow::Ok(output.stdout)
    };
    let mut command = machine.command("wireguard-go", &["-f", &device]);
    command.env("WG_I_PREFER_BUGGY_USERSPACE_TO_POLISHED_KMOD", "1");
    let log = std::fs::File::create(dir.join("wireguard-go.log"))?;
    let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let running = WireguardGo {
        child: child.spawn().context("wireguard-go")?,
        device: device.clone(),
    };
    let file = dir.join("foreign.conf");
    std::fs::write(&file, config)?;
    let stripped = run("wg-quick", &["strip", &file.to_string_lossy()])?;
    std::fs::write(&file, stripped)?;
    let deadline = Instant::now() + Duration::from_secs(10);
    let socket = format!("/var/run/wireguard/{device}.sock");
    while std::os::unix::net::UnixStream::connect(&socket).is_err() && Instant::now() < deadline {
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

#[test]
fn wireguard_go_behind_a_nat_reaches_a_device_by_an_exported_configuration() -> anyhow::Result<()> {
    let Some(world) = World::start()? else {
        return Ok(());
    };
    if let Some(reason) = missing_for_lab() {
        e2e::skipped::skipped(&reason);
        return Ok(());
    }
    let config = world.join(&NodePrivateKey::from_random([41; 32]))?;
    let host = &world.site.host;
    let running = start_wireguard_go(host, &config, world.dir.path())?;
    // A handshake, and a stream of the kernel's own TCP through it.
    let address = SocketAddr::from((world.device_address()?, EXPOSED));
    let stream = host.within(|| TcpStream::connect_timeout(&address, Duration::from_secs(10)))?;
    exchange(stream.context("connect to the device")?, 300_000)?;
    let handshakes = host
        // Not all: those of other tests are found by their sockets, whatever their namespace.
        .command("wg", &["show", &running.device, "latest-handshakes"])
        .output()?;
    let shown = String::from_utf8_lossy(&handshakes.stdout).into_owned();
    // The platform's peer is kept open by a keepalive from the start.
    let is_up = |line: &str| !line.ends_with("\t0");
    ensure!(shown.lines().count() == 2 && shown.lines().all(is_up), "{shown}");
    // The device follows it as WireGuard would, and says so.
    let path = world.device.path_to(FOREIGN)?;
    ensure!(path.kind == "direct", "{path:?}");
    Ok(())
}

#[test]
fn boringtun_behind_a_nat_reaches_a_device_by_an_exported_configuration() -> anyhow::Result<()> {
    reaches_a_device(42, Boringtun::new)
}

#[test]
fn gotatun_behind_a_nat_reaches_a_device_by_an_exported_configuration() -> anyhow::Result<()> {
    reaches_a_device(43, Gotatun::new)
}

/// Has a foreign WireGuard join, and a device of ours answer its echo.
fn reaches_a_device<T: Bare>(
    number: u8,
    start: impl FnOnce(&NodePrivateKey, &NodePublicKey) -> T,
) -> anyhow::Result<()> {
    let Some(world) = World::start()? else {
        return Ok(());
    };
    let key = NodePrivateKey::from_random([number; 32]);
    let config = world.join(&key)?;
    let device = config.rfind("[Peer]").map(|at| &config[at..]).context("a peer")?;
    let value = |text, name| values(text, name).next().with_context(|| name.to_owned());
    let endpoint = value(device, "Endpoint")?
        .to_socket_addrs()?
        .next()
        .context("an address")?;
    let own: Ipv4Addr = value(&config, "Address")?
        .split('/')
        .next()
        .unwrap_or_default()
        .parse()?;
    let mut tunnel = start(&key, &value(device, "PublicKey")?.parse()?);
    let socket = world.site.host.within(|| UdpSocket::bind("0.0.0.0:0"))??;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    let far = world.device_address()?;
    for datagram in tunnel.send(&question(own, far, "\0\x01\0\x01are you there?")) {
        socket.send_to(&datagram, endpoint)?;
    }
    let answer = loop {
        let mut received = [0; 2048];
        let (len, _) = socket.recv_from(&mut received).context("no answer comes")?;
        let (answers, packet) = tunnel.receive(endpoint, &received[..len])?;
        for answer in answers {
            socket.send_to(&answer, endpoint)?;
        }
        if let Some(packet) = packet {
            break packet;
        }
    };
    let expected = icmp_echo(far, own, 0, b"\0\x01\0\x01are you there?");
    // Everything but what a stack chooses for itself: the header's number, its life and its checksum.
    assert_eq!(answer[12..], expected[12..]);
    Ok(())
}
