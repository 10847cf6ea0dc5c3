//! Sidecars that lie, flood and break rules: what they do reaches nobody else and ends where it began.

use std::time::Instant;

use runs::protocol::{OpenRun, OpenRunState};
use types::{LiveType, RolloutId};

use super::*;

/// Sends a first message and waits for the end of the session.
async fn is_turned_away(bench: &Bench, bytes: &[u8]) -> bool {
    let (mut near, far) = tokio::io::duplex(64 * 1024);
    tokio::spawn(session::run(
        Arc::clone(bench.app()),
        bench.node,
        far,
        CancellationToken::new(),
    ));
    // The session may be closed before everything is written.
    let _ = near.write_all(bytes).await;
    let mut rest = Vec::new();
    let read = tokio::time::timeout(PATIENCE, near.read_to_end(&mut rest)).await;
    read.expect("closed in time").expect("reads");
    rest.is_empty()
}

#[tokio::test]
async fn a_first_message_is_small_or_no_session_begins() {
    let bench = Bench::start().await;
    let open_run = |seed: u64| OpenRun {
        run_id: RunId::from_random([u8::try_from(seed % 256).expect("small"); 16]),
        rollout_id: RolloutId::from_random([0; 16]),
        fence: Fence(seed),
        state: OpenRunState::Started,
    };
    let hello = ToOrchestrator::Hello {
        version: PROTOCOL_VERSION,
        open_runs: (0..10_000).map(open_run).collect(),
        places: None,
    };
    let json = serde_json::to_vec(&hello).expect("serializes");
    assert!(is_turned_away(&bench, &encode(&json).expect("fits")).await);
    // Only the length is sent: nothing may be kept for what it promises.
    assert!(is_turned_away(&bench, &(8_u32 * 1024 * 1024).to_be_bytes()).await);
    let run = bench.run(json!({})).await;
    let mut sidecar = Sidecar::connected(&bench).await;
    assert_eq!(sidecar.accept().await.0, run_id(&run), "an honest one is served");
}

#[tokio::test]
async fn what_a_device_says_about_its_refusal_stands_in_the_thread_without_tricks() {
    let (bench, mut sidecar, run, held) = Bench::offered().await;
    let message = format!("no\u{1b}[2J folder\r\n\u{202e}here {}", "x".repeat(5000));
    let reason = OfferRefusal::Policy;
    sidecar.refuse(held, reason, &message).await;
    let failed = bench.until(&run, "failed").await;
    let events = bench.events(&run).await;
    let said = text(&events[1]["payload"], "message");
    assert!(said.starts_with("no[2J folder  here xxx"), "{said}");
    assert_eq!(said.chars().count(), 1000);
    assert_eq!(
        (text(&failed, "reason"), text(&failed, "message")),
        ("policy", said)
    );

    let run = bench.run(json!({})).await;
    let held = sidecar.journal_offer().await;
    sidecar.refuse(held, reason, "\u{7}").await;
    let failed = bench.until(&run, "failed").await;
    assert_eq!(
        text(&failed, "message"),
        "The device's own policy forbids the run."
    );
}

#[tokio::test]
async fn events_that_break_a_rule_end_their_run() {
    let (bench, mut sidecar, run, held) = Bench::accepted().await;
    sidecar.append(held, 1, vec![said("before the start")]).await;
    let refused = append_refused(held, AppendRefusal::Invalid);
    assert_eq!(sidecar.receive().await, refused);
    let failed = bench.until(&run, "failed").await;
    assert_eq!(failed["reason"], "invalid_events");
    assert_eq!(
        types_of(&bench.events(&run).await),
        ["user_message", "run_completed"]
    );
}

#[tokio::test]
async fn a_stale_fence_that_breaks_rules_does_not_end_the_run_of_the_next() {
    let (bench, mut sidecar, run, (run_id, fence)) = Bench::accepted().await;
    let stale = Fence(fence.0 + 7);
    sidecar.append((run_id, stale), 1, vec![said("x")]).await;
    assert!(matches!(sidecar.receive().await, ToSidecar::AppendRefused { .. }));
    assert_eq!(bench.until(&run, "dispatched").await["reason"], Value::Null);
}

#[tokio::test]
async fn live_frames_of_others_and_floods_are_not_shown() {
    let (bench, mut sidecar, run, held) = Bench::running().await;
    let thread = text(&run, "threadId").parse().expect("a thread id");
    let mut notices = bench.app().watchers.watch(thread);
    let live = |fence, text: &str| ToOrchestrator::Live {
        run_id: held.0,
        fence,
        live_type: LiveType::AssistantMessageDelta,
        payload: json!({ "text": text }),
    };
    sidecar.send(&live(Fence(9), "foreign")).await;
    sidecar.send(&live(held.1, &"x".repeat(70_000))).await;
    let mut other = Sidecar::new(bench.link(2).await);
    other.connect(&bench).await;
    other.send(&live(held.1, "another's")).await;
    other.send(&PING).await;
    other.receive().await;
    sidecar.send(&live(held.1, "mine")).await;
    sidecar.send(&PING).await;
    sidecar.receive().await;
    let mut shown = Vec::new();
    while let Ok(notice) = notices.try_recv() {
        shown.push(format!("{notice:?}"));
    }
    assert_eq!(shown.len(), 1, "{shown:?}");
    assert!(shown[0].contains("mine"));

    let begun = Instant::now();
    for _ in 0..3000 {
        sidecar.send(&live(held.1, "flood")).await;
    }
    sidecar.send(&PING).await;
    sidecar.receive().await;
    let seconds = begun.elapsed().as_secs() + 1;
    let mut count = 0;
    loop {
        match notices.try_recv() {
            Ok(_) => count += 1,
            Err(tokio::sync::broadcast::error::TryRecvError::Lagged(missed)) => count += missed,
            Err(_) => break,
        }
    }
    assert!(count <= 400 * (seconds + 1), "{count} in {seconds} s");
}

#[tokio::test]
async fn a_device_registers_runs_of_its_own_agents_only_and_not_without_end() {
    let bench = Bench::start().await;
    let other = bench.link(2).await;
    bench.agent("elsewhere", other).await;
    let mut sidecar = Sidecar::connected(&bench).await;
    let register = |request, agent: &str, key: Option<String>| ToOrchestrator::Register {
        request,
        agent: agent.parse().expect("slug"),
        prompt: "x".to_owned(),
        thread_id: None,
        idempotency_key: key,
    };
    for (request, agent) in [(1, "elsewhere"), (2, "nobody")] {
        sidecar.send(&register(request, agent, None)).await;
        match sidecar.receive().await {
            ToSidecar::RegisterRefused {
                request: asked, code, ..
            } => {
                assert_eq!((asked, code.as_str()), (request, "not_found"));
            }
            other => panic!("{other:?}"),
        }
    }
    let mut limited = 0;
    for request in 3..103 {
        sidecar
            .send(&register(request, "code-on-my-mac", Some("same".to_owned())))
            .await;
        if let ToSidecar::RegisterRefused { code, .. } = sidecar.receive().await {
            assert_eq!(code, "rate_limited");
            limited += 1;
        }
    }
    assert!(limited > 0, "nothing was limited");
}

#[tokio::test]
async fn a_busy_device_is_asked_again_as_soon_as_it_has_room() {
    let (bench, mut sidecar) = Bench::connected().await;
    let first = bench.run(json!({})).await;
    let held = sidecar.accept().await;
    sidecar.start(held);
    sidecar.flush(held.0).await;
    let second = bench.run(json!({})).await;
    for _ in 0..4 {
        let (order, _, fence) = sidecar.next_offer().await;
        sidecar
            .refuse((order.run_id, fence), OfferRefusal::Busy, "")
            .await;
        bench.until(&second, "queued").await;
        bench.clock.advance(Duration::from_secs(64));
        bench.round().await;
    }
    let (order, _, fence) = sidecar.next_offer().await;
    sidecar
        .refuse((order.run_id, fence), OfferRefusal::Busy, "")
        .await;
    bench.until(&second, "queued").await;
    sidecar.end(held, "completed");
    sidecar.flush(held.0).await;
    bench.until(&first, "completed").await;
    assert_eq!(
        sidecar.accept().await.0,
        order.run_id,
        "at once, not after its wait"
    );
}

#[tokio::test]
async fn the_backlog_of_one_device_does_not_keep_another_waiting() {
    let (bench, mut busy, _, held) = Bench::accepted().await;
    busy.start(held);
    for _ in 0..60 {
        let drafts = (0..100).map(|_| said(&"x".repeat(2000))).collect();
        let write = busy.journal.append(held.0, held.1, drafts).expect("under way");
        busy.journal.commit(write);
    }
    let node = bench.link(2).await;
    bench.agent("other", node).await;
    let mut other = Sidecar::new(node);
    other.connect(&bench).await;
    bench.run(json!({ "agent": "other" })).await;
    let small = other.accept().await;
    other.start(small);
    let backlog = async {
        busy.flush(held.0).await;
        Instant::now()
    };
    let trickle = async {
        let mut slowest = Duration::ZERO;
        for n in 0..10 {
            other.say(small, &n.to_string());
            let begun = Instant::now();
            other.flush(small.0).await;
            slowest = slowest.max(begun.elapsed());
        }
        (slowest, Instant::now())
    };
    let (drained, (slowest, done)) = tokio::join!(backlog, trickle);
    eprintln!("the slowest of ten appends beside a backlog of 6000 events: {slowest:?}");
    assert!(done < drained, "the small run was done first");
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
}
