//! Names of the mesh, asked for by programs that know nothing of it: `dig`, and systemd-resolved where it runs.

use std::ffi::OsString;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use e2e::device::{Device, Setup};
use e2e::lab::can_run;
use e2e::lab::namespace::Namespace;
use e2e::processes::{ANY_PORT, Process, Runmesh, STEP_TIMEOUT, in_search_path, text};
use e2e::skipped::skipped;
use e2e::world::World;
use serde_json::Value;

/// The other device, which answers for names.
const DESK: &str = "desk";

/// Two devices of one owner, one of which answers for names.
struct Pair {
    world: World,
    desk: Device,
    resolver: SocketAddr,
}

impl Pair {
    fn start() -> Self {
        let world = World::start("cat").expect("a world");
        let setup = Setup::with_command(world.repository.path(), "cat");
        let state_dir = world.dir().join(DESK);
        let words = ["--dns-listen", ANY_PORT];
        let desk = Device::start_with(&world.api, &state_dir, &setup, &words).expect("it starts");
        desk.link(&world.api, DESK).expect("linked");
        let status = desk.status(&world.api).expect("a status");
        let resolver = text(&status, "namesAddress").parse().expect("an address");
        let pair = Self {
            world,
            desk,
            resolver,
        };
        let deadline = Instant::now() + STEP_TIMEOUT;
        while pair.dig("+short laptop.home.mesh.internal").is_empty() {
            assert!(Instant::now() < deadline, "desk is not told of laptop");
            std::thread::sleep(Duration::from_millis(50));
        }
        pair
    }

    fn dig(&self, words: &str) -> String {
        dig(Command::new("dig"), self.resolver, words)
    }
}

fn dig(mut command: Command, server: SocketAddr, words: &str) -> String {
    let port = server.port().to_string();
    command.args([&format!("@{}", server.ip()), "-p", &port, "+tries=1"]);
    let output = command.args(words.split(' ')).output().expect("dig");
    String::from_utf8(output.stdout).expect("UTF-8").trim().to_owned()
}

fn has_dig() -> bool {
    let has = in_search_path("dig");
    if !has {
        skipped("the program `dig` is missing");
    }
    has
}

fn addresses(status: &Value) -> Vec<String> {
    let addresses = status["node"]["addresses"].as_array().expect("addresses");
    addresses
        .iter()
        .map(|address| address.as_str().expect("text").to_owned())
        .collect()
}

#[test]
fn dig_is_told_of_nodes_by_udp_and_tcp_and_of_nothing_outside() {
    if !has_dig() {
        return;
    }
    let pair = Pair::start();
    let laptop = pair
        .world
        .device
        .as_ref()
        .expect("it runs")
        .status(&pair.world.api);
    let [ip4, ip6] = &addresses(&laptop.expect("a status"))[..] else {
        panic!("it has two addresses");
    };
    for how in ["", "+tcp ", "+noedns ", "+bufsize=4096 ", "+cookie ", "+dnssec "] {
        assert_eq!(
            pair.dig(&format!("{how}+short LapTop.home.mesh.internal A")),
            *ip4
        );
        assert_eq!(
            pair.dig(&format!("{how}+short laptop.home.mesh.internal AAAA")),
            *ip6
        );
    }
    for address in [ip4, ip6] {
        assert_eq!(
            pair.dig(&format!("+short -x {address}")),
            "laptop.home.mesh.internal."
        );
    }
    let own = addresses(&pair.desk.status(&pair.world.api).expect("a status"));
    assert_eq!(pair.dig("+short desk.home.mesh.internal"), own[0]);
    for (words, status) in [
        ("nobody.home.mesh.internal", "NXDOMAIN"),
        ("laptop.home.mesh.internal TXT", "NOERROR"),
        ("laptop.work.mesh.internal", "REFUSED"),
        ("example.com", "REFUSED"),
        ("+tcp home.mesh.internal AXFR", "failed"),
    ] {
        let said = pair.dig(words);
        assert!(said.contains(status), "{words}: {said}");
        assert!(!said.contains("WARNING: Message"), "{said}");
    }
    let kept = pair.dig("+noall +authority nobody.home.mesh.internal");
    assert!(
        kept.contains("SOA") && kept.ends_with(" 10") && kept.contains("desk.home.mesh.internal."),
        "{kept}"
    );
    // A name is gone with its node.
    pair.world.api.call(&["revoke", "laptop"]).expect("revoked");
    let deadline = Instant::now() + STEP_TIMEOUT;
    while !pair.dig("laptop.home.mesh.internal").contains("NXDOMAIN") {
        assert!(Instant::now() < deadline, "the name is still there");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn who_asks_badly_slowly_or_too_much_keeps_nobody_else_from_asking() {
    if !has_dig() {
        return;
    }
    let pair = Pair::start();
    let noise = UdpSocket::bind(ANY_PORT).expect("a socket");
    for len in (0..1400).chain([4000, 60_000]) {
        noise.send_to(&vec![0x55; len], pair.resolver).expect("sent");
    }
    let ask = || pair.dig("+short desk.home.mesh.internal");
    assert!(!ask().is_empty());
    let mut slow: Vec<TcpStream> = (0..40)
        .map(|_| TcpStream::connect(pair.resolver).expect("it listens"))
        .collect();
    for stream in &mut slow {
        stream.write_all(&[0]).expect("half a length");
        stream.set_read_timeout(Some(STEP_TIMEOUT)).expect("a timeout");
    }
    assert!(!pair.dig("+tcp +short desk.home.mesh.internal").is_empty());
    let mut huge = TcpStream::connect(pair.resolver).expect("it listens");
    huge.set_read_timeout(Some(STEP_TIMEOUT)).expect("a timeout");
    huge.write_all(&[0xff, 0xff, 0, 0]).expect("the largest length");
    let start = Instant::now();
    assert!(ends(&mut huge));
    assert!(start.elapsed() < Duration::from_secs(4), "it was waited for");
    for stream in &mut slow {
        assert!(ends(stream), "a slow client is let go");
    }
    assert!(!ask().is_empty());
    // Two questions in one write, on one connection.
    let mut stream = TcpStream::connect(pair.resolver).expect("it listens");
    stream.set_read_timeout(Some(STEP_TIMEOUT)).expect("a timeout");
    let question = b"\0\x1b\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x01x\x07example\0\0\x01\0\x01";
    stream
        .write_all(&[question.as_slice(), question].concat())
        .expect("sent");
    let mut answers = vec![0; 2 * question.len()];
    stream.read_exact(&mut answers).expect("two answers");
    let (one, other) = answers.split_at(question.len());
    assert_eq!(one, other);
    assert_eq!(one[5] & 15, 5);
}

/// Waits until the other end closes; `false` when it says something instead, or nothing at all.
fn ends(stream: &mut TcpStream) -> bool {
    match stream.read(&mut [0]) {
        Ok(len) => len == 0,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

#[test]
fn a_peer_is_told_through_the_mesh_of_that_node_and_itself() {
    if !has_dig() {
        return;
    }
    let pair = Pair::start();
    let mut forward = pair.world.api.command(&["forward", "0", "laptop:53", "--json"]);
    forward.arg("--state-dir").arg(pair.world.dir().join(DESK));
    let forward = Process::start("runmesh forward", &mut forward).expect("it starts");
    let said = forward
        .wait_for(STEP_TIMEOUT, |said| said["listening"].is_string())
        .expect("it listens");
    let through: SocketAddr = text(&said, "listening").parse().expect("an address");
    let ask = |words: &str| dig(Command::new("dig"), through, &format!("+tcp {words}"));
    assert!(!ask("+short laptop.home.mesh.internal").is_empty());
    assert!(!ask("+short desk.home.mesh.internal").is_empty());
    for hidden in [
        "platform.home.mesh.internal",
        "nobody.home.mesh.internal",
        "home.mesh.internal SOA",
    ] {
        let said = ask(hidden);
        assert!(said.contains("REFUSED"), "{said}");
    }
}

#[test]
fn without_a_resolver_to_tell_or_with_an_open_address_it_does_not_start() {
    let dir = tempfile::tempdir().expect("a directory");
    let api = Runmesh::find().expect("the program");
    let fails = |words: &[&str]| {
        let mut up = api.command(&["up", "--server", "http://127.0.0.1:9"]);
        up.arg("--state-dir").arg(dir.path()).args(words);
        // A search path with nothing in it has no `resolvectl`.
        let output = up.env("PATH", dir.path()).output().expect("it ran");
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).expect("UTF-8")
    };
    let open = fails(&["--dns-listen", "0.0.0.0:5300"]);
    assert!(open.contains("hint: choose an address of 127.0.0.1"), "{open}");
    let untold = fails(&["--dns"]);
    assert!(
        untold.contains("hint: start") && untold.contains("--dns-listen alone"),
        "{untold}"
    );
}

/// Where `cargo xtask test` unpacks systemd-resolved: to install it would change how this machine resolves.
fn resolved() -> Option<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/systemd-resolved");
    let mut probe = Command::new(dir.join("lib/systemd/systemd-resolved"));
    let runs = probe.arg("--version").output();
    if runs.is_ok_and(|output| output.status.success()) && in_search_path("dbus-daemon") {
        return Some(dir.canonicalize().expect("it is there"));
    }
    skipped(
        "systemd-resolved is not unpacked (cargo xtask test does it) or does not run here, or dbus-daemon is missing",
    );
    None
}

/// A host with systemd-resolved, whose one other server says [`ELSEWHERE`] to everything.
struct Host {
    _stage: Process,
    namespace: Namespace,
    asked: Arc<Mutex<Vec<u8>>>,
    /// What makes a program run there, with the host's mounts and a search path in which its tools are.
    place: Vec<OsString>,
}

const ELSEWHERE: &str = "192.0.2.99";

/// A network with nobody else in it: without one, systemd-resolved asks no server at all.
const NETWORK: &str = "link add near type veth peer name far\naddr add 192.0.2.53/24 dev near\nlink set near up\nlink set far up\n";

impl Host {
    fn start(role: &str, tools: &Path, dir: &Path) -> Self {
        let namespace = Namespace::new("names", role).expect("a namespace");
        namespace.ip(NETWORK).expect("a network");
        let socket = namespace.within(|| UdpSocket::bind("192.0.2.53:53"));
        let asked = Arc::default();
        answer_all(socket.expect("a thread").expect("a socket"), Arc::clone(&asked));
        let script = dir.join("stage.sh");
        std::fs::write(&script, include_str!("names/stage.sh")).expect("written");
        let words = [&script.to_string_lossy(), &tools.to_string_lossy()].map(|text| text.to_string());
        let mut stage = namespace.command("unshare", &["--mount", "sh", &words[0], &words[1]]);
        let stage = Process::start("the stage", &mut stage).expect("it starts");
        let process = stage.line(STEP_TIMEOUT).expect("it runs");
        let path = std::env::var("PATH").expect("a search path");
        let path = format!("PATH={path}:{}", tools.join("usr/bin").display());
        let words = ["nsenter", "--net", "--mount", "--target", &process, "env", &path];
        Self {
            _stage: stage,
            namespace,
            asked,
            place: words.map(OsString::from).to_vec(),
        }
    }

    /// Asks systemd-resolved, as programs of the host do.
    fn dig(&self, words: &str) -> String {
        let stub = "127.0.0.53:53".parse().expect("an address");
        dig(self.namespace.command("dig", &[]), stub, words)
    }

    /// How many links of nodes there are; one may be a pair, whose far end ends in `p`.
    fn links(&self) -> usize {
        let mut ip = self.namespace.command("ip", &["-brief", "link"]);
        let listed = String::from_utf8(ip.output().expect("ip").stdout).expect("UTF-8");
        let names = listed.lines().filter_map(|line| line.split(['@', ' ']).next());
        names
            .filter(|name| name.starts_with("rmdns") && !name.ends_with('p'))
            .count()
    }

    /// Starts a control plane on the host; returns the program that runs there, too, with it.
    fn control_plane(&self, dir: &Path) -> (Process, Runmesh) {
        let mut program = Runmesh::find().expect("the program");
        program.place.clone_from(&self.place);
        let served = program.serve(&dir.join("control"), ANY_PORT, ANY_PORT);
        served.expect("a control plane")
    }

    /// Waits until names of the org are led to the node, or are no longer.
    fn becomes_told(&self, is_told: bool) {
        let deadline = Instant::now() + STEP_TIMEOUT;
        while (self.dig("+short laptop.home.mesh.internal") != ELSEWHERE) != is_told {
            assert!(Instant::now() < deadline, "it does not become {is_told}");
            self.asked.lock().expect("no panic").clear();
        }
        self.asked.lock().expect("no panic").clear();
    }

    /// A program that knows nothing of the mesh asks the system for `desk`, and reaches it by the device.
    fn reaches_desk(&self) {
        let place = &self.place;
        let script = "mount --bind /run/stage/stub.conf /etc/resolv.conf && exec curl -sS --max-time 30 --retry 20 \
                      --retry-connrefused --retry-delay 1 http://desk.home.mesh.internal:7000/";
        let mut curl = Command::new(&place[0]);
        let output = curl
            .args(&place[1..])
            .args(["unshare", "--mount", "sh", "-c", script]);
        let output = output.output().expect("it starts");
        assert_eq!(String::from_utf8_lossy(&output.stdout), FOUND, "{output:?}");
        let address = self.dig("+short desk.home.mesh.internal");
        let mut ip = self.namespace.command("ip", &["route", "get", &address]);
        let way = String::from_utf8(ip.output().expect("ip").stdout).expect("UTF-8");
        assert!(way.contains("dev runmesh0"), "{way}");
    }

    /// Names of the org are led to the node, and no other name is; none of the org's goes elsewhere.
    fn is_told(&self) {
        let own = self.dig("+short laptop.home.mesh.internal");
        assert!(own.starts_with("100.64."), "{own}");
        assert_eq!(
            self.dig(&format!("+short -x {own}")),
            "laptop.home.mesh.internal."
        );
        assert!(self.dig("nobody.home.mesh.internal").contains("NXDOMAIN"));
        assert_eq!(self.dig("+short www.example.com"), ELSEWHERE);
        let asked = self.asked.lock().expect("no panic");
        let has = |word: &[u8]| asked.windows(word.len()).any(|part| part == word);
        assert!(has(b"example") && !has(b"internal") && !has(b"in-addr"));
    }
}

/// Says [`ELSEWHERE`] to every question, and keeps what was asked.
fn answer_all(socket: UdpSocket, asked: Arc<Mutex<Vec<u8>>>) {
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((len, from)) = socket.recv_from(&mut buffer) {
            let message = &buffer[..len];
            asked.lock().expect("no panic").extend(message);
            let name_len = message[12..].iter().position(|byte| *byte == 0).expect("a name");
            let mut answer = message[..12 + name_len + 5].to_vec();
            answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 99]);
            let _ = socket.send_to(&answer, from);
        }
    });
}

#[test]
fn systemd_resolved_asks_a_node_for_its_orgs_names_and_for_no_others_until_it_stops() {
    if !can_run() || !has_dig() {
        return;
    }
    let Some(tools) = resolved() else {
        return;
    };
    let dir = tempfile::tempdir().expect("a directory");
    let host = Host::start("link", &tools, dir.path());
    let (_serve, api) = host.control_plane(dir.path());
    let setup = Setup::with_command(dir.path(), "cat");
    let state_dir = dir.path().join("node");
    let start = || Device::start_with(&api, &state_dir, &setup, &["--dns"]).expect("it starts");
    assert_eq!(host.dig("+short laptop.home.mesh.internal"), ELSEWHERE);
    host.asked.lock().expect("no panic").clear();
    let device = start();
    device.link(&api, "laptop").expect("linked");
    host.becomes_told(true);
    host.is_told();
    // A crash leaves the link; the next start makes another in its place.
    device.process.kill().expect("killed");
    assert_eq!(host.links(), 1);
    let device = start();
    device.wait_for("names_told", STEP_TIMEOUT).expect("told again");
    host.is_told();
    drop(device);
    assert_eq!(host.links(), 0, "it was taken back");
    let resolvers = std::fs::read_to_string("/etc/resolv.conf").expect("it is there");
    assert!(!resolvers.contains("127.0.0.53"), "this machine is as it was");
}

const FOUND: &str = "found by its name";

/// Has a node that is reached in the mesh alone say [`FOUND`] at port 7000, by HTTP.
fn serve_by(device: &Device, host: &Host, api: &Runmesh, state_dir: &Path) -> Process {
    let bound = host.namespace.within(|| TcpListener::bind("127.0.0.1:7000"));
    let listener = bound.expect("a thread").expect("a port");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 1024]);
            let len = FOUND.len();
            let _ = write!(stream, "HTTP/1.0 200 OK\r\nContent-Length: {len}\r\n\r\n{FOUND}");
        }
    });
    device.link(api, DESK).expect("linked");
    let mut expose = api.command(&["expose", "7000", "--json"]);
    let expose = expose.arg("--state-dir").arg(state_dir);
    let expose = Process::start("runmesh expose", expose).expect("it starts");
    expose.line(STEP_TIMEOUT).expect("exposed");
    expose
}

#[test]
fn in_tun_mode_a_host_finds_nodes_by_name_and_reaches_them_and_nothing_is_left_even_by_a_crash() {
    if !can_run() || !has_dig() {
        return;
    }
    let Some(tools) = resolved() else {
        return;
    };
    let dir = tempfile::tempdir().expect("a directory");
    let host = Host::start("device", &tools, dir.path());
    let (_serve, api) = host.control_plane(dir.path());
    let setup = Setup::with_command(dir.path(), "cat");
    let state_dir = |name| dir.path().join(name);
    let desk = Device::start(&api, &state_dir(DESK), &setup).expect("it starts");
    let _exposed = serve_by(&desk, &host, &api, &state_dir(DESK));
    let words = ["--tun", "--dns"];
    let start = || Device::start_with(&api, &state_dir("laptop"), &setup, &words).expect("it starts");
    let laptop = start();
    laptop.link(&api, "laptop").expect("linked");
    host.becomes_told(true);
    host.is_told();
    assert_eq!(host.links(), 0, "the device carries the names");
    host.reaches_desk();
    // The kernel takes the device along, and with it what systemd-resolved was told.
    laptop.process.kill().expect("killed");
    host.becomes_told(false);
    let laptop = start();
    laptop.wait_for("names_told", STEP_TIMEOUT).expect("told again");
    host.is_told();
    host.reaches_desk();
    drop(laptop);
    host.becomes_told(false);
}
