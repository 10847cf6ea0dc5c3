//! No refusal without the contract's envelope, whoever makes it.

mod support;

use reqwest::Method;
use serde_json::json;
use support::{Fixture, answer};

#[tokio::test]
async fn paths_and_methods_that_do_not_exist_are_refused_in_the_envelope() {
    let fixture = Fixture::start().await;
    let refused = fixture.get("/v1/nothing").await;
    assert_eq!((refused.status.as_u16(), refused.code()), (404, "not_found"));
    let refused = fixture.call(None, Method::PUT, "/v1/me", None).await;
    assert_eq!(
        (refused.status.as_u16(), refused.code()),
        (405, "method_not_allowed")
    );
    let refused = fixture.get("/v1/runmesh/control").await;
    assert_eq!((refused.status.as_u16(), refused.code()), (400, "bad_request"));
    let refused = fixture.get("/v1/runmesh/nodes/%ff%fe").await;
    assert_eq!((refused.status.as_u16(), refused.code()), (404, "not_found"));
}

#[tokio::test]
async fn bodies_that_are_no_json_or_too_large_are_refused_in_the_envelope() {
    let fixture = Fixture::start().await;
    let post = |body: Vec<u8>| {
        let url = fixture.url("/v1/api-keys");
        fixture.http.post(url).bearer_auth(&fixture.admin).body(body)
    };
    for bad in ["", "{", "[]", "null", "{\"name\":\"a\"} x", "{\"name\":", "\u{0}"] {
        let refused = answer(post(bad.into())).await;
        assert_eq!(
            (refused.status.as_u16(), refused.code()),
            (400, "bad_request"),
            "{bad}"
        );
    }
    for len in [1024 * 1024 + 1, 3 * 1024 * 1024] {
        let big = json!({"name": "x", "pad": "y".repeat(len)}).to_string();
        let refused = answer(post(big.into_bytes())).await;
        assert_eq!(
            (refused.status.as_u16(), refused.code()),
            (413, "payload_too_large")
        );
    }
    let deep = "[".repeat(100_000);
    assert_eq!(answer(post(deep.into_bytes())).await.code(), "bad_request");
}

#[tokio::test]
async fn every_answer_names_its_request_and_is_not_kept() {
    let fixture = Fixture::start().await;
    let seen = fixture.get("/v1/me").await;
    assert_eq!(
        seen.headers["x-request-id"],
        seen.body["meta"]["requestId"].as_str().expect("id")
    );
    assert_eq!(seen.headers["cache-control"], "no-store");
    let refused = fixture.get("/v1/nothing").await;
    assert_eq!(
        refused.headers["x-request-id"],
        refused.body["error"]["requestId"].as_str().expect("id")
    );
}

#[tokio::test]
async fn json_at_its_edges_is_refused_in_the_envelope() {
    let fixture = Fixture::start().await;
    let bodies: [&[u8]; 11] = [
        b"{\"name\":\"a\",\"name\":\"b\"}",
        b"\xef\xbb\xbf{\"name\":\"a\"}",
        b"{\"name\":\"\xff\xfe\"}",
        b"{\"name\":\"\\ud800\"}",
        b"{\"name\":\"\\u0000\"}",
        b"{\"name\":\"a\\u001b[31m\"}",
        b"{\"name\":1e999}",
        b"{\"name\":99999999999999999999999999}",
        b"{\"name\":\"\"}",
        b"{\"name\":null}",
        b"{\"name\":\"a\",\"scopes\":[]}",
    ];
    for body in bodies {
        let post = fixture
            .http
            .post(fixture.url("/v1/api-keys"))
            .bearer_auth(&fixture.admin);
        let refused = answer(post.body(body.to_vec())).await;
        let shown = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
        assert_eq!(
            (refused.status.as_u16(), refused.code()),
            (400, "bad_request"),
            "{shown}"
        );
    }
}

#[tokio::test]
async fn a_body_that_nests_deeply_is_refused_where_it_would_be_kept() {
    let fixture = Fixture::start().await;
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    let post = |path: &str, body: String| {
        fixture
            .http
            .post(fixture.url(path))
            .bearer_auth(&fixture.admin)
            .body(body)
    };
    let start = format!("{{\"publicKey\":\"x\",\"clientMetadata\":{{\"a\":{deep}}}}}");
    let refused = answer(post("/v1/runmesh/devices/link/start", start)).await;
    assert_eq!((refused.status.as_u16(), refused.code()), (400, "bad_request"));
    let ignored = format!("{{\"name\":\"a\",\"unknown\":{deep}}}");
    answer(post("/v1/api-keys", ignored)).await.data(201);
}

#[tokio::test]
async fn a_body_of_another_type_is_refused_and_one_without_a_type_is_read() {
    let fixture = Fixture::start().await;
    let post = |kind: Option<&str>| {
        let post = fixture
            .http
            .post(fixture.url("/v1/api-keys"))
            .bearer_auth(&fixture.admin);
        let post = post.body("{\"name\":\"a\"}");
        answer(match kind {
            Some(kind) => post.header("content-type", kind),
            None => post,
        })
    };
    for kind in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "",
    ] {
        let refused = post(Some(kind)).await;
        assert_eq!(
            (refused.status.as_u16(), refused.code()),
            (415, "unsupported_media_type"),
            "{kind}"
        );
    }
    for kind in [
        "application/json",
        "Application/JSON; charset=utf-8",
        "application/merge-patch+json",
    ] {
        post(Some(kind)).await.data(201);
    }
    post(None).await.data(201);
}

#[tokio::test]
async fn a_chunked_body_is_measured_too() {
    let fixture = Fixture::start().await;
    let chunks = (0..32).map(|_| Ok::<_, std::io::Error>(vec![b' '; 64 * 1024]));
    let body = reqwest::Body::wrap_stream(futures_util::stream::iter(chunks));
    let post = fixture
        .http
        .post(fixture.url("/v1/api-keys"))
        .bearer_auth(&fixture.admin);
    let refused = answer(post.body(body)).await;
    assert_eq!(
        (refused.status.as_u16(), refused.code()),
        (413, "payload_too_large")
    );
}

#[tokio::test]
async fn parameters_at_their_edges_are_refused_or_cut() {
    let fixture = Fixture::start().await;
    let lists = [
        "/v1/api-keys",
        "/v1/runmesh/nodes",
        "/v1/runmesh/audit",
        "/v1/activity",
        "/v1/agents",
        "/v1/threads",
        "/v1/runs",
    ];
    // "9223372036854775808:x", "1:" and a NUL, no text at all.
    let cursors = ["OTIyMzM3MjAzNjg1NDc3NTgwODp4", "MToA", "_w", "%20", "a%00b"];
    for list in lists {
        for bad in [
            "limit=0",
            "limit=-1",
            "limit=abc",
            "limit=1.5",
            "limit=4294967296",
            "limit=",
        ] {
            let refused = fixture.get(&format!("{list}?{bad}")).await;
            assert_eq!(
                (refused.status.as_u16(), refused.code()),
                (400, "bad_request"),
                "{list}?{bad}"
            );
        }
        for cursor in cursors {
            let refused = fixture.get(&format!("{list}?cursor={cursor}")).await;
            assert_eq!(
                (refused.status.as_u16(), refused.code()),
                (400, "bad_request"),
                "{list} {cursor}"
            );
        }
        for fine in [
            "limit=101",
            "limit=100000",
            "unknown=1",
            "limit=1&unknown=%F0%9F%92%A5",
        ] {
            let page = fixture.get(&format!("{list}?{fine}")).await;
            assert_eq!(page.status.as_u16(), 200, "{list}?{fine}");
        }
    }
    for bad in ["q=a%00b", "owner=%00", "kind=toaster", "q=1&q=2"] {
        let refused = fixture.get(&format!("/v1/runmesh/nodes?{bad}")).await;
        assert_eq!(
            (refused.status.as_u16(), refused.code()),
            (400, "bad_request"),
            "{bad}"
        );
    }
}

#[tokio::test]
async fn paths_at_their_edges_are_not_there() {
    let fixture = Fixture::start().await;
    for path in [
        "/v1/me/",
        "//v1/me",
        "/v1/runmesh/nodes/",
        "/v1/runmesh/nodes/%2F",
        "/v1/runmesh/nodes/%2e%2e%2fapi-keys",
        "/v1/runmesh/nodes/a%00b",
        "/v1/agents/%2F",
        "/v1/agents/a%00b",
        "/v1/runmesh/devices/link/%00",
        "/V1/me",
    ] {
        let refused = fixture.get(path).await;
        assert_eq!(
            (refused.status.as_u16(), refused.code()),
            (404, "not_found"),
            "{path}"
        );
    }
    let head = fixture
        .call(Some(&fixture.admin), Method::HEAD, "/v1/me", None)
        .await;
    assert_eq!((head.status.as_u16(), head.text.as_str()), (200, ""));
    let options = fixture.call(None, Method::OPTIONS, "/v1/me", None).await;
    assert_eq!(
        (options.status.as_u16(), options.code()),
        (405, "method_not_allowed")
    );
    assert!(options.headers.contains_key("allow"), "{:?}", options.headers);
    assert!(!options.headers.contains_key("access-control-allow-origin"));
}
