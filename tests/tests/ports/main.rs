//! Ports of other nodes: forward, expose and the proxy, between two devices of one owner, with real programs at both ends.

mod kept;
mod proxy;

use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use e2e::device::{Device, Setup};
use e2e::processes::{ANY_PORT, Process, STEP_TIMEOUT, send_signal, text};
use e2e::world::World;
use serde_json::Value;

const MIB: usize = 1024 * 1024;
/// The other device.
const DESK: &str = "desk";
/// Where `laptop` offers in the mesh what a test serves.
const OFFERED: &str = "8080";

/// Two devices of one owner: `laptop`, which offers something, and `desk`, which wants it and has a proxy.
struct Pair {
    world: World,
    desk: Device,
    proxy: String,
}

impl Pair {
    fn start(more: &[&str]) -> Self {
        let world = World::start("cat").expect("a world");
        let setup = Setup::with_command(world.repository.path(), "cat");
        let words = [&["--proxy", ANY_PORT], more].concat();
        let state_dir = world.dir().join(DESK);
        let desk = Device::start_with(&world.api, &state_dir, &setup, &words).expect("it starts");
        desk.link(&world.api, DESK).expect("linked");
        let status = desk.status(&world.api).expect("a status");
        let proxy = text(&status, "proxyAddress").to_owned();
        Self { world, desk, proxy }
    }

    fn command(&self, state_dir: &str, words: &[&str]) -> Command {
        let mut command = self.world.api.command(words);
        command.arg("--state-dir").arg(self.world.dir().join(state_dir));
        command.arg("--json");
        command
    }

    /// `runmesh expose` on `laptop`.
    fn expose(&self, local: SocketAddr) -> Process {
        let port = local.port().to_string();
        let mut command = self.command("node", &["expose", &port, "--as", OFFERED]);
        let process = Process::start("runmesh expose", &mut command).expect("it starts");
        let said = process
            .wait_for(STEP_TIMEOUT, |said| said["as"].is_number())
            .expect("exposed");
        assert_eq!(text(&said, "name"), "laptop.home.mesh.internal");
        process
    }

    /// `runmesh forward` on `desk`; returns where it listens.
    fn forward(&self, target: &str) -> (Process, SocketAddr) {
        let mut command = self.command(DESK, &["forward", "0", target]);
        let process = Process::start("runmesh forward", &mut command).expect("it starts");
        let said = process
            .wait_for(STEP_TIMEOUT, |said| said["listening"].is_string())
            .expect("it listens");
        let address = text(&said, "listening").parse().expect("an address");
        (process, address)
    }

    fn fails(&self, state_dir: &str, words: &[&str]) -> String {
        let output = self.command(state_dir, words).output().expect("started");
        assert_eq!(output.status.code(), Some(1));
        assert!(output.stdout.is_empty());
        String::from_utf8(output.stderr).expect("UTF-8")
    }
}

/// Serves one connection after another with `serve`, until the test ends.
fn server(serve: impl Fn(TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind(ANY_PORT).expect("a port");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            serve(stream.expect("a connection"));
        }
    });
    address
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("it listens");
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .expect("a timeout");
    stream
}

/// Bytes that repeat nowhere near, so that any loss, doubling or change of order shows.
fn pattern(len: usize) -> Vec<u8> {
    let mut state = 7_u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Sends all of it and finishes, in a thread of its own.
fn send(stream: &TcpStream, bytes: Vec<u8>) -> JoinHandle<()> {
    let mut stream = stream.try_clone().expect("a handle");
    std::thread::spawn(move || {
        stream.write_all(&bytes).expect("sent");
        stream.shutdown(Shutdown::Write).expect("finished");
    })
}

fn receive(stream: &mut TcpStream) -> Vec<u8> {
    let mut received = Vec::new();
    stream.read_to_end(&mut received).expect("received");
    received
}

#[test]
fn fifty_mebibytes_go_both_ways_at_once_and_the_control_plane_is_not_needed() {
    let mut pair = Pair::start(&[]);
    let echo = server(|stream| {
        std::thread::spawn(move || {
            let mut writer = stream.try_clone().expect("a handle");
            std::io::copy(&mut &stream, &mut writer).expect("echoed");
            stream.shutdown(Shutdown::Write).expect("finished");
        });
    });
    let _exposed = pair.expose(echo);
    let (_forward, address) = pair.forward("laptop.home.mesh.internal:8080");
    let sent = pattern(50 * MIB);
    let transfer = |sent: &[u8]| {
        let mut stream = connect(address);
        let sending = send(&stream, sent.to_vec());
        let received = receive(&mut stream);
        sending.join().expect("sent");
        assert_eq!(received.len(), sent.len());
        assert!(received == sent, "the bytes differ");
    };
    let begun = Instant::now();
    transfer(&sent);
    println!("50 MiB both ways in {:?}", begun.elapsed());
    drop(pair.world.serve.take());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| transfer(&sent[..5 * MIB]));
        }
    });
    assert_eq!(
        pair.desk.status(&pair.world.api).expect("a status")["control"]["connected"],
        false
    );
}

#[test]
fn each_direction_ends_by_itself_and_a_cut_is_passed_on_as_a_cut() {
    let pair = Pair::start(&[]);
    let (ends, end) = std::sync::mpsc::channel();
    let (answers, first, cut) = (pattern(10 * MIB), pattern(100), pattern(1000));
    let far = {
        let (answers, first) = (answers.clone(), first.clone());
        server(move |mut stream| {
            let mut mode = [0];
            stream.read_exact(&mut mode).expect("a mode");
            match mode[0] {
                // The client ends first and gets ten mebibytes nonetheless.
                b'a' => {
                    ends.send(receive(&mut stream)).expect("the test waits");
                    stream.write_all(&answers).expect("sent");
                }
                // The server ends first and gets ten mebibytes nonetheless.
                b'b' => {
                    stream.write_all(&first).expect("sent");
                    stream.shutdown(Shutdown::Write).expect("finished");
                    ends.send(receive(&mut stream)).expect("the test waits");
                }
                // The server cuts.
                b'c' => {
                    stream.write_all(&cut).expect("sent");
                    set_zero_linger(&stream);
                }
                // The client cuts.
                _ => {
                    stream.write_all(b"!").expect("sent");
                    let error = stream.read_to_end(&mut Vec::new()).expect_err("a cut");
                    ends.send(error.kind().to_string().into_bytes())
                        .expect("the test waits");
                }
            }
        })
    };
    let _exposed = pair.expose(far);
    let (_forward, address) = pair.forward("laptop:8080");
    let soon = Duration::from_secs(30);

    let mut stream = connect(address);
    stream.write_all(b"arequest").expect("sent");
    stream.shutdown(Shutdown::Write).expect("finished");
    assert!(receive(&mut stream) == answers, "ten mebibytes after our own end");
    assert_eq!(end.recv_timeout(soon).expect("it ended"), b"request");

    let mut stream = connect(address);
    stream.write_all(b"b").expect("sent");
    assert_eq!(receive(&mut stream), first);
    stream.write_all(&answers).expect("sent after the other's end");
    drop(stream);
    assert!(end.recv_timeout(soon).expect("it ended") == answers);

    let mut stream = connect(address);
    stream.write_all(b"c").expect("sent");
    let error = stream.read_to_end(&mut Vec::new()).expect_err("a cut");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);

    let mut stream = connect(address);
    stream.write_all(b"d").expect("sent");
    stream.read_exact(&mut [0]).expect("it is there");
    set_zero_linger(&stream);
    drop(stream);
    let seen = end.recv_timeout(soon).expect("it ended");
    assert_eq!(
        String::from_utf8(seen).expect("text"),
        ErrorKind::ConnectionReset.to_string()
    );
}

#[test]
fn a_reader_that_stalls_holds_up_the_writer_and_gets_everything_in_the_end() {
    let pair = Pair::start(&[]);
    let (go, waits) = std::sync::mpsc::channel::<()>();
    let (counts, count) = std::sync::mpsc::channel();
    let _exposed = pair.expose(server(move |mut stream| {
        waits.recv().expect("the test says when");
        counts.send(receive(&mut stream).len()).expect("the test waits");
    }));
    let (_forward, address) = pair.forward("laptop:8080");
    let mut stream = connect(address);
    stream
        .set_write_timeout(Some(Duration::from_secs(2)))
        .expect("a timeout");
    let (bytes, mut sent) = (pattern(MIB), 0);
    let stuck = loop {
        match stream.write(&bytes) {
            Ok(len) => sent += len,
            Err(error) => break error.kind(),
        }
        assert!(sent < 64 * MIB, "nothing holds up the writer");
    };
    assert_eq!(stuck, ErrorKind::WouldBlock);
    go.send(()).expect("the server waits");
    stream.shutdown(Shutdown::Write).expect("finished");
    let received = count.recv_timeout(STEP_TIMEOUT).expect("it ends");
    assert_eq!(received, sent);
}

/// Closing it sends a reset.
fn set_zero_linger(stream: &TcpStream) {
    let stream = stream.try_clone().expect("a handle");
    stream.set_nonblocking(true).expect("set");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let _inside = runtime.enter();
    let stream = tokio::net::TcpStream::from_std(stream).expect("a stream");
    stream.set_zero_linger().expect("set");
}

/// Says what it hears, to as many as come, until they cut.
fn echo() -> SocketAddr {
    server(|stream| {
        std::thread::spawn(move || {
            let mut writer = stream.try_clone().expect("a handle");
            // A cut is how this ends.
            let _ = std::io::copy(&mut &stream, &mut writer);
        });
    })
}

/// A connection by which [`echo`] was heard.
fn talks(address: SocketAddr) -> std::io::Result<TcpStream> {
    let mut stream = connect(address);
    stream.write_all(b"there?")?;
    let mut answer = [0; 6];
    stream.read_exact(&mut answer).map(|()| stream)
}

#[test]
fn a_port_is_open_as_long_as_whoever_asked_for_it_runs() {
    let pair = Pair::start(&[]);
    let echo = echo();
    let exposed = pair.expose(echo);
    let said = pair.fails("node", &["expose", "1", "--as", OFFERED]);
    assert!(
        said.contains("is port 8080 in the mesh already, as long as a command runs"),
        "{said}"
    );
    let (forward, address) = pair.forward("laptop:8080");
    for (taken, message) in [
        (address, "leads to laptop:8080 already, as long as a command runs"),
        (echo, "cannot be listened on"),
    ] {
        let taken = taken.port().to_string();
        let said = pair.fails(DESK, &["forward", &taken, "laptop:8080"]);
        assert!(
            said.contains(message) && said.contains("choose another port"),
            "{said}"
        );
    }
    for (target, message) in [
        ("nobody:80", "no node nobody is known here"),
        ("desk:80", "desk is this device itself"),
        ("example.com:80", "is not of this mesh"),
        ("laptop.work.mesh.internal:80", "another org"),
        ("laptop", "must end with a colon and a port"),
    ] {
        let said = pair.fails(DESK, &["forward", "0", target]);
        assert!(
            said.contains(message) && said.contains("\"hint\""),
            "{target}: {said}"
        );
    }

    let mut open = talks(address).expect("it answers");
    exposed.kill().expect("killed");
    let error = open.read(&mut [0; 1]).expect_err("what it carried is cut");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert!(talks(address).is_err(), "nothing is exposed any more");

    let exposed = pair.expose(echo);
    let mut open = talks(address).expect("it answers again");
    forward.signal("TERM").expect("there");
    assert_eq!(
        forward.wait_for_end(Duration::from_secs(10)).expect("it ends"),
        Some(0)
    );
    let error = open.read(&mut [0; 1]).expect_err("what it carried is cut");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert!(TcpStream::connect(address).is_err(), "nobody listens any more");

    let Pair { desk, world, .. } = pair;
    drop(desk);
    drop(world.device);
    assert_eq!(
        exposed
            .wait_for_end(Duration::from_secs(10))
            .expect("it ends with its daemon"),
        Some(1)
    );
}

/// A command of `laptop` or `desk` whose talk is kept, with the first line that it said on stdout.
fn start_talking(pair: &Pair, state_dir: &str, words: &[&str]) -> (Child, Value) {
    let mut command = pair.command(state_dir, words);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("it starts");
    let mut line = String::new();
    let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
    stdout.read_line(&mut line).expect("a line");
    (child, serde_json::from_str(&line).expect("JSON"))
}

/// Asks a command to end and returns what it said on stderr.
fn talk_of(child: Child) -> String {
    send_signal(&child, "TERM").expect("there");
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(0));
    String::from_utf8(output.stderr).expect("UTF-8")
}

/// A connection that is cut without a byte.
fn check_cut(address: SocketAddr) {
    let error = connect(address).read(&mut [0]).expect_err("a cut");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[test]
fn both_ends_are_told_what_led_nowhere() {
    let pair = Pair::start(&[]);
    let (forwarding, said) = start_talking(&pair, DESK, &["forward", "0", "laptop:8080"]);
    let address = text(&said, "listening").parse().expect("an address");
    check_cut(address);
    let free = TcpListener::bind(ANY_PORT).and_then(|listener| listener.local_addr());
    let free = free.expect("a port that is free again").port().to_string();
    let (exposing, _) = start_talking(&pair, "node", &["expose", &free, "--as", OFFERED]);
    check_cut(address);
    let said = talk_of(forwarding);
    assert!(
        said.contains("laptop refused the connection to port 8080"),
        "{said}"
    );
    let said = talk_of(exposing);
    let message =
        format!("a connection from desk led nowhere: port {free} of this device cannot be connected to");
    assert!(said.contains(&message), "{said}");
}
