//! The queue of a device that has few places: runs are taken in the order of the queue, and offered once.

use super::*;

impl Sidecar {
    /// Ends a run and says so.
    async fn finish(&mut self, held: Held) {
        self.start(held);
        self.end(held, "completed");
        self.flush(held.0).await;
    }

    /// Asserts that nothing is on its way to it.
    async fn hears_nothing(&mut self) {
        self.send(&PING).await;
        assert_eq!(self.receive().await, ToSidecar::Pong);
    }
}

async fn attempt(bench: &Bench, run: &Value) -> Value {
    let path = format!("/v1/runs/{}", text(run, "runId"));
    bench.get(&path).await.ok()["attempt"].clone()
}

#[tokio::test]
async fn a_device_with_two_places_is_offered_two_runs_and_the_next_when_one_ends() {
    let bench = Bench::start().await;
    let mut runs = Vec::new();
    for _ in 0..10 {
        runs.push(bench.run(json!({})).await);
    }
    let mut sidecar = Sidecar::new(bench.node);
    sidecar.places = Some(2);
    sidecar.connect(&bench).await;
    let mut under_way = vec![sidecar.accept().await, sidecar.accept().await];
    let mut taken: Vec<RunId> = under_way.iter().map(|held| held.0).collect();
    sidecar.hears_nothing().await;
    while taken.len() < runs.len() {
        sidecar.finish(under_way.remove(0)).await;
        let next = sidecar.accept().await;
        taken.push(next.0);
        under_way.push(next);
    }
    let expected: Vec<RunId> = runs.iter().map(run_id).collect();
    assert_eq!(taken, expected);
    for run in &runs {
        assert_eq!(attempt(&bench, run).await, 1);
    }
}

#[tokio::test]
async fn a_device_whose_owner_allows_more_is_offered_more() {
    let bench = Bench::start().await;
    let mut sidecar = Sidecar::new(bench.node);
    sidecar.places = Some(1);
    sidecar.connect(&bench).await;
    let (first, second) = (bench.run(json!({})).await, bench.run(json!({})).await);
    assert_eq!(sidecar.accept().await.0, run_id(&first));
    sidecar.hears_nothing().await;
    bench.until(&second, "queued").await;
    sidecar.send(&ToOrchestrator::Ping { places: Some(2) }).await;
    assert_eq!(sidecar.receive().await, ToSidecar::Pong);
    assert_eq!(sidecar.accept().await.0, run_id(&second));
}

#[tokio::test]
async fn what_a_device_refuses_as_busy_keeps_its_place_in_the_queue() {
    let (bench, mut sidecar) = Bench::connected().await;
    let mut runs = Vec::new();
    for _ in 0..4 {
        runs.push(bench.run(json!({})).await);
    }
    // It does not say how many it takes, and takes one.
    let first = sidecar.accept().await;
    for _ in 1..runs.len() {
        let (order, _, fence) = sidecar.next_offer().await;
        sidecar
            .refuse((order.run_id, fence), OfferRefusal::Busy, "busy")
            .await;
    }
    bench.until(&runs[3], "queued").await;
    let late = bench.run(json!({})).await;
    assert_eq!(
        late["status"], "queued",
        "it does not pass those that were refused"
    );
    // The wait is over: the head alone is offered, and its refusal makes all of them wait on.
    bench.clock.advance(Duration::from_secs(3));
    bench.round().await;
    let (order, _, fence) = sidecar.next_offer().await;
    assert_eq!(order.run_id, run_id(&runs[1]));
    sidecar
        .refuse((order.run_id, fence), OfferRefusal::Busy, "busy")
        .await;
    bench.until(&runs[1], "queued").await;
    bench.clock.advance(Duration::from_secs(3));
    for _ in 0..3 {
        bench.round().await;
        sidecar.hears_nothing().await;
    }
    // A place is free: they come in their order, and one that ends makes room for one.
    let mut held = first;
    for run in [&runs[1], &runs[2], &runs[3], &late] {
        sidecar.finish(held).await;
        held = sidecar.accept().await;
        assert_eq!(held.0, run_id(run));
        if held.0 != run_id(&late) {
            bench.until(run, "dispatched").await;
        }
        while let Ok(Some(ToSidecar::Offer { run_id, fence, .. })) =
            tokio::time::timeout(Duration::from_millis(100), sidecar.try_receive()).await
        {
            sidecar.refuse((run_id, fence), OfferRefusal::Busy, "busy").await;
        }
    }
    for (run, most) in [(&runs[1], 3), (&runs[2], 3), (&runs[3], 3), (&late, 3)] {
        let attempt = attempt(&bench, run).await.as_u64().expect("a number");
        assert!(attempt <= most, "{attempt} offers of one run");
    }
}
