//! Ports in the background: kept by the daemon over every end of it, until somebody takes them back.

use std::fs;
use std::io::{ErrorKind, Read as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Output;
use std::time::{Duration, Instant};

use e2e::device::{Device, Setup};
use e2e::processes::{ANY_PORT, Runmesh, STEP_TIMEOUT, text};
use e2e::world::{DEVICE, World, free_udp_address};
use serde_json::{Value, json};

use super::{DESK, OFFERED, Pair, echo, talks};

/// The directory of `laptop`.
const LAPTOP: &str = "node";
/// The most ports that are kept, as the documentation says.
const KEPT_MAX: u16 = 64;
/// The first of them.
const FIRST: u16 = 1000;

impl Pair {
    /// What a command that ends by itself says on stdout.
    fn answer(&self, state_dir: &str, words: &[&str]) -> Value {
        let (answer, _) = self.answer_and_talk(state_dir, words);
        answer
    }

    fn answer_and_talk(&self, state_dir: &str, words: &[&str]) -> (Value, String) {
        let output = self.command(state_dir, words).output().expect("started");
        let talk = String::from_utf8(output.stderr).expect("UTF-8");
        assert_eq!(output.status.code(), Some(0), "{words:?}: {talk}");
        (serde_json::from_slice(&output.stdout).expect("JSON"), talk)
    }

    /// `runmesh expose --background` on `laptop`.
    fn keep_exposed(&self, local: SocketAddr) -> Value {
        let port = local.port().to_string();
        self.answer(LAPTOP, &["expose", &port, "--as", OFFERED, "--background"])
    }

    /// `runmesh forward --background` on `desk`; returns where it listens.
    fn keep_forwarded(&self, target: &str) -> SocketAddr {
        let said = self.answer(DESK, &["forward", "0", target, "--background"]);
        text(&said, "listening").parse().expect("an address")
    }

    fn ports(&self, state_dir: &str) -> Vec<Value> {
        let list = self.answer(state_dir, &["ports"]);
        list["ports"].as_array().expect("a list").clone()
    }

    /// Waits until the only port of `desk` is as wanted.
    fn wait_for_port(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + STEP_TIMEOUT;
        loop {
            let ports = self.ports(DESK);
            assert_eq!(ports.len(), 1, "{ports:?}");
            if wanted(&ports[0]) {
                return ports[0].clone();
            }
            assert!(Instant::now() < deadline, "it never came there: {ports:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Kills the daemon of `laptop` and starts it again.
    fn restart_laptop(&mut self) {
        let laptop = self.world.device.take().expect("it runs");
        laptop.process.kill().expect("killed");
        self.world.start_device().expect("it starts");
    }

    /// Kills the daemon of `desk`, and starts it again when `meanwhile` has been done.
    fn restart_desk_after(&mut self, meanwhile: impl FnOnce()) {
        self.desk.process.kill().expect("killed");
        meanwhile();
        let setup = Setup::with_command(self.world.repository.path(), "cat");
        self.desk = Device::start(&self.world.api, &self.state_dir(DESK), &setup).expect("it starts");
        self.desk.wait_for("ready", STEP_TIMEOUT).expect("it is ready");
    }

    fn state_dir(&self, name: &str) -> PathBuf {
        self.world.dir().join(name)
    }
}

/// Waits until [`echo`] is heard: a node that was killed is found again before long.
fn talks_at_last(address: SocketAddr) -> TcpStream {
    let deadline = Instant::now() + STEP_TIMEOUT;
    loop {
        match talks(address) {
            Ok(stream) => return stream,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn check_cut(mut open: TcpStream) {
    let error = open.read(&mut [0]).expect_err("what it carried is cut");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[test]
fn an_exposed_port_stays_over_a_kill_until_it_is_taken_back() {
    let mut pair = Pair::start(&[]);
    let local = echo();
    let port = local.port().to_string();
    let words = ["expose", &port, "--as", OFFERED, "--background"];
    let (said, talk) = pair.answer_and_talk(LAPTOP, &words);
    assert_eq!(text(&said, "name"), "laptop.home.mesh.internal");
    assert_eq!((&said["port"], &said["as"]), (&json!(local.port()), &json!(8080)));
    assert!(
        talk.contains(&format!("runmesh expose {port} --as 8080 --off")),
        "{talk}"
    );
    let (_forward, address) = pair.forward("laptop:8080");
    let open = talks(address).expect("it answers");
    pair.restart_laptop();
    drop(open);
    let open = talks_at_last(address);
    let kept = json!({
        "kind": "exposed", "port": local.port(), "as": 8080, "background": true, "state": "open",
    });
    assert_eq!(pair.ports(LAPTOP), [kept]);
    drop(pair.world.device.take());
    pair.world
        .start_device()
        .expect("it starts after a stop in good order");
    drop(open);
    let open = talks_at_last(address);

    let ended = pair.answer(LAPTOP, &["expose", &port, "--off"]);
    assert_eq!(
        ended,
        json!({ "ended": [{ "kind": "exposed", "port": local.port(), "as": 8080 }] })
    );
    check_cut(open);
    assert!(talks(address).is_err(), "nothing is exposed any more");
    assert!(pair.ports(LAPTOP).is_empty());
    pair.restart_laptop();
    assert!(pair.ports(LAPTOP).is_empty());
    let said = pair.fails(LAPTOP, &["expose", &port, "--off"]);
    assert!(
        said.contains("is not exposed") && said.contains("`runmesh ports` lists"),
        "{said}"
    );
}

#[test]
fn a_forwarded_port_stays_over_a_kill_until_it_is_taken_back() {
    let mut pair = Pair::start(&[]);
    pair.keep_exposed(echo());
    let (said, talk) = pair.answer_and_talk(DESK, &["forward", "0", "laptop:8080", "--background"]);
    let listening = text(&said, "listening").to_owned();
    assert_eq!(text(&said, "node"), DEVICE);
    assert!(
        talk.contains(&format!("runmesh forward {listening} --off")),
        "{talk}"
    );
    let address = listening.parse().expect("an address");
    talks(address).expect("it answers");
    pair.restart_desk_after(|| {});
    let open = talks_at_last(address);

    let ended = pair.answer(DESK, &["forward", &listening, "--off"]);
    assert_eq!(
        ended,
        json!({ "ended": [{ "kind": "forwarded", "local": listening, "target": "laptop:8080" }] })
    );
    check_cut(open);
    assert!(TcpStream::connect(address).is_err(), "nobody listens any more");
    TcpListener::bind(address).expect("the port is free");
    pair.restart_desk_after(|| {});
    assert!(pair.ports(DESK).is_empty());
    let said = pair.fails(DESK, &["forward", &listening, "--off"]);
    assert!(
        said.contains("leads nowhere") && said.contains("`runmesh ports` lists"),
        "{said}"
    );
}

#[test]
fn the_same_wish_has_the_same_answer_and_another_one_for_its_place_none() {
    let pair = Pair::start(&[]);
    let local = echo();
    assert_eq!(pair.keep_exposed(local), pair.keep_exposed(local));
    let address = pair.keep_forwarded("laptop:8080");
    assert_eq!(
        address,
        pair.keep_forwarded("laptop:8080"),
        "it leads there already"
    );
    assert_ne!(address, pair.keep_forwarded("laptop:81"));
    let (_command, of_command) = pair.forward("laptop:8080");
    let (port, kept) = (local.port().to_string(), address.to_string());
    let of_command = of_command.to_string();
    let background = "already, in the background";
    for (state_dir, words, message) in [
        (
            LAPTOP,
            &["expose", "1", "--as", OFFERED, "--background"][..],
            background,
        ),
        (LAPTOP, &["expose", &port, "--as", OFFERED], background),
        (DESK, &["forward", &kept, "laptop:82", "--background"], background),
        (DESK, &["forward", &kept, "laptop:8080"], background),
        (
            DESK,
            &["forward", &of_command, "laptop:8080", "--background"],
            "already, as long as a command runs",
        ),
        (
            DESK,
            &["forward", &of_command, "--off"],
            "as long as a command runs, not in the background",
        ),
        (
            DESK,
            &["forward", &kept, "laptop:82", "--off"],
            "does not lead to laptop:82",
        ),
        (
            LAPTOP,
            &["expose", &port, "--as", "82", "--off"],
            "is not exposed as port 82",
        ),
        (
            DESK,
            &["forward", "0", "nobody:80", "--background"],
            "no node nobody is known",
        ),
    ] {
        let said = pair.fails(state_dir, words);
        assert!(
            said.contains(message) && said.contains("\"hint\""),
            "{words:?}: {said}"
        );
    }
}

#[test]
fn what_commands_hold_and_what_is_kept_is_listed_together() {
    let pair = Pair::start(&[]);
    let kept = pair.keep_forwarded("laptop:8080").to_string();
    let (_command, held) = pair.forward("laptop:8080");
    let listed = pair.ports(DESK);
    assert_eq!(listed.len(), 2, "{listed:?}");
    for (local, background) in [(kept, true), (held.to_string(), false)] {
        let port = json!({
            "kind": "forwarded", "local": local, "target": "laptop:8080", "background": background, "state": "open",
        });
        assert!(listed.contains(&port), "{port}: {listed:?}");
    }
    let dir = pair.state_dir(DESK);
    let words = ["ports", "--state-dir", &dir.to_string_lossy()];
    let lines = pair.world.api.lines(&words).expect("listed");
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(lines[0].starts_with("KIND"), "{lines:?}");
    for until in ["taken back", "its command ends"] {
        let count = lines.iter().filter(|row| row.contains(until)).count();
        assert_eq!(count, 1, "{until}: {lines:?}");
    }
}

#[test]
fn what_led_nowhere_in_the_background_is_shown() {
    let pair = Pair::start(&[]);
    let address = pair.keep_forwarded("laptop:8080");
    assert!(talks(address).is_err(), "nothing is exposed");
    let port = pair.wait_for_port(|port| port["lastFailed"].is_object());
    let reason = text(&port["lastFailed"], "reason");
    assert!(
        reason.contains("laptop refused the connection to port 8080"),
        "{port}"
    );
    assert_eq!(text(&port, "state"), "open", "{port}");
}

#[test]
fn a_forward_waits_for_its_node_and_for_its_port_and_comes_back_by_itself() {
    let mut pair = Pair::start(&[]);
    pair.keep_exposed(echo());
    let address = pair.keep_forwarded("laptop:8080");
    let rename = |pair: &Pair, from: &str, to: &str| {
        let renamed = pair.world.api.call(&["rename", from, to]);
        renamed.expect("renamed");
    };
    rename(&pair, DEVICE, "elsewhere");
    let waits = |port: &Value| text(port, "state") == "waiting";
    let port = pair.wait_for_port(waits);
    assert!(
        text(&port, "reason").contains("no node laptop is known here"),
        "{port}"
    );
    pair.restart_desk_after(|| {});
    assert!(waits(&pair.ports(DESK)[0]), "its node has another name still");
    rename(&pair, "elsewhere", DEVICE);
    pair.wait_for_port(|port| !waits(port));
    talks_at_last(address);

    let mut taken = None;
    pair.restart_desk_after(|| taken = Some(TcpListener::bind(address).expect("free meanwhile")));
    let port = pair.wait_for_port(waits);
    assert!(text(&port, "reason").contains("cannot be listened on"), "{port}");
    let again = ["forward", &address.to_string(), "laptop:8080", "--background"];
    let said = pair.fails(DESK, &again);
    assert!(said.contains("in the background, but not yet"), "{said}");
    drop(taken);
    pair.wait_for_port(|port| !waits(port));
    talks_at_last(address);
    let said = pair.answer(DESK, &again);
    assert_eq!(text(&said, "listening"), address.to_string());
}

#[test]
fn as_many_ports_as_the_limit_are_kept_and_one_more_is_refused() {
    let mut pair = Pair::start(&[]);
    let expose = |pair: &Pair, port: u16, more: &[&str]| -> Output {
        let port = port.to_string();
        let words = [&["expose", &port], more].concat();
        pair.command(LAPTOP, &words).output().expect("started")
    };
    for port in FIRST..FIRST + KEPT_MAX {
        let output = expose(&pair, port, &["--background"]);
        assert!(output.status.success(), "{port}: {output:?}");
    }
    let refused = |pair: &Pair| {
        let output = expose(pair, FIRST + KEPT_MAX, &["--background"]);
        let said = String::from_utf8(output.stderr).expect("UTF-8");
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            said.contains("64 ports are kept in the background already"),
            "{said}"
        );
    };
    refused(&pair);
    pair.restart_laptop();
    let ports = pair.ports(LAPTOP);
    assert_eq!(ports.len(), usize::from(KEPT_MAX));
    assert!(
        ports.iter().all(|port| text(port, "state") == "open"),
        "{ports:?}"
    );
    refused(&pair);
    assert!(expose(&pair, FIRST, &["--off"]).status.success());
    assert!(
        expose(&pair, FIRST + KEPT_MAX, &["--background"])
            .status
            .success()
    );
}

#[test]
fn what_cannot_be_written_down_is_not_kept_and_what_cannot_be_struck_out_stays() {
    let mut pair = Pair::start(&[]);
    let local = echo();
    let port = local.port().to_string();
    // Where the file is written before it takes the place of the one before.
    let in_the_way = pair.state_dir(LAPTOP).join("ports.new");
    fs::create_dir(&in_the_way).expect("made");
    let said = pair.fails(LAPTOP, &["expose", &port, "--as", OFFERED, "--background"]);
    assert!(
        said.contains("ports.json") && said.contains("can be written"),
        "{said}"
    );
    assert!(pair.ports(LAPTOP).is_empty());
    assert!(
        pair.fails(LAPTOP, &["expose", &port, "--off"])
            .contains("is not exposed")
    );

    fs::remove_dir(&in_the_way).expect("removed");
    pair.keep_exposed(local);
    fs::create_dir(&in_the_way).expect("made");
    let said = pair.fails(LAPTOP, &["expose", &port, "--off"]);
    assert!(said.contains("ports.json"), "{said}");
    let (_forward, address) = pair.forward("laptop:8080");
    talks(address).expect("it stays");
    pair.restart_laptop();
    talks_at_last(address);
}

#[test]
fn a_file_that_cannot_be_believed_opens_nothing_and_does_not_stop_the_daemon() {
    let mut pair = Pair::start(&[]);
    pair.keep_exposed(echo());
    let address = pair.keep_forwarded("laptop:8080");
    let dir = pair.state_dir(DESK);
    let (file, aside) = (dir.join("ports.json"), dir.join("ports.aside.json"));
    let mode = fs::metadata(&file).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let open_to_others = || fs::set_permissions(&file, fs::Permissions::from_mode(0o666));
    pair.restart_desk_after(|| open_to_others().expect("own file"));
    let list = pair.answer(DESK, &["ports"]);
    assert_eq!(list["ports"], json!([]));
    assert!(text(&list, "setAside").contains("others may write it"), "{list}");
    assert!(TcpStream::connect(address).is_err(), "nobody listens");
    assert!(aside.exists() && !file.exists());

    pair.restart_desk_after(|| fs::write(&file, "{ rubbish").expect("written"));
    let (list, talk) = pair.answer_and_talk(DESK, &["ports"]);
    assert!(text(&list, "setAside").contains("it is damaged"), "{list}");
    assert!(talk.contains("it is damaged"), "{talk}");
    assert_eq!(fs::read(&aside).expect("kept"), b"{ rubbish");
    let address = pair.keep_forwarded("laptop:8080");
    talks_at_last(address);
    pair.restart_desk_after(|| {});
    talks_at_last(address);
    let list = pair.answer(DESK, &["ports"]);
    assert_eq!(list["setAside"], Value::Null);
}

#[test]
fn what_was_kept_for_one_org_is_not_offered_to_another() {
    let mut world = World::start("cat").expect("a world");
    let (local, dir) = (echo(), world.state_dir());
    let dir_text = dir.to_string_lossy().into_owned();
    let port = local.port().to_string();
    let at_laptop = |api: &Runmesh, words: &[&str]| {
        let answer = api.call(&[words, &["--state-dir", &dir_text]].concat());
        answer.expect("answered")
    };
    at_laptop(&world.api, &["expose", &port, "--as", OFFERED, "--background"]);
    world.api.call(&["revoke", DEVICE]).expect("revoked");
    let laptop = world.device.take().expect("it runs");
    laptop.wait_for("revoked", STEP_TIMEOUT).expect("it is shut out");
    let ended = laptop.process.wait_for_end(STEP_TIMEOUT);
    assert_eq!(ended.expect("it ends"), Some(1));

    let mesh_listen = free_udp_address().expect("an address");
    let others = Runmesh::find().expect("the program");
    let (_serve, others) = others
        .serve(&world.dir().join("others"), ANY_PORT, &mesh_listen)
        .expect("another control plane");
    let setup = Setup::with_command(world.repository.path(), "cat");
    let laptop = Device::start(&others, &dir, &setup).expect("it starts");
    laptop.link(&others, DEVICE).expect("linked");
    let list = at_laptop(&others, &["ports"]);
    assert_eq!(list["ports"], json!([]));
    assert!(
        text(&list, "setAside").contains("it is of another node"),
        "{list}"
    );
    // Its place in the mesh is free, so nothing is offered there.
    at_laptop(&others, &["expose", "1", "--as", OFFERED, "--background"]);
    assert!(dir.join("ports.aside.json").exists());
}
