//! Fields that a route does not take, most of all those that only the server writes: each is ignored, none is kept.

mod support;

use reqwest::Method;
use serde_json::{Value, json};
use support::Fixture;
use types::NodePrivateKey;

/// What the forged fields hold, each in a form of its own; nothing that the server shows may have it.
const FORGED: [&str; 4] = ["f0f0f0f0", "2099-01-01", "987654", "forged"];

/// A body with fields beside it that belong to what it makes or changes, but not to whoever asks.
fn with_forged(mut body: Value) -> Value {
    let id = "f0f0f0f0-f0f0-4f0f-8f0f-f0f0f0f0f0f0";
    let forged = json!({
        "id": id, "orgId": id, "ownerUserId": id, "userId": id, "nodeId": id, "agentId": id,
        "status": "forged", "kind": "forged", "visibility": "forged", "junk": "forged", "prefix": "forged", "key": "forged",
        "meshIp4": "forged", "dnsName": "forged", "sequence": 987_654, "version": 987_654, "attempt": 987_654,
        "createdAt": "2099-01-01T00:00:00.000Z", "revokedAt": "2099-01-01T00:00:00.000Z",
        "expiresAt": "2099-01-01T00:00:00.000Z", "lastUsedAt": "2099-01-01T00:00:00.000Z",
    });
    let fields = body.as_object_mut().expect("an object");
    for (name, value) in forged.as_object().expect("an object") {
        fields.entry(name).or_insert_with(|| value.clone());
    }
    body
}

async fn ask(fixture: &Fixture, method: Method, path: &str, body: Value) -> Value {
    let forged = with_forged(body);
    let answer = fixture
        .call(Some(&fixture.admin), method, path, Some(forged))
        .await;
    assert!(answer.status.is_success(), "{path}: {}", answer.text);
    check(path, &answer.text);
    answer.body["data"].clone()
}

fn check(path: &str, text: &str) {
    for forged in FORGED {
        assert!(!text.contains(forged), "{path} shows {forged}: {text}");
    }
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).expect(pointer)
}

/// Links a device and changes it; returns its id.
async fn device(fixture: &Fixture) -> String {
    let key = NodePrivateKey::from_random([1; 32]).public();
    let start = "/v1/runmesh/devices/link/start";
    let started = ask(fixture, Method::POST, start, json!({ "publicKey": key })).await;
    let code = json!({ "code": text(&started, "/code") });
    let approved = ask(fixture, Method::POST, "/v1/runmesh/devices/link/approve", code).await;
    let id = text(&approved, "/node/id").to_owned();
    let node = format!("/v1/runmesh/nodes/{id}");
    ask(fixture, Method::PATCH, &node, json!({ "name": "laptop" })).await;
    id
}

/// Starts a run on it and writes into its thread; returns the thread's id.
async fn thread(fixture: &Fixture, device: &str) -> String {
    let agent = json!({ "slug": "a", "executionMode": "local-mac", "targetDeviceId": device });
    ask(fixture, Method::POST, "/v1/agents", agent).await;
    ask(fixture, Method::PATCH, "/v1/agents/a", json!({ "model": "m" })).await;
    let run = json!({ "agent": "a", "prompt": "hello", "config": { "junk": "forged" } });
    let run = ask(fixture, Method::POST, "/v1/run", run).await;
    let thread = format!("/v1/threads/{}", text(&run, "/threadId"));
    let event = with_forged(json!({ "type": "user_message", "payload": { "text": "more" } }));
    let events = format!("{thread}/events");
    ask(fixture, Method::POST, &events, json!({ "events": [event] })).await;
    ask(fixture, Method::PATCH, &thread, json!({ "title": "T" })).await;
    let cancel = format!("/v1/runs/{}/cancel", text(&run, "/runId"));
    ask(fixture, Method::POST, &cancel, json!({})).await;
    ask(fixture, Method::POST, &format!("{thread}/compact"), json!({})).await;
    thread
}

#[tokio::test]
async fn fields_that_a_route_does_not_take_are_kept_nowhere() {
    let fixture = Fixture::start().await;
    let device = device(&fixture).await;
    let thread = thread(&fixture, &device).await;
    let org = fixture.get("/v1/organizations/current").await;
    let members = format!("/v1/organizations/{}/members", text(org.data(200), "/id"));
    // The answers of these two show a new key.
    for (path, body) in [
        ("/v1/organizations", json!({ "name": "other" })),
        (&members, json!({ "name": "Mia", "role": "member" })),
    ] {
        ask(&fixture, Method::POST, path, body).await;
    }
    ask(&fixture, Method::POST, "/v1/api-keys", json!({ "name": "k" })).await;
    let auth_keys = "/v1/runmesh/auth-keys";
    ask(&fixture, Method::POST, auth_keys, json!({ "name": "k" })).await;
    let node = format!("/v1/runmesh/nodes/{device}");
    let (events, rollouts) = (
        format!("{thread}/events?include=all_rollouts"),
        format!("{thread}/rollouts"),
    );
    for path in [
        &node,
        "/v1/runmesh/nodes?all=true",
        "/v1/agents?all=true",
        "/v1/runs?all=true",
        "/v1/threads?all=true",
        &thread,
        &events,
        &rollouts,
        "/v1/api-keys?all=true",
        auth_keys,
        &members,
        "/v1/runmesh/audit",
        "/v1/activity?all=true",
    ] {
        let shown = fixture.get(path).await;
        shown.data(200);
        check(path, &shown.text);
    }
}
