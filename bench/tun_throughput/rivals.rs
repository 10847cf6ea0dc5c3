//! Two hosts in namespaces with a wire between them, and what leads from one to the other through a tunnel.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use e2e::lab::namespace::Namespace;
use e2e::processes::processor_time;
use types::NodePrivateKey;

/// Where the other host is, inside the tunnel.
pub(crate) const THERE: &str = "100.64.0.2";

const START_TIMEOUT: Duration = Duration::from_secs(20);

/// Whose tunnel it is.
#[derive(Clone)]
pub(crate) enum Kind {
    Ours,
    WireguardGo { program: PathBuf, mtu: u32 },
}

impl Kind {
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Ours => "runmesh, MTU 1280".to_owned(),
            Self::WireguardGo { mtu, .. } => format!("wireguard-go, MTU {mtu}"),
        }
    }
}

/// Two hosts and a tunnel. What is dropped first is ended first.
pub(crate) struct Pair {
    _server: Running,
    tunnels: [Running; 2],
    hosts: [Namespace; 2],
    _dir: tempfile::TempDir,
}

/// A process that ends when this is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Pair {
    /// A wireguard-go that is killed leaves its socket behind.
    fn drop(&mut self) {
        for number in 1..=2 {
            let _ = std::fs::remove_file(socket_of(&format!("rmbench{number}")));
        }
    }
}

impl Pair {
    /// Joins two hosts; without offload the wire carries each datagram by itself.
    pub(crate) fn start(kind: &Kind, has_offload: bool) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let hosts = [
            Namespace::new("tunbench", "one")?,
            Namespace::new("tunbench", "two")?,
        ];
        let other = hosts[1].name();
        hosts[0].ip(&format!("link add wan type veth peer name wan netns {other}\n"))?;
        for (host, number) in hosts.iter().zip(1..) {
            host.ip(&format!(
                "addr add 10.199.0.{number}/24 dev wan\nlink set wan up\n"
            ))?;
            if !has_offload {
                let words = ["-K", "wan", "tx-udp-segmentation", "off"];
                succeeds(&mut host.command("ethtool", &words))?;
            }
        }
        let [one, two] = [0, 1].map(|index| tunnel(kind, &hosts[index], index, dir.path()));
        let tunnels = [one?, two?];
        let mut server = hosts[1].command("iperf3", &["-s"]);
        let server = server.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let pair = Self {
            _server: Running(server.context("iperf3")?),
            tunnels,
            hosts,
            _dir: dir,
        };
        pair.wait_until_it_leads_there()?;
        Ok(pair)
    }

    pub(crate) fn here(&self) -> &Namespace {
        &self.hosts[0]
    }

    /// Returns how long both ends of the tunnel had a processor.
    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        let spent = self.tunnels.iter().map(|tunnel| processor_time(tunnel.0.id()));
        spent.map(|spent| Ok(spent?.as_secs_f64())).sum()
    }

    fn wait_until_it_leads_there(&self) -> Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        while succeeds(&mut self.here().command("ping", &["-n", "-c", "1", "-W", "1", THERE])).is_err() {
            ensure!(Instant::now() < deadline, "no answer through the tunnel");
        }
        Ok(())
    }
}

fn tunnel(kind: &Kind, host: &Namespace, index: usize, dir: &Path) -> Result<Running> {
    let number = index + 1;
    match kind {
        Kind::Ours => {
            let own = std::env::current_exe()?;
            let number = number.to_string();
            let mut command = host.command(&own.to_string_lossy(), &["--node", &number]);
            Ok(Running(command.stdin(Stdio::piped()).spawn().context("a node")?))
        }
        Kind::WireguardGo { program, mtu } => wireguard_go(program, *mtu, host, (number, dir)),
    }
}

fn wireguard_go(
    program: &Path,
    mtu: u32,
    host: &Namespace,
    (number, dir): (usize, &Path),
) -> Result<Running> {
    // `wg` finds it by a socket outside all namespaces: no two may have one name.
    let device = format!("rmbench{number}");
    let mut command = host.command(&program.to_string_lossy(), &["-f", &device]);
    let quiet = command
        .env("WG_I_PREFER_BUGGY_USERSPACE_TO_POLISHED_KMOD", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let running = Running(quiet.spawn().context("wireguard-go")?);
    let socket = socket_of(&device);
    let deadline = Instant::now() + START_TIMEOUT;
    // `wg` removes a socket that refuses it, and wireguard-go's does between its bind and its listen.
    while std::os::unix::net::UnixStream::connect(&socket).is_err() {
        ensure!(Instant::now() < deadline, "wireguard-go does not come up");
        std::thread::sleep(Duration::from_millis(10));
    }
    let key = |number: usize| NodePrivateKey::from_random([number as u8; 32]);
    let file = dir.join(&device);
    std::fs::write(&file, key(number).to_base64().as_bytes())?;
    let (file, peer, other) = (
        file.to_string_lossy(),
        key(3 - number).public().to_string(),
        3 - number,
    );
    let (place, allowed) = (format!("10.199.0.{other}:51820"), format!("100.64.0.{other}/32"));
    let words = [
        "set",
        &device,
        "listen-port",
        "51820",
        "private-key",
        &file,
        "peer",
        &peer,
        "endpoint",
        &place,
        "allowed-ips",
        &allowed,
    ];
    succeeds(&mut host.command("wg", &words))?;
    host.ip(&format!(
        "addr add 100.64.0.{number}/32 dev {device}\nlink set {device} mtu {mtu} up\nroute add {allowed} dev {device}\n"
    ))?;
    Ok(running)
}

/// Where a wireguard-go listens for `wg`.
fn socket_of(device: &str) -> String {
    format!("/var/run/wireguard/{device}.sock")
}

fn succeeds(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
