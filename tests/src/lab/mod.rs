//! The lab: real programs in network namespaces, with NATs of every kind between them.
//!
//! It needs root and the programs `ip` and `nft`; [`can_run`] says whether they are there.

pub mod behaviour;
pub mod cells;
pub mod device;
pub mod namespace;
pub mod nat;
mod neighbours;
mod outage;
mod pair;
pub mod platform;
pub mod router;
mod tls;
mod trouble;
pub mod world;

use std::io::Write as _;
use std::sync::Mutex;

use anyhow::{Context as _, Result, bail};

use self::cells::{Cell, Report};
use crate::processes::in_search_path;
use crate::skipped::skipped;

/// Tells whether the lab can be built here; says loudly that a test is skipped when it cannot.
///
/// # Panics
///
/// With `RUNMESH_REQUIRE_LAB=1` in the environment, when it cannot be built.
#[must_use]
pub fn can_run() -> bool {
    let Some(reason) = missing() else {
        return true;
    };
    let is_required = std::env::var_os("RUNMESH_REQUIRE_LAB").is_some_and(|value| value == "1");
    assert!(!is_required, "the lab is required and cannot be built: {reason}");
    skipped(&reason);
    false
}

/// Returns what the lab lacks here.
#[must_use]
pub fn missing() -> Option<String> {
    if let Some(program) = ["ip", "nft"].into_iter().find(|program| !in_search_path(program)) {
        return Some(format!("the lab needs the program `{program}`"));
    }
    if !rustix::process::geteuid().is_root() {
        return Some("the lab needs root".to_owned());
    }
    let mut probe = std::process::Command::new("unshare");
    let made = probe.args(["--net", "true"]).output();
    let made = made.is_ok_and(|output| output.status.success());
    (!made).then(|| "this system makes no network namespaces".to_owned())
}

/// How many cells run at a time: they wait for most of their time.
const WORKERS: usize = 3;

/// Runs the cells whose names contain one of the words, or all when there is none; prints a table, or JSON. Fails when one
/// does.
pub fn run(words: &[String], json: bool) -> Result<()> {
    if let Some(reason) = missing() {
        bail!("{reason}");
    }
    let is_wanted =
        |cell: &Cell| words.is_empty() || words.iter().any(|word| cell.name.contains(word.as_str()));
    let mut cells: Vec<Cell> = cells::all().into_iter().filter(is_wanted).collect();
    for cell in cells.extract_if(.., |cell| cell.missing().is_some()) {
        eprintln!("SKIPPED {}: {}", cell.name, cell.missing().unwrap_or_default());
    }
    if cells.is_empty() {
        bail!("no cell's name contains `{}`", words.join("` or `"));
    }
    let (reports, failed) = run_all(&cells);
    let text = if json {
        serde_json::to_string(&reports).context("write the reports")? + "\n"
    } else {
        table(&reports)
    };
    std::io::stdout()
        .write_all(text.as_bytes())
        .context("print the reports")?;
    if failed > 0 {
        bail!("{failed} of {} cells failed", cells.len());
    }
    Ok(())
}

fn run_all(cells: &[Cell]) -> (Vec<Report>, usize) {
    let next = Mutex::new(cells.iter());
    let done = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..WORKERS.min(cells.len()) {
            scope.spawn(|| {
                let take = || {
                    next.lock()
                        .unwrap_or_else(std::sync::PoisonError::into_inner)
                        .next()
                };
                while let Some(cell) = take() {
                    let report = cell.run();
                    if let Err(error) = &report {
                        eprintln!("FAILED {error:#}");
                    }
                    let mut done = done.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    done.push((cell.name.clone(), report.ok()));
                }
            });
        }
    });
    let done = done
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let of = |cell: &Cell| done.iter().find(|(name, _)| *name == cell.name)?.1.clone();
    let reports: Vec<Report> = cells.iter().filter_map(of).collect();
    let failed = cells.len() - reports.len();
    (reports, failed)
}

fn table(reports: &[Report]) -> String {
    let number = |value: Option<u64>| value.map_or("–".to_owned(), |value| value.to_string());
    let mut text = format!(
        "{:<38} {:<7} {:<18} {:>13} {:>10} {:>8}\n",
        "CELL", "PATH", "REASON", "FIRST BYTE MS", "DIRECT MS", "LOST MS"
    );
    for report in reports {
        text += &format!(
            "{:<38} {:<7} {:<18} {:>13} {:>10} {:>8}\n",
            report.cell,
            report.path,
            report.reason,
            report.first_byte_ms,
            number(report.direct_ms),
            number(report.lost_ms)
        );
    }
    text
}
