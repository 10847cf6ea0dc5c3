//! Watching a thread by event stream and by WebSocket: nothing lost, nothing twice, whoever is slow is told.

use futures_util::StreamExt as _;
use runs::protocol::ToOrchestrator;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use types::LiveType;

use super::*;

type Socket = tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<tokio::net::TcpStream>>;

async fn socket(bench: &Bench, thread: &str, query: &str) -> Socket {
    let url = format!(
        "ws://{}/v1/threads/{thread}/events?{query}",
        bench.server.http_addr
    );
    let (socket, _) = tokio_tungstenite::connect_async(url).await.expect("upgraded");
    socket
}

/// The next frame that is JSON; `Err` with the close code at the end.
async fn frame(socket: &mut Socket) -> Result<Value, Option<CloseCode>> {
    loop {
        let message = tokio::time::timeout(PATIENCE, socket.next())
            .await
            .expect("in time");
        match message {
            Some(Ok(Message::Text(text))) => return Ok(serde_json::from_str(&text).expect("JSON")),
            Some(Ok(Message::Close(close))) => return Err(close.map(|close| close.code)),
            Some(Ok(_)) => {}
            Some(Err(_)) | None => return Err(None),
        }
    }
}

async fn append(bench: &Bench, thread: &str, from: usize, count: usize) {
    let events: Vec<Value> = (from..from + count)
        .map(|n| json!({ "type": "user_message", "payload": { "text": n.to_string() } }))
        .collect();
    let path = format!("/v1/threads/{thread}/events");
    bench.post(&path, json!({ "events": events })).await.ok();
}

/// Reads an event stream of frames until `enough` says so.
async fn read_stream(mut answer: reqwest::Response, mut enough: impl FnMut(&Value) -> bool) -> Vec<Value> {
    let (mut text, mut frames) = (String::new(), Vec::new());
    while let Some(chunk) = tokio::time::timeout(PATIENCE, answer.chunk())
        .await
        .expect("in time")
        .expect("reads")
    {
        text.push_str(std::str::from_utf8(&chunk).expect("UTF-8"));
        while let Some((frame, rest)) = text.split_once("\n\n") {
            let data = frame.lines().find_map(|line| line.strip_prefix("data: "));
            if let Some(data) = data {
                let value: Value = serde_json::from_str(data).expect("JSON");
                let done = enough(&value);
                frames.push(value);
                if done {
                    return frames;
                }
            }
            text = rest.to_owned();
        }
    }
    frames
}

#[tokio::test]
async fn a_run_can_be_streamed_from_its_request_to_its_end() {
    let bench = Bench::start().await;
    let mut sidecar = Sidecar::connected(&bench).await;
    let body = json!({ "agent": "code-on-my-mac", "prompt": "x", "stream": true });
    let request = bench
        .http
        .post(bench.url("/v1/run"))
        .bearer_auth(&bench.admin)
        .json(&body);
    let answer = request.send().await.expect("an answer");
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    let held = sidecar.accept().await;
    assert_eq!(answer.headers()["x-run-id"], held.0.to_string().as_str());
    assert!(
        answer.headers()["x-thread-id"]
            .to_str()
            .expect("text")
            .starts_with("thr_")
    );
    sidecar.start(held);
    sidecar.say(held, "hello");
    sidecar.flush(held.0).await;
    let delta = ToOrchestrator::Live {
        run_id: held.0,
        fence: held.1,
        live_type: LiveType::AssistantMessageDelta,
        payload: json!({ "text": "hel" }),
    };
    let (seen, shown) = tokio::sync::oneshot::channel();
    let mut seen = Some(seen);
    let reading = read_stream(answer, move |frame| {
        if frame["type"] == "assistant_message_delta" {
            seen.take().map(|seen| seen.send(()));
        }
        false
    });
    let working = async {
        sidecar.send(&delta).await;
        sidecar.send(&ToOrchestrator::Ping).await;
        sidecar.receive().await;
        // Whoever reads only after the end sees the end without what was shown on the way.
        shown.await.expect("the delta is shown");
        sidecar.end(held, "completed");
        sidecar.flush(held.0).await;
    };
    let (frames, ()) = tokio::join!(reading, working);
    let kinds = types_of(&frames);
    let durable: Vec<&str> = kinds
        .iter()
        .copied()
        .filter(|kind| !kind.ends_with("delta"))
        .collect();
    assert_eq!(
        durable,
        [
            "user_message",
            "run_started",
            "assistant_message",
            "run_completed"
        ]
    );
    assert!(kinds.contains(&"assistant_message_delta"));
    assert!(
        bench
            .events(&frames[0])
            .await
            .iter()
            .all(|e| e["type"] != "assistant_message_delta")
    );
}

#[tokio::test]
async fn a_watcher_that_comes_back_again_and_again_misses_nothing() {
    let bench = Bench::start().await;
    let run = bench.run(json!({})).await;
    let thread = text(&run, "threadId").to_owned();
    let key = bench.admin.clone();
    let writing = async {
        for batch in 0..40 {
            append(&bench, &thread, batch * 5, 5).await;
        }
    };
    let reading = async {
        let (mut after, mut seen, mut turn) = (0, Vec::new(), 0_u64);
        while after < 201 {
            turn += 1;
            let mut socket = socket(&bench, &thread, &format!("api_key={key}&after={after}")).await;
            let snapshot = frame(&mut socket).await.expect("a snapshot");
            assert_eq!(
                (&snapshot["type"], &snapshot["protocol_version"]),
                (&json!("snapshot"), &json!(1))
            );
            // Leaves after a few frames, in the middle of whatever comes.
            for _ in 0..3 + turn % 7 {
                if after == 201 {
                    break;
                }
                let event = frame(&mut socket).await.expect("an event");
                after = event["sequence"].as_u64().expect("a number");
                seen.push(after);
            }
        }
        seen
    };
    let ((), seen) = tokio::join!(writing, reading);
    assert_eq!(seen, (1..=201).collect::<Vec<u64>>());
}

#[tokio::test]
async fn an_event_stream_resumes_by_its_last_event_id() {
    let bench = Bench::start().await;
    let run = bench.run(json!({})).await;
    let thread = text(&run, "threadId").to_owned();
    append(&bench, &thread, 0, 9).await;
    let follow = async |last: &str| {
        let path = format!("/v1/threads/{thread}/events?after=1");
        let request = bench.http.get(bench.url(&path)).bearer_auth(&bench.admin);
        let request = request
            .header("accept", "text/event-stream")
            .header("last-event-id", last);
        let answer = request.send().await.expect("an answer");
        read_stream(answer, |frame| frame["sequence"] == 20).await
    };
    let writing = async {
        append(&bench, &thread, 9, 10).await;
    };
    let (frames, ()) = tokio::join!(follow("4"), writing);
    assert_eq!(frames[0]["type"], "snapshot");
    let sequences: Vec<u64> = frames[1..]
        .iter()
        .filter_map(|f| f["sequence"].as_u64())
        .collect();
    assert_eq!(sequences, (5..=20).collect::<Vec<u64>>());
}

#[tokio::test]
async fn a_watcher_without_after_sees_only_what_is_new() {
    let bench = Bench::start().await;
    let run = bench.run(json!({})).await;
    let thread = text(&run, "threadId").to_owned();
    let mut socket = socket(&bench, &thread, &format!("token={}", bench.admin)).await;
    let snapshot = frame(&mut socket).await.expect("a snapshot");
    assert_eq!(snapshot["lastSequence"], 1);
    assert_eq!(snapshot["messages"][0]["text"], "Inspect this local repo");
    append(&bench, &thread, 0, 1).await;
    assert_eq!(frame(&mut socket).await.expect("an event")["sequence"], 2);
    let path = format!("/v1/threads/{thread}");
    bench.call(&bench.admin, Method::DELETE, &path, None).await;
    assert_eq!(frame(&mut socket).await, Err(Some(CloseCode::from(4410))));
}

#[tokio::test]
async fn a_slow_reader_is_closed_and_resumes_without_loss() {
    let bench = Bench::start().await;
    let mut sidecar = Sidecar::connected(&bench).await;
    let run = bench.run(json!({})).await;
    let held = sidecar.accept().await;
    sidecar.start(held);
    sidecar.flush(held.0).await;
    let thread = text(&run, "threadId").to_owned();
    let thread_id = thread.parse().expect("a thread id");
    let query = format!("api_key={}&after=0", bench.admin);
    let mut slow = socket(&bench, &thread, &query).await;
    let mut quick = socket(&bench, &thread, &query).await;
    // Far more than the sockets' buffers and the watcher's own can hold.
    let flood = async {
        for n in 0..600 {
            let delta = types::LiveEvent {
                run_id: held.0,
                live_type: LiveType::ToolOutputDelta,
                payload: json!({ "n": n, "text": "x".repeat(32 * 1024) }),
            };
            // Past the limit of one session, as many sessions together might.
            let notice = crate::live::Notice::Live(Arc::new(delta));
            bench.app().watchers.publish(thread_id, notice);
            tokio::task::yield_now().await;
        }
        sidecar.say(held, "after the flood");
        sidecar.flush(held.0).await;
    };
    let watching = async {
        loop {
            match frame(&mut quick).await {
                Ok(frame) if frame["type"] == "assistant_message" => return true,
                Ok(_) => {}
                // Even the quick one may be too slow on a busy machine; then it is told so.
                Err(code) => return code == Some(CloseCode::from(4408)),
            }
        }
    };
    let ((), quick_was_served) = tokio::join!(flood, watching);
    assert!(quick_was_served);
    let mut last = 0;
    let code = loop {
        match frame(&mut slow).await {
            Ok(frame) => last = frame["sequence"].as_u64().unwrap_or(last),
            Err(code) => break code,
        }
    };
    assert_eq!(code, Some(CloseCode::from(4408)));
    let mut resumed = socket(&bench, &thread, &format!("api_key={}&after={last}", bench.admin)).await;
    frame(&mut resumed).await.expect("a snapshot");
    assert_eq!(frame(&mut resumed).await.expect("an event")["sequence"], last + 1);
}

#[tokio::test]
async fn a_socket_takes_exactly_one_credential() {
    let bench = Bench::start().await;
    let run = bench.run(json!({})).await;
    let thread = text(&run, "threadId");
    let key = &bench.admin;
    for query in [
        String::new(),
        format!("api_key={key}&token={key}"),
        "api_key=rt_live_x".to_owned(),
    ] {
        let url = format!(
            "ws://{}/v1/threads/{thread}/events?{query}",
            bench.server.http_addr
        );
        let refused = tokio_tungstenite::connect_async(url).await;
        match refused {
            Err(tokio_tungstenite::tungstenite::Error::Http(answer)) => {
                assert_eq!(answer.status().as_u16(), 401, "{query}");
            }
            other => panic!("{query}: {other:?}"),
        }
    }
}
