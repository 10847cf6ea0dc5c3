//! Ctrl-C and SIGTERM with real processes: each command that can run long stops cleanly within a bounded time, leaves
//! nothing half done, and ends at once when told twice.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use e2e::device::{Device, Setup};
use e2e::processes::{ANY_PORT, Process, Runmesh, STEP_TIMEOUT, send_signal, text, wait_for_end};
use e2e::world::{AGENT, SOON, World, check_events};

/// A stop that has to wait for nobody.
const QUICK: Duration = Duration::from_secs(10);

/// A stop that has to end a run whose program ignores what it is told: its graces and the last words, and some room.
const WITH_A_RUN: Duration = Duration::from_secs(30);

/// A program that must be killed.
const STUBBORN: &str = "trap '' INT TERM; echo begun; while true; do sleep 0.2; done";

fn run_is_over(status: &str) -> bool {
    !["queued", "dispatched", "running"].contains(&status)
}

/// Starts a run and waits until its program is at work.
fn working(world: &World) -> String {
    let run = world.dispatch("work").expect("dispatched");
    let run_id = text(&run, "runId").to_owned();
    world
        .wait_for_run(&run_id, |status| status == "running")
        .expect("running");
    run_id
}

fn check_terminal_event(world: &World, run_id: &str) -> String {
    let run = world.wait_for_run(run_id, run_is_over).expect("it ends");
    let events = world.events(text(&run, "threadId")).expect("events");
    check_events(&events, run_id).expect("a whole thread");
    text(&run, "reason").to_owned()
}

fn spawn(command: &mut Command) -> Child {
    command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("runmesh starts")
}

/// What a child that has ended said on stderr.
fn said(mut child: Child) -> String {
    let mut text = String::new();
    let stderr = child.stderr.take().expect("piped");
    BufReader::new(stderr).read_to_string(&mut text).expect("UTF-8");
    text
}

#[test]
fn a_node_that_waits_for_its_link_stops_at_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let (_serve, api) = Runmesh::find()
        .expect("the program")
        .serve(&dir.path().join("control"), ANY_PORT, ANY_PORT)
        .expect("serve");
    for signal in ["INT", "TERM"] {
        let device = Device::start(
            &api,
            &dir.path().join(signal),
            &Setup::with_command(dir.path(), "cat"),
        )
        .expect("it starts");
        device.wait_for("link_code", STEP_TIMEOUT).expect("a code");
        device.process.signal(signal).expect("signalled");
        assert_eq!(
            device.process.wait_for_end(QUICK).expect("it stops"),
            Some(0),
            "{signal}"
        );
    }
    let mut nowhere = api.clone();
    nowhere.url = "http://127.0.0.1:1".to_owned();
    let device = Device::start(
        &nowhere,
        &dir.path().join("nowhere"),
        &Setup::with_command(dir.path(), "cat"),
    )
    .expect("it starts");
    device.wait_for("link_waiting", STEP_TIMEOUT).expect("it waits");
    device.process.signal("INT").expect("signalled");
    assert_eq!(device.process.wait_for_end(QUICK).expect("it stops"), Some(0));
}

#[test]
fn an_idle_node_stops_at_once_and_comes_back() {
    let mut world = World::start("cat").expect("a world");
    for signal in ["INT", "TERM"] {
        let device = world.device.take().expect("it runs");
        device.process.signal(signal).expect("signalled");
        assert_eq!(
            device.process.wait_for_end(QUICK).expect("it stops"),
            Some(0),
            "{signal}"
        );
        world.start_device().expect("it comes back");
    }
}

#[test]
fn a_node_at_work_ends_its_run_before_it_stops_and_a_second_signal_leaves_that_to_the_next_start() {
    let mut world = World::start(STUBBORN).expect("a world");
    let run_id = working(&world);
    let device = world.device.take().expect("it runs");
    device.process.signal("INT").expect("signalled");
    assert_eq!(
        device.process.wait_for_end(WITH_A_RUN).expect("it stops"),
        Some(0)
    );
    let reason = check_terminal_event(&world, &run_id);
    assert_eq!(reason, "node_stopped");
    drop(device);

    world.start_device().expect("it comes back");
    let run_id = working(&world);
    let device = world.device.take().expect("it runs");
    device.process.signal("INT").expect("signalled");
    std::thread::sleep(Duration::from_millis(300));
    let begun = Instant::now();
    device.process.signal("INT").expect("signalled");
    assert_eq!(device.process.wait_for_end(QUICK).expect("it ends"), Some(1));
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    drop(device);
    world.start_device().expect("it comes back");
    assert_eq!(check_terminal_event(&world, &run_id), "interrupted");
}

#[test]
fn a_control_plane_with_watchers_and_a_run_stops_and_all_of_them_go_on_afterwards() {
    let marker = "let-go";
    let command = format!("echo begun; while [ ! -e {marker} ]; do sleep 0.1; done");
    let mut world = World::start(&command).expect("a world");
    let run_id = working(&world);
    let run = world.api.call(&["runs", &run_id]).expect("a run");
    let thread_id = text(&run, "threadId").to_owned();
    let mut follow = world.api.command(&["thread", &thread_id, "--follow", "--json"]);
    let follower = Process::start("thread --follow", &mut follow).expect("it starts");
    follower
        .wait_for(SOON, |frame| text(frame, "type") == "run_started")
        .expect("it follows");
    let mut websocket = open_websocket(&world.api, &thread_id);

    let serve = world.serve.take().expect("it runs");
    serve.signal("TERM").expect("signalled");
    assert_eq!(serve.wait_for_end(QUICK).expect("it stops"), Some(0));
    let mut rest = Vec::new();
    websocket.read_to_end(&mut rest).expect("it was closed, not cut");

    std::fs::write(world.repository.path().join(marker), "").expect("let the run go on alone");
    world.start_control().expect("it comes back");
    assert_eq!(check_terminal_event(&world, &run_id), "");
    follower
        .wait_for(SOON, |frame| text(frame, "type") == "run_completed")
        .expect("the watcher goes on where it stopped");
    follower.signal("INT").expect("signalled");
    assert_eq!(follower.wait_for_end(QUICK).expect("it stops"), Some(0));
}

/// Opens the thread's WebSocket by hand and reads the head of the answer.
fn open_websocket(api: &Runmesh, thread_id: &str) -> TcpStream {
    let host = api.url.trim_start_matches("http://");
    let mut stream = TcpStream::connect(host).expect("connected");
    write!(
        stream,
        "GET /v1/threads/{thread_id}/events?api_key={} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        api.key
    )
    .expect("asked");
    stream.set_read_timeout(Some(QUICK)).expect("set");
    let mut head = String::new();
    let mut lines = BufReader::new(&stream);
    lines.read_line(&mut head).expect("answered");
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    stream
}

#[test]
fn a_watcher_stops_at_once() {
    let world = World::start("cat").expect("a world");
    let run = world.dispatch("look").expect("dispatched");
    let thread_id = text(&run, "threadId");
    for signal in ["INT", "TERM"] {
        let mut follow = world.api.command(&["thread", thread_id, "--follow", "--json"]);
        let follower = Process::start("thread --follow", &mut follow).expect("it starts");
        follower
            .wait_for(SOON, |frame| text(frame, "type") == "run_completed")
            .expect("it follows");
        follower.signal(signal).expect("signalled");
        assert_eq!(
            follower.wait_for_end(QUICK).expect("it stops"),
            Some(0),
            "{signal}"
        );
    }
}

#[test]
fn sigterm_cancels_a_watched_run_as_ctrl_c_does_and_a_second_one_leaves_it() {
    let world = World::start(STUBBORN).expect("a world");
    let mut watching = spawn(&mut world.api.command(&["run", AGENT, "work"]));
    let run_id = first_run(&world);
    world
        .wait_for_run(&run_id, |status| status == "running")
        .expect("running");
    send_signal(&watching, "TERM").expect("signalled");
    std::thread::sleep(Duration::from_millis(500));
    send_signal(&watching, "INT").expect("signalled");
    let code = wait_for_end(&mut watching, QUICK).expect("it ends");
    let talk = said(watching);
    assert_eq!(code, Some(1), "{talk}");
    assert!(
        talk.contains("error: left before") && talk.contains("\nhint: "),
        "{talk}"
    );
    let run = world
        .wait_for_run(&run_id, run_is_over)
        .expect("cancelled nonetheless");
    assert_eq!(text(&run, "status"), "cancelled");
}

fn first_run(world: &World) -> String {
    let deadline = Instant::now() + SOON;
    while Instant::now() < deadline {
        let runs = world.api.call(&["runs"]).expect("runs");
        if let Some(run) = runs["data"].as_array().and_then(|runs| runs.first()) {
            return text(run, "runId").to_owned();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("no run was started");
}

/// Stands before a control plane: what clients say goes through, what is answered is held back until it is let go.
struct Gate {
    url: String,
    open: Arc<AtomicBool>,
    asked: Arc<AtomicBool>,
}

impl Gate {
    fn before(api: &Runmesh) -> Self {
        let listener = TcpListener::bind(ANY_PORT).expect("a port");
        let gate = Self {
            url: format!("http://{}", listener.local_addr().expect("bound")),
            open: Arc::default(),
            asked: Arc::default(),
        };
        let server = api.url.trim_start_matches("http://").to_owned();
        let (open, asked) = (gate.open.clone(), gate.asked.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let server = TcpStream::connect(&server).expect("the control plane");
                let (open, asked) = (open.clone(), asked.clone());
                let (from, to) = (
                    client.try_clone().expect("cloned"),
                    server.try_clone().expect("cloned"),
                );
                std::thread::spawn(move || pass(from, to, || asked.store(true, Ordering::SeqCst)));
                let held = move || {
                    while !open.load(Ordering::SeqCst) {
                        std::thread::sleep(Duration::from_millis(10));
                    }
                };
                std::thread::spawn(move || pass(server, client, held));
            }
        });
        gate
    }

    fn wait_until_asked(&self) {
        let deadline = Instant::now() + SOON;
        while !self.asked.load(Ordering::SeqCst) {
            assert!(Instant::now() < deadline, "nobody asked");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Copies until one side is gone; `before` is called with each piece in hand.
fn pass(mut from: TcpStream, mut to: TcpStream, before: impl Fn()) {
    let mut piece = [0; 4096];
    while let Ok(len) = from.read(&mut piece) {
        before();
        if len == 0 || to.write_all(&piece[..len]).is_err() {
            return;
        }
    }
}

#[test]
fn ctrl_c_before_the_server_has_answered_still_cancels_the_run() {
    let world = World::start("echo begun; sleep 60").expect("a world");
    let gate = Gate::before(&world.api);
    let mut behind = world.api.clone();
    behind.url = gate.url.clone();
    let mut running = spawn(&mut behind.command(&["run", AGENT, "work"]));
    gate.wait_until_asked();
    let run_id = first_run(&world);
    send_signal(&running, "INT").expect("signalled");
    std::thread::sleep(Duration::from_millis(300));
    gate.open.store(true, Ordering::SeqCst);
    let code = wait_for_end(&mut running, SOON).expect("it ends");
    let talk = said(running);
    assert_eq!(code, Some(1), "{talk}");
    assert!(talk.contains("error: the run was cancelled"), "{talk}");
    let run = world.api.call(&["runs", &run_id]).expect("a run");
    assert_eq!(text(&run, "status"), "cancelled");
}

#[test]
fn a_server_that_never_answers_keeps_nobody() {
    let silent = TcpListener::bind(ANY_PORT).expect("a port");
    let mut api = Runmesh::find().expect("the program");
    api.url = format!("http://{}", silent.local_addr().expect("bound"));
    for second in [true, false] {
        let mut running = spawn(&mut api.command(&["run", AGENT, "work"]));
        let (mut client, _) = silent.accept().expect("it connects");
        client.read_exact(&mut [0; 4]).expect("it asks");
        send_signal(&running, "INT").expect("signalled");
        if second {
            std::thread::sleep(Duration::from_millis(300));
            send_signal(&running, "INT").expect("signalled");
        }
        let begun = Instant::now();
        let code = wait_for_end(&mut running, Duration::from_secs(20)).expect("it ends");
        let (took, talk) = (begun.elapsed(), said(running));
        assert_eq!(code, Some(1), "{talk}");
        assert!(
            talk.contains("may have been started") && talk.contains("--idempotency-key"),
            "{talk}"
        );
        assert!(!second || took < Duration::from_secs(3), "{took:?}");
    }
}

/// What only waits ends at the first signal, whoever it is that does not answer.
#[test]
fn whatever_waits_for_somebody_silent_stops_at_once() {
    let silent = TcpListener::bind(ANY_PORT).expect("a port");
    let address = silent.local_addr().expect("bound");
    let dir = tempfile::tempdir().expect("a directory");
    let place = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
    let mut api = Runmesh::find().expect("the program");
    api.url = format!("http://{address}");
    let (fresh, again) = (place("fresh"), place("again"));
    let node = ["up", "--server", &api.url, "--state-dir"];
    let asks: [(Vec<&str>, Option<i32>); 4] = [
        (vec!["nodes"], None),
        (vec!["approve", "ABCDEF"], None),
        ([&node[..], &[fresh.as_str()]].concat(), Some(0)),
        (
            [&node[..], &[again.as_str(), "--auth-key", "rtk_none"]].concat(),
            Some(0),
        ),
    ];
    for (arguments, code) in asks {
        for signal in ["INT", "TERM"] {
            let mut running = spawn(&mut api.command(&arguments));
            let (mut client, _) = silent.accept().expect("it connects");
            client.read_exact(&mut [0; 4]).expect("it asks");
            let begun = Instant::now();
            send_signal(&running, signal).expect("signalled");
            let ended = wait_for_end(&mut running, SOON);
            let ended = ended.unwrap_or_else(|error| panic!("{arguments:?} {signal}: {error}"));
            let (took, talk) = (begun.elapsed(), said(running));
            assert_eq!(ended, code, "{arguments:?} {signal}: {talk}");
            assert!(took < Duration::from_secs(3), "{arguments:?} {signal}: {took:?}");
        }
    }
}

#[test]
fn a_relay_stops_at_the_first_signal() {
    // Any key will do: of whom it lets in nothing is asked here.
    let authority = "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";
    let dir = tempfile::tempdir().expect("a directory");
    let data_dir = dir.path().to_string_lossy().into_owned();
    let runmesh = Runmesh::find().expect("the program");
    for signal in ["INT", "TERM"] {
        let mut relay = runmesh.command(&[
            "relay",
            "--authority",
            authority,
            "--data-dir",
            &data_dir,
            "--listen",
            ANY_PORT,
            "--stun-listen",
            ANY_PORT,
            "--json",
        ]);
        let mut running = spawn(&mut relay);
        let mut record = String::new();
        let stdout = running.stdout.as_mut().expect("a pipe");
        BufReader::new(stdout).read_line(&mut record).expect("its record");
        assert!(record.contains("\"id\""), "{record}");
        send_signal(&running, signal).expect("signalled");
        let ended = wait_for_end(&mut running, SOON).expect("it ends");
        assert_eq!(ended, Some(0), "{signal}: {}", said(running));
    }
}

#[test]
fn a_control_plane_that_is_told_to_stop_while_it_starts_says_that_it_will() {
    let silent = TcpListener::bind(ANY_PORT).expect("a port");
    let database = format!("postgres://nobody@{}/none", silent.local_addr().expect("bound"));
    let dir = tempfile::tempdir().expect("a directory");
    let data_dir = dir.path().to_string_lossy().into_owned();
    let mut serve = Runmesh::find().expect("the program").command(&[
        "serve",
        "--data-dir",
        &data_dir,
        "--database-url",
        &database,
        "--listen",
        ANY_PORT,
        "--mesh-listen",
        ANY_PORT,
        "--relay-listen",
        ANY_PORT,
    ]);
    let mut running = spawn(&mut serve);
    let (mut client, _) = silent.accept().expect("it connects");
    client.read_exact(&mut [0; 4]).expect("it asks");
    send_signal(&running, "INT").expect("signalled");
    let stderr = running.stderr.as_mut().expect("a pipe");
    let mut word = String::new();
    BufReader::new(stderr).read_line(&mut word).expect("a word");
    assert!(word.contains("stopping as soon as the start is over"), "{word}");
    let begun = Instant::now();
    send_signal(&running, "INT").expect("signalled");
    let ended = wait_for_end(&mut running, SOON).expect("it ends");
    assert_eq!(ended, Some(1));
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
}
