//! Disks that fill up: the device's journal and the control plane's database, each on a file system of a few mebibytes.
//! Mounting one needs root; without it the tests say so and are skipped.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use e2e::processes::text;
use e2e::world::{World, check_events};

/// A small file system over a directory, with what was in it.
struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// `None` where mounting is not allowed.
    fn over(path: &Path, mebibytes: u32) -> Option<Self> {
        let kept = path.with_extension("kept");
        run(Command::new("cp").arg("-a").arg(path).arg(&kept));
        let size = format!("size={mebibytes}m,mode=0700");
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(path)
            .output();
        if !mount.is_ok_and(|output| output.status.success()) {
            e2e::skipped::skipped("a file system cannot be mounted here (needs root on Linux)");
            return None;
        }
        let disk = Self {
            path: path.to_owned(),
        };
        run(Command::new("cp").arg("-a").arg(kept.join(".")).arg(path));
        Some(disk)
    }

    /// Takes the last byte.
    fn fill(&self) {
        let mut filler = fs::File::create(self.path.join("filler")).expect("made");
        for size in [64 * 1024, 4096, 512, 1] {
            let bytes = vec![7; size];
            while filler.write_all(&bytes).is_ok() {}
        }
    }

    fn free(&self) {
        fs::remove_file(self.path.join("filler")).expect("removed");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: what still has a file open there is about to end.
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}

fn run(command: &mut Command) {
    let output = command.output().expect("started");
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn completed(world: &World, run_id: &str) {
    let run = world
        .wait_for_run(run_id, |status| status == "completed")
        .expect("completed");
    check_events(&world.events(text(&run, "threadId")).expect("events"), run_id).expect("a whole thread");
}

#[test]
fn a_device_with_a_full_disk_takes_no_run_and_goes_on_when_there_is_room() {
    let mut world = World::start(
        "echo begun; while [ ! -e go ]; do sleep 0.1; done; head -c 20000 /dev/zero | tr '\\0' x",
    )
    .expect("a world");
    drop(world.device.take());
    let Some(disk) = SmallDisk::over(&world.state_dir(), 2) else {
        return;
    };
    world.start_device().expect("it starts");

    let under_way = world.dispatch("before").expect("dispatched");
    let under_way = text(&under_way, "runId");
    world
        .wait_for_run(under_way, |status| status == "running")
        .expect("running");
    disk.fill();
    // Too large for what is left of the journal's last block.
    let waiting = world.dispatch(&"meanwhile ".repeat(5000)).expect("dispatched");
    let waiting = text(&waiting, "runId");
    fs::write(world.repository.path().join("go"), "").expect("let go");
    std::thread::sleep(Duration::from_secs(3));
    let status = world.api.call(&["runs", waiting]).expect("a run");
    assert_eq!(
        text(&status, "status"),
        "queued",
        "an offer that cannot be journaled is not taken: {status}"
    );
    let status = world.api.call(&["runs", under_way]).expect("a run");
    assert_eq!(
        text(&status, "status"),
        "running",
        "its end waits for room: {status}"
    );

    disk.free();
    let ended = world
        .wait_for_run(under_way, |status| status == "completed" || status == "failed")
        .expect("it ends");
    check_events(
        &world.events(text(&ended, "threadId")).expect("events"),
        under_way,
    )
    .expect("a whole thread");
    if text(&ended, "status") == "failed" {
        assert_eq!(text(&ended, "reason"), "journal_full", "{ended}");
    }
    completed(&world, waiting);
    drop(world.device.take());
}

#[test]
fn a_control_plane_with_a_full_disk_refuses_work_and_keeps_what_it_has() {
    let mut world = World::start("cat; while [ ! -e go ]; do sleep 0.1; done").expect("a world");
    drop(world.serve.take());
    let Some(disk) = SmallDisk::over(&world.dir().join("control"), 6) else {
        return;
    };
    world.start_control().expect("it starts");
    let before = world.dispatch("before").expect("dispatched");
    let before = text(&before, "runId");
    world
        .wait_for_run(before, |status| status == "running")
        .expect("running");
    disk.fill();
    let refused = (0..50)
        .map(|n| world.dispatch(&format!("{n} {}", "x".repeat(30_000))))
        .find_map(Result::err);
    let refused = refused.expect("a full disk takes no run");
    assert!(format!("{refused}").contains("internal_error"), "{refused}");
    let run = world.api.call(&["runs", before]).expect("reading goes on");
    assert_eq!(text(&run, "status"), "running");
    // The run ends while nothing of it can be stored: the device keeps it.
    fs::write(world.repository.path().join("go"), "").expect("let go");
    std::thread::sleep(Duration::from_secs(2));
    disk.free();
    completed(&world, before);
    let after = world.dispatch("after").expect("there is room again");
    completed(&world, text(&after, "runId"));
    drop(world.device.take());
    drop(world.serve.take());
}
