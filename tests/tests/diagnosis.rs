//! What a person asks when two devices do not reach each other, between two devices of one owner.

use std::process::Output;
use std::time::Instant;

use e2e::device::{Device, Setup};
use e2e::processes::text;
use e2e::world::{DEVICE, SOON, World};
use serde_json::Value;

/// The other device.
const DESK: &str = "desk";

/// Two devices of one owner that have not talked to each other.
struct Pair {
    world: World,
    desk: Device,
}

impl Pair {
    fn start() -> Self {
        let world = World::start("cat").expect("a world");
        let setup = Setup::with_command(world.repository.path(), "cat");
        let desk = Device::start(&world.api, &world.dir().join(DESK), &setup).expect("it starts");
        desk.link(&world.api, DESK).expect("linked");
        Self { world, desk }
    }

    /// What a command says when it is asked at `desk`.
    fn ask(&self, words: &[&str]) -> Output {
        let mut command = self.world.api.command(words);
        command.arg("--state-dir").arg(self.world.dir().join(DESK));
        command.output().expect("it starts")
    }

    fn json(&self, words: &[&str]) -> Value {
        let output = self.ask(&[words, &["--json"]].concat());
        assert!(output.status.success(), "{words:?}: {}", said(&output));
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    /// The lines of a ping.
    fn ping(&self, words: &[&str]) -> Vec<Value> {
        let output = self.ask(&[&["ping", "--json"], words].concat());
        assert!(output.status.success(), "{words:?}: {}", said(&output));
        lines(&output)
    }

    /// Waits until `desk` says something of itself.
    fn wait_for(&self, words: &[&str], wanted: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let value = self.json(words);
            if wanted(&value) {
                return value;
            }
            assert!(begun.elapsed() < SOON, "{value:#}");
        }
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.clone(), output.stderr.clone()].concat()).into_owned()
}

fn lines(output: &Output) -> Vec<Value> {
    let text = str::from_utf8(&output.stdout).expect("UTF-8");
    let lines = text.lines().map(serde_json::from_str);
    lines.collect::<Result<_, _>>().expect("JSON lines")
}

/// How the peer called `laptop` is reached, as `desk` sees it.
fn laptop(status: &Value) -> Option<&Value> {
    let peers = status["peers"].as_array()?;
    peers.iter().find(|peer| peer["name"] == DEVICE)
}

#[test]
fn an_idle_node_is_woken_by_a_ping_that_tells_its_path_and_one_that_is_off_tells_why_not() {
    let mut pair = Pair::start();
    pair.wait_for(&["status"], |status| {
        laptop(status).is_some() && status["homeRelay"].is_string()
    });
    let said_first = pair.ping(&[DEVICE, "-c", "3"]);
    assert_eq!(said_first[0]["event"], "pinging");
    assert_eq!(said_first[0]["node"], DEVICE);
    let answers: Vec<_> = said_first
        .iter()
        .filter(|line| line["event"] == "answer")
        .collect();
    assert_eq!(answers.len(), 3, "{said_first:?}");
    for answer in &answers {
        assert!(answer["rttMs"].as_f64().is_some_and(|rtt| rtt > 0.0), "{answer}");
        let is_direct = answer["path"] == "direct";
        assert_eq!(is_direct, answer["endpoint"].is_string(), "{answer}");
        assert_eq!(is_direct, answer["relay"].is_null(), "{answer}");
        assert_eq!(is_direct, answer["reason"] == "endpoint_answered", "{answer}");
    }
    let summary = &said_first[4];
    assert_eq!(
        (&summary["event"], &summary["sent"], &summary["received"]),
        (&Value::from("summary"), &Value::from(3), &Value::from(3))
    );

    let node = pair.world.api.call(&["node", DEVICE]).expect("a node");
    for name in [
        "laptop.home.mesh.internal",
        text(&node, "meshIp4"),
        text(&node, "meshIp6"),
    ] {
        assert_eq!(pair.ping(&[name, "-c", "1"])[0]["node"], DEVICE, "{name}");
    }

    let status = said(&pair.ask(&["status"]));
    assert!(
        status.contains("home relay") && status.contains("BECAUSE"),
        "{status}"
    );

    for (name, message) in [
        ("nobody", "no node nobody is known here"),
        (DESK, "this device itself"),
        ("example.com", "is not of this mesh"),
        ("laptop:80", "a node is named by"),
    ] {
        let output = pair.ask(&["ping", name]);
        let told = said(&output);
        assert_eq!(output.status.code(), Some(1), "{name}: {told}");
        assert!(
            told.contains(message) && told.contains("hint: "),
            "{name}: {told}"
        );
    }

    pair.world.device = None;
    let output = pair.ask(&["ping", DEVICE, "-c", "1"]);
    let told = said(&output);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(
        told.contains("1: no answer: ") && told.contains("laptop did not answer: "),
        "{told}"
    );
}

#[test]
fn a_netcheck_tells_of_the_network_and_of_every_relay() {
    let pair = Pair::start();
    let check = pair.wait_for(&["netcheck"], |check| check["relays"][0]["rttMs"].is_number());
    assert_eq!(check["udp"], true);
    assert_eq!(check["portMapping"], "off");
    let relay = &check["relays"][0];
    assert_eq!(
        (&relay["up"], &relay["transport"]),
        (&Value::from(true), &Value::from("udp"))
    );
    assert_eq!(check["homeRelay"], relay["name"]);
    assert!(text(relay, "observed").starts_with("127.0.0.1:"), "{check:#}");
    assert!(check["candidates"].as_array().is_some_and(|all| !all.is_empty()));
    let told = said(&pair.ask(&["netcheck"]));
    for words in [
        "UDP",
        "gets through",
        "NAT mapping",
        "not looked for",
        "RELAY",
        "CANDIDATE",
    ] {
        assert!(told.contains(words), "{words}: {told}");
    }

    let Pair { desk, world } = pair;
    drop(desk);
    let mut command = world.api.command(&["netcheck", "--state-dir"]);
    let output = command.arg(world.dir().join(DESK)).output().expect("it starts");
    let told = said(&output);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(
        told.contains("no daemon is running") && told.contains("hint: "),
        "{told}"
    );
}

#[test]
fn a_bugreport_tells_everything_but_secrets() {
    let pair = Pair::start();
    let key = pair.world.api.key.clone();
    let prompt = "a prompt that nobody else may read";
    let receipt = pair.world.dispatch(prompt).expect("accepted");
    pair.world
        .wait_for_run(text(&receipt, "runId"), |status| status == "completed")
        .expect("it completes");
    // Both devices: one that has executed a run, and one whose daemon has ended.
    let Pair { world, desk } = pair;
    drop(desk);
    for (state_dir, is_running) in [("node", true), (DESK, false)] {
        let dir = world.dir().join(state_dir);
        let mut secrets = vec![key.clone(), prompt.to_owned()];
        for file in ["node.key", "signing.key"] {
            let secret = std::fs::read_to_string(dir.join(file)).expect("a key");
            secrets.push(secret.trim().to_owned());
        }
        assert!(secrets.iter().all(|secret| secret.len() > 20));
        for more in [&[][..], &["--hide-names"]] {
            let mut command = world.api.command(&["bugreport", "--state-dir"]);
            command.arg(&dir).args(more).env("RUNTOOLS_API_KEY", &key);
            let output = command.output().expect("it starts");
            let told = said(&output);
            assert!(output.status.success(), "{told}");
            for secret in &secrets {
                assert!(!told.contains(secret.as_str()), "{secret}: {told}");
            }
            let report: Value = serde_json::from_slice(&output.stdout).expect("one document");
            assert!(report["system"]["os"].is_string() && report["version"].is_string());
            assert_eq!(report["daemon"].is_object(), is_running, "{report:#}");
            assert_eq!(report["netcheck"].is_object(), is_running, "{report:#}");
            assert_eq!(report["linkOnDisk"] == "linked", !is_running, "{report:#}");
            let log = report["log"]
                .as_array()
                .map(|lines| lines.iter().filter_map(Value::as_str));
            let has_log = log.is_some_and(|mut lines| lines.any(|line| line.contains(" INFO ")));
            assert_eq!(has_log, is_running && more.is_empty(), "{report:#}");
            if is_running {
                assert_eq!(report["daemon"]["control"]["connected"], true);
                let is_named = report["daemon"]["name"] == DEVICE;
                assert_eq!(is_named, more.is_empty(), "{report:#}");
                assert_eq!(told.contains(DESK), more.is_empty(), "{told}");
            }
        }
    }
}
