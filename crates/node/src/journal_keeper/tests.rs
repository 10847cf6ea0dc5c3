//! The keeper against a real file: what it answered for is there after a crash.

use std::time::Duration;

use runs::journal::UNSENT_BYTES_MAX;
use serde_json::json;
use types::{AgentId, EventType, RolloutId, RunLimits, ThreadId, Timestamp};

use super::writing::Round;
use super::*;

const FENCE: Fence = Fence(1);

fn order(seed: u8) -> RunOrder {
    RunOrder {
        run_id: RunId::from_random([seed; 16]),
        thread_id: ThreadId::from_random([2; 16]),
        rollout_id: RolloutId::from_random([3; 16]),
        agent_id: AgentId::from_random([4; 16]),
        agent_slug: "tester".parse().expect("slug"),
        runner: None,
        system_prompt: None,
        prompt: "hello".to_owned(),
        folder_hint: None,
        env: std::collections::BTreeMap::new(),
        limits: RunLimits::default(),
        model: None,
        temperature: None,
        settings: types::RunSettings::default(),
        history: None,
        created_at: Timestamp::default(),
    }
}

fn said(text: &str) -> EventDraft {
    EventDraft {
        event_type: EventType::AssistantMessage,
        payload: json!({ "text": text }),
        client_event_id: None,
    }
}

async fn begin(keeper: &JournalKeeper, seed: u8) -> RunId {
    let run_id = order(seed).run_id;
    let offered = keeper.offer(order(seed), Attempt(1), FENCE).await;
    assert_eq!(offered, Ok(Offered::Taken));
    keeper.start(run_id, FENCE, json!({})).await.expect("started");
    run_id
}

#[tokio::test]
async fn what_was_answered_for_survives_and_an_interrupted_run_is_ended() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("journal");
    let (keeper, interrupted) = JournalKeeper::open(&path).expect("opens");
    assert!(interrupted.is_empty());
    let run_id = begin(&keeper, 1).await;
    keeper
        .append(run_id, FENCE, vec![said("a"), said("b")])
        .await
        .expect("answered")
        .expect("written");
    assert_eq!(
        keeper.offer(order(1), Attempt(1), FENCE).await,
        Ok(Offered::Known)
    );
    drop(keeper);

    let (keeper, interrupted) = JournalKeeper::open(&path).expect("opens again");
    assert_eq!(interrupted, [run_id]);
    let unsent = keeper.unsent(run_id, 1).await.expect("read").expect("all of it");
    let types: Vec<EventType> = unsent.events.iter().map(|event| event.event_type).collect();
    use EventType::{AssistantMessage, RunCompleted, RunStarted};
    assert_eq!(
        types,
        [RunStarted, AssistantMessage, AssistantMessage, RunCompleted]
    );
    let refused = keeper.start(run_id, FENCE, json!({})).await;
    assert!(refused.is_err(), "it is never started twice: {refused:?}");
}

#[tokio::test]
async fn a_torn_tail_is_cut_off_and_damage_is_not_hidden() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("journal");
    let (keeper, _) = JournalKeeper::open(&path).expect("opens");
    let run_id = begin(&keeper, 1).await;
    drop(keeper);
    let good = std::fs::read(&path).expect("there");
    std::fs::write(&path, [good.as_slice(), b"0000ffff 00"].concat()).expect("torn");
    let (keeper, _) = JournalKeeper::open(&path).expect("a torn tail is no damage");
    assert!(keeper.look().state(run_id).is_some());
    drop(keeper);
    let mut bad = good;
    bad[30] ^= 1;
    std::fs::write(&path, bad).expect("damaged");
    let error = JournalKeeper::open(&path).err().expect("damage").to_string();
    assert!(error.contains("damaged at byte"), "{error}");
}

#[tokio::test]
async fn a_full_journal_makes_its_writer_wait_until_something_is_acknowledged() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (keeper, _) = JournalKeeper::open(&dir.path().join("journal")).expect("opens");
    let run_id = begin(&keeper, 1).await;
    let block = "x".repeat(1000 * 1000);
    let mut written: u64 = 1;
    let mut answer = loop {
        let mut answer = keeper.append(run_id, FENCE, vec![said(&block)]);
        match tokio::time::timeout(Duration::from_secs(2), &mut answer).await {
            Ok(answered) => answered.expect("answered").expect("written"),
            Err(_) => break answer,
        }
        written += 1;
        assert!(written < 100, "the journal grows without end");
    };
    assert!(keeper.look().unsent_bytes() <= UNSENT_BYTES_MAX);
    keeper.acknowledge(run_id, FENCE, 3).await;
    (&mut answer)
        .await
        .expect("answered")
        .expect("written once there was room");
    let last = keeper
        .unsent(run_id, written + 1)
        .await
        .expect("read")
        .expect("the last");
    assert_eq!((last.first, last.events), (written + 1, vec![said(&block)]));
}

#[tokio::test]
async fn a_queue_that_is_full_makes_runs_wait_and_forgets_none_of_them() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (file, journal) = JournalFile::open(&dir.path().join("journal")).expect("opens");
    let (keeper, handle) = Keeper::new(file, journal);
    let runs = u8::try_from(COMMANDS_MAX - 1).expect("small");
    let mut answers = Vec::new();
    for seed in 0..=runs {
        answers.push(handle.append(order(seed).run_id, FENCE, vec![said("x")]));
    }
    assert_eq!(handle.commands.capacity(), 0, "the queue is full");
    let mut late = handle.append(order(1).run_id, FENCE, vec![said("late")]);
    tokio::task::yield_now().await;
    assert!(late.try_recv().is_err(), "nobody works yet");
    std::thread::spawn(move || keeper.run());
    for answer in answers.into_iter().chain([late]) {
        let answer = answer.await.expect("answered");
        assert_eq!(answer, Err(SinkError::Closed), "these runs were never accepted");
    }
}

#[tokio::test]
async fn what_does_not_fit_into_memory_is_read_from_the_file_also_after_it_was_written_anew() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("journal");
    let (keeper, _) = JournalKeeper::open(&path).expect("opens");
    let text = |n: usize| format!("{n} {}", "x".repeat(100_000));
    let gone = begin(&keeper, 2).await;
    let run_id = begin(&keeper, 1).await;
    for n in 0..60 {
        for run in [gone, run_id] {
            let answer = keeper.append(run, FENCE, vec![said(&text(n))]).await;
            answer.expect("answered").expect("written");
        }
    }
    let before = std::fs::metadata(&path).expect("there").len();
    check_all(&keeper, run_id, text).await;
    // More than three quarters of the file must be dead before it is written anew.
    keeper.forget(gone, FENCE).await.expect("forgotten");
    keeper.acknowledge(run_id, FENCE, 32).await;
    for seed in 3..=4 {
        let dead = begin(&keeper, seed).await;
        keeper.forget(dead, FENCE).await.expect("forgotten");
    }
    let after = std::fs::metadata(&path).expect("there").len();
    assert!(after < before / 3, "{before} bytes became {after}");
    check_all(&keeper, run_id, text).await;
    drop(keeper);
    let (keeper, _) = JournalKeeper::open(&path).expect("opens again");
    check_all(&keeper, run_id, text).await;
}

/// Reads every event that waits, batch by batch; event 1 is the start.
async fn check_all(keeper: &JournalKeeper, run_id: RunId, text: impl Fn(usize) -> String) {
    let mut from = 2;
    while let Some(batch) = keeper.unsent(run_id, from).await.expect("read") {
        for (event, number) in batch.events.iter().zip(batch.first..) {
            if event.event_type == EventType::AssistantMessage {
                let n = usize::try_from(number - 2).expect("small");
                assert_eq!(event.payload["text"], text(n), "event {number}");
            }
        }
        from = batch.first + batch.events.len() as u64;
    }
    assert!(from >= 62, "only events below {from} were there");
}

#[tokio::test]
async fn writes_of_many_runs_share_an_fsync_and_each_is_answered() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (keeper, _) = JournalKeeper::open(&dir.path().join("journal")).expect("opens");
    let mut tasks = tokio::task::JoinSet::new();
    for seed in 1..=40 {
        let keeper = keeper.clone();
        tasks.spawn(async move {
            let run_id = begin(&keeper, seed).await;
            keeper
                .append(run_id, FENCE, vec![said("x")])
                .await
                .expect("answered")
                .expect("written");
            keeper
                .end(run_id, FENCE, json!({ "status": "completed" }))
                .await
                .expect("ended");
            keeper.acknowledge(run_id, FENCE, 4).await;
        });
    }
    while let Some(result) = tasks.join_next().await {
        result.expect("no panic");
    }
    let mut changes = keeper.changes();
    while !keeper.look().open_runs().is_empty() {
        changes.changed().await.expect("open");
    }
}

#[tokio::test]
async fn a_full_disk_refuses_and_gives_the_events_back_and_goes_on_when_there_is_room() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (mut file, journal) = JournalFile::open(&dir.path().join("journal")).expect("opens");
    file.fail_writes(true);
    let (mut keeper, _handle) = Keeper::new(file, journal);
    let run_id = order(1).run_id;
    let act = |keeper: &mut Keeper, command| {
        let mut round = Round::default();
        keeper.take(command, &mut round);
        keeper.write(round);
    };
    let offer = |reply| Command::Offer(Box::new(order(1)), Attempt(1), FENCE, reply);
    let (reply, answer) = oneshot::channel();
    act(&mut keeper, offer(reply));
    let answer = answer.await.expect("answered");
    assert!(matches!(answer, Err(KeeperError::Unwritable(_))), "{answer:?}");

    keeper.file.fail_writes(false);
    let (reply, answer) = oneshot::channel();
    act(&mut keeper, offer(reply));
    assert_eq!(answer.await.expect("answered"), Ok(Offered::Taken));
    let (reply, _answer) = oneshot::channel();
    act(&mut keeper, Command::Start(run_id, FENCE, json!({}), reply));

    keeper.file.fail_writes(true);
    let events = vec![said("kept")];
    let append = |events, reply| Append {
        run_id,
        fence: FENCE,
        events,
        bytes: 1,
        reply,
    };
    let (reply, answer) = oneshot::channel();
    act(&mut keeper, Command::Append(append(events.clone(), reply)));
    match answer.await.expect("answered") {
        Err(SinkError::Unwritable { events: back, .. }) => assert_eq!(back, events),
        other => panic!("{other:?}"),
    }
    keeper.file.fail_writes(false);
    let (reply, answer) = oneshot::channel();
    act(&mut keeper, Command::Append(append(events, reply)));
    answer.await.expect("answered").expect("written");
    drop(keeper);
    let (_, journal) = JournalFile::open(&dir.path().join("journal")).expect("opens again");
    assert_eq!(journal.unsent(run_id, 1).expect("there").events.len(), 2);
}

#[tokio::test]
async fn dead_weight_is_dropped_from_the_file() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("journal");
    let (keeper, _) = JournalKeeper::open(&path).expect("opens");
    let block = "x".repeat(500 * 1000);
    for seed in 1..=4 {
        let run_id = begin(&keeper, seed).await;
        keeper
            .append(run_id, FENCE, vec![said(&block)])
            .await
            .expect("answered")
            .expect("written");
        keeper
            .end(run_id, FENCE, json!({ "status": "completed" }))
            .await
            .expect("ended");
        keeper.acknowledge(run_id, FENCE, 4).await;
    }
    let kept = begin(&keeper, 9).await;
    let len = std::fs::metadata(&path).expect("there").len();
    assert!(len < 1_500_000, "the file has {len} bytes");
    drop(keeper);
    let (keeper, _) = JournalKeeper::open(&path).expect("opens again");
    assert!(keeper.look().state(kept).is_some());
    let late = keeper.offer(order(1), Attempt(1), FENCE).await;
    assert!(
        matches!(late, Ok(Offered::Refused(OfferRefusal::StaleFence, _))),
        "{late:?}"
    );
}
