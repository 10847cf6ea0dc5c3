//! Tests that cannot run here say so, where whoever reads the outcome of all tests sees it.

use std::fs::OpenOptions;
use std::io::Write as _;

/// Says that the test which calls this is skipped and why: on the terminal, and in the file `RUNMESH_SKIPPED`, one line each.
pub fn skipped(why: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    let line = format!("SKIPPED {test}: {why}\n");
    eprint!("{line}");
    if let Some(file) = std::env::var_os("RUNMESH_SKIPPED") {
        let file = OpenOptions::new().append(true).create(true).open(file);
        let written = file.and_then(|mut file| file.write_all(line.as_bytes()));
        written.expect("a skipped test can be noted");
    }
}
