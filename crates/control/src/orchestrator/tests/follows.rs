//! Watching a thread by event stream and by WebSocket: nothing lost, nothing twice, whoever is slow is told.

use api::events::EventsQuery;
use futures_util::StreamExt as _;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use types::{LiveType, ThreadId};

use super::*;
use crate::app::access;
use crate::app::events::{Follower, Next};
use crate::live::Notice;

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

/// Opens an event stream; `after` in the query is 1 and loses against `Last-Event-ID`.
async fn follow(bench: &Bench, thread: &str, key: &str, last: Option<&str>) -> reqwest::Response {
    let after = last.map_or("", |_| "?after=1");
    let path = format!("/v1/threads/{thread}/events{after}");
    let mut request = bench.http.get(bench.url(&path)).bearer_auth(key);
    request = request.header("accept", "text/event-stream");
    if let Some(last) = last {
        request = request.header("last-event-id", last);
    }
    request.send().await.expect("an answer")
}

fn sequences(frames: &[Value]) -> Vec<u64> {
    frames
        .iter()
        .filter_map(|frame| frame["sequence"].as_u64())
        .collect()
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
    let (bench, mut sidecar) = Bench::connected().await;
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
        sidecar.send(&PING).await;
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
    let reading = async {
        let answer = follow(&bench, &thread, &bench.admin, Some("4")).await;
        read_stream(answer, |frame| frame["sequence"] == 20).await
    };
    let (frames, ()) = tokio::join!(reading, append(&bench, &thread, 9, 10));
    assert_eq!(frames[0]["type"], "snapshot");
    assert_eq!(sequences(&frames), (5..=20).collect::<Vec<u64>>());
}

#[tokio::test]
async fn a_websocket_resumes_by_a_last_event_id_too() {
    use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
    let bench = Bench::start().await;
    let run = bench.run(json!({})).await;
    let thread = text(&run, "threadId").to_owned();
    append(&bench, &thread, 0, 3).await;
    let key = &bench.admin;
    let path = format!("/v1/threads/{thread}/events?api_key={key}");
    let url = bench.url(&path).replacen("http", "ws", 1);
    let mut request = url.into_client_request().expect("a request");
    let two = "2".parse().expect("a header");
    request.headers_mut().insert("last-event-id", two);
    let opened = tokio_tungstenite::connect_async(request).await;
    let (mut socket, _) = opened.expect("upgraded");
    assert_eq!(frame(&mut socket).await.expect("a frame")["type"], "snapshot");
    for sequence in [3, 4] {
        let event = frame(&mut socket).await.expect("an event");
        assert_eq!(event["sequence"], sequence, "{event}");
    }
}

#[tokio::test]
async fn an_event_stream_without_after_resumes_from_its_snapshot() {
    let bench = Bench::start().await;
    let run = bench.run(json!({})).await;
    let thread = text(&run, "threadId").to_owned();
    let mut answer = follow(&bench, &thread, &bench.admin, None).await;
    let first = answer.chunk().await.expect("reads").expect("a snapshot");
    let first = String::from_utf8(first.to_vec()).expect("UTF-8");
    assert!(
        first.starts_with("data: ") && first.contains("\"snapshot\""),
        "{first}"
    );
    let id = first.lines().find_map(|line| line.strip_prefix("id: "));
    assert_eq!(id, Some("1"), "{first}");
    drop(answer);
    append(&bench, &thread, 0, 3).await;
    let answer = follow(&bench, &thread, &bench.admin, id).await;
    let frames = read_stream(answer, |frame| frame["sequence"] == 4).await;
    assert_eq!(sequences(&frames), [2, 3, 4]);
    for bad in ["x", "-1", "1.5"] {
        let refused = follow(&bench, &thread, &bench.admin, Some(bad)).await;
        assert_eq!(refused.status().as_u16(), 400, "{bad}");
    }
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
}

#[tokio::test]
async fn whoever_watches_sees_that_a_thread_is_renamed_put_away_and_deleted() {
    let bench = Bench::start().await;
    let run = bench.run(json!({})).await;
    let thread = text(&run, "threadId").to_owned();
    let path = format!("/v1/threads/{thread}");
    let query = format!("api_key={}&after=1", bench.admin);
    let mut socket = socket(&bench, &thread, &query).await;
    frame(&mut socket).await.expect("a snapshot");
    let answer = follow(&bench, &thread, &bench.admin, Some("1")).await;
    let change = json!({ "title": "Repo", "archived": true });
    bench
        .call(&bench.admin, Method::PATCH, &path, Some(change))
        .await
        .ok();
    let mut frames = Vec::new();
    for _ in 0..2 {
        frames.push(frame(&mut socket).await.expect("an event"));
    }
    assert_eq!(types_of(&frames), ["thread_renamed", "thread_archived"]);
    assert_eq!(frames[0]["payload"], json!({ "title": "Repo" }));
    assert_eq!(frames[1]["payload"], json!({ "archived": true }));

    bench.call(&bench.admin, Method::DELETE, &path, None).await;
    let last = loop {
        match frame(&mut socket).await {
            Ok(frame) => frames.push(frame),
            Err(code) => break code,
        }
    };
    assert_eq!(last, Some(CloseCode::from(4410)));
    let last = frames.last().expect("frames");
    assert_eq!(last["type"], "thread_deleted");
    assert_eq!(
        (&last["threadId"], &last["runId"]),
        (&json!(thread), &Value::Null)
    );
    // The queued run was cancelled on the way: event 4 went with the thread.
    assert_eq!(last["sequence"], 5);
    let streamed = read_stream(answer, |_| false).await;
    assert_eq!(streamed.last().expect("frames"), last);
    let gone = follow(&bench, &thread, &bench.admin, Some("5")).await;
    assert_eq!(gone.status().as_u16(), 404, "an event stream does not come back");
}

#[tokio::test]
async fn whoever_waits_for_a_run_is_told_when_its_thread_is_deleted() {
    let bench = Bench::start().await;
    let body = json!({ "agent": "code-on-my-mac", "prompt": "x", "stream": true });
    let request = bench
        .http
        .post(bench.url("/v1/run"))
        .bearer_auth(&bench.admin)
        .json(&body);
    let streaming = request.send().await.expect("an answer");
    let run = bench.get("/v1/runs").await.body["data"][0].clone();
    let path = format!("/v1/threads/{}", text(&run, "threadId"));
    let body = json!({ "agent": "code-on-my-mac", "prompt": "y", "wait": 60, "threadId": run["threadId"] });
    let deleting = async {
        let mut listed = 0;
        while listed < 2 {
            let runs = bench.get("/v1/runs").await.body;
            listed = runs["data"].as_array().map_or(0, Vec::len);
        }
        bench.call(&bench.admin, Method::DELETE, &path, None).await
    };
    let (waited, deleted) = tokio::join!(bench.post("/v1/run", body), deleting);
    assert_eq!(deleted.status, 204);
    waited.refused(404, "not_found");
    let frames = read_stream(streaming, |_| false).await;
    assert_eq!(types_of(&frames).last(), Some(&"thread_deleted"), "{frames:?}");
}

#[tokio::test]
async fn a_stop_of_the_server_says_so_and_nothing_is_lost_over_it() {
    let bench = Bench::start().await;
    let run = bench.run(json!({})).await;
    let thread = text(&run, "threadId").to_owned();
    let query = format!("api_key={}&after=0", bench.admin);
    let mut socket = socket(&bench, &thread, &query).await;
    for _ in 0..2 {
        frame(&mut socket).await.expect("snapshot and event");
    }
    let answer = follow(&bench, &thread, &bench.admin, Some("0")).await;
    let (bench, code, frames) = tokio::join!(
        bench.restart(),
        frame(&mut socket),
        // An end that is not clean is an error of the client's, and would end this test.
        read_stream(answer, |_| false),
    );
    assert_eq!(code, Err(Some(CloseCode::Away)), "1001");
    assert_eq!(sequences(&frames), [1]);
    append(&bench, &thread, 0, 2).await;
    let answer = follow(&bench, &thread, &bench.admin, Some("1")).await;
    let frames = read_stream(answer, |frame| frame["sequence"] == 3).await;
    assert_eq!(sequences(&frames), [2, 3]);
}

#[tokio::test]
async fn an_admin_who_is_not_the_owner_watches_what_happens_and_not_what_is_said() {
    let (bench, mut sidecar, run, held) = Bench::running().await;
    let thread = text(&run, "threadId").to_owned();
    let other = bench.member("admin").await;
    let mut socket = socket(&bench, &thread, &format!("api_key={other}&after=0")).await;
    let snapshot = frame(&mut socket).await.expect("a snapshot");
    for hidden in ["messages", "toolCalls"] {
        assert_eq!(snapshot.get(hidden), None, "{snapshot}");
    }
    assert_eq!(
        (&snapshot["lastSequence"], &snapshot["activity"]),
        (&json!(2), &json!("running"))
    );
    let delta = ToOrchestrator::Live {
        run_id: held.0,
        fence: held.1,
        live_type: LiveType::AssistantMessageDelta,
        payload: json!({ "text": "sec" }),
    };
    sidecar.send(&delta).await;
    sidecar.say(held, "secret");
    sidecar.end(held, "completed");
    sidecar.flush(held.0).await;
    let mut frames = Vec::new();
    while types_of(&frames).last() != Some(&"run_completed") {
        frames.push(frame(&mut socket).await.expect("an event"));
    }
    assert_eq!(
        types_of(&frames),
        [
            "user_message",
            "run_started",
            "assistant_message",
            "run_completed"
        ]
    );
    assert!(
        frames.iter().all(|frame| frame["payload"] == json!({})),
        "{frames:?}"
    );
    let member = bench.member("member").await;
    let refused = follow(&bench, &thread, &member, None).await;
    assert_eq!(refused.status().as_u16(), 404);
}

#[tokio::test]
async fn an_idle_connection_is_pinged_every_twenty_seconds() {
    let by_default = Bench::start().await;
    let every = by_default.app().config.ping_every;
    assert_eq!(every, Duration::from_secs(20));
    drop(by_default);
    let bench = Bench::tuned(Tuning {
        ping_every: Some(Duration::from_millis(20)),
        ..Tuning::default()
    })
    .await;
    let run = bench.run(json!({})).await;
    let thread = text(&run, "threadId").to_owned();
    let mut socket = socket(&bench, &thread, &format!("api_key={}", bench.admin)).await;
    let mut pings = 0;
    while pings < 3 {
        let message = tokio::time::timeout(PATIENCE, socket.next())
            .await
            .expect("in time");
        if matches!(message, Some(Ok(Message::Ping(_)))) {
            pings += 1;
        }
    }
    let mut answer = follow(&bench, &thread, &bench.admin, None).await;
    let mut said = String::new();
    while said.matches("\n:").count() < 3 {
        let chunk = tokio::time::timeout(PATIENCE, answer.chunk())
            .await
            .expect("in time");
        said.push_str(std::str::from_utf8(&chunk.expect("reads").expect("goes on")).expect("UTF-8"));
    }
}

#[tokio::test]
async fn a_delta_never_comes_after_the_event_it_was_a_part_of() {
    let bench = Bench::start().await;
    let run = bench.run(json!({})).await;
    let thread: ThreadId = text(&run, "threadId").parse().expect("a thread id");
    let app = bench.app();
    let caller = access::authenticate(app, Some(&bench.admin), [127, 0, 0, 1].into())
        .await
        .expect("the admin");
    let query = EventsQuery::default();
    let mut follower = Follower::of_thread(app, &caller, thread, &query)
        .await
        .expect("follows");
    assert!(matches!(follower.next().await, Ok(Next::Snapshot(_, 1))));
    let delta = |text: &str| {
        let event = types::LiveEvent {
            run_id: run_id(&run),
            live_type: LiveType::AssistantMessageDelta,
            payload: json!({ "text": text }),
        };
        app.watchers.publish(thread, Notice::Live(Arc::new(event)));
    };
    // All of it is there before the follower reads anything.
    append(&bench, text(&run, "threadId"), 0, 1).await;
    delta("of the third");
    append(&bench, text(&run, "threadId"), 1, 1).await;
    delta("of the fourth");
    let mut order = Vec::new();
    for _ in 0..4 {
        order.push(match follower.next().await.expect("goes on") {
            Next::Event(event) => event.sequence.to_string(),
            Next::Live(live) => text(&live.payload, "text").to_owned(),
            other => panic!("{other:?}"),
        });
    }
    assert_eq!(order, ["2", "of the third", "3", "of the fourth"]);
}

#[tokio::test]
async fn the_snapshot_of_a_connection_shows_the_rollouts_that_are_asked_for() {
    let bench = Bench::start().await;
    let run = bench.run(json!({})).await;
    let path = format!("/v1/runs/{}/cancel", text(&run, "runId"));
    bench.post(&path, json!({})).await.ok();
    let thread = text(&run, "threadId").to_owned();
    let path = format!("/v1/threads/{thread}/compact");
    bench.post(&path, json!({})).await.ok();
    for (query, messages) in [("", 0), ("&include=all_rollouts", 1)] {
        let query = format!("api_key={}{query}", bench.admin);
        let mut socket = socket(&bench, &thread, &query).await;
        let snapshot = frame(&mut socket).await.expect("a snapshot");
        let shown = snapshot["messages"].as_array().map(Vec::len);
        assert_eq!(shown, Some(messages), "{query}");
        assert_eq!(snapshot["lastSequence"], 4);
    }
}

#[tokio::test]
async fn a_slow_reader_is_closed_and_resumes_without_loss() {
    let (bench, mut sidecar, run, held) = Bench::running().await;
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
            let notice = Notice::Live(Arc::new(delta));
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
