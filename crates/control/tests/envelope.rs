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
