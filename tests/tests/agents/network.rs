//! A network with nothing but this machine's loopback in it.

use std::process::Command;

/// Set for a test that has its own network already.
const INSIDE: &str = "RUNMESH_TEST_OFFLINE";

/// The ways to get one: root has its own, and a kernel that lets others plays root for them.
const WAYS: [&[&str]; 2] = [&["--net"], &["--map-root-user", "--net"]];

/// Runs a test once more as a process in a network of its own, and passes as that passes. Where the system makes none the
/// test runs in the network that there is.
pub(crate) fn offline(test: impl FnOnce()) {
    let way = WAYS.into_iter().find(|way| can_be_offline(way));
    let (None, Some(way)) = (std::env::var_os(INSIDE), way) else {
        return test();
    };
    let name = std::thread::current()
        .name()
        .expect("a test has a name")
        .to_owned();
    let mut inside = unshare(way);
    inside.arg("ip link set lo up && exec \"$@\"").arg("sh");
    inside.arg(std::env::current_exe().expect("this program"));
    inside
        .args([name.as_str(), "--exact", "--nocapture"])
        .env(INSIDE, "1");
    let output = inside.output().expect("the test starts once more");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    // Without this a name that fits no test would pass.
    let ran = said.contains("1 passed");
    assert!(output.status.success() && ran, "{}:\n{said}", output.status);
}

fn unshare(way: &[&str]) -> Command {
    let mut unshare = Command::new("unshare");
    unshare.args(way).args(["--", "sh", "-c"]);
    unshare
}

fn can_be_offline(way: &[&str]) -> bool {
    let tried = unshare(way).arg("ip link set lo up").output();
    tried.is_ok_and(|output| output.status.success())
}
