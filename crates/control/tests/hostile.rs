//! What no well-behaved client sends, written byte by byte: everything is answered in the contract's envelope, soon.

mod support;

use std::time::Duration;

use control::Tuning;
use serde_json::Value;
use support::Fixture;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// How long an answer may take on a busy machine.
const SOON: Duration = Duration::from_secs(20);

/// What came back over a connection of its own.
struct Raw {
    status: u16,
    head: String,
    body: String,
    /// Whether the server took every byte.
    all_sent: bool,
}

impl Raw {
    /// The code in the envelope; checks that the envelope is whole and names the request of the header.
    fn code(&self) -> String {
        let body: Value = serde_json::from_str(&self.body).unwrap_or_default();
        let error = &body["error"];
        assert!(error["message"].is_string(), "{}\n{}", self.head, self.body);
        let id = error["requestId"].as_str().expect("a request id");
        assert!(self.head.contains(id), "{}", self.head);
        error["code"].as_str().expect("a code").to_owned()
    }
}

/// Sends bytes and reads until the server closes the connection.
async fn send(fixture: &Fixture, bytes: &[u8]) -> Raw {
    let mut socket = TcpStream::connect(fixture.server.http_addr).await.expect("taken");
    let (mut reading, mut writing) = socket.split();
    let mut answer = Vec::new();
    let exchange = async {
        // Whoever refuses early may close before all is sent; the answer must come all the same.
        let (sent, read) = tokio::join!(writing.write_all(bytes), reading.read_to_end(&mut answer));
        (sent.is_ok(), read)
    };
    let exchanged = tokio::time::timeout(SOON, exchange).await;
    let (all_sent, read) = exchanged.expect("an answer in time");
    read.expect("no reset");
    let text = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    Raw {
        status: status.unwrap_or_else(|| panic!("no answer: {text:?}")),
        head: head.to_owned(),
        body: body.to_owned(),
        all_sent,
    }
}

/// One request without a body; the server closes after it.
async fn ask(fixture: &Fixture, line: &str, headers: &str) -> Raw {
    let request = format!(
        "{line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-api-key: {}\r\n{headers}\r\n",
        fixture.admin
    );
    send(fixture, request.as_bytes()).await
}

/// One POST of a body; the server closes after it.
async fn post(fixture: &Fixture, path: &str, body: &[u8]) -> Raw {
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-api-key: {}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n",
        fixture.admin,
        body.len()
    );
    send(fixture, &[head.as_bytes(), body].concat()).await
}

#[tokio::test]
async fn what_is_no_http_is_refused_in_the_envelope() {
    let fixture = Fixture::start().await;
    let long_header = format!("GET /v1/me HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(128 * 1024));
    let many_headers = format!("GET /v1/me HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(5000));
    let long_path = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(128 * 1024));
    let malformed: [&[u8]; 14] = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"hello\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /v1/me\r\n\r\n",
        b"GET /v1/me HTTP/9.9\r\n\r\n",
        b"GET  /v1/me  HTTP/1.1\r\n\r\n",
        b"G\x00T /v1/me HTTP/1.1\r\n\r\n",
        b"GET /v1/me HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET /v1/me HTTP/1.1\r\nbad name: x\r\n\r\n",
        b"GET /v1/me HTTP/1.1\r\nx: a\x00b\r\n\r\n",
        b"POST /v1/api-keys HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        b"POST /v1/api-keys HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n{",
        b"POST /v1/api-keys HTTP/1.1\r\ntransfer-encoding: gzip\r\n\r\n",
        b"GET /v1/\xff\xfe\x01 HTTP/1.1\r\n\r\n",
    ];
    let long = [long_header, many_headers, long_path];
    for bytes in malformed.into_iter().chain(long.iter().map(String::as_bytes)) {
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned();
        let refused = send(&fixture, bytes).await;
        assert_eq!(
            (refused.status, refused.code().as_str()),
            (400, "bad_request"),
            "{shown:?}"
        );
    }
}

#[tokio::test]
async fn odd_targets_and_methods_are_refused_in_the_envelope() {
    let fixture = Fixture::start().await;
    for target in [
        "/v1/me/",
        "//v1/me",
        "/v1//me",
        "/v1/./me",
        "/v1/x/../me",
        "/../../etc/passwd",
        "/v1/%2e%2e/%2e%2e/etc/passwd",
        "/v1/agents/%2e%2e%2fapi-keys",
        "/v1/agents/a%2Fb",
        "/v1/agents/%ff%fe",
        "/v1/agents/%",
        "/v1/agents/%zz",
        "/v1/agents/%00",
        "/v1/runmesh/nodes/%C0%AE",
        "*",
        "http://",
        "x://y/z",
    ] {
        let refused = ask(&fixture, &format!("GET {target}"), "").await;
        assert!(matches!(refused.status, 400 | 404), "{target}: {}", refused.head);
        refused.code();
    }
    let long = format!("GET /v1/agents/{}", "a".repeat(60_000));
    assert_eq!(ask(&fixture, &long, "").await.code(), "not_found");
    for method in [
        "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND", "get", "X",
    ] {
        let refused = ask(&fixture, &format!("{method} /v1/me"), "").await;
        assert_eq!(
            (refused.status, refused.code().as_str()),
            (405, "method_not_allowed"),
            "{method}"
        );
        assert!(refused.head.contains("allow: GET,HEAD"), "{}", refused.head);
        assert!(!refused.head.contains("access-control"), "{}", refused.head);
    }
    let refused = ask(&fixture, "CONNECT example.com:443", "").await;
    assert!(matches!(refused.status, 400 | 404 | 405), "{}", refused.head);
    refused.code();
    let origin = "origin: https://evil.example\r\naccess-control-request-method: GET\r\n";
    for line in ["GET /v1/me", "OPTIONS /v1/me"] {
        let answer = ask(&fixture, line, origin).await;
        assert!(!answer.head.contains("access-control"), "{}", answer.head);
    }
    let head = ask(&fixture, "HEAD /v1/me", "").await;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
}

#[tokio::test]
async fn odd_queries_are_refused_or_ignored() {
    let fixture = Fixture::start().await;
    let many = (0..5000).map(|n| format!("&p{n}=1")).collect::<String>();
    let long = format!("q={}", "a".repeat(60_000));
    for (query, status) in [
        ("q=%ff%fe", 200),
        ("q=%", 200),
        ("q=%zz", 200),
        ("q=a%00b", 400),
        ("q=1&q=2", 400),
        ("limit=1&limit=2", 400),
        ("limit=9223372036854775808", 400),
        ("limit=1e3", 400),
        ("all=1", 400),
        ("all", 400),
        ("&&&", 200),
        ("=", 200),
        ("cursor=999999999999999999.x", 200),
        ("cursor=-1", 400),
        ("unknown=1&unknown=2", 200),
        (many.as_str(), 200),
        (long.as_str(), 400),
    ] {
        let answer = ask(&fixture, &format!("GET /v1/runmesh/nodes?{query}"), "").await;
        let shown = &query[..query.len().min(40)];
        assert_eq!(answer.status, status, "{shown}: {}", answer.body);
        if status == 400 {
            assert_eq!(answer.code(), "bad_request", "{shown}");
        }
    }
}

#[tokio::test]
async fn credentials_that_disagree_are_never_mixed() {
    let fixture = Fixture::start().await;
    let both = |bearer: &str, key: &str| {
        format!(
            "GET /v1/me HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: {bearer}\r\nx-api-key: {key}\r\n\r\n"
        )
    };
    let good = fixture.admin.clone();
    let long = "a".repeat(50_000);
    // The first header counts when it is there, whatever it says.
    for (bearer, key, status) in [
        (format!("Bearer {good}"), good.clone(), 200),
        (format!("Bearer {good}"), "rt_live_wrong".to_owned(), 200),
        ("Bearer rt_live_wrong".to_owned(), good.clone(), 401),
        (format!("Basic {good}"), good.clone(), 401),
        ("Bearer".to_owned(), good.clone(), 401),
        (String::new(), good.clone(), 401),
        (format!("Bearer {long}"), String::new(), 401),
        ("Bearer ".to_owned(), String::new(), 401),
    ] {
        let answer = send(&fixture, both(&bearer, &key).as_bytes()).await;
        let shown = &bearer[..bearer.len().min(40)];
        assert_eq!(answer.status, status, "{shown} {key}");
        if status == 401 {
            assert_eq!(answer.code(), "invalid_token");
            assert!(
                answer.head.contains("www-authenticate: Bearer"),
                "{}",
                answer.head
            );
        }
    }
    // In the query a credential is taken of nothing but a WebSocket, where there is one.
    let key = "sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n";
    let whole = format!("connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n{key}");
    let events = format!("GET /v1/threads/thr_{}/events", "0".repeat(32));
    for (target, headers, code) in [
        ("GET /v1/me", "", "unauthorized"),
        ("GET /v1/me", key, "unauthorized"),
        ("GET /v1/me", &whole, "unauthorized"),
        ("POST /v1/agents", &whole, "unauthorized"),
        (&events, "", "unauthorized"),
        (&events, key, "unauthorized"),
        (&events, &whole, "not_found"),
    ] {
        let request = format!("{target}?api_key={good} HTTP/1.1\r\nhost: x\r\n{headers}\r\n");
        let answer = send_until_answered(&fixture, request.as_bytes()).await;
        assert!(
            answer.contains(&format!("\"{code}\"")),
            "{target} {headers}: {answer}"
        );
    }
}

#[tokio::test]
async fn hostile_json_is_refused_in_the_envelope() {
    let fixture = Fixture::start().await;
    let nested = |open: &str, close: &str| format!("{}1{}", open.repeat(10_000), close.repeat(10_000));
    let arrays = nested("[", "]");
    let objects = nested("{\"a\":", "}");
    let in_field =
        format!("{{\"slug\":\"a\",\"executionMode\":\"managed\",\"providerOptions\":{{\"a\":{arrays}}}}}");
    let bodies = [
        arrays,
        objects,
        in_field,
        "{\"slug\":\"a\",\"slug\":\"b\",\"executionMode\":\"managed\"}".to_owned(),
        "{\"slug\":\"a\",\"executionMode\":\"managed\",\"name\":\"a\",\"name\":\"b\"}".to_owned(),
        "{\"slug\":\"a\",\"executionMode\":\"managed\",\"description\":\"\\u0000\"}".to_owned(),
        "{\"slug\":\"a\",\"executionMode\":\"managed\",\"systemPrompt\":\"\\u0000\"}".to_owned(),
        "{\"slug\":\"a\",\"executionMode\":\"managed\",\"description\":\"\\ud800\"}".to_owned(),
        "{\"slug\":\"a\",\"executionMode\":\"managed\",\"temperature\":1e999}".to_owned(),
        "{\"slug\":\"a\",\"executionMode\":\"managed\",\"temperature\":-0.1}".to_owned(),
        "{\"slug\":\"a\",\"executionMode\":\"managed\",\"topK\":9223372036854775808}".to_owned(),
        "{\"slug\":\"a\",\"executionMode\":\"managed\",\"maxTokens\":1.5}".to_owned(),
        "{\"slug\":\"a\",\"executionMode\":\"managed\",\"maxTokens\":NaN}".to_owned(),
        "{\"slug\":\"a\",\"executionMode\":\"managed\",\"sandbox\":\"text\"}".to_owned(),
        "{\"slug\":\"a\",\"executionMode\":\"managed\",\"env\":null}".to_owned(),
        "{\"slug\":\"a\",\"executionMode\":\"managed\",\"resources\":[[\"repo\",\"r\"]]}".to_owned(),
        "[\"a\"]".to_owned(),
        "{\"slug\":\"../x\",\"executionMode\":\"managed\"}".to_owned(),
        "[]".to_owned(),
        "\"text\"".to_owned(),
        "null".to_owned(),
        String::new(),
    ];
    for body in bodies {
        let refused = post(&fixture, "/v1/agents", body.as_bytes()).await;
        let shown = &body[..body.len().min(80)];
        assert_eq!(
            (refused.status, refused.code().as_str()),
            (400, "bad_request"),
            "{shown}"
        );
    }
    let bytes = post(
        &fixture,
        "/v1/agents",
        b"{\"slug\":\"a\xff\",\"executionMode\":\"managed\"}",
    )
    .await;
    assert_eq!((bytes.status, bytes.code().as_str()), (400, "bad_request"));
    let huge =
        "{\"slug\":\"a\",\"executionMode\":\"managed\",\"providerOptions\":{\"n\":9223372036854775808}}";
    assert_eq!(post(&fixture, "/v1/agents", huge.as_bytes()).await.status, 200);
}

#[tokio::test]
async fn a_refusal_reaches_a_client_that_is_still_sending() {
    let fixture = Fixture::start().await;
    let check = |refused: Raw, status: u16, code: &str| {
        assert_eq!((refused.status, refused.code().as_str()), (status, code));
        // Many clients give up on a write that fails, and never read the answer.
        assert!(refused.all_sent, "{code}");
    };
    let big = vec![b' '; 64 * 1024 * 1024];
    check(
        post(&fixture, "/v1/api-keys", &big).await,
        413,
        "payload_too_large",
    );
    check(post(&fixture, "/v1/nothing", &big).await, 404, "not_found");
    check(post(&fixture, "/v1/me", &big).await, 405, "method_not_allowed");
    let head = format!(
        "POST /v1/api-keys HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        big.len()
    );
    check(
        send(&fixture, &[head.as_bytes(), &big].concat()).await,
        401,
        "unauthorized",
    );
}

#[tokio::test]
async fn a_body_that_dawdles_or_breaks_off_is_refused_and_others_are_served() {
    let tuning = Tuning {
        body_timeout: Some(Duration::from_millis(300)),
        ..Tuning::default()
    };
    let fixture = Fixture::start_with(tuning, |_| {}).await;
    let head = |more: &str| {
        format!(
            "POST /v1/api-keys HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-api-key: {}\r\n{more}\r\n\r\n{{",
            fixture.admin
        )
    };
    for more in ["content-length: 100", "transfer-encoding: chunked"] {
        let mut socket = TcpStream::connect(fixture.server.http_addr).await.expect("taken");
        socket.write_all(head(more).as_bytes()).await.expect("sent");
        let mut answer = vec![0; 4096];
        let len = tokio::time::timeout(SOON, socket.read(&mut answer)).await;
        let len = len.expect("an answer in time").expect("read");
        let text = String::from_utf8_lossy(&answer[..len]).into_owned();
        assert!(text.starts_with("HTTP/1.1 400 "), "{text}");
    }
    let alive = fixture.get("/v1/me").await;
    assert_eq!(alive.status.as_u16(), 200);
}

#[tokio::test]
async fn a_websocket_that_is_none_is_refused_in_the_envelope() {
    let fixture = Fixture::start().await;
    let upgrade = "connection: upgrade\r\nupgrade: websocket\r\n";
    for headers in [
        String::new(),
        "upgrade: websocket\r\n".to_owned(),
        format!("{upgrade}sec-websocket-version: 13\r\n"),
        format!("{upgrade}sec-websocket-version: 12\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"),
    ] {
        let refused = ask(&fixture, "GET /v1/runmesh/control", &headers).await;
        assert!(matches!(refused.status, 400 | 426), "{headers}: {}", refused.head);
        assert_eq!(refused.code(), "bad_request", "{headers}");
    }
    let missing = format!("/v1/threads/thr_{}/events", "0".repeat(32));
    let whole =
        format!("{upgrade}sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n");
    let refused = ask(&fixture, &format!("GET {missing}"), &whole).await;
    assert_eq!((refused.status, refused.code().as_str()), (404, "not_found"));
    let both = format!(
        "GET {missing}?api_key={0}&token={0} HTTP/1.1\r\nhost: x\r\n{whole}\r\n",
        fixture.admin
    );
    let refused = send_until_answered(&fixture, both.as_bytes()).await;
    assert!(refused.starts_with("HTTP/1.1 401 "), "{refused}");
}

/// Sends bytes and reads what comes first, on a connection that stays open.
async fn send_until_answered(fixture: &Fixture, bytes: &[u8]) -> String {
    let mut socket = TcpStream::connect(fixture.server.http_addr).await.expect("taken");
    socket.write_all(bytes).await.expect("sent");
    let mut answer = vec![0; 4096];
    let len = tokio::time::timeout(SOON, socket.read(&mut answer)).await;
    let len = len.expect("an answer in time").expect("read");
    String::from_utf8_lossy(&answer[..len]).into_owned()
}

#[tokio::test]
async fn requests_behind_each_other_on_one_connection_are_all_answered() {
    let fixture = Fixture::start().await;
    // The rest of the refused body is not taken for the next request.
    let body = "GET /v1/nothing HTTP/1.1\r\n\r\n".repeat(1000);
    let refused = format!(
        "POST /v1/nothing HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let last = "GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let answers = send(&fixture, format!("{refused}{last}").as_bytes()).await;
    assert_eq!(answers.status, 404);
    assert_eq!(answers.body.matches("HTTP/1.1 ").count(), 1, "{}", answers.body);
    assert!(answers.body.contains("HTTP/1.1 200 OK"), "{}", answers.body);
    assert!(answers.body.ends_with("ok\n"), "{}", answers.body);
}
