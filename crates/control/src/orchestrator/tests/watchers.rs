//! Watchers who stall, who name no event of the thread, who bring two credentials.

use futures_util::StreamExt as _;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{Error, Message};
use types::LiveType;

use super::*;
use crate::live::Notice;

async fn events_url(bench: &Bench, query: &str) -> String {
    let run = bench.run(json!({})).await;
    let thread = text(&run, "threadId");
    format!(
        "ws://{}/v1/threads/{thread}/events?{query}",
        bench.server.http_addr
    )
}

/// The status with which a WebSocket is refused.
async fn refused(request: tokio_tungstenite::tungstenite::handshake::client::Request) -> u16 {
    match tokio_tungstenite::connect_async(request).await {
        Err(Error::Http(answer)) => answer.status().as_u16(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_reader_that_stalls_and_reads_on_gets_what_was_sent_and_is_told() {
    let bench = Bench::tuned(Tuning {
        frame_timeout: Some(Duration::from_millis(300)),
        ..Tuning::default()
    })
    .await;
    let run = bench.run(json!({})).await;
    let thread = text(&run, "threadId").to_owned();
    let url = format!(
        "ws://{}/v1/threads/{thread}/events?after=0&api_key={}",
        bench.server.http_addr, bench.admin
    );
    let (mut stalled, _) = tokio_tungstenite::connect_async(url).await.expect("upgraded");
    assert!(
        matches!(stalled.next().await, Some(Ok(Message::Text(_)))),
        "a snapshot"
    );
    // More than the sockets hold, fewer notices than a watcher may fall behind by.
    for _ in 0..200 {
        let delta = types::LiveEvent {
            run_id: run_id(&run),
            live_type: LiveType::ToolOutputDelta,
            payload: json!({ "text": "x".repeat(256 * 1024) }),
        };
        let id = thread.parse().expect("a thread id");
        bench.app().watchers.publish(id, Notice::Live(Arc::new(delta)));
    }
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let reading = async {
        loop {
            match stalled.next().await {
                Some(Ok(Message::Close(close))) => return close.map(|close| u16::from(close.code)),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return None,
            }
        }
    };
    let code = tokio::time::timeout(PATIENCE, reading).await.expect("in time");
    assert_eq!(code, Some(4408));
}

#[tokio::test]
async fn nobody_follows_from_an_event_that_was_never_given_out() {
    let bench = Bench::start().await;
    let run = bench.run(json!({})).await;
    let path = format!("/v1/threads/{}/events", text(&run, "threadId"));
    bench.get(&format!("{path}?after=1")).await.ok();
    for after in ["2", "1000000", "9223372036854775807"] {
        let beyond = format!("{path}?after={after}");
        bench.get(&beyond).await.refused(400, "bad_request");
        let stream = |path: &str| {
            let request = bench.http.get(bench.url(path)).bearer_auth(&bench.admin);
            request.header("accept", "text/event-stream")
        };
        Answer::of(stream(&beyond)).await.refused(400, "bad_request");
        let resumed = stream(&path).header("last-event-id", after);
        Answer::of(resumed).await.refused(400, "bad_request");
        let url = format!("ws://{}{beyond}&api_key={}", bench.server.http_addr, bench.admin);
        assert_eq!(refused(url.into_client_request().expect("a request")).await, 400);
    }
}

#[tokio::test]
async fn a_socket_takes_exactly_one_credential() {
    let bench = Bench::start().await;
    let key = bench.admin.clone();
    for (query, header, value) in [
        (String::new(), None, String::new()),
        (format!("api_key={key}&token={key}"), None, String::new()),
        ("api_key=rt_live_x".to_owned(), None, String::new()),
        (
            format!("api_key={key}"),
            Some("authorization"),
            format!("Bearer {key}"),
        ),
        (
            "api_key=rt_live_x".to_owned(),
            Some("authorization"),
            format!("Bearer {key}"),
        ),
        (format!("token={key}"), Some("x-api-key"), key.clone()),
    ] {
        let url = events_url(&bench, &query).await;
        let mut request = url.into_client_request().expect("a request");
        if let Some(header) = header {
            let value = value.parse().expect("a value");
            request.headers_mut().insert(header, value);
        }
        assert_eq!(refused(request).await, 401, "{query} {header:?}");
    }
}
