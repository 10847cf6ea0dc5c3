//! A port of the router that leads to a node, over a time: renewed, made anew after the router forgot it or in another network,
//! and closed when the node stops. The router is miniupnpd; that peers come in by it is a matter of the cells.

use std::path::Path;
use std::time::{Duration, Instant};

use e2e::lab::can_run;
use e2e::lab::device::Device;
use e2e::lab::nat::Nat;
use e2e::lab::platform::Platform;
use e2e::lab::router::OpensPorts;
use e2e::lab::world::{Internet, Uplink};
use e2e::processes::{STEP_TIMEOUT, in_search_path};
use e2e::skipped::skipped;

/// A port is open for some 120 s here, and asked for again at half of that.
const RENEWED_WITHIN: Duration = Duration::from_secs(75);

/// A linked device behind a router, and what it needs. What is dropped first is stopped first.
struct World {
    device: Device,
    internet: Internet,
    _platform: Platform,
    _dir: tempfile::TempDir,
}

impl World {
    /// Returns `None`, said loudly, where there can be none.
    fn start(nat: Nat) -> Option<Self> {
        if !can_run() {
            return None;
        }
        if !in_search_path("miniupnpd") {
            skipped("a router that opens ports needs the program `miniupnpd`");
            return None;
        }
        let dir = tempfile::tempdir().expect("a directory");
        let internet = Internet::new().expect("an internet");
        let platform = Platform::start(&internet, dir.path()).expect("a control plane");
        let device = start(&platform, &internet, dir.path(), nat);
        Some(Self {
            device,
            internet,
            _platform: platform,
            _dir: dir,
        })
    }

    /// Waits until a router has one port open, and the node says that it is reached there.
    fn has_port(&self, number: usize) -> (u16, u64) {
        let router = self.router(number);
        until("a port is open", STEP_TIMEOUT, || {
            router.opened().expect("read").len() == 1
        });
        let opened = router.opened().expect("read")[0];
        let address = format!("11.0.0.{}:{}", 10 + number, opened.0);
        until(&format!("the node says {address}"), STEP_TIMEOUT, || {
            let said = self.device.netcheck().expect("netcheck");
            let candidates = said["candidates"].as_array().expect("a list");
            candidates
                .iter()
                .any(|candidate| candidate["kind"] == "mapped" && candidate["address"] == address)
        });
        opened
    }

    fn router(&self, number: usize) -> &OpensPorts {
        &self.device.site.services[number]
    }

    fn stop(&self) {
        self.device.process().signal("TERM").expect("a signal");
        let start = Instant::now();
        let code = self.device.process().wait_for_end(STEP_TIMEOUT);
        assert_eq!(code.expect("it ends"), Some(0));
        assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    }
}

fn start(platform: &Platform, internet: &Internet, dir: &Path, nat: Nat) -> Device {
    let site = internet.site(nat, 1).expect("a site");
    let device = Device::start(platform, site, dir, "one").expect("a device");
    device.link(platform).expect("linked");
    device.wait_for("ready").expect("ready");
    device
}

/// Asks for something until it is so.
fn until(what: &str, time_max: Duration, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + time_max;
    while !is_so() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_port_is_renewed_before_it_closes_and_made_anew_when_the_router_has_forgotten_it() {
    let Some(mut world) = World::start(Nat::SymmetricWithPcp) else {
        return;
    };
    let (port, end) = world.has_port(0);
    until("it is renewed", RENEWED_WITHIN, || {
        world
            .router(0)
            .opened()
            .expect("read")
            .iter()
            .any(|(_, later)| *later >= end + 50)
    });
    assert_eq!(world.has_port(0).0, port, "the same port");
    let router = &mut world.device.site.services[0];
    router.begin_anew().expect("it begins anew");
    // Long before it would be renewed: the router says that it has forgotten everything.
    until("it is made anew", Duration::from_secs(25), || {
        router.rules().expect("rules") == 1
    });
    assert_eq!(world.has_port(0).0, port, "the same port");
}

#[test]
fn in_another_network_its_router_is_asked() {
    let Some(mut world) = World::start(Nat::SymmetricWithPcp) else {
        return;
    };
    world.has_port(0);
    let site = &mut world.device.site;
    world.internet.add_second_uplink(site).expect("another way out");
    site.leave(Uplink::First).expect("left");
    site.move_to(Uplink::Second).expect("moved");
    world.has_port(1);
    world.stop();
    assert_eq!(world.router(1).rules().expect("rules"), 0, "given back");
}

#[test]
fn no_port_stays_open_after_a_stop_not_even_in_the_middle_of_asking() {
    for nat in [
        Nat::SymmetricWithPcp,
        Nat::SymmetricWithNatPmp,
        Nat::SymmetricWithUpnp,
    ] {
        let Some(mut world) = World::start(nat) else {
            return;
        };
        world.has_port(0);
        world.stop();
        assert_eq!(
            world.router(0).rules().expect("rules"),
            0,
            "{}: given back",
            nat.word()
        );
        if nat != Nat::SymmetricWithPcp {
            continue;
        }
        // The router hears what it is asked, and answers when the node is gone.
        world.router(0).pause().expect("paused");
        world.device.start_again(&[]).expect("it starts");
        world
            .device
            .wait_for("control_connected")
            .expect("it is up, and asks");
        world.stop();
        world.router(0).resume().expect("resumed");
        assert_eq!(world.router(0).rules().expect("rules"), 0, "taken back");
    }
}
