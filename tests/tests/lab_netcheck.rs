//! `runmesh netcheck` says of each NAT of the lab what it is: with the relay beside the control plane alone, and with two relays.

use std::path::Path;

use e2e::lab::can_run;
use e2e::lab::device::Device;
use e2e::lab::nat::Nat;
use e2e::lab::platform::Platform;
use e2e::lab::world::Internet;
use e2e::processes::in_search_path;
use e2e::skipped::skipped;
use serde_json::{Value, json};

/// A NAT, and how it maps and filters as one relay and two relays show it.
const KINDS: [(Nat, &str, [&str; 2]); 5] = [
    // It is at the relay over IPv6, where nothing is mapped.
    (
        Nat::None,
        "unknown",
        ["at_most_address_dependent", "endpoint_independent"],
    ),
    (
        Nat::FullCone,
        "endpoint_independent",
        ["at_most_address_dependent", "endpoint_independent"],
    ),
    (
        Nat::Restricted,
        "endpoint_independent",
        ["at_most_address_dependent", "address_dependent"],
    ),
    (
        Nat::PortRestricted,
        "endpoint_independent",
        ["address_and_port_dependent", "address_and_port_dependent"],
    ),
    (
        Nat::Symmetric,
        "endpoint_dependent",
        ["address_and_port_dependent", "address_and_port_dependent"],
    ),
];

#[test]
fn netcheck_says_how_every_nat_maps_and_filters() {
    if !can_run() {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let internet = Internet::new().expect("an internet");
    let mut platform = Platform::start(&internet, dir.path()).expect("a control plane");
    let devices: Vec<Device> = (1..)
        .zip(KINDS)
        .map(|(number, (nat, ..))| start(&internet, &platform, dir.path(), (number, nat)))
        .collect();
    check(&devices, 0);
    let relays = platform.move_relays(&internet, 2).expect("two relays");
    check(&devices, relays.len() - 1);
}

fn start(internet: &Internet, platform: &Platform, dir: &Path, (number, nat): (u16, Nat)) -> Device {
    let site = internet.site(nat, number).expect("a site");
    let name = nat.word().replace('_', "-");
    let device = Device::start(platform, site, dir, &name).expect("a device");
    device.link(platform).expect("linked");
    device.wait_for("ready").expect("ready");
    device
}

/// Every device says the words for one relay more than `others`.
fn check(devices: &[Device], others: usize) {
    for (device, (nat, mapping, filtering)) in devices.iter().zip(KINDS) {
        let netcheck = until_seen(device, others + 1, mapping);
        assert_eq!(
            (&netcheck["mapping"], &netcheck["filtering"]),
            (&json!(mapping), &json!(filtering[others])),
            "{}: {netcheck}",
            nat.word()
        );
    }
}

/// Asks until the device is at as many relays as there are and knows how it is mapped.
fn until_seen(device: &Device, count: usize, mapping: &str) -> Value {
    let is_ready = |netcheck: &Value| {
        let relays = netcheck["relays"].as_array();
        let mut seen = relays.into_iter().flatten();
        relays.is_some_and(|relays| relays.len() == count)
            && seen.all(|relay| !relay["observed"].is_null())
            && netcheck["mapping"] == mapping
    };
    until(device, is_ready)
}

/// Asks until it is so, or often enough; returns what was said last.
fn until(device: &Device, is_so: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    for _ in 0..30 {
        last = device.netcheck().expect("netcheck");
        if is_so(&last) {
            break;
        }
    }
    last
}

/// Routers, and by which of PCP, NAT-PMP and UPnP each answers.
const ROUTERS: [(Nat, [bool; 3]); 4] = [
    (Nat::SymmetricWithPcp, [true, true, false]),
    (Nat::SymmetricWithNatPmp, [false, true, false]),
    (Nat::SymmetricWithUpnp, [false, false, true]),
    (Nat::Symmetric, [false, false, false]),
];

#[test]
fn netcheck_names_each_protocol_by_which_a_router_opens_ports_with_the_address_that_it_tells() {
    if !can_run() {
        return;
    }
    if !in_search_path("miniupnpd") {
        return skipped("a router that opens ports needs the program `miniupnpd`");
    }
    let dir = tempfile::tempdir().expect("a directory");
    let internet = Internet::new().expect("an internet");
    let platform = Platform::start(&internet, dir.path()).expect("a control plane");
    for (number, (nat, answers)) in (1..).zip(ROUTERS) {
        let device = start(&internet, &platform, dir.path(), (number, nat));
        let used = ["pcp", "nat_pmp", "upnp"]
            .into_iter()
            .zip(answers)
            .find(|(_, is_spoken)| *is_spoken)
            .map_or("none", |(word, _)| word);
        let netcheck = until(&device, |netcheck| netcheck["portMapping"] == used);
        let outer = format!("11.0.0.{}", 10 * number);
        let said = |name: &str, is_spoken: bool| {
            let outer = is_spoken.then_some(&outer);
            assert_eq!(
                netcheck["portMappingProtocols"][name],
                json!({ "answers": is_spoken, "externalAddress": outer }),
                "{}, {name}: {netcheck}",
                nat.word()
            );
        };
        // PCP tells its address with the port that it opened.
        for (name, is_spoken) in ["pcp", "natPmp", "upnp"].into_iter().zip(answers) {
            said(name, is_spoken);
        }
    }
    let site = internet.site(Nat::SymmetricWithPcp, 5).expect("a site");
    let words = ["--no-port-mapping"];
    let silent = Device::start_with(&platform, site, dir.path(), "silent", &words).expect("a device");
    silent.link(&platform).expect("linked");
    silent.wait_for("ready").expect("ready");
    let netcheck = silent.netcheck().expect("netcheck");
    assert_eq!(netcheck["portMapping"], "off");
    assert_eq!(netcheck["portMappingProtocols"], Value::Null, "it does not ask");
}
