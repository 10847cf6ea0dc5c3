//! Who listens for calls on a link: every node, but for those that were told not to.

use e2e::lab::can_run;
use e2e::lab::device::Device;
use e2e::lab::nat::Nat;
use e2e::lab::platform::Platform;
use e2e::lab::world::{Internet, Site};

/// 239.255.83.65 as the kernel lists the groups that somebody has joined.
const GROUP: &str = "4153FFEF";

fn is_joined(site: &Site) -> bool {
    let groups = site
        .host
        .within(|| std::fs::read_to_string("/proc/thread-self/net/igmp"));
    let groups = groups.expect("a thread").expect("the kernel lists groups");
    groups.contains(GROUP)
}

#[test]
fn a_node_is_called_on_its_link_unless_it_was_told_not_to_be() {
    if !can_run() {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let internet = Internet::new().expect("an internet");
    let platform = Platform::start(&internet, dir.path()).expect("a control plane");
    let devices = [
        ("open", 1, &[] as &[&str]),
        ("closed", 2, &["--no-lan-discovery"]),
    ];
    for (name, number, words) in devices {
        let site = internet.site(Nat::PortRestricted, number).expect("a site");
        assert!(!is_joined(&site), "nobody listens there yet");
        let device = Device::start_with(&platform, site, dir.path(), name, words).expect("it starts");
        device.link(&platform).expect("linked");
        device.wait_for("ready").expect("ready");
        assert_eq!(is_joined(&device.site), words.is_empty(), "{name}");
    }
}
