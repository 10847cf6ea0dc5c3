//! The lab: a network namespace with a wireguard-go in it.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use types::NodePrivateKey;

use crate::ours::{OUR_IP, PSK, SECOND, THEIR_IP, our_key, their_key};

/// A network namespace with a wireguard-go in it, joined to ours by a veth pair. Dropping it takes everything down.
pub(crate) struct Lab {
    namespace: String,
    veth: String,
    wireguard: Option<Child>,
    folder: PathBuf,
    pub(crate) our_place: Ipv4Addr,
    pub(crate) their_place: SocketAddr,
}

impl Lab {
    /// Builds the lab; `number` keeps the labs of one test run apart.
    pub(crate) fn new(number: u8) -> anyhow::Result<Self> {
        let tag = format!("{}{number}", std::process::id() % 100_000);
        let subnet = (std::process::id() % 60) as u8 * 4 + number % 4;
        let lab = Self {
            namespace: format!("runmesh-{tag}"),
            veth: format!("rmv{tag}"),
            wireguard: None,
            folder: std::env::temp_dir().join(format!("runmesh-interop-{tag}")),
            our_place: Ipv4Addr::new(10, 213, subnet, 1),
            their_place: SocketAddr::from(([10, 213, subnet, 2], 51820)),
        };
        std::fs::create_dir_all(&lab.folder)?;
        let Self { namespace, veth, .. } = &lab;
        run(&format!("ip netns add {namespace}"))?;
        run(&format!(
            "ip link add {veth} type veth peer name {veth}p netns {namespace}"
        ))?;
        run(&format!("ip addr add {}/24 dev {veth}", lab.our_place))?;
        run(&format!("ip link set {veth} up"))?;
        run(&format!(
            "ip -n {namespace} addr add {}/24 dev {veth}p",
            lab.their_place.ip()
        ))?;
        run(&format!("ip -n {namespace} link set {veth}p up"))?;
        run(&format!("ip -n {namespace} link set lo up"))?;
        Ok(lab)
    }

    /// Starts wireguard-go with us as its one peer, at `endpoint` if it shall know.
    pub(crate) fn start(&mut self, endpoint: Option<SocketAddr>) -> anyhow::Result<()> {
        let device = self.veth.replace("rmv", "rmw");
        let (namespace, folder) = (&self.namespace, self.folder.display());
        let log = std::fs::File::create(self.folder.join("wireguard-go.log"))?;
        let child = Command::new("ip")
            .args(["netns", "exec", namespace, "wireguard-go", "-f", &device])
            .env("LOG_LEVEL", "verbose")
            .env("WG_I_PREFER_BUGGY_USERSPACE_TO_POLISHED_KMOD", "1")
            .stdout(log.try_clone()?)
            .stderr(log)
            .stdin(Stdio::null())
            .spawn()
            .context("wireguard-go")?;
        self.wireguard = Some(child);
        std::fs::write(self.folder.join("private"), their_key().to_base64().as_bytes())?;
        let psk = NodePrivateKey::from_random(PSK).to_base64();
        std::fs::write(self.folder.join("psk"), psk.as_bytes())?;
        let endpoint = endpoint.map_or(String::new(), |endpoint| format!("endpoint {endpoint}"));
        let peer = our_key().public();
        let set = format!(
            "ip netns exec {namespace} wg set {device} listen-port {} private-key {folder}/private \
             peer {peer} preshared-key {folder}/psk allowed-ips {OUR_IP}/32 {endpoint}",
            self.their_place.port()
        );
        let deadline = Instant::now() + 10 * SECOND;
        // `wg` removes a socket that refuses it, and wireguard-go's does between its bind and its listen.
        while UnixStream::connect(socket_of(&device)).is_err() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        while let Err(error) = run(&set) {
            ensure!(
                Instant::now() < deadline,
                "wireguard-go does not come up: {error:#}"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        run(&format!("ip -n {namespace} addr add {THEIR_IP}/32 dev {device}"))?;
        run(&format!("ip -n {namespace} link set {device} mtu 1420 up"))?;
        run(&format!("ip -n {namespace} route add {OUR_IP}/32 dev {device}"))
    }

    /// Makes a command that runs in the namespace.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace, program]);
        command
    }

    /// Starts `ping` in the namespace, towards us.
    pub(crate) fn ping(&self, arguments: &str) -> anyhow::Result<Child> {
        let mut command = self.command("ping");
        command
            .args(["-n", "-W", "5"])
            .args(arguments.split_whitespace())
            .arg(OUR_IP.to_string());
        Ok(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?)
    }
}

/// Where wireguard-go listens for `wg`; a killed one leaves it behind.
fn socket_of(device: &str) -> PathBuf {
    PathBuf::from(format!("/var/run/wireguard/{device}.sock"))
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Some(child) = &mut self.wireguard {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = std::fs::remove_file(socket_of(&self.veth.replace("rmv", "rmw")));
        let _ = run(&format!("ip netns del {}", self.namespace));
        let _ = run(&format!("ip link del {}", self.veth));
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

pub(crate) fn run(line: &str) -> anyhow::Result<()> {
    let mut words = line.split_whitespace();
    let output = Command::new(words.next().context("a program")?)
        .args(words)
        .output()
        .context(line.to_owned())?;
    ensure!(
        output.status.success(),
        "{line}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// Builds a lab, or says why it cannot be built.
pub(crate) fn lab(number: u8) -> anyhow::Result<Option<Lab>> {
    let reason = match missing_for_lab() {
        None => match Lab::new(number) {
            Ok(lab) => return Ok(Some(lab)),
            Err(error) => format!("no network namespace can be made: {error:#}"),
        },
        Some(reason) => reason,
    };
    if std::env::var_os("RUNMESH_REQUIRE_LAB").is_some_and(|value| value == "1") {
        bail!("the lab is required and cannot be built: {reason}");
    }
    e2e::skipped::skipped(&reason);
    Ok(None)
}

pub(crate) fn missing_for_lab() -> Option<String> {
    for program in ["ip", "wg", "wireguard-go", "ping"] {
        let paths = std::env::var_os("PATH").unwrap_or_default();
        if !std::env::split_paths(&paths).any(|folder| folder.join(program).exists()) {
            return Some(format!("the program `{program}` is missing"));
        }
    }
    if std::fs::metadata("/dev/net/tun").is_err() {
        return Some("/dev/net/tun is missing".into());
    }
    None
}
