//! Whether a sidecar counts as connected when the control stream of its node has ended.

use futures_util::{SinkExt as _, StreamExt as _};
use mesh::control_stream::{Channel, Initiator};
use tokio_tungstenite::MaybeTlsStream;
use tokio_tungstenite::tungstenite::Message;
use types::control::{CAPABILITY_VERSION, FromNode, Hello};
use types::{NodePrivateKey, SigningPrivateKey};

use super::*;

type ControlStream = tokio_tungstenite::WebSocketStream<MaybeTlsStream<tokio::net::TcpStream>>;

/// Opens the control stream of the bench's device and waits until it is online.
async fn control_stream(bench: &Bench) -> ControlStream {
    let url = format!("ws://{}/v1/runmesh/control", bench.server.http_addr);
    let (mut socket, _) = tokio_tungstenite::connect_async(url).await.expect("connects");
    let key = NodePrivateKey::from_random([1; 32]);
    let server = bench.app().keys.noise.public();
    let initiator = Initiator::new(&key, &server, [7; 32]);
    let first = initiator.message().to_vec();
    socket.send(Message::Binary(first.into())).await.expect("sends");
    let Some(Ok(Message::Binary(answer))) = socket.next().await else {
        panic!("no handshake");
    };
    let mut channel: Channel = initiator.finish(&answer).expect("opens");
    let hello = FromNode::Hello(Box::new(Hello {
        capability_version: CAPABILITY_VERSION,
        os: None,
        app_version: None,
        hostname: None,
        signing_key: SigningPrivateKey::from_random([9; 32]).public(),
        generation: None,
        endpoints: Vec::new(),
        home_relay: None,
    }));
    let json = serde_json::to_vec(&hello).expect("serializes");
    for sealed in channel.seal(&json).expect("seals") {
        socket.send(Message::Binary(sealed.into())).await.expect("sends");
    }
    let path = format!("/v1/runmesh/nodes/{}", bench.node);
    while bench.get(&path).await.ok()["status"] != "online" {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    socket
}

/// Waits for the ping of a session in doubt.
async fn doubted(sidecar: &mut Sidecar) -> u64 {
    match sidecar.receive().await {
        ToSidecar::Ping { number } => number,
        other => panic!("a ping was expected: {other:?}"),
    }
}

async fn is_suspended(bench: &Bench, run: &Value) -> bool {
    let path = format!("/v1/runs/{}", text(run, "runId"));
    bench.get(&path).await.ok()["suspended"] == true
}

#[tokio::test]
async fn a_sidecar_that_went_with_its_control_stream_is_away_within_seconds() {
    let bench = Bench::start().await;
    let stream = control_stream(&bench).await;
    let mut sidecar = Sidecar::connected(&bench).await;
    let taken = bench.run(json!({})).await;
    sidecar.accept().await;
    bench.until(&taken, "dispatched").await;

    // The process is gone, and the stream inside the mesh does not know.
    let since = std::time::Instant::now();
    drop(stream);
    doubted(&mut sidecar).await;
    assert_eq!(bench.run(json!({})).await["status"], "queued");
    let refused = json!({ "agent": "code-on-my-mac", "prompt": "now", "queueTtl": 0 });
    bench
        .post("/v1/run", refused)
        .await
        .refused(409, "device_offline");
    while !is_suspended(&bench, &taken).await {
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(since.elapsed() < 2 * doubt::ANSWER_TIMEOUT, "still not suspended");
    }
    assert!(
        sidecar.try_receive().await.is_none(),
        "nothing was offered, and the session is closed"
    );
}

#[tokio::test]
async fn a_sidecar_whose_control_stream_broke_alone_goes_on_where_it_was() {
    let bench = Bench::start().await;
    let stream = control_stream(&bench).await;
    let mut sidecar = Sidecar::connected(&bench).await;
    let taken = bench.run(json!({})).await;
    let held = sidecar.accept().await;
    drop(stream);
    let number = doubted(&mut sidecar).await;
    let waiting = bench.run(json!({})).await;
    assert_eq!(waiting["status"], "queued");

    // What may have been on its way already is stored, and proves nothing.
    sidecar.start(held);
    sidecar.flush(held.0).await;
    bench.until(&taken, "running").await;
    sidecar
        .send(&ToOrchestrator::Pong {
            number: number + 1000,
        })
        .await;
    sidecar.send(&PING).await;
    assert_eq!(sidecar.receive().await, ToSidecar::Pong);
    bench.until(&waiting, "queued").await;

    sidecar.send(&ToOrchestrator::Pong { number }).await;
    assert_eq!(
        sidecar.accept().await,
        (run_id(&waiting), Fence(1)),
        "it is offered at once, and once"
    );
    tokio::time::sleep(doubt::ANSWER_TIMEOUT).await;
    sidecar.end(held, "completed");
    sidecar.flush(held.0).await;
    let done = bench.until(&taken, "completed").await;
    assert_eq!((&done["attempt"], &done["suspended"]), (&json!(1), &json!(false)));
}

#[tokio::test]
async fn a_control_stream_that_a_newer_one_replaced_puts_nothing_in_doubt() {
    let bench = Bench::start().await;
    let mut older = control_stream(&bench).await;
    let mut sidecar = Sidecar::connected(&bench).await;
    let _newer = control_stream(&bench).await;
    while let Some(Ok(_)) = older.next().await {}
    let run = bench.run(json!({})).await;
    assert_eq!(run["status"], "dispatched");
    sidecar.accept().await;
}

#[tokio::test]
async fn a_sidecar_that_was_given_up_wrongly_comes_back_and_loses_and_doubles_nothing() {
    let (bench, mut sidecar, run, held) = Bench::running().await;
    let other = bench.run(json!({})).await;
    // An offer is out and not answered when the doubt comes.
    let (order, attempt, fence) = sidecar.next_offer().await;
    doubt::begin(&bench.app().orchestrator, bench.node);
    doubted(&mut sidecar).await;
    assert!(sidecar.try_receive().await.is_none(), "it answers too late");
    assert!(is_suspended(&bench, &run).await);
    sidecar.journal(&order, attempt, fence);

    sidecar.connect(&bench).await;
    for _ in 0..2 {
        sidecar.acknowledged().await;
    }
    sidecar.end(held, "completed");
    sidecar.flush(held.0).await;
    bench.until(&run, "completed").await;
    let kept = bench.until(&other, "dispatched").await;
    assert_eq!(kept["attempt"], 1);
}
