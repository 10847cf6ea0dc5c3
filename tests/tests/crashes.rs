//! Processes that are killed at any point of a run: what was said is neither lost nor doubled, and nothing starts twice.

use std::time::{Duration, Instant};

use e2e::processes::text;
use e2e::world::{World, check_events};

/// How many seeds are tried, time permitting.
const SEEDS: u64 = 20;

/// So much time all seeds together may take to begin; the last one is always finished.
const TIME: Duration = Duration::from_secs(40);

/// The latest kill after the dispatch.
const KILL_MS_MAX: u64 = 900;

/// Leaves a mark for each start, and says numbered lines over about half a second.
const COMMAND: &str =
    "echo x >> \"starts-$RUNMESH_RUN_ID\"; for n in 1 2 3 4 5 6 7 8; do echo line $n; sleep 0.06; done";

/// A small generator, so that a failure names the seed that brings it back.
fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

#[test]
fn a_kill_at_any_point_loses_nothing_doubles_nothing_and_starts_nothing_twice() {
    let mut world = World::start(COMMAND).expect("a world");
    let begun = Instant::now();
    let (mut tried, mut endings) = (0, std::collections::BTreeMap::<String, u32>::new());
    for seed in 1..=SEEDS {
        if begun.elapsed() > TIME {
            break;
        }
        let ending = one(&mut world, seed);
        *endings.entry(ending).or_default() += 1;
        tried += 1;
    }
    println!("{tried} seeds in {:?}: {endings:?}", begun.elapsed());
    assert!(
        tried >= 5,
        "the machine is too slow for this to say anything: {tried} seeds"
    );
}

fn one(world: &mut World, seed: u64) -> String {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    random(&mut state);
    let (kills_device, kills_control) = match random(&mut state) % 3 {
        0 => (true, false),
        1 => (false, true),
        _ => (true, true),
    };
    let after = Duration::from_millis(random(&mut state) % KILL_MS_MAX);
    let run = world.dispatch("count").expect("dispatched");
    let run_id = text(&run, "runId").to_owned();
    std::thread::sleep(after);
    if kills_device {
        let device = world.device.take().expect("it runs");
        device.process.kill().expect("killed");
    }
    if kills_control {
        let control = world.serve.take().expect("it runs");
        control.kill().expect("killed");
        world.start_control().expect("it starts again");
    }
    if kills_device {
        world.start_device().expect("it starts again");
    }
    let why =
        format!("seed {seed}: device {kills_device}, control {kills_control}, after {after:?}, {run_id}");
    let run = world.wait_for_run(&run_id, |status| {
        ["completed", "failed", "lost", "expired", "cancelled"].contains(&status)
    });
    let run = run.unwrap_or_else(|error| panic!("{why}: {error}"));
    let events = world.events(text(&run, "threadId")).expect("events");
    check_events(&events, &run_id).unwrap_or_else(|error| panic!("{why}: {error}\n{events:#?}"));
    let count = |kind: &str| events.iter().filter(|event| text(event, "type") == kind).count();
    for once in [
        "user_message",
        "tool_call",
        "tool_result",
        "assistant_message",
        "run_started",
    ] {
        assert!(count(once) <= 1, "{why}: {once} is doubled\n{events:#?}");
    }
    let marks = world.repository.path().join(format!("starts-{run_id}"));
    let starts = std::fs::read_to_string(marks).unwrap_or_default().lines().count();
    assert!(starts <= 1, "{why}: started {starts} times");
    let status = text(&run, "status").to_owned();
    match status.as_str() {
        "completed" => {
            assert_eq!((starts, count("assistant_message")), (1, 1), "{why}");
            let result = events
                .iter()
                .find(|event| text(event, "type") == "tool_result")
                .expect("a result");
            let expected: String = (1..=8).map(|n| format!("line {n}\n")).collect();
            assert_eq!(result["payload"]["content"], expected.as_str(), "{why}");
        }
        "failed" => assert_eq!(text(&run, "reason"), "interrupted", "{why}"),
        other => panic!("{why}: {other}\n{run:#?}"),
    }
    status
}

#[test]
fn a_device_that_was_killed_counts_as_away_within_seconds() {
    let mut world = World::start("sleep 60").expect("a world");
    let taken = world.dispatch("wait").expect("dispatched");
    let taken = text(&taken, "runId").to_owned();
    world
        .wait_for_run(&taken, |status| status == "running")
        .expect("running");
    let device = world.device.take().expect("it runs");
    let killed = Instant::now();
    device.process.kill().expect("killed");
    let patience = Duration::from_secs(10);
    loop {
        let run = world.dispatch("later").expect("taken in");
        if text(&run, "status") == "queued" {
            break;
        }
        assert!(killed.elapsed() < patience, "it counts as connected: {run}");
    }
    while world.api.call(&["runs", &taken]).expect("the run")["suspended"] != true {
        assert!(killed.elapsed() < patience, "its run is not suspended");
        std::thread::sleep(Duration::from_millis(100));
    }
}
