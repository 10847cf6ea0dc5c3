//! Runs from the request to the end, over disconnections, duplicates and refusals.

use std::time::Duration;

use runs::dispatch::{LOST_AFTER, QUEUE_TTL};
use types::ticket::TicketError;
use types::{NodePrivateKey, SealedOrder};

use super::*;
use crate::store;

#[tokio::test]
async fn a_run_is_dispatched_executed_and_kept() {
    let (bench, mut sidecar) = Bench::connected().await;
    let run = bench.run(json!({ "metadata": { "ticket": 7 } })).await;
    assert_eq!(run["status"], "dispatched");
    assert_eq!(run["executionMode"], "local-mac");
    assert_eq!(run["targetDeviceId"], json!(bench.node));
    assert_eq!(run["result"], Value::Null);

    let held = sidecar.accept().await;
    sidecar.start(held);
    sidecar.say(held, "It is a crate.");
    sidecar.flush(held.0).await;
    let running = bench.until(&run, "running").await;
    assert!(running["startedAt"].is_string());
    sidecar.end(held, "completed");
    sidecar.flush(held.0).await;
    assert!(sidecar.journal.open_runs().is_empty());

    let done = bench.until(&run, "completed").await;
    assert_eq!(done["result"], "It is a crate.");
    assert_eq!(done["metadata"], json!({ "ticket": 7 }));
    let events = bench.events(&run).await;
    let expected = [
        "user_message",
        "run_started",
        "assistant_message",
        "run_completed",
    ];
    assert_eq!(types_of(&events), expected);
    let sequences: Vec<u64> = events.iter().filter_map(|e| e["sequence"].as_u64()).collect();
    assert_eq!(sequences, [1, 2, 3, 4]);

    let thread = bench
        .get(&format!("/v1/threads/{}", text(&run, "threadId")))
        .await
        .ok();
    assert_eq!(thread["activity"], "idle");
    assert_eq!(thread["messages"][1]["text"], "It is a crate.");
    assert_eq!(thread["title"], "Inspect this local repo");
    let audit = bench.get("/v1/runmesh/audit").await;
    assert_eq!(audit.body["data"][0]["action"], "run.dispatched");
    let path = format!("/v1/threads/{}/activity", text(&run, "threadId"));
    let activity = bench.get(&path).await;
    let kinds: Vec<&str> = activity.body["data"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|row| text(row, "eventType"))
        .collect();
    assert_eq!(kinds, ["agent.run.completed", "agent.run.started"]);
}

#[tokio::test]
async fn an_offer_carries_a_ticket_that_only_this_device_can_use() {
    let (bench, mut sidecar) = Bench::connected().await;
    bench.run(json!({})).await;
    let ToSidecar::Offer {
        run_id,
        order,
        attempt,
        fence,
        ticket,
    } = sidecar.receive().await
    else {
        panic!("an offer was expected");
    };
    let mut conn = bench.app().store.read().await.expect("reads");
    let device = store::runs::device(&mut conn, bench.node)
        .await
        .expect("reads")
        .expect("linked");
    let org = store::orgs::find(&mut conn, device.org)
        .await
        .expect("reads")
        .expect("there");
    let own = NodePrivateKey::from_random([1; 32]).public();
    let now = bench.clock.wall();
    let opened = ticket
        .open(&org.signing_key.public(), org.id, &own, now)
        .expect("good");
    let admitted = opened.admit(&order, attempt, fence).expect("what was signed");
    assert_eq!(
        (admitted.run_id, admitted.prompt.as_str()),
        (run_id, "Inspect this local repo")
    );
    let changed = RunOrder {
        prompt: "Send everything away".to_owned(),
        ..admitted
    };
    let changed = SealedOrder::seal(&changed);
    assert_eq!(
        opened.admit(&changed, attempt, fence),
        Err(TicketError::WrongOrder)
    );
    let other = NodePrivateKey::from_random([2; 32]).public();
    assert!(
        ticket
            .open(&org.signing_key.public(), org.id, &other, now)
            .is_err()
    );
}

#[tokio::test]
async fn runs_wait_in_order_for_a_device_that_is_away() {
    let bench = Bench::start().await;
    let first = bench.run(json!({})).await;
    let second = bench.run(json!({})).await;
    assert_eq!(
        (&first["status"], &first["queuePosition"]),
        (&json!("queued"), &json!(0))
    );
    assert_eq!(
        (&second["status"], &second["queuePosition"]),
        (&json!("queued"), &json!(1))
    );
    let mut sidecar = Sidecar::connected(&bench).await;
    assert_eq!(sidecar.accept().await.0, run_id(&first));
    assert_eq!(sidecar.accept().await.0, run_id(&second));
    bench.until(&second, "dispatched").await;
}

#[tokio::test]
async fn a_queued_run_expires_and_says_so_in_its_thread() {
    let bench = Bench::start().await;
    let run = bench.run(json!({})).await;
    bench.clock.advance(QUEUE_TTL - Duration::from_secs(60));
    bench.round().await;
    bench.until(&run, "queued").await;
    bench.clock.advance(Duration::from_secs(61));
    bench.round().await;
    let run = bench.until(&run, "expired").await;
    assert_eq!(run["reason"], "queue_ttl");
    let events = bench.events(&run).await;
    assert_eq!(types_of(&events), ["user_message", "run_completed"]);
    assert_eq!(events[1]["payload"]["status"], "expired");
}

/// The time between two times, in seconds.
fn seconds(run: &Value, from: &str, to: &str) -> i64 {
    let at = |field: &str| serde_json::from_value::<types::Timestamp>(run[field].clone()).expect("a time");
    (at(to).unix_ms() - at(from).unix_ms()) / 1000
}

#[tokio::test]
async fn a_run_waits_as_long_as_its_caller_says() {
    let bench = Bench::start().await;
    let usual = bench.run(json!({})).await;
    let short = bench.run(json!({ "queueTtl": 60 })).await;
    let longest = bench.run(json!({ "queueTtl": 2_592_000 })).await;
    for (run, ttl, position) in [(&usual, 86_400, 0), (&short, 60, 1), (&longest, 2_592_000, 2)] {
        assert_eq!(
            (&run["status"], &run["queuePosition"]),
            (&json!("queued"), &json!(position))
        );
        let found = bench.get(&format!("/v1/runs/{}", text(run, "runId"))).await.ok();
        assert_eq!(
            (&found["queueTtl"], &found["queuePosition"]),
            (&json!(ttl), &json!(position))
        );
        assert_eq!(found["queueExpiresAt"], run["queueExpiresAt"]);
        assert_eq!(seconds(&found, "createdAt", "queueExpiresAt"), ttl);
    }
    bench.clock.advance(Duration::from_secs(61));
    bench.round().await;
    let expired = bench.until(&short, "expired").await;
    assert_eq!(
        (&expired["reason"], &expired["queueTtl"]),
        (&json!("queue_ttl"), &json!(60))
    );
    assert!(expired["queuePosition"].is_null() && expired["queueExpiresAt"].is_null());
    bench.until(&usual, "queued").await;
    assert_eq!(bench.until(&longest, "queued").await["queuePosition"], 1);
    let run = |more: Value| {
        let mut body = json!({ "agent": "code-on-my-mac", "prompt": "x" });
        body["queueTtl"] = more;
        bench.post("/v1/run", body)
    };
    for bad in [json!(2_592_001), json!(-1), json!(1.5), json!("60"), json!("1h")] {
        run(bad).await.refused(400, "bad_request");
    }
}

#[tokio::test]
async fn a_run_that_does_not_wait_is_refused_while_its_device_is_away() {
    let bench = Bench::start().await;
    let body = json!({ "agent": "code-on-my-mac", "prompt": "x", "queueTtl": 0 });
    bench
        .post("/v1/run", body.clone())
        .await
        .refused(409, "device_offline");
    assert_eq!(bench.get("/v1/runs").await.body["data"], json!([]));
    assert_eq!(bench.get("/v1/threads").await.body["data"], json!([]));

    let mut sidecar = Sidecar::connected(&bench).await;
    let run = bench.post("/v1/run", body).await.ok();
    assert_eq!(run["status"], "dispatched");
    assert_eq!(sidecar.accept().await.0, run_id(&run));
    // The thread has a run under way: this one would wait for it, and does so for as long as an offer.
    let next = bench
        .run(json!({ "queueTtl": 0, "threadId": run["threadId"] }))
        .await;
    assert_eq!(next["status"], "queued");
    bench.clock.advance(Duration::from_secs(31));
    bench.round().await;
    bench.until(&next, "expired").await;
}

#[tokio::test]
async fn nobody_but_the_device_itself_starts_a_run_of_its_own() {
    let bench = Bench::start().await;
    let run = async |origin: Value| {
        let body = json!({ "agent": "code-on-my-mac", "prompt": "x", "origin": origin });
        bench.post("/v1/run", body).await
    };
    let refused = run(json!("device")).await;
    refused.refused(403, "forbidden");
    assert!(text(&refused.body["error"], "message").contains("origin device"));
    let legacy = json!({ "prompt": "x", "origin": "device" });
    bench
        .post("/v1/agents/code-on-my-mac/run", legacy)
        .await
        .refused(403, "forbidden");
    run(json!("moon")).await.refused(400, "bad_request");
    assert_eq!(bench.get("/v1/runs").await.body["data"], json!([]));
    let taken = run(json!("api")).await.ok();
    let taken = bench
        .get(&format!("/v1/runs/{}", text(&taken, "runId")))
        .await
        .ok();
    assert_eq!(taken["origin"], "api");
}

#[tokio::test]
async fn runs_of_one_thread_follow_one_another() {
    let (bench, mut sidecar) = Bench::connected().await;
    let first = bench.run(json!({})).await;
    let held = sidecar.accept().await;
    let second = bench.run(json!({ "threadId": first["threadId"] })).await;
    assert_eq!(second["threadId"], first["threadId"]);
    assert_eq!(second["status"], "queued");
    sidecar.start(held);
    sidecar.end(held, "completed");
    sidecar.flush(held.0).await;
    assert_eq!(sidecar.accept().await.0, run_id(&second));
}

#[tokio::test]
async fn an_answer_lost_with_the_session_is_not_offered_again() {
    let (bench, mut sidecar, run, held) = Bench::offered().await;
    sidecar.disconnect(&bench).await;
    bench.until(&run, "queued").await;
    sidecar.connect(&bench).await;
    assert_eq!(sidecar.acknowledged().await, 1);
    bench.until(&run, "dispatched").await;
    sidecar.start(held);
    sidecar.flush(held.0).await;
    assert_eq!(bench.until(&run, "running").await["attempt"], 1);
}

#[tokio::test]
async fn events_of_a_lost_session_are_sent_again_and_stored_once() {
    let (bench, mut sidecar, run, held) = Bench::accepted().await;
    sidecar.start(held);
    sidecar.say(held, "one");
    // Sent, stored, and the acknowledgement lost with the session.
    sidecar.send_unsent(held.0).await;
    bench.until(&run, "running").await;
    sidecar.disconnect(&bench).await;
    let away = bench.until(&run, "running").await;
    assert_eq!(away["suspended"], true);
    sidecar.say(held, "two");

    sidecar.connect(&bench).await;
    assert_eq!(sidecar.acknowledged().await, 3);
    sidecar.end(held, "completed");
    sidecar.flush(held.0).await;
    let done = bench.until(&run, "completed").await;
    assert_eq!(
        (&done["suspended"], &done["result"]),
        (&json!(false), &json!("two"))
    );
    let events = bench.events(&run).await;
    let texts: Vec<&Value> = events.iter().map(|event| &event["payload"]["text"]).collect();
    assert_eq!(texts[2..4], [&json!("one"), &json!("two")]);
    assert_eq!(events.len(), 5);
}

#[tokio::test]
async fn duplicates_gaps_and_stale_fences_are_answered_by_the_rule() {
    let (bench, mut sidecar, run, (id, fence)) = Bench::running().await;
    let held = (id, fence);
    let appended = |next: u64| ToSidecar::Appended {
        run_id: id,
        fence,
        next,
    };
    sidecar.append(held, 2, vec![said("a")]).await;
    assert_eq!(sidecar.receive().await, appended(3));
    sidecar.append(held, 2, vec![said("a")]).await;
    assert_eq!(sidecar.receive().await, appended(3));
    sidecar.append(held, 9, vec![said("z")]).await;
    assert_eq!(sidecar.receive().await, appended(3));
    let stale = Fence(fence.0 - 1);
    sidecar.append((id, stale), 3, vec![said("b")]).await;
    let refused = |fence, reason| append_refused((id, fence), reason);
    assert_eq!(sidecar.receive().await, refused(stale, AppendRefusal::Fenced));
    let mut large = said("x");
    large.payload = json!({ "text": "x".repeat(1024 * 1024) });
    sidecar.append(held, 3, vec![large]).await;
    assert_eq!(sidecar.receive().await, refused(fence, AppendRefusal::Invalid));
    let kinds = bench.events(&run).await;
    assert_eq!(
        types_of(&kinds).last(),
        Some(&"run_completed"),
        "nothing else would end it"
    );
    assert_eq!(kinds.len(), 4);
}

#[tokio::test]
async fn a_device_cannot_touch_the_run_of_another() {
    let (bench, _sidecar, run, held) = Bench::accepted().await;
    bench.until(&run, "dispatched").await;
    let mut thief = Sidecar::new(bench.link(2).await);
    thief.connect(&bench).await;
    thief.append(held, 1, vec![said("mine")]).await;
    let refused = append_refused(held, AppendRefusal::NotFound);
    assert_eq!(thief.receive().await, refused);
}

#[tokio::test]
async fn a_refused_run_fails_with_the_reason_or_is_offered_again() {
    let (bench, mut sidecar) = Bench::connected().await;
    let refuse = async |sidecar: &mut Sidecar, reason| {
        let (order, _, fence) = sidecar.next_offer().await;
        sidecar.refuse((order.run_id, fence), reason, "no\u{1b}[2J").await;
        fence
    };
    let run = bench.run(json!({})).await;
    refuse(&mut sidecar, OfferRefusal::RunnerMissing).await;
    assert_eq!(bench.until(&run, "failed").await["reason"], "runner_missing");

    let run = bench.run(json!({})).await;
    let fence = refuse(&mut sidecar, OfferRefusal::Busy).await;
    bench.until(&run, "queued").await;
    bench.clock.advance(Duration::from_secs(3));
    bench.round().await;
    assert_eq!(sidecar.accept().await, (run_id(&run), Fence(fence.0 + 1)));
}

#[tokio::test]
async fn a_run_is_lost_with_its_journal_or_with_its_device() {
    let (bench, mut sidecar) = Bench::connected().await;
    let run = bench.run(json!({})).await;
    sidecar.accept().await;
    bench.until(&run, "dispatched").await;
    sidecar.disconnect(&bench).await;
    sidecar.journal = Journal::default();
    sidecar.connect(&bench).await;
    assert_eq!(bench.until(&run, "lost").await["reason"], "journal_lost");
    assert!(matches!(sidecar.receive().await, ToSidecar::AppendRefused { .. }));

    let run = bench.run(json!({})).await;
    sidecar.accept().await;
    bench.until(&run, "dispatched").await;
    sidecar.disconnect(&bench).await;
    bench.clock.advance(LOST_AFTER);
    bench.round().await;
    assert_eq!(bench.until(&run, "lost").await["reason"], "device_away");
}

#[tokio::test]
async fn the_runs_of_a_revoked_device_end_and_its_session_too() {
    let (bench, mut sidecar) = Bench::connected().await;
    let run = bench.run(json!({})).await;
    sidecar.accept().await;
    let path = format!("/v1/runmesh/nodes/{}/revoke", bench.node);
    bench.post(&path, json!({})).await.ok();
    bench.round().await;
    assert_eq!(bench.until(&run, "failed").await["reason"], "device_revoked");
    while sidecar.try_receive().await.is_some() {}
    let body = json!({ "agent": "code-on-my-mac", "prompt": "again" });
    bench.post("/v1/run", body).await.refused(409, "device_revoked");
}

#[tokio::test]
async fn a_device_starts_a_run_of_its_own_agent() {
    let (bench, mut sidecar) = Bench::connected().await;
    let register = |agent: &str| ToOrchestrator::Register {
        request: 5,
        agent: agent.parse().expect("slug"),
        prompt: "From the menu bar".to_owned(),
        thread_id: None,
        idempotency_key: Some("k".to_owned()),
    };
    sidecar.send(&register("code-on-my-mac")).await;
    let ToSidecar::Registered {
        request,
        run_id,
        order,
        fence,
        ..
    } = sidecar.receive().await
    else {
        panic!("a run was expected");
    };
    let order = order.read().expect("an order");
    assert_eq!((request, fence, order.run_id), (5, Fence(1), run_id));
    sidecar.send(&register("code-on-my-mac")).await;
    let ToSidecar::Registered { run_id: again, .. } = sidecar.receive().await else {
        panic!("the same run was expected");
    };
    assert_eq!(again, run_id);
    let run = bench.get(&format!("/v1/runs/{run_id}")).await.ok();
    assert_eq!(
        (&run["status"], &run["origin"]),
        (&json!("registered"), &json!("device"))
    );

    let held = sidecar.journal(&order, Attempt(1), fence);
    sidecar.start(held);
    sidecar.say(held, "done");
    sidecar.end(held, "completed");
    sidecar.flush(held.0).await;
    assert_eq!(bench.until(&run, "completed").await["result"], "done");

    let other = bench.link(2).await;
    bench.agent("elsewhere", other).await;
    for agent in ["elsewhere", "nobody"] {
        sidecar.send(&register(agent)).await;
        let ToSidecar::RegisterRefused { code, .. } = sidecar.receive().await else {
            panic!("a refusal was expected");
        };
        // The key was used for another request.
        assert!(["not_found", "conflict"].contains(&code.as_str()), "{code}");
    }
}

#[tokio::test]
async fn the_same_key_is_the_same_run_and_another_request_a_conflict() {
    let bench = Bench::start().await;
    let start = async |prompt: &str| {
        let body = json!({ "agent": "code-on-my-mac", "prompt": prompt });
        let request = bench
            .http
            .post(bench.url("/v1/run"))
            .bearer_auth(&bench.admin)
            .json(&body);
        Answer::of(request.header("idempotency-key", "once")).await
    };
    let (first, again) = tokio::join!(start("a"), start("a"));
    assert_eq!(first.ok()["runId"], again.ok()["runId"]);
    start("b").await.refused(409, "conflict");
    assert_eq!(
        bench.get("/v1/runs").await.body["data"].as_array().map(Vec::len),
        Some(1)
    );
    bench.clock.advance(Duration::from_secs(25 * 3600));
    start("b").await.ok();
}

#[tokio::test]
async fn the_order_of_fields_makes_no_other_request() {
    let bench = Bench::start().await;
    let start = async |metadata: &str| {
        let body = format!(r#"{{"agent": "code-on-my-mac", "prompt": "x", "metadata": {metadata}}}"#);
        let request = bench.http.post(bench.url("/v1/run")).bearer_auth(&bench.admin);
        let request = request
            .header("idempotency-key", "k")
            .header("content-type", "application/json");
        Answer::of(request.body(body)).await
    };
    let first = start(r#"{"a": 1, "b": {"c": [{"d": 2, "e": 3}], "f": 4}}"#)
        .await
        .ok();
    let again = start(r#"{"b": {"f": 4, "c": [{"e": 3, "d": 2}]}, "a": 1}"#)
        .await
        .ok();
    assert_eq!(first["runId"], again["runId"]);
    let other = start(r#"{"b": {"f": 4, "c": [{"e": 3, "d": 5}]}, "a": 1}"#).await;
    other.refused(409, "conflict");
}

#[tokio::test]
async fn requests_with_one_key_at_once_wait_for_one_run() {
    let bench = Bench::start().await;
    let request = || {
        let body = json!({ "agent": "code-on-my-mac", "prompt": "x", "wait": 1 });
        let request = bench.http.post(bench.url("/v1/run")).bearer_auth(&bench.admin);
        Answer::of(request.header("idempotency-key", "k").json(&body))
    };
    let answers = futures_util::future::join_all((0..8).map(|_| request())).await;
    let first = answers[0].body["data"]["runId"].clone();
    for answer in answers {
        assert_eq!(answer.ok()["runId"], first);
    }
}

#[tokio::test]
async fn what_is_asked_badly_is_said_before_it_is_asked_of_whom() {
    let bench = Bench::start().await;
    let messages = json!([{ "role": "narrator", "content": "x" }, { "role": "user", "content": "y" }]);
    for agent in ["nobody", "code-on-my-mac"] {
        let body = json!({ "agent": agent, "messages": messages });
        bench.post("/v1/run", body).await.refused(400, "bad_request");
    }
    let body = json!({ "agent": "nobody", "prompt": "x" });
    bench.post("/v1/run", body).await.refused(404, "not_found");
}

#[tokio::test]
async fn a_caller_may_wait_for_the_result() {
    let (bench, mut sidecar) = Bench::connected().await;
    let body = json!({ "agent": "code-on-my-mac", "prompt": "x", "wait": 20 });
    let executing = async {
        let held = sidecar.accept().await;
        sidecar.start(held);
        sidecar.say(held, "42");
        sidecar.end(held, "completed");
        sidecar.flush(held.0).await;
    };
    let (answer, ()) = tokio::join!(bench.post("/v1/agents/code-on-my-mac/run", body), executing);
    let receipt = answer.ok();
    assert_eq!(
        (&receipt["status"], &receipt["result"]),
        (&json!("completed"), &json!("42"))
    );
    let waited = bench.run(json!({ "wait": 1 })).await;
    assert_eq!(waited["status"], "dispatched");
}

#[tokio::test]
async fn a_second_session_of_a_device_takes_the_place_of_the_first() {
    let bench = Bench::start().await;
    let mut old = Sidecar::connected(&bench).await;
    let mut new = Sidecar::connected(&bench).await;
    assert_eq!(old.try_receive().await, None);
    bench.run(json!({})).await;
    new.accept().await;
}

#[tokio::test]
async fn a_session_that_speaks_nonsense_is_closed_and_unknown_messages_are_skipped() {
    let (_bench, mut sidecar) = Bench::connected().await;
    let (stream, _) = sidecar.link.as_mut().expect("connected");
    let unknown = encode(br#"{"type":"from_the_future","x":1}"#).expect("small");
    stream.write_all(&unknown).await.expect("writes");
    sidecar.send(&PING).await;
    assert_eq!(sidecar.receive().await, ToSidecar::Pong);
    let (stream, _) = sidecar.link.as_mut().expect("connected");
    stream.write_all(&[0xff; 64]).await.expect("writes");
    assert_eq!(sidecar.try_receive().await, None);
}

#[tokio::test]
async fn a_run_whose_events_come_in_one_batch_before_its_answer_has_all_its_times() {
    let (bench, mut sidecar, run, held) = Bench::offered().await;
    sidecar.start(held);
    sidecar.end(held, "completed");
    sidecar.flush(held.0).await;
    let done = bench.until(&run, "completed").await;
    for time in ["acceptedAt", "startedAt", "completedAt"] {
        assert!(done[time].is_string(), "{time}: {done}");
    }
}
