//! Measures linking, dispatch and idle memory with real processes: `cargo run --release -p bench --bin dispatch [-- RUNS]`.
//!
//! The program measured is the one that `RUNMESH_BIN` names, or a development build made now. Links and runs
//! follow one another, so what is measured is latency, not throughput.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use api::client::Client;
use api::links::{LinkApprove, LinkPoll, LinkStart};
use api::runs::StartRun;
use e2e::world::{AGENT, DEVICE, SOON, World};
use tokio::runtime::Runtime;
use types::{NodePrivateKey, RunStatus, SecretString, Timestamp};

/// How long both processes are left alone before their memory is read: until every keepalive of an idle node has come, for
/// each of them needs some pages of the program again.
const IDLE: Duration = Duration::from_secs(60);

/// How many devices are linked one after the other: as many as one address may start at once, less one for the world's.
const LINKS: usize = 8;

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
    std::thread::sleep(IDLE);
    println!("memory after linking: {}", memory(&world)?);
    measure_dispatch(&world, runs)?;
    std::thread::sleep(IDLE);
    println!("memory after these runs: {}", memory(&world)?);
    measure_links(&world)?;
    measure_restart_and_revocation(&mut world)
}

fn measure_dispatch(world: &World, runs: usize) -> Result<()> {
    let (client, runtime) = client(world)?;
    let mut dispatch = Vec::with_capacity(runs);
    let mut whole = Vec::with_capacity(runs);
    for number in 1..=runs {
        let measured = runtime.block_on(measure_run(&client));
        let (accepted, completed) =
            measured.with_context(|| format!("run {number} of {runs} was not measured"))?;
        dispatch.push(accepted);
        whole.push(completed);
    }
    println!("{runs} runs, one after the other, by the control plane's clock:");
    println!(
        "  accepted by the API to on the device's disk: {}",
        quantiles(&mut dispatch)
    );
    println!("  accepted by the API to completed: {}", quantiles(&mut whole));
    Ok(())
}

/// Returns how long one run took to be on the device's disk, and to be completed, in milliseconds. Whoever asks for it
/// waits quietly: a program that is started meanwhile would be measured, too.
async fn measure_run(client: &Client) -> Result<(i64, i64)> {
    let request = StartRun {
        agent: Some(AGENT.to_owned()),
        prompt: Some("measure".to_owned()),
        wait: Some(60),
        ..StartRun::default()
    };
    let receipt = client.start_run(&request, None).await?;
    let run = client.run(receipt.run_id).await?;
    ensure!(
        run.receipt.status == RunStatus::Completed,
        "it ended otherwise: {run:?}"
    );
    let (Some(accepted), Some(completed)) = (run.accepted_at, run.completed_at) else {
        bail!("a completed run lacks a time: {run:?}");
    };
    let since = |time: Timestamp| time.unix_ms() - run.created_at.unix_ms();
    Ok((since(accepted), since(completed)))
}

fn client(world: &World) -> Result<(Client, Runtime)> {
    let client = Client::new(&world.api.url, Some(SecretString::new(world.api.key.clone())))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    Ok((client, runtime))
}

/// Start, approve and the poll that brings the config, as one client sees them: the server's time and the loopback's.
fn measure_links(world: &World) -> Result<()> {
    let (client, runtime) = client(world)?;
    let mut totals = Vec::with_capacity(LINKS);
    for _ in 0..LINKS {
        totals.push(runtime.block_on(link(&client))?);
    }
    totals.sort_unstable();
    let ms = |total: Duration| total.as_secs_f64() * 1000.0;
    println!(
        "link start, approve and the poll that brings the config, {LINKS} links: median {:.1} ms, most {:.1} ms",
        ms(totals[LINKS / 2]),
        ms(totals[LINKS - 1])
    );
    Ok(())
}

async fn link(client: &Client) -> Result<Duration> {
    let public_key = NodePrivateKey::from_random(net::random::bytes())
        .public()
        .to_string();
    let begun = Instant::now();
    let request = LinkStart {
        public_key: public_key.clone(),
        ..LinkStart::default()
    };
    let code = client.link_start(&request).await?.code;
    let request = LinkApprove {
        code: code.clone(),
        ..LinkApprove::default()
    };
    client.link_approve(&request).await?;
    let polled = client.link_poll(&LinkPoll { code, public_key }).await?;
    ensure!(polled.config.is_some(), "the poll brought no config");
    Ok(begun.elapsed())
}

fn measure_restart_and_revocation(world: &mut World) -> Result<()> {
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
