//! Measures what a relay costs: pairs of clients push datagrams of 1,400 bytes through one, and the processor time of the
//! relay alone is set against what arrived. With `--coturn` the same load then goes through TURN channels of a coturn that
//! is started for it (Debian: `apt-get install coturn`), with one relay thread; with `--derper PROGRAM` through a derper
//! (`go install tailscale.com/cmd/derper@v1.102.5`).
//!
//! All ends share the machine: Gb/s is what the whole of it reaches, CPU-seconds per GB is what the relay needs.
//! Usage: `cargo run --release -p bench --bin relay_throughput -- [--coturn] [--derper PROGRAM]`, see `--help`.

mod derp;
mod load;
mod runmesh;
mod server;
mod turn;

use std::time::Duration;

use anyhow::ensure;
use clap::Parser;

use self::load::{Measured, Mode};

/// Bytes of a datagram before any relay's header.
const DATAGRAM_BYTES: usize = 1400;

#[derive(Debug, Parser)]
struct Arguments {
    /// How many pairs of clients.
    #[arg(long, default_value_t = 8)]
    pairs: usize,
    /// Seconds for each run.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Runs of each kind; the median is printed, and the range.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Start a coturn and measure it under the same load.
    #[arg(long)]
    coturn: bool,
    /// The program to start for it.
    #[arg(long, default_value = "turnserver")]
    turnserver: String,
    /// A derper to start and measure under the same load.
    #[arg(long, value_name = "PROGRAM")]
    derper: Option<String>,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    ensure!(arguments.pairs > 0 && arguments.runs > 0, "nothing to measure");
    let span = Duration::from_secs(arguments.seconds);
    println!(
        "{} pairs, {} runs of {span:?}, {DATAGRAM_BYTES} bytes, {} processors",
        arguments.pairs,
        arguments.runs,
        std::thread::available_parallelism()?
    );
    let mut relay = runmesh::Bench::start(arguments.pairs)?;
    let mut coturn = arguments
        .coturn
        .then(|| turn::Bench::start(&arguments.turnserver, arguments.pairs))
        .transpose()?;
    let mut derper = arguments
        .derper
        .map(|program| derp::Bench::start(&program, arguments.pairs))
        .transpose()?;
    for mode in [Mode::Batches, Mode::Singly] {
        // By turns, so that what else the machine does falls on all alike.
        let (mut ours, mut coturns, mut derpers) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..arguments.runs {
            ours.push(load::run(&mut relay, mode, span)?);
            if let Some(coturn) = &mut coturn {
                coturns.push(load::run(coturn, mode, span)?);
            }
            if let Some(derper) = &mut derper {
                derpers.push(load::run(derper, mode, span)?);
            }
        }
        report("runmesh", mode, &ours);
        compare("coturn", mode, &ours, &coturns);
        compare("derper", mode, &ours, &derpers);
    }
    Ok(())
}

fn compare(what: &str, mode: Mode, ours: &[Measured], theirs: &[Measured]) {
    if theirs.is_empty() {
        return;
    }
    report(what, mode, theirs);
    let ratio = median(theirs, Measured::cpu_per_gb).0 / median(ours, Measured::cpu_per_gb).0;
    println!("{mode:>8}: runmesh carries {ratio:.1} times as much as {what} with the same processor time");
}

fn report(what: &str, mode: Mode, runs: &[Measured]) {
    let figure = |name: &str, of: fn(&Measured) -> f64| {
        let (middle, low, high) = median(runs, of);
        format!("{middle:.2} {name} [{low:.2}–{high:.2}]")
    };
    println!(
        "{mode:>8} {what:>8}: {}, {}, {}, {}",
        figure("Gb/s", Measured::gigabits),
        figure("kpackets/s", Measured::kilopackets),
        figure("CPU-s/GB of the relay", Measured::cpu_per_gb),
        figure("% lost", Measured::lost_percent)
    );
}

/// Returns the middle, the least and the most.
fn median(runs: &[Measured], of: fn(&Measured) -> f64) -> (f64, f64, f64) {
    let mut all: Vec<f64> = runs.iter().map(of).collect();
    all.sort_by(f64::total_cmp);
    (all[all.len() / 2], all[0], all[all.len() - 1])
}
