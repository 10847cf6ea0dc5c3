//! The `wg-quick` form of a node's configuration is accepted by the `wg-quick` that people have.

use std::process::Command;

use e2e::processes::in_search_path;
use e2e::stand_in_model::INSPECT_COMMAND;
use e2e::world::{DEVICE, World};

#[test]
fn wg_quick_accepts_the_configuration() {
    if !in_search_path("wg-quick") {
        let required = std::env::var_os("RUNMESH_REQUIRE_LAB").is_some();
        assert!(
            !required,
            "wg-quick is not installed: `cargo xtask test` installs it"
        );
        e2e::skipped::skipped("wg-quick is not installed");
        return;
    }
    let world = World::start(INSPECT_COMMAND).expect("a world");
    let mut config = world.api.command(&["config", DEVICE, "--format", "wg-quick"]);
    let output = config.output().expect("runmesh starts");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let file = world.dir().join("mesh0.conf");
    std::fs::write(&file, &output.stdout).expect("write the file");
    let strip = Command::new("wg-quick")
        .arg("strip")
        .arg(&file)
        .output()
        .expect("wg-quick starts");
    let stripped = String::from_utf8_lossy(&strip.stdout);
    assert!(
        strip.status.success(),
        "{}",
        String::from_utf8_lossy(&strip.stderr)
    );
    for word in ["[Interface]", "[Peer]", "PublicKey", "AllowedIPs", "Endpoint"] {
        assert!(stripped.contains(word), "{word} is missing: {stripped}");
    }
}
