//! A node that changes its key: with real daemons, under traffic, and with a crash at any point.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use e2e::device::{Device, Setup};
use e2e::processes::{ANY_PORT, Process, STEP_TIMEOUT, text};
use e2e::world::{DEVICE, SOON, World, check_events};
use serde_json::Value;

const DESK: &str = "desk";

/// The longest that a stream may stand still while a key changes: what is lost on the way is sent again within it.
const STILL_MAX: Duration = Duration::from_secs(3);

/// Asks a program of the world for one JSON document.
fn call(world: &World, state_dir: &str, words: &[&str]) -> Value {
    let dir = world.dir().join(state_dir);
    let dir = dir.to_string_lossy();
    let words = [words, &["--state-dir", &dir]].concat();
    world.api.call(&words).expect("an answer")
}

/// The key that the control plane knows a node by.
fn key_of(world: &World, name: &str) -> String {
    let node = world.api.call(&["node", name]).expect("the node");
    text(&node, "publicKey").to_owned()
}

/// Sets what the policy says of the keys of nodes: `overlap` or `expireAfter`.
fn set_rule(world: &World, rule: &str, span: &str) {
    let shown = world.api.call(&["policy", "get"]).expect("a policy");
    let mut document = shown["document"].clone();
    document["nodeKeys"][rule] = span.into();
    let file = world.dir().join("policy.json");
    std::fs::write(&file, document.to_string()).expect("written");
    let set = world.api.call(&["policy", "set", &file.to_string_lossy()]);
    set.expect("a policy that holds");
}

/// Changes the device's key; returns how many milliseconds that takes, the start of the program that asks included.
fn timed_change(world: &World) -> u64 {
    let begun = Instant::now();
    call(world, "node", &["rotate-key"]);
    u64::try_from(begun.elapsed().as_millis()).expect("short")
}

/// Has the device's key changed by a program that is left running, and returns so long after its start.
fn change_for(world: &World, after_ms: u64) -> Child {
    let mut asking = world.api.command(&["rotate-key", "--state-dir"]);
    let asking = asking
        .arg(world.state_dir())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    std::thread::sleep(Duration::from_millis(after_ms));
    asking
}

/// A TCP echo on this machine.
fn echo() -> SocketAddr {
    let listener = TcpListener::bind(ANY_PORT).expect("a port");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            std::thread::spawn(move || {
                let mut bytes = [0; 4096];
                while let Ok(len @ 1..) = stream.read(&mut bytes) {
                    if stream.write_all(&bytes[..len]).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

/// A stream through the mesh that is used all the time, until it is told to end; returns the longest time without an answer.
struct Talk {
    over: Arc<AtomicBool>,
    talking: JoinHandle<(u64, Duration)>,
}

impl Talk {
    fn begin(address: SocketAddr) -> Self {
        let mut stream = TcpStream::connect(address).expect("it listens");
        stream.set_read_timeout(Some(SOON)).expect("a timeout");
        let over = Arc::new(AtomicBool::new(false));
        let told = over.clone();
        let talking = std::thread::spawn(move || {
            let (mut number, mut longest) = (0_u64, Duration::ZERO);
            while !told.load(Ordering::Relaxed) {
                let begun = Instant::now();
                stream.write_all(&number.to_be_bytes()).expect("the stream lives");
                let mut answer = [0; 8];
                stream.read_exact(&mut answer).expect("the stream lives");
                assert_eq!(u64::from_be_bytes(answer), number);
                longest = longest.max(begun.elapsed());
                number += 1;
            }
            (number, longest)
        });
        Self { over, talking }
    }

    fn end(self) -> (u64, Duration) {
        self.over.store(true, Ordering::Relaxed);
        self.talking.join().expect("nothing was lost")
    }
}

/// A port of `laptop`, forwarded on `desk`.
struct Ports {
    _exposed: Process,
    _forwarded: Process,
    address: SocketAddr,
}

impl Ports {
    fn open(world: &World) -> Self {
        let start = |state_dir: &str, words: &[&str]| {
            let mut command = world.api.command(words);
            command.arg("--state-dir").arg(world.dir().join(state_dir));
            Process::start(words[0], command.arg("--json")).expect("it starts")
        };
        let port = echo().port().to_string();
        let exposed = start("node", &["expose", &port, "--as", "8080"]);
        let told = exposed.wait_for(STEP_TIMEOUT, |said| said["as"].is_number());
        told.expect("exposed");
        let forwarded = start(DESK, &["forward", "0", "laptop:8080"]);
        let told = forwarded.wait_for(STEP_TIMEOUT, |said| said["listening"].is_string());
        let address = text(&told.expect("it listens"), "listening")
            .parse()
            .expect("an address");
        Self {
            _exposed: exposed,
            _forwarded: forwarded,
            address,
        }
    }
}

#[test]
fn streams_and_runs_live_on_while_both_ends_change_their_keys() {
    let world = World::start("sleep 6; echo done").expect("a world");
    let setup = Setup::with_command(world.repository.path(), "cat");
    let desk = Device::start(&world.api, &world.dir().join(DESK), &setup).expect("it starts");
    desk.link(&world.api, DESK).expect("linked");
    let ports = Ports::open(&world);
    let talk = Talk::begin(ports.address);
    let run = world.dispatch("work").expect("dispatched");
    let run_id = text(&run, "runId").to_owned();
    world
        .wait_for_run(&run_id, |status| status == "running")
        .expect("running");

    for (state_dir, name) in [("node", DEVICE), (DESK, DESK)] {
        let before = key_of(&world, name);
        let rotated = call(&world, state_dir, &["rotate-key"]);
        let after = text(&rotated, "publicKey");
        assert_ne!(after, before);
        assert!(rotated["previousUntil"].is_string());
        assert_eq!(key_of(&world, name), after);
        let status = call(&world, state_dir, &["status"]);
        assert_eq!(text(&status, "publicKey"), after);
        std::thread::sleep(Duration::from_millis(500));
    }
    let (exchanges, longest) = talk.end();
    println!("{exchanges} exchanges, at most {longest:?} for one");
    assert!(longest < STILL_MAX, "{longest:?}");
    // A new stream, and work that comes after.
    let talk = Talk::begin(ports.address);
    let run = world
        .wait_for_run(&run_id, |status| status == "completed")
        .expect("completed");
    let events = world.events(text(&run, "threadId")).expect("events");
    check_events(&events, &run_id).expect("whole");
    let later = world.dispatch("more").expect("dispatched");
    let later = text(&later, "runId").to_owned();
    world
        .wait_for_run(&later, |status| status == "completed")
        .expect("completed");
    assert!(talk.end().0 > 0);
}

#[test]
fn a_second_change_soon_after_the_first_is_refused_with_the_time_when_it_is_not() {
    let world = World::start("cat").expect("a world");
    call(&world, "node", &["rotate-key"]);
    let key = key_of(&world, DEVICE);
    let mut command = world.api.command(&["rotate-key", "--state-dir"]);
    let output = command.arg(world.state_dir()).output().expect("started");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(said.contains("it can be changed again after"), "{said}");
    assert_eq!(key_of(&world, DEVICE), key);
}

#[test]
fn a_kill_at_any_point_of_a_change_leaves_a_device_that_comes_back() {
    let mut world = World::start("cat").expect("a world");
    let node = text(&call(&world, "node", &["status"])["node"], "id").to_owned();
    // So short that the old key is refused when the device is back from some of them.
    set_rule(&world, "overlap", "1s");
    let took = timed_change(&world);
    // Kills before, within and after it.
    for percent in [10, 40, 60, 70, 80, 90, 100] {
        std::thread::sleep(Duration::from_millis(1100));
        let after_ms = took * percent / 100;
        let dir = world.state_dir();
        let mut asking = change_for(&world, after_ms);
        world
            .device
            .take()
            .expect("it runs")
            .process
            .kill()
            .expect("killed");
        asking.wait().expect("it ended");
        let names = ["next.key", "previous.key"].map(|name| dir.join(name).exists());
        world.start_device().expect("it comes back");
        let deadline = Instant::now() + SOON;
        loop {
            let status = call(&world, "node", &["status"]);
            assert_eq!(text(&status["node"], "id"), node);
            let is_settled = !dir.join("next.key").exists();
            if is_settled && text(&status, "publicKey") == key_of(&world, DEVICE) {
                break;
            }
            assert!(Instant::now() < deadline, "killed after {after_ms} ms: {status}");
            std::thread::sleep(Duration::from_millis(50));
        }
        println!("killed after {after_ms} ms with next and previous {names:?}: it is back");
        let run = world.dispatch("work").expect("dispatched");
        let run = text(&run, "runId").to_owned();
        world
            .wait_for_run(&run, |status| status == "completed")
            .expect("completed");
    }
}

#[test]
fn a_control_plane_that_is_killed_while_a_key_changes_knows_the_device_when_it_is_back() {
    let mut world = World::start("cat").expect("a world");
    set_rule(&world, "overlap", "1s");
    let took = timed_change(&world);
    for percent in [40, 65, 80, 95] {
        std::thread::sleep(Duration::from_millis(1100));
        let after_ms = took * percent / 100;
        let dir = world.state_dir();
        let mut asking = change_for(&world, after_ms);
        world.serve.take().expect("it runs").kill().expect("killed");
        world.start_control().expect("it starts again");
        asking.wait().expect("it ended");
        let deadline = Instant::now() + SOON;
        loop {
            let status = call(&world, "node", &["status"]);
            let is_up = status["control"]["connected"] == true && !dir.join("next.key").exists();
            if is_up && text(&status, "publicKey") == key_of(&world, DEVICE) {
                break;
            }
            assert!(Instant::now() < deadline, "killed after {after_ms} ms: {status}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

#[test]
fn without_a_daemon_no_key_changes() {
    let dir = tempfile::tempdir().expect("a directory");
    let missing = std::os::unix::net::UnixStream::connect(dir.path().join("runmesh.sock"));
    assert_eq!(missing.expect_err("nobody").kind(), ErrorKind::NotFound);
    let runmesh = e2e::processes::Runmesh::find().expect("the program");
    let mut command = runmesh.command(&["rotate-key", "--state-dir"]);
    let output = command.arg(dir.path()).output().expect("started");
    assert_eq!(output.status.code(), Some(1));
    assert!(!dir.path().join("next.key").exists());
}

#[test]
fn a_device_changes_its_key_by_itself_before_that_expires() {
    let world = World::start("cat").expect("a world");
    let before = key_of(&world, DEVICE);
    // It is changed when two thirds of that are over, or a few seconds later.
    set_rule(&world, "expireAfter", "1m");
    let deadline = Instant::now() + SOON;
    while key_of(&world, DEVICE) == before {
        assert!(Instant::now() < deadline, "it has not changed its key");
        std::thread::sleep(Duration::from_millis(200));
    }
    let node = world.api.call(&["node", DEVICE]).expect("the node");
    let status = call(&world, "node", &["status"]);
    assert_eq!(status["keyLife"]["expiresAt"], node["keyExpiresAt"]);
    assert_eq!(status["keyInDanger"], false);
    let run = world.dispatch("work").expect("dispatched");
    let run = text(&run, "runId").to_owned();
    world
        .wait_for_run(&run, |status| status == "completed")
        .expect("completed");
}

#[test]
fn a_device_that_was_away_when_its_key_expired_is_approved_anew_and_is_the_same_node() {
    let mut world = World::start("cat").expect("a world");
    let before = world.api.call(&["node", DEVICE]).expect("the node");
    drop(world.device.take());
    set_rule(&world, "expireAfter", "1m");
    let deadline = Instant::now() + SOON;
    loop {
        let audit = world
            .api
            .call(&["audit", "--limit", "3"])
            .expect("the log")
            .to_string();
        if audit.contains("node.key_expired") {
            break;
        }
        assert!(Instant::now() < deadline, "its key has not expired");
        std::thread::sleep(Duration::from_millis(500));
    }
    let setup = Setup::with_command(world.repository.path(), "cat");
    let device = Device::start(&world.api, &world.state_dir(), &setup).expect("it starts");
    device.wait_for("key_expired", SOON).expect("it is told");
    assert_eq!(device.process.wait_for_end(SOON).expect("it ends"), Some(1));
    drop(device);
    let device = Device::start(&world.api, &world.state_dir(), &setup).expect("it starts");
    let linked = device.link(&world.api, DEVICE).expect("approved");
    for field in ["id", "name", "meshIp4", "meshIp6", "createdAt"] {
        assert_eq!(linked.node[field], before[field], "{field}");
    }
    world.device = Some(device);
    let run = world.dispatch("work").expect("dispatched");
    let run = text(&run, "runId").to_owned();
    world
        .wait_for_run(&run, |status| status == "completed")
        .expect("completed");
}
