//! Measures TUN mode: TCP between two hosts, each in a network namespace of its own with a device of the mesh, and beside it
//! the same through two wireguard-go's.
//!
//! A node here is the data plane alone, an engine with its device, as a process. What is compared is the processor time of
//! both nodes, or both wireguard-go's, for what iperf3 received; Gb/s is what the machine reaches with all of it on it,
//! iperf3 too. Rivals take turns in every round, so that what else the machine does meets each of them.
//!
//! Usage, as root, with `ip`, `ethtool` and `iperf3`: `tun_throughput [--wireguard-go PATH] [--seconds 4] [--rounds 3]`.
//! A wireguard-go needs `wg`. Its device has the MTU of ours (1280), and in a second row its own (1420).

mod node;
mod rivals;

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use e2e::lab::can_run;
use serde_json::Value;

use self::rivals::{Kind, Pair};

/// Measures TUN mode beside wireguard-go.
#[derive(Parser)]
struct Words {
    /// A wireguard-go to compare with; the version counts for much.
    #[arg(long)]
    wireguard_go: Option<PathBuf>,
    /// How long each measurement goes on.
    #[arg(long, default_value_t = 4)]
    seconds: u32,
    /// How often everybody takes a turn.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Runs a node instead: its number, 1 or 2. Used by this program alone.
    #[arg(long, hide = true)]
    node: Option<u8>,
}

/// What one measurement showed.
#[derive(Clone, Copy)]
struct Figure {
    gigabits: f64,
    cpu_per_gigabyte: f64,
}

fn main() -> Result<()> {
    let words = Words::parse();
    if let Some(number) = words.node {
        return node::run(number);
    }
    ensure!(can_run(), "this needs root, `ip` and `nft`");
    let mut kinds = vec![Kind::Ours];
    for mtu in [1280, 1420] {
        let program = words.wireguard_go.clone();
        kinds.extend(program.map(|program| Kind::WireguardGo { program, mtu }));
    }
    for has_offload in [true, false] {
        let wire = if has_offload { "on" } else { "off" };
        println!("segmentation of UDP by the wire (veth): {wire}");
        compare(&kinds, has_offload, &words)?;
    }
    Ok(())
}

/// Lets everybody take turns, and prints the median of each.
fn compare(kinds: &[Kind], has_offload: bool, words: &Words) -> Result<()> {
    let cases: [(&str, &[&str]); 3] = [
        ("1 stream", &[]),
        ("4 streams", &["-P", "4"]),
        ("1 stream, back", &["-R"]),
    ];
    let mut figures = vec![vec![Vec::new(); cases.len()]; kinds.len()];
    for round in 0..words.rounds {
        let mut turns: Vec<usize> = (0..kinds.len()).collect();
        if round % 2 == 1 {
            turns.reverse();
        }
        for kind in turns {
            let pair = Pair::start(&kinds[kind], has_offload).context(kinds[kind].name())?;
            for (case, (_, more)) in cases.iter().enumerate() {
                figures[kind][case].push(measure(&pair, words.seconds, more)?);
            }
        }
    }
    for (case, (name, _)) in cases.iter().enumerate() {
        for (kind, figures) in kinds.iter().zip(&figures) {
            print_row(name, &kind.name(), &figures[case]);
        }
    }
    Ok(())
}

fn print_row(case: &str, name: &str, figures: &[Figure]) {
    let sorted = |value: fn(&Figure) -> f64| {
        let mut values: Vec<f64> = figures.iter().map(value).collect();
        values.sort_by(f64::total_cmp);
        (values[0], values[values.len() / 2], values[values.len() - 1])
    };
    let (low, middle, high) = sorted(|figure| figure.gigabits);
    let (least, cpu, most) = sorted(|figure| figure.cpu_per_gigabyte);
    println!(
        "{case:<16} {name:<24} {middle:>6.2} Gb/s [{low:.2}–{high:.2}]  {cpu:>6.2} CPU-s/GB [{least:.2}–{most:.2}]"
    );
}

/// Measures until there is a report: iperf3's server resets who comes before it has done with the one before.
fn measure(pair: &Pair, seconds: u32, more: &[&str]) -> Result<Figure> {
    let seconds = seconds.to_string();
    let words = [&["-J", "-t", &seconds, "-c", rivals::THERE], more].concat();
    let mut said = String::new();
    for _ in 0..5 {
        let before = pair.cpu_seconds()?;
        let output = pair.here().command("iperf3", &words).output().context("iperf3")?;
        let spent = pair.cpu_seconds()? - before;
        let report: Value = serde_json::from_slice(&output.stdout).context("what iperf3 says")?;
        let sum = &report["end"]["sum_received"];
        if let (Some(bits), Some(bytes)) = (sum["bits_per_second"].as_f64(), sum["bytes"].as_f64())
            && bytes > 0.0
        {
            return Ok(Figure {
                gigabits: bits / 1e9,
                cpu_per_gigabyte: spent / (bytes / 1e9),
            });
        }
        said = report["error"].to_string();
        std::thread::sleep(std::time::Duration::from_millis(300));
    }
    anyhow::bail!("iperf3 measured nothing: {said}")
}
