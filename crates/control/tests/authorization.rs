//! Who may do what, route by route. A route that is not in the table below fails the first test.

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use control::Tuning;
use futures_util::StreamExt as _;
use reqwest::Method;
use serde_json::{Value, json};
use support::{Answer, Fixture};
use tokio_tungstenite::tungstenite::Message;
use types::NodePrivateKey;

/// Who can see the thing that a route's path names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Sees {
    /// The path names nothing: what is answered is the caller's own.
    NoThing,
    /// Everyone in the org, nobody outside.
    Org,
    /// Its owner and the org's admins, nobody else.
    Owner,
    /// Its owner alone.
    OwnerOnly,
    /// Whoever knows the code.
    Code,
}

use Sees::{Code, NoThing, Org, Owner};

/// Method, path, what the route demands, who sees what the path names.
const ROUTES: &[(&str, &str, &str, Sees)] = &[
    ("GET", "/", "open", NoThing),
    ("GET", "/healthz", "open", NoThing),
    ("GET", "/account", "open", NoThing),
    ("POST", "/account/identity", "open", NoThing),
    ("POST", "/account/keys", "open", NoThing),
    ("POST", "/account/sessions/{id}/end", "open", NoThing),
    ("GET", "/join", "open", NoThing),
    ("GET", "/link", "open", NoThing),
    ("POST", "/link", "open", NoThing),
    ("POST", "/link/sign-in", "open", NoThing),
    ("POST", "/link/sign-out", "open", NoThing),
    ("GET", "/link/style.css", "open", NoThing),
    ("GET", "/link/{code}", "open", Code),
    ("POST", "/link/{code}/approve", "open", Code),
    ("POST", "/link/{code}/deny", "open", Code),
    ("GET", "/llms.txt", "open", NoThing),
    ("GET", "/sign-in", "open", NoThing),
    ("GET", "/sign-in/callback", "open", NoThing),
    ("GET", "/v1/activity", "activity:read", NoThing),
    ("GET", "/v1/agents", "agent:read", NoThing),
    ("POST", "/v1/agents", "agent:write", NoThing),
    ("DELETE", "/v1/agents/{slug}", "agent:write", Owner),
    ("GET", "/v1/agents/{slug}", "agent:read", Owner),
    ("PATCH", "/v1/agents/{slug}", "agent:write", Owner),
    ("POST", "/v1/agents/{slug}/run", "agent:run", Owner),
    ("GET", "/v1/api-keys", "org:read", NoThing),
    ("POST", "/v1/api-keys", "org:write", NoThing),
    ("DELETE", "/v1/api-keys/{id}", "org:write", Owner),
    ("GET", "/v1/api-keys/{id}", "org:read", Owner),
    ("GET", "/v1/invitations", "org:members (admin)", NoThing),
    ("POST", "/v1/invitations", "org:members (admin)", NoThing),
    ("DELETE", "/v1/invitations/{id}", "org:members (admin)", Org),
    ("GET", "/v1/me", "signed in", NoThing),
    ("GET", "/v1/openapi.json", "open", NoThing),
    ("POST", "/v1/organizations", "org:write", NoThing),
    ("GET", "/v1/organizations/current", "org:read", NoThing),
    ("GET", "/v1/organizations/{id}/members", "org:read", Org),
    (
        "POST",
        "/v1/organizations/{id}/members",
        "org:members (admin)",
        Org,
    ),
    (
        "DELETE",
        "/v1/organizations/{id}/members/{userId}",
        "org:members (admin)",
        Org,
    ),
    ("POST", "/v1/run", "agent:run", NoThing),
    ("GET", "/v1/run/threads", "agent:read", NoThing),
    ("DELETE", "/v1/run/threads/{id}", "agent:write", Owner),
    ("GET", "/v1/run/threads/{id}", "agent:read", Owner),
    ("GET", "/v1/runmesh/audit", "runmesh:read", NoThing),
    ("GET", "/v1/runmesh/auth-keys", "runmesh:read", NoThing),
    ("POST", "/v1/runmesh/auth-keys", "runmesh:write", NoThing),
    ("DELETE", "/v1/runmesh/auth-keys/{id}", "runmesh:write", Owner),
    ("GET", "/v1/runmesh/control", "open", NoThing),
    ("POST", "/v1/runmesh/devices/join", "open", NoThing),
    (
        "POST",
        "/v1/runmesh/devices/link/approve",
        "runmesh:write",
        NoThing,
    ),
    ("POST", "/v1/runmesh/devices/link/deny", "runmesh:write", NoThing),
    ("POST", "/v1/runmesh/devices/link/poll", "open", NoThing),
    ("POST", "/v1/runmesh/devices/link/start", "open", NoThing),
    ("GET", "/v1/runmesh/devices/link/{code}", "runmesh:write", Code),
    ("GET", "/v1/runmesh/devices/{id}/activity", "activity:read", Owner),
    ("GET", "/v1/runmesh/nodes", "runmesh:read", NoThing),
    ("DELETE", "/v1/runmesh/nodes/{id}", "runmesh:write", Owner),
    ("GET", "/v1/runmesh/nodes/{id}", "runmesh:read", Owner),
    ("PATCH", "/v1/runmesh/nodes/{id}", "runmesh:write", Owner),
    ("GET", "/v1/runmesh/nodes/{id}/config", "runmesh:read", Owner),
    ("POST", "/v1/runmesh/nodes/{id}/revoke", "runmesh:write", Owner),
    ("GET", "/v1/runmesh/overview", "runmesh:read", NoThing),
    ("GET", "/v1/runmesh/policy", "runmesh:read (admin)", NoThing),
    ("PUT", "/v1/runmesh/policy", "runmesh:write (admin)", NoThing),
    (
        "POST",
        "/v1/runmesh/policy/explain",
        "runmesh:read (admin)",
        NoThing,
    ),
    ("POST", "/v1/runmesh/policy/test", "runmesh:read (admin)", NoThing),
    ("GET", "/v1/runmesh/relays", "runmesh:read", NoThing),
    ("GET", "/v1/runs", "agent:read", NoThing),
    ("GET", "/v1/runs/{id}", "agent:read", Owner),
    ("POST", "/v1/runs/{id}/cancel", "agent:run", Owner),
    ("GET", "/v1/sessions", "org:read", NoThing),
    ("DELETE", "/v1/sessions/{id}", "org:write", Owner),
    ("GET", "/v1/threads", "agent:read", NoThing),
    ("DELETE", "/v1/threads/{id}", "agent:write", Owner),
    ("GET", "/v1/threads/{id}", "agent:read", Owner),
    ("PATCH", "/v1/threads/{id}", "agent:write", Owner),
    ("GET", "/v1/threads/{id}/activity", "activity:read", Owner),
    ("POST", "/v1/threads/{id}/compact", "agent:write", Owner),
    ("GET", "/v1/threads/{id}/events", "agent:read", Owner),
    ("POST", "/v1/threads/{id}/events", "agent:write", Sees::OwnerOnly),
    ("GET", "/v1/threads/{id}/rollouts", "agent:read", Owner),
];

/// A body that every route can read, so that what is refused is the caller and not the body.
fn body() -> Value {
    json!({"name": "other", "role": "member", "title": "other", "scopes": ["org:write"], "prompt": "hello", "agent": "robot",
        "document": {"grants": []}, "src": "a", "dst": "b", "port": 22,
        "events": [{"type": "user_message", "payload": {"text": "hello"}}]})
}

async fn call(fixture: &Fixture, key: Option<&str>, method: &str, path: &str) -> Answer {
    let method: Method = method.parse().expect("a method");
    let with_body = method != Method::GET && method != Method::DELETE;
    fixture.call(key, method, path, with_body.then(body)).await
}

/// The path with something in its place that could exist.
fn filled(path: &str) -> String {
    let id = "00000000-0000-4000-8000-000000000000";
    path.replace("{id}", id)
        .replace("{slug}", "nobody")
        .replace("{userId}", id)
        .replace("{code}", "ABCDEF")
        + of_agent(path)
}

/// The agent-scoped paths name their agent.
fn of_agent(path: &str) -> &'static str {
    match path.starts_with("/v1/run/threads") {
        true => "?agent=robot",
        false => "",
    }
}

/// A server that people can be invited to; its provider is never asked.
async fn start() -> Fixture {
    let provider = support::provider::config("http://127.0.0.1:9");
    Fixture::start_with(Tuning::default(), |config| config.provider = Some(provider)).await
}

async fn key_with(fixture: &Fixture, scope: &str) -> String {
    let made = fixture
        .post("/v1/api-keys", json!({"name": "k", "scopes": [scope]}))
        .await;
    made.data(201)["key"].as_str().expect("the key").to_owned()
}

async fn member(fixture: &Fixture) -> String {
    let org = text(&fixture.get("/v1/organizations/current").await, "id");
    let path = format!("/v1/organizations/{org}/members");
    let made = fixture
        .post(&path, json!({"name": "Bob", "role": "member"}))
        .await;
    made.data(201)["apiKey"]["key"]
        .as_str()
        .expect("the key")
        .to_owned()
}

fn text(answer: &Answer, field: &str) -> String {
    assert!(answer.status.is_success(), "{}", answer.text);
    let value = answer.body["data"].pointer(&format!("/{}", field.replace('.', "/")));
    value.and_then(Value::as_str).expect("a text").to_owned()
}

#[test]
fn every_route_is_in_the_table_and_demands_what_it_says() {
    let real: BTreeSet<_> = control::route_table().into_iter().collect();
    let written: BTreeSet<_> = ROUTES
        .iter()
        .map(|(method, path, access, _)| (method.to_string(), path.to_string(), access.to_string()))
        .collect();
    let missing: Vec<_> = real.difference(&written).collect();
    let stale: Vec<_> = written.difference(&real).collect();
    assert!(missing.is_empty(), "not in the table: {missing:#?}");
    assert!(stale.is_empty(), "in the table only: {stale:#?}");
}

#[tokio::test]
async fn without_a_credential_nothing_but_the_open_routes_answers() {
    let fixture = start().await;
    for (method, path, access, _) in ROUTES.iter().filter(|(_, _, access, _)| *access != "open") {
        let place = format!("{method} {path} ({access})");
        let refused = call(&fixture, None, method, &filled(path)).await;
        assert_eq!(
            (refused.status.as_u16(), refused.code()),
            (401, "unauthorized"),
            "{place}"
        );
        let refused = call(&fixture, Some("rt_live_wrong"), method, &filled(path)).await;
        assert_eq!(
            (refused.status.as_u16(), refused.code()),
            (401, "invalid_token"),
            "{place}"
        );
        let refused = call(&fixture, Some("rts_wrong"), method, &filled(path)).await;
        assert_eq!(
            (refused.status.as_u16(), refused.code()),
            (401, "invalid_token"),
            "{place}"
        );
    }
}

#[tokio::test]
async fn a_credential_without_the_scope_is_refused() {
    let fixture = start().await;
    let weak = key_with(&fixture, "sandbox:read").await;
    let member = member(&fixture).await;
    for (method, path, access, _) in ROUTES.iter().filter(|row| row.2.contains(':')) {
        let place = format!("{method} {path} ({access})");
        let refused = call(&fixture, Some(&weak), method, &filled(path)).await;
        assert_eq!(
            (refused.status.as_u16(), refused.code()),
            (403, "forbidden"),
            "{place}"
        );
        if access.ends_with("(admin)") {
            let refused = call(&fixture, Some(&member), method, &filled(path)).await;
            assert_eq!(
                (refused.status.as_u16(), refused.code()),
                (403, "forbidden"),
                "{place}"
            );
        }
    }
}

#[tokio::test]
async fn exactly_the_scope_is_enough() {
    let fixture = start().await;
    for (method, path, access, _) in ROUTES.iter().filter(|row| row.2.contains(':')) {
        let scope = access.split(' ').next().expect("a scope");
        let key = key_with(&fixture, scope).await;
        let answer = call(&fixture, Some(&key), method, &filled(path)).await;
        let status = answer.status.as_u16();
        assert!(
            ![401, 403, 405].contains(&status),
            "{method} {path} ({access}): {}",
            answer.text
        );
    }
}

/// The admin's things, by which part of a path stands for them.
struct Things {
    org: String,
    invitation: String,
    auth_key: String,
    session: String,
    key: String,
    node: String,
    run: String,
    thread: String,
}

impl Things {
    async fn make(fixture: &Fixture) -> Self {
        let public = NodePrivateKey::from_random([1; 32]).public();
        let start = json!({"publicKey": public});
        let started = fixture
            .call(None, Method::POST, "/v1/runmesh/devices/link/start", Some(start))
            .await;
        let code = json!({"code": text(&started, "code")});
        let node = text(
            &fixture.post("/v1/runmesh/devices/link/approve", code).await,
            "node.id",
        );
        let agent = json!({"slug": "robot", "name": "Robot", "executionMode": "local-mac",
            "targetDeviceId": node, "runner": {"type": "command", "name": "true"}});
        text(&fixture.post("/v1/agents", agent).await, "id");
        let run = fixture
            .post("/v1/run", json!({"agent": "robot", "prompt": "hello"}))
            .await;
        let key = fixture.post("/v1/api-keys", json!({"name": "mine"})).await;
        let invited = fixture.post("/v1/invitations", json!({"role": "member"})).await;
        let auth_key = fixture
            .post("/v1/runmesh/auth-keys", json!({"name": "mine"}))
            .await;
        fixture.session(&fixture.admin).await;
        let sessions = fixture.get("/v1/sessions").await;
        Self {
            org: text(&fixture.get("/v1/organizations/current").await, "id"),
            invitation: text(&invited, "id"),
            auth_key: text(&auth_key, "id"),
            session: text(&sessions, "0.id"),
            key: text(&key, "id"),
            node,
            run: text(&run, "runId"),
            thread: text(&run, "threadId"),
        }
    }

    fn fill(&self, path: &str) -> String {
        let id = match path {
            _ if path.starts_with("/v1/runmesh/auth-keys/") => &self.auth_key,
            _ if path.starts_with("/v1/runmesh/") => &self.node,
            _ if path.starts_with("/v1/api-keys/") => &self.key,
            _ if path.starts_with("/v1/organizations/") => &self.org,
            _ if path.starts_with("/v1/invitations/") => &self.invitation,
            _ if path.starts_with("/v1/sessions/") => &self.session,
            _ if path.starts_with("/v1/runs/") => &self.run,
            _ => &self.thread,
        };
        path.replace("{id}", id)
            .replace("{slug}", "robot")
            .replace("{userId}", id)
            + of_agent(path)
    }
}

/// The same thing twice: deleting routes come last.
fn routes_to_things() -> Vec<&'static (&'static str, &'static str, &'static str, Sees)> {
    let named = |row: &&(&str, &str, &str, Sees)| !matches!(row.3, NoThing | Code);
    ROUTES.iter().filter(named).collect()
}

#[tokio::test]
async fn the_things_of_another_org_are_not_there() {
    let fixture = start().await;
    let things = Things::make(&fixture).await;
    let made = fixture.post("/v1/organizations", json!({"name": "other"})).await;
    let outsider = text(&made, "apiKey.key");
    for (method, path, access, _) in routes_to_things() {
        let refused = call(&fixture, Some(&outsider), method, &things.fill(path)).await;
        let place = format!("{method} {path} ({access}): {}", refused.text);
        assert_eq!(
            (refused.status.as_u16(), refused.code()),
            (404, "not_found"),
            "{place}"
        );
    }
}

#[tokio::test]
async fn the_things_of_another_member_are_not_there_but_for_an_admin() {
    let fixture = start().await;
    let things = Things::make(&fixture).await;
    let member = member(&fixture).await;
    for (method, path, access, sees) in routes_to_things() {
        if *sees == Org {
            continue;
        }
        let refused = call(&fixture, Some(&member), method, &things.fill(path)).await;
        let place = format!("{method} {path} ({access}): {}", refused.text);
        assert_eq!(
            (refused.status.as_u16(), refused.code()),
            (404, "not_found"),
            "{place}"
        );
    }
    for (method, path, access, sees) in routes_to_things() {
        // What changes or ends the thing would hide it from the routes after it.
        if *sees == Owner && *method == "GET" {
            let seen = call(&fixture, Some(&fixture.admin), method, &things.fill(path)).await;
            assert!(
                seen.status.is_success(),
                "{method} {path} ({access}): {}",
                seen.text
            );
        }
    }
}

#[tokio::test]
async fn only_an_admin_looks_across_the_org() {
    let fixture = start().await;
    let member = member(&fixture).await;
    for path in [
        "/v1/runmesh/nodes",
        "/v1/activity",
        "/v1/api-keys",
        "/v1/agents",
        "/v1/threads",
    ] {
        let all = format!("{path}?all=true");
        fixture.get(&all).await.data(200);
        let refused = call(&fixture, Some(&member), "GET", &all).await;
        assert_eq!(
            (refused.status.as_u16(), refused.code()),
            (403, "forbidden"),
            "{path}"
        );
        call(&fixture, Some(&member), "GET", path).await.data(200);
    }
}

#[tokio::test]
async fn the_key_header_and_the_bearer_header_are_the_same() {
    let fixture = start().await;
    let request = fixture
        .http
        .get(fixture.url("/v1/me"))
        .header("X-API-Key", &fixture.admin);
    support::answer(request).await.data(200);
    // A credential in the query is for WebSockets only: it would stand in logs.
    let path = format!("/v1/me?api_key={}", fixture.admin);
    assert_eq!(call(&fixture, None, "GET", &path).await.status.as_u16(), 401);
}

#[tokio::test]
async fn a_member_reads_of_the_audit_log_what_concerns_them() {
    let fixture = start().await;
    let bob = member(&fixture).await;
    fixture
        .post("/v1/api-keys", json!({"name": "the admin's"}))
        .await
        .data(201);
    let body = Some(json!({"name": "bob's"}));
    fixture
        .call(Some(&bob), Method::POST, "/v1/api-keys", body)
        .await
        .data(201);
    for form in ["", "?format=jsonl"] {
        let path = format!("/v1/runmesh/audit{form}");
        let own = fixture.call(Some(&bob), Method::GET, &path, None).await;
        assert!(
            own.text.contains("bob's") && own.text.contains("member.created"),
            "{}",
            own.text
        );
        assert!(!own.text.contains("the admin's") && !own.text.contains("organization.created"));
        let all = fixture.get(&path).await;
        assert!(all.text.contains("bob's") && all.text.contains("the admin's"));
    }
}

#[tokio::test]
async fn a_live_stream_ends_with_the_credential_that_opened_it() {
    let fixture = start().await;
    let things = Things::make(&fixture).await;
    let path = things.fill("/v1/threads/{id}/events");
    for way in ["revoked", "expired"] {
        let body = json!({"name": "k", "expiresIn": "30d", "scopes": ["agent:read"]});
        let made = fixture.post("/v1/api-keys", body).await.data(201).clone();
        let key = made["key"].as_str().expect("a key");
        let url = fixture
            .url(&format!("{path}?api_key={key}"))
            .replace("http", "ws");
        let (mut socket, _) = tokio_tungstenite::connect_async(url).await.expect("open");
        let request = fixture.http.get(fixture.url(&path)).bearer_auth(key);
        let mut lines = request
            .header("accept", "text/event-stream")
            .send()
            .await
            .expect("open");
        assert!(lines.chunk().await.expect("a frame").is_some());
        if way == "expired" {
            fixture.clock.advance(Duration::from_secs(31 * 24 * 3600));
        }
        // Any revocation makes the server look, and this one is of another key when the first has expired.
        let id = made["id"].as_str().expect("an id");
        let other = fixture
            .post("/v1/api-keys", json!({"name": "other"}))
            .await
            .data(201)
            .clone();
        let id = if way == "expired" {
            other["id"].as_str().expect("an id")
        } else {
            id
        };
        let path = format!("/v1/api-keys/{id}");
        fixture
            .call(Some(&fixture.admin), Method::DELETE, &path, None)
            .await
            .data(200);
        let ended = tokio::time::timeout(Duration::from_secs(5), async {
            while let Ok(Some(_)) = lines.chunk().await {}
            loop {
                match socket.next().await {
                    Some(Ok(Message::Close(frame))) => break frame,
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => break None,
                }
            }
        });
        let frame = ended.await.expect("both end").expect("a reason");
        assert_eq!(u16::from(frame.code), 4401, "{way}");
    }
}
