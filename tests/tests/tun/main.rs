//! TUN mode: hosts that are in the mesh with all their programs, in network namespaces of the lab.

mod names;
mod policy;

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Output;
use std::time::{Duration, Instant};

use e2e::lab::device::{Device, EXPOSED, exchange};
use e2e::lab::nat::Nat;
use e2e::lab::platform::Platform;
use e2e::lab::world::Internet;
use e2e::lab::{can_run, namespace::Namespace};
use e2e::processes::{Runmesh, STEP_TIMEOUT, in_search_path, text};
use e2e::skipped::skipped;
use net::udp::SendOutcome;
use serde_json::Value;

const TUN: &[&str] = &["--tun"];
const DEVICE: &str = "runmesh0";
const MIB: usize = 1024 * 1024;

/// Two linked devices in networks of their own, and what they need. What is dropped first is stopped first.
struct Pair {
    one: Device,
    other: Device,
    platform: Platform,
    _internet: Internet,
    _dir: tempfile::TempDir,
}

impl Pair {
    fn start(one: (Nat, &[&str]), other: (Nat, &[&str])) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let internet = Internet::new().expect("an internet");
        let platform = Platform::start(&internet, dir.path()).expect("a control plane");
        let device = |name: &str, number: u16, (nat, words): (Nat, &[&str])| {
            let site = internet.site(nat, number).expect("a site");
            let device = Device::start_with(&platform, site, dir.path(), name, words).expect("it starts");
            device.link(&platform).expect("linked");
            device
        };
        let (one, other) = (device("one", 1, one), device("other", 2, other));
        for device in [&one, &other] {
            // The dispatch session: a stream of the node's own through the mesh.
            device.wait_for("ready").expect("ready");
        }
        for (device, peer) in [(&one, "other"), (&other, "one")] {
            let knows = device.wait_for_path(peer, STEP_TIMEOUT, |path| !path.reason.is_empty());
            knows.expect("it was told of the other");
        }
        Self {
            one,
            other,
            platform,
            _internet: internet,
            _dir: dir,
        }
    }

    fn both_in_tun_mode() -> Self {
        Self::start((Nat::None, TUN), (Nat::PortRestricted, TUN))
    }
}

/// Returns a device's mesh addresses, IPv4 first.
fn addresses(device: &Device) -> [IpAddr; 2] {
    let status = device.status().expect("a status");
    let address = |number: usize| {
        let text = status["node"]["addresses"][number].as_str().expect("an address");
        text.parse().expect("an address")
    };
    [address(0), address(1)]
}

fn host_runs(device: &Device, program: &str, words: &[&str]) -> Output {
    let mut command = device.site.host.command(program, words);
    command.output().expect("it starts")
}

/// Asks for something until it is so.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + STEP_TIMEOUT;
    while !is_so() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until the hosts of two devices know the way to each other, in both families.
fn wait_for_routes(one: &Device, other: &Device) {
    for (from, to) in [(one, other), (other, one)] {
        for address in addresses(to) {
            wait_for_route(from, address);
        }
    }
}

/// Waits until the kernel of a device's host knows the way to an address.
fn wait_for_route(device: &Device, to: IpAddr) {
    until("a route", || {
        let said = host_runs(device, "ip", &["route", "get", &to.to_string()]);
        String::from_utf8_lossy(&said.stdout).contains(DEVICE)
    });
}

/// What the host of a device has of the mesh: interface, addresses, routes, rules.
fn traces(host: &Namespace) -> String {
    let listed = [
        &["-o", "link"][..],
        &["-o", "addr"],
        &["route", "show", "table", "all"],
        &["-6", "route", "show", "table", "all"],
    ];
    let lists = listed.map(|words| {
        let output = host.command("ip", words).output().expect("ip");
        String::from_utf8(output.stdout).expect("text")
    });
    let lines = lists.iter().flat_map(|list| list.lines());
    let is_of_the_mesh = |word: &str| {
        let address = word.split('/').next().and_then(|text| text.parse().ok());
        match address {
            Some(IpAddr::V4(ip)) => ip.octets()[0] == 100,
            Some(IpAddr::V6(ip)) => ip.octets()[0] == 0xfd,
            None => word.trim_end_matches(':') == DEVICE,
        }
    };
    let ours = lines.filter(|line| line.split_whitespace().any(is_of_the_mesh));
    ours.map(|line| format!("{line}\n")).collect()
}

fn rules(host: &Namespace) -> String {
    let lists = [&["rule"][..], &["-6", "rule"]].map(|words| {
        let output = host.command("ip", words).output().expect("ip");
        String::from_utf8(output.stdout).expect("text")
    });
    lists.concat()
}

fn dropped(device: &Device, reason: &str) -> u64 {
    let status = device.status().expect("a status");
    status["traffic"]["dropped"][reason].as_u64().unwrap_or(0)
}

/// Echoes every stream to an address of a device's host, by a program that knows nothing of the mesh.
fn echo(device: &Device, listen: SocketAddr) {
    let bound = device.site.host.within(|| TcpListener::bind(listen));
    let listener = bound.expect("a thread").expect("bound to the mesh address");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let (mut from, mut to) = (&stream, &stream);
                let copied = std::io::copy(&mut from, &mut to);
                let _ = stream.shutdown(Shutdown::Write);
                copied
            });
        }
    });
}

fn connect(device: &Device, to: SocketAddr, within: Duration) -> std::io::Result<TcpStream> {
    let connected = device
        .site
        .host
        .within(|| TcpStream::connect_timeout(&to, within));
    let stream = connected.expect("a thread")?;
    stream.set_read_timeout(Some(STEP_TIMEOUT))?;
    stream.set_write_timeout(Some(STEP_TIMEOUT))?;
    Ok(stream)
}

fn ping(device: &Device, words: &[&str]) -> Output {
    host_runs(
        device,
        "ping",
        &[&["-n", "-c", "3", "-i", "0.2", "-W", "5"], words].concat(),
    )
}

/// Pings an address of a device from the host of another one.
fn assert_pings(from: &Device, to: &Device, address: IpAddr) {
    let pinged = ping(from, &[&address.to_string()]);
    let traffic = |device: &Device| device.status().expect("a status")["traffic"].clone();
    assert!(succeeds(&pinged), "{pinged:?}: {} {}", traffic(from), traffic(to));
}

fn succeeds(output: &Output) -> bool {
    output.status.success()
}

/// A server as anybody may run one, at a port of every address of a host.
struct Served(std::process::Child);

impl Served {
    fn start(device: &Device, program: &str, words: &[&str]) -> Self {
        let mut command = device.site.host.command(program, words);
        let quiet = command
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null());
        Self(quiet.spawn().expect("it starts"))
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn two_hosts_reach_each_other_with_their_own_programs_in_both_families_and_directions() {
    if !can_run() {
        return;
    }
    let pair = Pair::both_in_tun_mode();
    for device in [&pair.one, &pair.other] {
        assert_eq!(text(&device.status().expect("a status"), "mode"), "tun runmesh0");
    }
    wait_for_routes(&pair.one, &pair.other);
    for device in [&pair.one, &pair.other] {
        // The kernel does not wait to see whether somebody else has the address, and takes routes from it at once.
        let own = host_runs(device, "ip", &["-6", "addr", "show", "dev", DEVICE]);
        let own = String::from_utf8_lossy(&own.stdout).into_owned();
        assert!(own.contains(" nodad ") && !own.contains("tentative"), "{own}");
    }
    let ways = [(&pair.one, &pair.other), (&pair.other, &pair.one)];
    for (from, to) in ways {
        for address in addresses(to) {
            assert_pings(from, to, address);
            let listen = SocketAddr::new(address, 9000);
            echo(to, listen);
            exchange(connect(from, listen, STEP_TIMEOUT).expect("connects"), 8 * MIB).expect("as it went");
        }
    }
    for (from, to) in ways {
        what_is_longer_than_a_packet_goes_in_pieces(from, to);
        a_run_of_datagrams_arrives(from, to);
    }
    one_packet_is_as_long_as_the_mesh_takes(&pair);
    foreign_programs_talk(&pair);
}

/// Pings of 4,000 bytes, and UDP datagrams of 8 kB and of the longest there are, there and back.
fn what_is_longer_than_a_packet_goes_in_pieces(from: &Device, to: &Device) {
    for address in addresses(to) {
        let pinged = ping(from, &["-s", "4000", &address.to_string()]);
        assert!(succeeds(&pinged), "{pinged:?}");
        let there = SocketAddr::new(address, 9002);
        let server = udp(to, there);
        let own = addresses(from);
        let here = own.into_iter().find(|own| own.is_ipv4() == address.is_ipv4());
        let client = udp(from, SocketAddr::new(here.expect("of both families"), 0));
        for len in [8192, 65_000] {
            let sent: Vec<u8> = (0..len).map(|index: usize| (index / 5) as u8).collect();
            let mut got = vec![0; 65_535];
            client.send_to(&sent, there).expect("sent");
            let (count, source) = server.recv_from(&mut got).expect("a question");
            assert!(got[..count] == sent, "{count} of {len} bytes");
            server.send_to(&sent, source).expect("sent");
            let (count, _) = client.recv_from(&mut got).expect("an answer");
            assert!(got[..count] == sent, "{count} of {len} bytes");
        }
    }
}

/// A program that hands its kernel many datagrams as one (UDP_SEGMENT), as QUIC does: each arrives by itself.
fn a_run_of_datagrams_arrives(from: &Device, to: &Device) {
    for address in addresses(to) {
        let there = SocketAddr::new(address, 9004);
        let server = udp(to, there);
        let mut own = addresses(from).into_iter();
        let here = own.rfind(|own| own.is_ipv4() == address.is_ipv4());
        let here = SocketAddr::new(here.expect("of both families"), 0);
        let bound = from.site.host.within(|| net::udp::UdpSocket::bind(here));
        let mut client = bound.expect("a thread").expect("bound");
        let sent: Vec<u8> = (0..40 * 1000 + 300).map(|index: u32| (index / 9) as u8).collect();
        assert_eq!(client.send(there, &sent, 1000, &mut 0), SendOutcome::Sent);
        let mut got = Vec::new();
        while got.len() < sent.len() {
            let mut datagram = [0; 2000];
            let (count, _) = server.recv_from(&mut datagram).expect("a datagram");
            assert_eq!(count, 1000.min(sent.len() - got.len()));
            got.extend_from_slice(&datagram[..count]);
        }
        assert!(got == sent);
    }
}

/// A UDP socket of a program on a device's host.
fn udp(device: &Device, listen: SocketAddr) -> UdpSocket {
    let bound = device.site.host.within(|| UdpSocket::bind(listen));
    let socket = bound.expect("a thread").expect("bound");
    socket
        .set_read_timeout(Some(STEP_TIMEOUT))
        .expect("a guard against a hang");
    socket
}

/// The host knows the mesh's MTU and says so at once; a full packet goes through, and so do streams where the path outside
/// takes less than that.
fn one_packet_is_as_long_as_the_mesh_takes(pair: &Pair) {
    for (address, headers) in addresses(&pair.other).into_iter().zip([28, 48]) {
        let address = address.to_string();
        let ping = |payload: usize| ping(&pair.one, &["-M", "do", "-s", &payload.to_string(), &address]);
        let whole = ping(1280 - headers);
        assert!(succeeds(&whole), "{whole:?}");
        let longer = ping(1281 - headers);
        assert!(!succeeds(&longer));
        let said = [longer.stdout, longer.stderr].concat();
        assert!(
            String::from_utf8_lossy(&said).contains("1280"),
            "{}",
            String::from_utf8_lossy(&said)
        );
    }
    let set_outer_mtu = |bytes| {
        // At both ends: between them lies a bridge, which drops what is too long for a port and tells nobody.
        for site in [&pair.one.site, &pair.other.site] {
            site.set_outer_mtu(bytes).expect("another MTU");
        }
    };
    set_outer_mtu(1280);
    let to = SocketAddr::new(addresses(&pair.other)[0], 9000);
    exchange(connect(&pair.one, to, STEP_TIMEOUT).expect("connects"), MIB).expect("as it went");
    set_outer_mtu(1500);
}

fn foreign_programs_talk(pair: &Pair) {
    for program in ["curl", "python3", "iperf3"] {
        if !in_search_path(program) {
            return skipped(&format!(
                "foreign programs through the mesh: {program} is not installed"
            ));
        }
    }
    let [ip4, ip6] = addresses(&pair.other);
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("file"), vec![b'x'; 3 * MIB]).expect("a file");
    let place = dir.path().to_string_lossy().into_owned();
    let words = ["-m", "http.server", "--bind", "::", "--directory", &place, "8000"];
    let _web = Served::start(&pair.other, "python3", &words);
    let _iperf = Served::start(&pair.other, "iperf3", &["-s"]);
    for host in [ip4.to_string(), format!("[{ip6}]")] {
        let url = format!("http://{host}:8000/file");
        let words = [
            "-sS",
            "--fail",
            "--retry",
            "20",
            "--retry-connrefused",
            "--retry-delay",
            "1",
            &url,
        ];
        let got = host_runs(&pair.one, "curl", &words);
        assert!(
            got.stdout.len() == 3 * MIB,
            "{} {}",
            got.stdout.len(),
            String::from_utf8_lossy(&got.stderr)
        );
    }
    let there = ip4.to_string();
    for more in [&["-R"][..], &["-u", "-b", "20M", "-l", "1200"]] {
        let words = [&["-J", "-t", "2", "-c", &there], more].concat();
        let report = iperf_report(&pair.one, &words);
        let sum = if more[0] == "-u" { "sum" } else { "sum_received" };
        let bytes = report["end"][sum]["bytes"].as_u64().unwrap_or(0);
        assert!(bytes > MIB as u64, "{more:?}: {bytes} bytes, {}", report["error"]);
    }
}

/// Measures until there is a report without an error: iperf3's server resets who comes before it has done with the one before.
fn iperf_report(device: &Device, words: &[&str]) -> Value {
    let mut report = Value::Null;
    for _ in 0..5 {
        let measured = host_runs(device, "iperf3", words);
        report = serde_json::from_slice(&measured.stdout).expect("a report");
        if report["error"].is_null() {
            break;
        }
    }
    report
}

#[test]
fn a_host_in_the_mesh_and_a_node_in_userspace_mode_reach_each_other_and_their_services_work() {
    if !can_run() {
        return;
    }
    let mut pair = Pair::start((Nat::None, TUN), (Nat::None, &[]));
    assert_eq!(text(&pair.other.status().expect("a status"), "mode"), "userspace");
    let [ip4, ip6] = addresses(&pair.other);
    // What the other node exposes, reached by the host's own TCP.
    pair.other.offer().expect("exposed");
    for address in [ip4, ip6] {
        wait_for_route(&pair.one, address);
        let to = SocketAddr::new(address, EXPOSED);
        exchange(connect(&pair.one, to, STEP_TIMEOUT).expect("connects"), 2 * MIB).expect("as it went");
    }
    // What the host serves at its mesh address, reached by the other node's forward.
    let own = addresses(&pair.one);
    echo(&pair.one, SocketAddr::new(own[1], EXPOSED));
    echo(&pair.one, SocketAddr::new(own[0], EXPOSED));
    pair.other.lead_to("one").expect("a forward");
    let (stream, _) = pair.other.first_byte().expect("a byte");
    exchange(stream, 2 * MIB).expect("as it went");
    // The node's own ports go before the host's: the same port, exposed, leads to another program.
    let loopback = SocketAddr::from(([127, 0, 0, 1], 9009));
    let greeter = pair.one.site.host.within(|| TcpListener::bind(loopback));
    let greeter = greeter.expect("a thread").expect("bound");
    std::thread::spawn(move || {
        for mut stream in greeter.incoming().flatten() {
            let _ = stream.write_all(b"exposed");
        }
    });
    let exposed = EXPOSED.to_string();
    pair.one
        .hold("expose", &["9009", "--as", &exposed])
        .expect("exposed");
    let mut stream = pair.other.open().expect("a stream");
    let mut said = String::new();
    stream.read_to_string(&mut said).expect("read");
    assert_eq!(said, "exposed");
    // And what the node does itself: a ping inside the session, a forward of its own.
    pair.one.ping("other").expect("an answer");
    pair.one.lead_to("other").expect("a forward");
    let (stream, _) = pair.one.first_byte().expect("a byte");
    exchange(stream, 2 * MIB).expect("as it went");
}

#[test]
fn nothing_is_left_of_a_node_that_stops_or_is_killed_and_it_starts_again() {
    if !can_run() {
        return;
    }
    let mut pair = Pair::both_in_tun_mode();
    let there = addresses(&pair.other)[0];
    wait_for_route(&pair.one, there);
    let rules_before = rules(&pair.one.site.host);
    for ending in ["TERM", "KILL", "INT"] {
        let had = traces(&pair.one.site.host);
        assert!(had.contains("inet 100.64.") && had.contains("inet6 fd"), "{had}");
        pair.one.process().signal(ending).expect("a signal");
        let code = pair.one.process().wait_for_end(STEP_TIMEOUT).expect("it ends");
        assert_eq!(code, (ending != "KILL").then_some(0));
        assert_eq!(traces(&pair.one.site.host), "", "after {ending}");
        assert_eq!(rules(&pair.one.site.host), rules_before);
        pair.one.start_again(TUN).expect("it starts");
        pair.one.wait_for("host").expect("in the mesh again");
        wait_for_route(&pair.one, there);
        assert_pings(&pair.one, &pair.other, there);
    }
    // Somebody takes the device away: the node does not go on as if it were there.
    pair.one
        .site
        .host
        .ip(&format!("link del {DEVICE}\n"))
        .expect("taken away");
    assert_eq!(
        pair.one.process().wait_for_end(STEP_TIMEOUT).expect("it ends"),
        Some(1)
    );
    // A host whose own network has our address: a clear end, and the network stays as it was.
    let host = &pair.one.site.host;
    host.ip("link add cgnat type bridge\naddr add 100.64.77.1/10 dev cgnat\nlink set cgnat up\n")
        .expect("a network");
    pair.one.start_again(TUN).expect("it starts");
    assert_eq!(
        pair.one.process().wait_for_end(STEP_TIMEOUT).expect("it ends"),
        Some(1)
    );
    assert!(!traces(&pair.one.site.host).contains(DEVICE));
}

/// What `up` says when it cannot have its device.
fn refused(host: &Namespace, before: &[&str], words: &[&str]) -> String {
    let mut api = Runmesh::find().expect("the program");
    api.place = host.prefix();
    api.place.extend(before.iter().map(Into::into));
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path().to_string_lossy().into_owned();
    let up = ["up", "--server", "http://127.0.0.1:1", "--state-dir", &dir];
    api.fails(&[&up[..], words].concat()).expect("it fails")
}

#[test]
fn what_is_missing_for_a_device_is_said_with_what_to_do() {
    if !can_run() {
        return;
    }
    let host = Namespace::new("tun", "refused").expect("a namespace");
    host.ip("tuntap add dev taken0 mode tun\nlink add bridge0 type bridge\n")
        .expect("devices");
    for name in ["taken0", "bridge0", "lo"] {
        let said = refused(&host, &[], &["--tun", "--tun-name", name]);
        assert!(
            said.contains(&format!("there is a network device {name} already")),
            "{said}"
        );
        assert!(said.contains("--tun-name"), "{said}");
    }
    let weak = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"];
    let said = refused(&host, &weak, &["--tun"]);
    assert!(
        said.contains("may not make the network device runmesh0"),
        "{said}"
    );
    assert!(said.contains("cap_net_admin"), "{said}");
    let hidden = [
        "unshare",
        "--mount",
        "sh",
        "-c",
        "mount -t tmpfs none /dev/net && exec \"$@\"",
        "sh",
    ];
    let said = refused(&host, &hidden, &["--tun"]);
    assert!(
        said.contains("this system has no TUN devices") && said.contains("modprobe tun"),
        "{said}"
    );
}
