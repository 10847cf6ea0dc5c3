//! Stopping a run in every state.

use runs::dispatch::CANCEL_TIMEOUT;

use super::*;

async fn cancel(bench: &Bench, run: &Value) -> Value {
    let path = format!("/v1/runs/{}/cancel", text(run, "runId"));
    bench.post(&path, json!({})).await.ok()
}

#[tokio::test]
async fn a_queued_run_is_cancelled_at_once() {
    let bench = Bench::start().await;
    let run = bench.run(json!({})).await;
    assert_eq!(cancel(&bench, &run).await["status"], "cancelled");
    assert_eq!(cancel(&bench, &run).await["status"], "cancelled");
    let events = bench.events(&run).await;
    assert_eq!(types_of(&events), ["user_message", "run_completed"]);
    let _sidecar = Sidecar::connected(&bench).await;
    bench.until(&run, "cancelled").await;
}

#[tokio::test]
async fn an_offered_run_is_cancelled_by_whatever_the_device_answers() {
    let (bench, mut sidecar, run, held) = Bench::offered().await;
    let asked = cancel(&bench, &run).await;
    assert_eq!(
        (&asked["status"], &asked["cancelRequested"]),
        (&json!("dispatched"), &json!(true))
    );
    assert_eq!(sidecar.receive().await, ToSidecar::Cancel { run_id: held.0 });
    sidecar.refuse(held, OfferRefusal::Busy, "").await;
    bench.until(&run, "cancelled").await;
}

#[tokio::test]
async fn an_accepted_run_is_ended_by_its_device() {
    let (bench, mut sidecar, run, held) = Bench::accepted().await;
    bench.until(&run, "dispatched").await;
    cancel(&bench, &run).await;
    // The wish may come before or after the answer is taken note of, and once more with it.
    assert!(matches!(sidecar.receive().await, ToSidecar::Cancel { .. }));
    sidecar.end(held, "cancelled");
    sidecar.send_unsent(held.0).await;
    bench.until(&run, "cancelled").await;
}

#[tokio::test]
async fn a_running_run_is_told_again_on_every_reconnect() {
    let (bench, mut sidecar, run, held) = Bench::running().await;
    sidecar.disconnect(&bench).await;
    assert_eq!(cancel(&bench, &run).await["status"], "running");
    for _ in 0..2 {
        sidecar.connect(&bench).await;
        sidecar.acknowledged().await;
        assert_eq!(sidecar.receive().await, ToSidecar::Cancel { run_id: held.0 });
        sidecar.disconnect(&bench).await;
    }
    sidecar.connect(&bench).await;
    sidecar.acknowledged().await;
    sidecar.receive().await;
    sidecar.end(held, "cancelled");
    sidecar.flush(held.0).await;
    let done = bench.until(&run, "cancelled").await;
    assert_eq!(done["cancelRequested"], true);
    assert_eq!(cancel(&bench, &run).await["status"], "cancelled");
}

#[tokio::test]
async fn a_device_that_does_not_stop_is_not_waited_for_for_ever() {
    let (bench, mut sidecar, run, _) = Bench::running().await;
    cancel(&bench, &run).await;
    assert!(matches!(sidecar.receive().await, ToSidecar::Cancel { .. }));
    bench.clock.advance(CANCEL_TIMEOUT);
    bench.round().await;
    assert_eq!(
        bench.until(&run, "cancelled").await["reason"],
        "cancel_unconfirmed"
    );
    assert!(matches!(sidecar.receive().await, ToSidecar::AppendRefused { .. }));
}

#[tokio::test]
async fn a_deleted_thread_stops_its_run() {
    let (bench, mut sidecar, run, held) = Bench::running().await;
    let path = format!("/v1/threads/{}", text(&run, "threadId"));
    assert_eq!(
        bench.call(&bench.admin, Method::DELETE, &path, None).await.status,
        204
    );
    assert!(matches!(sidecar.receive().await, ToSidecar::Cancel { .. }));
    assert!(matches!(sidecar.receive().await, ToSidecar::AppendRefused { .. }));
    bench.get(&path).await.refused(404, "not_found");
    bench
        .get(&format!("/v1/runs/{}", held.0))
        .await
        .refused(404, "not_found");
    sidecar.say(held, "too late");
    sidecar.send_unsent(held.0).await;
    assert!(matches!(sidecar.receive().await, ToSidecar::AppendRefused { .. }));
}
