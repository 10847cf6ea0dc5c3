//! Measures dispatch, linking and idle memory with real processes: `cargo run -p e2e --bin measure [-- RUNS]`.
//!
//! `RUNMESH_BIN` names another build of the program, such as a release build. Runs follow one another, so what is
//! measured is latency, not throughput.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::processes::text;
use e2e::times::unix_ms;
use e2e::world::{DEVICE, SOON, World};

/// How long both processes are left alone before their memory is read.
const IDLE: Duration = Duration::from_secs(10);

fn main() -> Result<()> {
    let runs: usize = match std::env::args().nth(1) {
        Some(number) => number.parse().context("read the number of runs")?,
        None => 200,
    };
    ensure!(runs > 0, "at least one run is needed");
    let begun = Instant::now();
    let mut world = World::start("cat > /dev/null")?;
    println!(
        "first start to a linked device with an agent: {} ms",
        begun.elapsed().as_millis()
    );
    println!("memory after linking: {}", memory(&world)?);

    let mut dispatch = Vec::with_capacity(runs);
    let mut whole = Vec::with_capacity(runs);
    for _ in 0..runs {
        let run = world.dispatch("measure")?;
        let run = world.wait_for_run(text(&run, "runId"), |status| status == "completed")?;
        let created = unix_ms(text(&run, "createdAt"))?;
        dispatch.push(unix_ms(text(&run, "acceptedAt"))? - created);
        whole.push(unix_ms(text(&run, "completedAt"))? - created);
    }
    println!("{runs} runs, one after the other, by the control plane's clock:");
    println!(
        "  accepted by the API to on the device's disk: {}",
        quantiles(&mut dispatch)
    );
    println!("  accepted by the API to completed: {}", quantiles(&mut whole));
    std::thread::sleep(IDLE);
    println!("memory after these runs: {}", memory(&world)?);

    let away = Instant::now();
    world.device = None;
    world.start_device()?;
    println!(
        "device restart to ready for runs: {} ms",
        away.elapsed().as_millis()
    );
    let revoked = Instant::now();
    world.api.call(&["revoke", DEVICE])?;
    world
        .device
        .as_ref()
        .context("the device is gone")?
        .wait_for("revoked", SOON)?;
    println!(
        "revoke request to the device having noticed: {} ms",
        revoked.elapsed().as_millis()
    );
    Ok(())
}

fn memory(world: &World) -> Result<String> {
    let control = world.serve.as_ref().context("no control plane")?.resident_kib()?;
    let device = world
        .device
        .as_ref()
        .context("no device")?
        .process
        .resident_kib()?;
    Ok(format!("control plane {control} KiB, node {device} KiB resident"))
}

fn quantiles(values: &mut [i64]) -> String {
    values.sort_unstable();
    let at = |part: usize| values[(values.len() - 1) * part / 100];
    format!("p50 {} ms, p99 {} ms, most {} ms", at(50), at(99), at(100))
}
