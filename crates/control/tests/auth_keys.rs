//! Joining by an auth key: who may make one, what it lets in, and that one use is one node.

mod support;

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use support::{Answer, Fixture};
use types::NodePrivateKey;

const KEYS: &str = "/v1/runmesh/auth-keys";
const JOIN: &str = "/v1/runmesh/devices/join";

async fn key(fixture: &Fixture, body: Value) -> (String, String) {
    let made = fixture.post(KEYS, body).await;
    let made = made.data(201);
    let text = |field: &str| made[field].as_str().expect("a text").to_owned();
    (text("key"), text("id"))
}

async fn join(fixture: &Fixture, key: &str, seed: u8) -> Answer {
    let public = NodePrivateKey::from_random([seed; 32]).public();
    let body = json!({"authKey": key, "publicKey": public, "hostname": "builder"});
    fixture.call(None, Method::POST, JOIN, Some(body)).await
}

async fn status(fixture: &Fixture, id: &str) -> String {
    let node = fixture.get(&format!("/v1/runmesh/nodes/{id}")).await;
    node.data(200)["status"].as_str().expect("a status").to_owned()
}

#[tokio::test]
async fn a_key_lets_in_one_node_and_answers_that_one_again() {
    let fixture = Fixture::start().await;
    let (secret, id) = key(&fixture, json!({"name": "ci", "tags": ["ci", "build"]})).await;
    let first = join(&fixture, &secret, 1).await;
    let node = &first.data(201)["node"];
    assert_eq!(
        (&node["name"], &node["ephemeral"]),
        (&json!("builder"), &json!(false))
    );
    assert_eq!(node["tags"], json!(["build", "ci"]));
    assert_eq!(first.data(201)["config"]["peers"][0]["kind"], "platform");
    let again = join(&fixture, &secret, 1).await;
    assert_eq!(again.data(201)["node"]["id"], node["id"], "the same node");
    let other = join(&fixture, &secret, 2).await;
    assert_eq!((other.status.as_u16(), other.code()), (410, "gone"));
    let listed = fixture.get(KEYS).await;
    let listed = &listed.body["data"][0];
    assert_eq!((&listed["id"], &listed["uses"]), (&json!(id), &json!(1)));
    assert!(listed.get("key").is_none() && !listed.to_string().contains(&secret));
}

#[tokio::test]
async fn of_many_that_race_for_one_use_one_gets_in() {
    let fixture = Fixture::start().await;
    let (secret, _) = key(&fixture, json!({"name": "once"})).await;
    let joins = (1..=8).map(|seed| join(&fixture, &secret, seed));
    let answers = futures_util::future::join_all(joins).await;
    let got_in = answers.iter().filter(|answer| answer.status == 201).count();
    assert_eq!(got_in, 1, "{answers:?}");
    assert!(
        answers
            .iter()
            .all(|answer| [201, 410].contains(&answer.status.as_u16()))
    );
}

#[tokio::test]
async fn a_reusable_key_lets_in_many_until_it_is_revoked_and_they_stay() {
    let fixture = Fixture::start().await;
    let (secret, id) = key(&fixture, json!({"name": "fleet", "reusable": true})).await;
    let names: Vec<Value> = futures_util::future::join_all((1..=3).map(|seed| join(&fixture, &secret, seed)))
        .await
        .iter()
        .map(|answer| answer.data(201)["node"]["name"].clone())
        .collect();
    assert!(
        names.contains(&json!("builder")) && names.contains(&json!("builder-2")),
        "{names:?}"
    );
    let path = format!("{KEYS}/{id}");
    let revoke = || fixture.call(Some(&fixture.admin), Method::DELETE, &path, None);
    let revoked = revoke().await;
    assert!(revoked.data(200)["revokedAt"].is_string());
    assert_eq!(
        revoke().await.data(200),
        revoked.data(200),
        "a second time is the same"
    );
    assert_eq!(join(&fixture, &secret, 4).await.status, 410);
    assert_eq!(
        fixture.get("/v1/runmesh/nodes?kind=device").await.body["data"]
            .as_array()
            .map(Vec::len),
        Some(3)
    );
}

#[tokio::test]
async fn a_key_ends_in_time_and_never_after_the_credential_that_made_it() {
    let fixture = Fixture::start().await;
    let (secret, _) = key(&fixture, json!({"name": "short", "expiresInSeconds": 60})).await;
    fixture.clock.advance(Duration::from_secs(61));
    assert_eq!(join(&fixture, &secret, 1).await.code(), "gone");
    for seconds in [0, 7_776_001] {
        let refused = fixture
            .post(KEYS, json!({"name": "x", "expiresInSeconds": seconds}))
            .await;
        assert_eq!(refused.code(), "bad_request", "{seconds}");
    }
    let weak = fixture
        .post("/v1/api-keys", json!({"name": "k", "expiresIn": "30d"}))
        .await;
    let weak = weak.data(201)["key"].as_str().expect("a key").to_owned();
    let ask = |seconds: u32| {
        let body = json!({"name": "x", "expiresInSeconds": seconds});
        fixture.call(Some(&weak), Method::POST, KEYS, Some(body))
    };
    assert_eq!(ask(31 * 24 * 3600).await.code(), "forbidden");
    ask(29 * 24 * 3600).await.data(201);
}

#[tokio::test]
async fn what_is_no_key_lets_nobody_in_and_guesses_are_counted() {
    let fixture = Fixture::start().await;
    for wrong in ["", "rtk_", "rt_live_x", &fixture.admin.clone(), "\u{0}"] {
        let refused = join(&fixture, wrong, 1).await;
        assert_eq!(
            (refused.status.as_u16(), refused.code()),
            (401, "invalid_token"),
            "{wrong:?}"
        );
    }
    let mut last = 401;
    for _ in 0..30 {
        last = join(&fixture, "rtk_guess", 1).await.status.as_u16();
    }
    assert_eq!(last, 429);
}

#[tokio::test]
async fn an_auth_key_is_no_credential_and_a_linked_device_is_not_taken_over() {
    let fixture = Fixture::start().await;
    let (secret, _) = key(&fixture, json!({"name": "k", "reusable": true})).await;
    let asked = fixture.call(Some(&secret), Method::GET, "/v1/me", None).await;
    assert_eq!(asked.code(), "invalid_token");
    let first = join(&fixture, &secret, 1).await;
    let id = first.data(201)["node"]["id"].as_str().expect("an id").to_owned();
    let (other, _) = key(&fixture, json!({"name": "other", "reusable": true})).await;
    assert_eq!(join(&fixture, &other, 1).await.code(), "conflict");
    let revoked = fixture
        .post(&format!("/v1/runmesh/nodes/{id}/revoke"), json!({}))
        .await;
    revoked.data(200);
    assert_eq!(join(&fixture, &secret, 1).await.code(), "device_revoked");
}

#[tokio::test]
async fn an_ephemeral_node_vanishes_a_minute_after_it_has_gone() {
    let fixture = Fixture::start().await;
    let (secret, _) = key(
        &fixture,
        json!({"name": "k", "ephemeral": true, "reusable": true}),
    )
    .await;
    let (lasting, _) = key(&fixture, json!({"name": "l"})).await;
    let id = |answer: &Answer| answer.data(201)["node"]["id"].as_str().expect("an id").to_owned();
    let passing = id(&join(&fixture, &secret, 1).await);
    let staying = id(&join(&fixture, &lasting, 2).await);
    fixture.clock.advance(Duration::from_secs(59));
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert_eq!(status(&fixture, &passing).await, "offline", "it may still come");
    fixture.clock.advance(Duration::from_secs(2));
    for _ in 0..50 {
        if status(&fixture, &passing).await == "revoked" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(status(&fixture, &passing).await, "revoked");
    assert_eq!(
        status(&fixture, &staying).await,
        "offline",
        "this one was let in for good"
    );
    let audit = fixture.get("/v1/runmesh/audit").await;
    let gone = audit.body["data"].as_array().expect("rows").iter();
    let gone = gone.filter(|row| row["action"] == "node.vanished");
    assert_eq!(gone.count(), 1);
}

#[tokio::test]
async fn the_keys_of_a_member_who_was_taken_out_let_nobody_in() {
    let fixture = Fixture::start().await;
    let org = fixture.get("/v1/organizations/current").await.data(200)["id"].clone();
    let members = format!("/v1/organizations/{}/members", org.as_str().expect("an id"));
    let made = fixture
        .post(&members, json!({"name": "Bob", "role": "member"}))
        .await;
    let made = made.data(201);
    let bob = made["apiKey"]["key"].as_str().expect("a key");
    let body = Some(json!({"name": "bobs", "reusable": true}));
    let created = fixture.call(Some(bob), Method::POST, KEYS, body).await;
    let secret = created.data(201)["key"].as_str().expect("a key").to_owned();
    join(&fixture, &secret, 1).await.data(201);
    let path = format!("{members}/{}", made["member"]["userId"].as_str().expect("an id"));
    let removed = fixture
        .call(Some(&fixture.admin), Method::DELETE, &path, None)
        .await;
    removed.data(200);
    let refused = join(&fixture, &secret, 2).await;
    assert_eq!((refused.status.as_u16(), refused.code()), (410, "gone"));
}
