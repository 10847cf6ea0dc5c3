//! A relay that runs by itself, and a device that is revoked and does not go: it is stopped, so that nothing it could do
//! itself cuts it off.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use e2e::device::{Device, Setup};
use e2e::processes::{ANY_PORT, Process, STEP_TIMEOUT, text};
use e2e::world::{DEVICE, SOON, World, free_udp_address};
use serde_json::Value;

const DESK: &str = "desk";

/// How long a revoked node may keep its place at a relay.
const CUT_OFF_MAX: Duration = Duration::from_secs(2);

/// A relay that runs by itself, always at the same address.
struct RelayElsewhere {
    process: Process,
    authority: String,
    listen: String,
    metrics: String,
    data_dir: PathBuf,
    record: Value,
}

impl RelayElsewhere {
    fn start(world: &World) -> Self {
        let relays = world.api.call(&["relays"]).expect("the relays");
        let authority = text(&relays, "authority").to_owned();
        // A TCP port of the number of a free UDP port is as free as any.
        let (listen, metrics) = (free_udp_address(), free_udp_address());
        let (listen, metrics) = (listen.expect("a port"), metrics.expect("a port"));
        let data_dir = world.dir().join("relay");
        let mut relay = Self {
            process: start_relay(world, (&authority, &listen, &metrics), &data_dir),
            authority,
            listen,
            metrics,
            data_dir,
            record: Value::Null,
        };
        relay.record = relay.wait_for_record();
        relay
    }

    fn start_again(&mut self, world: &World) {
        self.process.kill().expect("killed");
        let at = (&*self.authority, &*self.listen, &*self.metrics);
        self.process = start_relay(world, at, &self.data_dir);
        assert_eq!(self.wait_for_record()["id"], self.record["id"]);
    }

    fn wait_for_record(&self) -> Value {
        let record = self.process.wait_for(STEP_TIMEOUT, |said| said["id"].is_string());
        record.expect("its record")
    }

    /// One number of its metrics.
    fn metric(&self, name: &str) -> u64 {
        let mut connection = TcpStream::connect(&self.metrics).expect("its metrics");
        let request = "GET /metrics HTTP/1.1\r\nHost: relay\r\nConnection: close\r\n\r\n";
        connection.write_all(request.as_bytes()).expect("asked");
        let mut answer = String::new();
        connection.read_to_string(&mut answer).expect("answered");
        let line = answer
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let number = line.and_then(|number| number.trim().parse().ok());
        number.unwrap_or_else(|| panic!("no {name} in {answer}"))
    }

    /// Waits until so many clients are there; returns how long that took.
    fn wait_for_clients(&self, count: u64, longest: Duration) -> Duration {
        let begun = Instant::now();
        while self.metric("runmesh_relay_clients") != count {
            let there = self.metric("runmesh_relay_clients");
            assert!(begun.elapsed() < longest, "{there} clients, not {count}");
            std::thread::sleep(Duration::from_millis(10));
        }
        begun.elapsed()
    }
}

fn start_relay(
    world: &World,
    (authority, listen, metrics): (&str, &str, &str),
    data_dir: &PathBuf,
) -> Process {
    let words = ["relay", "--json", "--authority", authority, "--listen", listen];
    let mut relay = world.api.command(&words);
    relay.args(["--stun-listen", ANY_PORT, "--metrics-listen", metrics]);
    relay.arg("--data-dir").arg(data_dir);
    Process::start("runmesh relay", &mut relay).expect("it starts")
}

/// Starts the control plane anew without a relay beside it, with one that runs elsewhere.
fn use_relay(world: &mut World, relay: &RelayElsewhere) {
    world.serve = None;
    let file = world.dir().join("relays.json");
    std::fs::write(&file, Value::from(vec![relay.record.clone()]).to_string()).expect("written");
    let listen = world.api.url.trim_start_matches("http://").to_owned();
    let mut serve = world
        .api
        .command(&["serve", "--json", "--no-relay", "--listen", &listen]);
    serve.args(["--mesh-listen", world.mesh_listen()]);
    serve.arg("--relays").arg(&file);
    serve.arg("--data-dir").arg(world.dir().join("control"));
    let process = Process::start("runmesh serve", &mut serve).expect("it starts");
    let started = process.wait_for(STEP_TIMEOUT, |said| said["url"].is_string());
    started.expect("it says where it is");
    world.serve = Some(process);
}

#[test]
fn cuts_a_revoked_device_off_at_once_and_after_a_restart_of_its_own() {
    let mut world = World::start("cat").expect("a world");
    let mut relay = RelayElsewhere::start(&world);
    use_relay(&mut world, &relay);
    let setup = Setup::with_command(world.repository.path(), "cat");
    let desk = Device::start(&world.api, &world.dir().join("desk"), &setup).expect("it starts");
    desk.link(&world.api, DESK).expect("it links");
    // The control plane's own node, and both devices.
    relay.wait_for_clients(3, SOON);
    desk.process.signal("STOP").expect("stopped");
    let begun = Instant::now();
    world.api.call(&["revoke", DESK]).expect("revoked");
    relay.wait_for_clients(2, CUT_OFF_MAX);
    let took = begun.elapsed();
    eprintln!("cut off {took:?} after `runmesh revoke` began");
    assert!(took < CUT_OFF_MAX, "{took:?}");
    assert_eq!(relay.metric("runmesh_relay_expulsions_total"), 1);
    // It forgets everything with its process, and hears of it again from those who get in.
    relay.start_again(&world);
    assert_eq!(relay.metric("runmesh_relay_expulsions_total"), 0);
    relay.wait_for_clients(2, SOON);
    let begun = Instant::now();
    while relay.metric("runmesh_relay_expulsions_total") == 0 {
        assert!(begun.elapsed() < CUT_OFF_MAX, "nobody tells the relay");
        std::thread::sleep(Duration::from_millis(10));
    }
    desk.process.signal("CONT").expect("goes on");
    desk.wait_for("revoked", SOON).expect("it hears of it");
    assert_eq!(relay.metric("runmesh_relay_clients"), 2);
    // The device that stays reaches the control plane as before.
    let run = world.dispatch("still here").expect("taken");
    let done = world.wait_for_run(text(&run, "runId"), |status| status == "completed");
    done.expect("done");
    assert_eq!(
        text(&world.api.call(&["node", DEVICE]).expect("the node"), "status"),
        "online"
    );
}
