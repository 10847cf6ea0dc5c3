//! Session tokens: good wherever API keys are, for as long as the session, its key and its person are.

mod support;

use std::time::Duration;

use futures_util::StreamExt as _;
use reqwest::Method;
use serde_json::{Value, json};
use support::browser::Browser;
use support::{Answer, Fixture, answer};
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::{Error, Message};
use types::NodePrivateKey;

/// Makes a member and returns their key.
async fn member(fixture: &Fixture, name: &str, role: &str) -> String {
    let org = fixture.get("/v1/organizations/current").await.data(200)["id"].clone();
    let path = format!("/v1/organizations/{}/members", org.as_str().expect("an id"));
    let made = fixture.post(&path, json!({"name": name, "role": role})).await;
    made.data(201)["apiKey"]["key"]
        .as_str()
        .expect("a key")
        .to_owned()
}

/// Makes a key of the admin's with one scope.
async fn key(fixture: &Fixture, body: Value) -> (String, String) {
    let made = fixture.post("/v1/api-keys", body).await;
    let text = |name: &str| made.data(201)[name].as_str().expect("a text").to_owned();
    (text("key"), text("id"))
}

/// A thread of the admin's, as the path of its events.
async fn thread(fixture: &Fixture) -> String {
    let key = NodePrivateKey::from_random([1; 32]).public();
    let start = Some(json!({"publicKey": key}));
    let started = fixture
        .call(None, Method::POST, "/v1/runmesh/devices/link/start", start)
        .await;
    let code = json!({"code": started.data(201)["code"]});
    let approved = fixture.post("/v1/runmesh/devices/link/approve", code).await;
    let agent = json!({"slug": "robot", "executionMode": "local-mac",
        "targetDeviceId": approved.data(200)["node"]["id"], "runner": {"type": "command", "name": "true"}});
    fixture.post("/v1/agents", agent).await.data(200);
    let run = fixture
        .post("/v1/run", json!({"agent": "robot", "prompt": "hello"}))
        .await;
    let id = run.body["data"]["threadId"]
        .as_str()
        .expect("a thread")
        .to_owned();
    format!("/v1/threads/{id}/events")
}

async fn by_header(fixture: &Fixture, token: &str, path: &str) -> Answer {
    answer(fixture.http.get(fixture.url(path)).header("X-API-Key", token)).await
}

async fn by_bearer(fixture: &Fixture, token: &str, path: &str) -> Answer {
    fixture.call(Some(token), Method::GET, path, None).await
}

fn socket(fixture: &Fixture, path: &str) -> String {
    fixture.url(path).replacen("http", "ws", 1)
}

/// The status with which a WebSocket is refused; `None` when it opens.
async fn refused(url: &str) -> Option<u16> {
    match connect_async(url).await {
        Ok(_) => None,
        Err(Error::Http(answer)) => Some(answer.status().as_u16()),
        Err(other) => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_session_token_is_a_credential_in_every_place_of_one() {
    let fixture = Fixture::start().await;
    let events = thread(&fixture).await;
    let token = fixture.session(&fixture.admin).await;
    let own = fixture.get("/v1/me").await;
    for said in [
        by_bearer(&fixture, &token, "/v1/me").await,
        by_header(&fixture, &token, "/v1/me").await,
    ] {
        assert_eq!(said.data(200), own.data(200));
    }
    let made = fixture
        .call(
            Some(&token),
            Method::POST,
            "/v1/api-keys",
            Some(json!({"name": "k"})),
        )
        .await;
    made.data(201);
    let audit = fixture.get("/v1/runmesh/audit?limit=1").await;
    assert_eq!(
        audit.data(200)[0]["actorType"],
        "user",
        "it was the person, not the key"
    );
    for parameter in ["token", "api_key"] {
        let url = socket(&fixture, &format!("{events}?{parameter}={token}"));
        let (mut open, _) = connect_async(url).await.expect("open");
        let first = open.next().await.expect("a frame").expect("a frame");
        let first: Value = serde_json::from_str(first.to_text().expect("text")).expect("JSON");
        assert_eq!(first["type"], "snapshot");
    }
    // Exactly one of both, and none outside of WebSockets.
    let both = socket(&fixture, &format!("{events}?token={token}&api_key={token}"));
    assert_eq!(refused(&both).await, Some(401));
    let path = format!("/v1/me?token={token}");
    assert_eq!(
        fixture.call(None, Method::GET, &path, None).await.code(),
        "unauthorized"
    );
}

#[tokio::test]
async fn a_session_is_what_its_key_and_its_person_are() {
    let fixture = Fixture::start().await;
    let events = thread(&fixture).await;
    let bob = member(&fixture, "Bob", "member").await;
    let bob = fixture.session(&bob).await;
    assert_eq!(
        by_bearer(&fixture, &bob, "/v1/me").await.data(200)["role"],
        "member"
    );
    let all = by_bearer(&fixture, &bob, "/v1/runmesh/nodes?all=true").await;
    assert_eq!((all.status.as_u16(), all.code()), (403, "forbidden"));
    assert_eq!(
        refused(&socket(&fixture, &format!("{events}?token={bob}"))).await,
        Some(404)
    );
    let eve = member(&fixture, "Eve", "admin").await;
    let eve = fixture.session(&eve).await;
    by_header(&fixture, &eve, "/v1/runmesh/nodes?all=true")
        .await
        .data(200);
    let (weak, _) = key(&fixture, json!({"name": "weak", "scopes": ["runmesh:read"]})).await;
    let weak = fixture.session(&weak).await;
    by_bearer(&fixture, &weak, "/v1/runmesh/nodes").await.data(200);
    let denied = by_bearer(&fixture, &weak, "/v1/agents").await;
    assert_eq!((denied.status.as_u16(), denied.code()), (403, "forbidden"));
}

#[tokio::test]
async fn what_is_no_session_any_more_is_told_apart_from_what_never_was() {
    let fixture = Fixture::start().await;
    let events = thread(&fixture).await;
    let token = fixture.session(&fixture.admin).await;
    for garbage in ["rts_", "rts_wrong", &format!("{token}x"), &token[..46]] {
        let wrong = by_bearer(&fixture, garbage, "/v1/me").await;
        assert_eq!(
            (wrong.status.as_u16(), wrong.code()),
            (401, "invalid_token"),
            "{garbage}"
        );
    }
    fixture.clock.advance(Duration::from_secs(12 * 3600 - 30));
    by_bearer(&fixture, &token, "/v1/me").await.data(200);
    fixture.clock.advance(Duration::from_secs(30));
    for late in [
        by_bearer(&fixture, &token, "/v1/me").await,
        by_header(&fixture, &token, "/v1/me").await,
    ] {
        assert_eq!((late.status.as_u16(), late.code()), (401, "token_expired"));
    }
    assert_eq!(
        refused(&socket(&fixture, &format!("{events}?token={token}"))).await,
        Some(401)
    );
    let (short, _) = key(&fixture, json!({"name": "short", "expiresIn": "30d"})).await;
    fixture.clock.advance(Duration::from_secs(30 * 24 * 3600 - 60));
    let token = fixture.session(&short).await;
    fixture.clock.advance(Duration::from_secs(60));
    let late = by_bearer(&fixture, &token, "/v1/me").await;
    assert_eq!(late.code(), "token_expired", "a session ends with its key");
}

#[tokio::test]
async fn a_person_sees_and_ends_their_sessions_and_an_admin_everyones() {
    let fixture = Fixture::start().await;
    let bob = member(&fixture, "Bob", "member").await;
    let (first, second) = (fixture.session(&bob).await, fixture.session(&bob).await);
    let mine = by_bearer(&fixture, &second, "/v1/sessions").await;
    let mine = mine.data(200).as_array().expect("rows");
    assert_eq!(mine.len(), 2);
    assert_eq!(mine.iter().filter(|row| row["current"] == true).count(), 1);
    assert_eq!(
        (&mine[0]["method"], &mine[0]["ip"]),
        (&json!("api_key"), &json!("127.0.0.1"))
    );
    let other = mine
        .iter()
        .find(|row| row["current"] == false)
        .expect("the other");
    let path = format!("/v1/sessions/{}", other["id"].as_str().expect("an id"));
    // Another member's is not there.
    let carol = member(&fixture, "Carol", "member").await;
    let hidden = fixture.call(Some(&carol), Method::DELETE, &path, None).await;
    assert_eq!(hidden.code(), "not_found");
    let all = fixture.get("/v1/sessions?all=true").await;
    assert_eq!(all.data(200).as_array().expect("rows").len(), 2);
    assert_eq!(fixture.get("/v1/sessions").await.data(200), &json!([]));
    let denied = by_bearer(&fixture, &second, "/v1/sessions?all=true").await;
    assert_eq!(denied.code(), "forbidden");
    let ended = fixture.call(Some(&second), Method::DELETE, &path, None).await;
    assert_eq!(ended.data(200)["id"], other["id"]);
    assert_eq!(
        by_bearer(&fixture, &first, "/v1/me").await.code(),
        "invalid_token"
    );
    assert_eq!(
        fixture
            .call(Some(&second), Method::DELETE, &path, None)
            .await
            .code(),
        "not_found"
    );
    let left = all.data(200).as_array().expect("rows").iter();
    let left = left
        .map(|row| row["id"].as_str().expect("an id"))
        .find(|id| !path.ends_with(id));
    let path = format!("/v1/sessions/{}", left.expect("the one left"));
    fixture
        .call(Some(&fixture.admin), Method::DELETE, &path, None)
        .await
        .data(200);
    assert_eq!(
        by_bearer(&fixture, &second, "/v1/me").await.code(),
        "invalid_token"
    );
}

#[tokio::test]
async fn what_is_open_with_a_session_ends_with_it() {
    let fixture = Fixture::start().await;
    let events = thread(&fixture).await;
    let token = fixture.session(&fixture.admin).await;
    let (mut open, _) = connect_async(socket(&fixture, &format!("{events}?token={token}")))
        .await
        .expect("open");
    let request = fixture.http.get(fixture.url(&events)).bearer_auth(&token);
    let mut lines = request
        .header("accept", "text/event-stream")
        .send()
        .await
        .expect("open");
    assert!(lines.chunk().await.expect("a frame").is_some());
    let current = by_bearer(&fixture, &token, "/v1/sessions").await;
    let path = format!(
        "/v1/sessions/{}",
        current.data(200)[0]["id"].as_str().expect("an id")
    );
    fixture
        .call(Some(&token), Method::DELETE, &path, None)
        .await
        .data(200);
    let end = async {
        loop {
            match open.next().await {
                Some(Ok(Message::Close(frame))) => return frame.map(|frame| u16::from(frame.code)),
                Some(Ok(_)) => {}
                other => panic!("no close: {other:?}"),
            }
        }
    };
    let soon = Duration::from_secs(10);
    assert_eq!(tokio::time::timeout(soon, end).await.expect("soon"), Some(4401));
    let rest = async { while matches!(lines.chunk().await, Ok(Some(_))) {} };
    tokio::time::timeout(soon, rest).await.expect("the stream ends");
}

#[tokio::test]
async fn a_person_has_so_many_sessions_and_no_more() {
    let fixture = Fixture::start().await;
    let first = fixture.session(&fixture.admin).await;
    let mut last = first.clone();
    for _ in 0..100 {
        fixture.clock.advance(Duration::from_secs(10));
        last = fixture.session(&fixture.admin).await;
    }
    assert_eq!(
        by_bearer(&fixture, &first, "/v1/me").await.code(),
        "invalid_token"
    );
    by_bearer(&fixture, &last, "/v1/me").await.data(200);
    let page = by_bearer(&fixture, &last, "/v1/sessions?limit=100").await;
    assert_eq!(page.data(200).as_array().expect("rows").len(), 100);
    assert_eq!(page.body["hasMore"], false);
}

#[tokio::test]
async fn a_person_makes_a_key_and_signs_a_browser_out_on_their_page() {
    let fixture = Fixture::start().await;
    let mut browser = Browser::new(&fixture);
    assert!(browser.get("/account").await.text.contains("API key"));
    let signed = browser.sign_in(&fixture.admin, "/account").await;
    assert_eq!(signed.leads(), "/account");
    let other = fixture.session(&fixture.admin).await;
    let shown = browser.get("/account").await;
    let csrf = shown.csrf();
    let fields = [("csrf", csrf.as_str()), ("name", "laptop"), ("expires", "30d")];
    let made = browser.submit("/account/keys", &fields).await;
    let key = made.text.split("RUNTOOLS_API_KEY=").nth(1).expect("a key");
    let key = key.split('<').next().expect("an end").to_owned();
    assert_eq!(
        by_bearer(&fixture, &key, "/v1/me").await.data(200)["scopes"],
        json!(["*"])
    );
    for fields in [&[("name", "x")][..], &[("csrf", "wrong"), ("name", "x")]] {
        assert_eq!(browser.submit("/account/keys", fields).await.status, 403);
    }
    let sessions = by_bearer(&fixture, &other, "/v1/sessions").await;
    let id_of = |current: bool| {
        let mut rows = sessions.data(200).as_array().expect("rows").iter();
        let row = rows.find(|row| row["current"] == current).expect("there");
        row["id"].as_str().expect("an id").to_owned()
    };
    // Seen from the other one, this browser's is not the current one.
    let (own, theirs) = (id_of(false), id_of(true));
    assert_eq!(
        browser
            .submit(&format!("/account/sessions/{theirs}/end"), &[])
            .await
            .status,
        403
    );
    let ended = browser
        .submit(&format!("/account/sessions/{theirs}/end"), &[("csrf", &csrf)])
        .await;
    assert_eq!((ended.status, ended.leads()), (303, "/account"));
    assert_eq!(
        by_bearer(&fixture, &other, "/v1/me").await.code(),
        "invalid_token"
    );
    assert!(browser.session().is_some());
    browser
        .submit(&format!("/account/sessions/{own}/end"), &[("csrf", &csrf)])
        .await;
    assert_eq!(browser.session(), None);
    assert!(browser.get("/account").await.text.contains("API key"));
}

#[tokio::test]
async fn signing_out_ends_the_session_itself() {
    let fixture = Fixture::start().await;
    let mut browser = Browser::new(&fixture);
    browser.sign_in(&fixture.admin, "/link").await;
    let token = browser.session().expect("signed in").to_owned();
    let csrf = browser.get("/link").await.csrf();
    assert_eq!(browser.submit("/link/sign-out", &[]).await.status, 403);
    by_bearer(&fixture, &token, "/v1/me").await.data(200);
    browser.submit("/link/sign-out", &[("csrf", &csrf)]).await;
    assert_eq!(browser.session(), None);
    assert_eq!(
        by_bearer(&fixture, &token, "/v1/me").await.code(),
        "invalid_token"
    );
}
