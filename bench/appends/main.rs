//! Measures durable appends over HTTP: `cargo run --release -p bench --bin appends [-- SECONDS]`.
//!
//! The program measured is the one that `RUNMESH_BIN` names, or a development build made now, as a process of its own with
//! SQLite; with `RUNMESH_DATABASE_URL` it uses that PostgreSQL instead. Each writer has a thread and a connection of its
//! own and appends again as soon as it was told that the last append is stored. Writers and server share the machine.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use api::agents::PutAgent;
use api::client::Client;
use api::events::{AppendEvents, NewEvent};
use api::links::{LinkApprove, LinkStart};
use api::runs::StartRun;
use e2e::processes::{ANY_PORT, Runmesh};
use serde_json::json;
use types::{EventType, NodePrivateKey, SecretString, ThreadId};

/// How many write at the same time, and how many events each append has.
const LOADS: [(usize, usize); 5] = [(1, 1), (16, 1), (64, 1), (1, 20), (64, 20)];

const AGENT: &str = "writer";

fn main() -> Result<()> {
    let seconds: u64 = match std::env::args().nth(1) {
        Some(number) => number.parse().context("read the number of seconds")?,
        None => 5,
    };
    ensure!(seconds > 0, "at least one second is needed");
    let dir = tempfile::tempdir().context("make a directory")?;
    let (_serve, api) = Runmesh::find()?.serve(&dir.path().join("control"), ANY_PORT, ANY_PORT)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let client = || Client::new(&api.url, Some(SecretString::new(api.key.clone())));
    let most = LOADS.iter().map(|(writers, _)| *writers).max().unwrap_or(0);
    let threads = runtime.block_on(threads(&client()?, most))?;
    for (writers, events) in LOADS {
        let clients = (0..writers).map(|_| client()).collect::<Result<Vec<_>, _>>()?;
        let writing = clients.into_iter().zip(threads.iter().copied());
        let until = Instant::now() + Duration::from_secs(seconds);
        let begun = Instant::now();
        let times = runtime.block_on(write(writing.collect(), events, until))?;
        report((writers, events), times, begun.elapsed());
    }
    Ok(())
}

/// Makes threads: each is begun by a run that waits for a device that never comes.
async fn threads(client: &Client, count: usize) -> Result<Vec<ThreadId>> {
    let key = NodePrivateKey::from_random(net::random::bytes()).public();
    let request = LinkStart {
        public_key: key.to_string(),
        ..LinkStart::default()
    };
    let code = client.link_start(&request).await?.code;
    let request = LinkApprove {
        code,
        ..LinkApprove::default()
    };
    let node = client.link_approve(&request).await?.node;
    let agent: PutAgent = serde_json::from_value(
        json!({ "slug": AGENT, "executionMode": "local-mac", "targetDeviceId": node.id }),
    )?;
    client.put_agent(&agent).await?;
    let mut threads = Vec::with_capacity(count);
    for _ in 0..count {
        let request: StartRun = serde_json::from_value(json!({ "agent": AGENT, "prompt": "measure" }))?;
        threads.push(client.start_run(&request, None).await?.thread_id);
    }
    Ok(threads)
}

/// Lets every client append until a time; returns how long each append took.
async fn write(writers: Vec<(Client, ThreadId)>, events: usize, until: Instant) -> Result<Vec<Duration>> {
    let event = NewEvent {
        event_type: EventType::AssistantMessage,
        payload: json!({ "text": "x".repeat(200) }),
        client_event_id: None,
    };
    let request = AppendEvents {
        events: vec![event; events],
        run_id: None,
        rollout_id: None,
    };
    let tasks = writers.into_iter().map(|(client, thread)| {
        let request = request.clone();
        tokio::spawn(async move {
            let mut times = Vec::new();
            while Instant::now() < until {
                let begun = Instant::now();
                let stored = client.append_events(thread, &request).await?;
                times.push(begun.elapsed());
                ensure!(stored.appended as usize == events, "not every event was stored");
            }
            Ok(times)
        })
    });
    let mut times = Vec::new();
    for task in tasks.collect::<Vec<_>>() {
        times.extend(task.await.context("a writer ended early")??);
    }
    Ok(times)
}

fn report((writers, events): (usize, usize), mut times: Vec<Duration>, took: Duration) {
    times.sort_unstable();
    let at = |part: usize| times[(times.len() - 1) * part / 100].as_secs_f64() * 1000.0;
    let rate = times.len() as f64 / took.as_secs_f64();
    println!(
        "{writers} writers, {events} events each: {rate:.0} appends/s, {:.0} events/s, p50 {:.1} ms, p99 {:.1} ms",
        rate * events as f64,
        at(50),
        at(99)
    );
}
