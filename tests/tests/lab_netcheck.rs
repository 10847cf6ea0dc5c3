//! `runmesh netcheck` says of each NAT of the lab what it is: with the relay beside the control plane alone, and with two relays.

use std::path::Path;

use e2e::lab::can_run;
use e2e::lab::device::Device;
use e2e::lab::nat::Nat;
use e2e::lab::platform::Platform;
use e2e::lab::world::Internet;
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
    let mut last = Value::Null;
    for _ in 0..30 {
        last = device.netcheck().expect("netcheck");
        if is_ready(&last) {
            break;
        }
    }
    last
}
