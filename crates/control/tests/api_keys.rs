//! API keys: made, listed, expired, revoked; never stronger than what made them.

mod support;

use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use support::Fixture;

#[tokio::test]
async fn a_key_is_shown_once_works_and_dies_when_revoked() {
    let fixture = Fixture::start().await;
    let made = fixture
        .post("/v1/api-keys", json!({"name": "laptop", "unknownField": 1}))
        .await;
    let made = made.data(201);
    let key = made["key"].as_str().expect("the key").to_owned();
    assert!(key.starts_with("rt_live_") && key.len() == 40);
    assert_eq!(made["scopes"], json!(["*"]));

    let id = made["id"].as_str().expect("an id");
    let shown = fixture.get(&format!("/v1/api-keys/{id}")).await;
    assert!(shown.data(200).get("key").is_none());
    assert!(!shown.text.contains(&key));

    let me = fixture.call(Some(&key), Method::GET, "/v1/me", None).await;
    assert_eq!(me.data(200)["role"], "admin");
    for _ in 0..2 {
        let path = format!("/v1/api-keys/{id}");
        let gone = fixture
            .call(Some(&fixture.admin), Method::DELETE, &path, None)
            .await;
        assert!(gone.data(200)["revokedAt"].is_string());
    }
    let refused = fixture.call(Some(&key), Method::GET, "/v1/me", None).await;
    assert_eq!((refused.status.as_u16(), refused.code()), (401, "invalid_token"));
    let gone = fixture.get(&format!("/v1/api-keys/{id}")).await;
    assert_eq!((gone.status.as_u16(), gone.code()), (404, "not_found"));
    assert!(fixture.get("/v1/api-keys").await.text.contains(id));
}

#[tokio::test]
async fn an_expired_key_says_so() {
    let fixture = Fixture::start().await;
    let made = fixture
        .post(
            "/v1/api-keys",
            json!({"name": "short", "expiresIn": "30d", "isTest": true}),
        )
        .await;
    let key = made.data(201)["key"].as_str().expect("the key").to_owned();
    assert!(key.starts_with("rt_test_"));
    fixture.clock.advance(Duration::from_secs(30 * 24 * 3600));
    let refused = fixture.call(Some(&key), Method::GET, "/v1/me", None).await;
    assert_eq!((refused.status.as_u16(), refused.code()), (401, "token_expired"));
}

#[tokio::test]
async fn a_key_cannot_make_a_stronger_one() {
    let fixture = Fixture::start().await;
    let made = fixture
        .post(
            "/v1/api-keys",
            json!({"name": "keys", "scopes": ["org:*", "runmesh:read"]}),
        )
        .await;
    let key = made.data(201)["key"].as_str().expect("the key").to_owned();
    for scopes in [
        json!(null),
        json!(["*"]),
        json!(["runmesh:*"]),
        json!(["agent:run"]),
    ] {
        let body = Some(json!({"name": "stronger", "scopes": scopes}));
        let refused = fixture.call(Some(&key), Method::POST, "/v1/api-keys", body).await;
        assert_eq!(refused.code(), "forbidden");
    }
    let body = Some(json!({"name": "weaker", "scopes": ["org:read"]}));
    let made = fixture.call(Some(&key), Method::POST, "/v1/api-keys", body).await;
    assert_eq!(made.data(201)["scopes"], json!(["org:read"]));
}

#[tokio::test]
async fn keys_are_listed_in_pages_newest_first() {
    let fixture = Fixture::start().await;
    for name in ["a", "b", "c"] {
        fixture
            .post("/v1/api-keys", json!({"name": name}))
            .await
            .data(201);
    }
    let mut names = Vec::new();
    let mut path = "/v1/api-keys?limit=2".to_owned();
    loop {
        let page = fixture.get(&path).await;
        let rows = page.data(200).as_array().expect("rows").clone();
        names.extend(
            rows.iter()
                .map(|row| row["name"].as_str().expect("a name").to_owned()),
        );
        assert_eq!(page.body["hasMore"], page.body["meta"]["hasMore"]);
        assert_eq!(page.body["nextCursor"], page.body["meta"]["nextCursor"]);
        match page.body["nextCursor"].as_str() {
            Some(cursor) => path = format!("/v1/api-keys?limit=2&cursor={cursor}"),
            None => break,
        }
    }
    names.sort();
    assert_eq!(names, ["a", "b", "c", "first key"]);
}

#[tokio::test]
async fn a_bad_request_is_told_what_is_wrong_with_it() {
    let fixture = Fixture::start().await;
    let refused = fixture.post("/v1/api-keys", json!({"name": 7})).await;
    assert_eq!((refused.status.as_u16(), refused.code()), (400, "bad_request"));
    assert!(
        refused.body["error"]["message"]
            .as_str()
            .expect("text")
            .starts_with("name: ")
    );
    let refused = fixture
        .post("/v1/api-keys", json!({"name": "x", "scopes": ["nonsense"]}))
        .await;
    assert!(
        refused.body["error"]["message"]
            .as_str()
            .expect("text")
            .starts_with("scopes[0]: ")
    );
    let refused = fixture.get("/v1/api-keys?limit=many").await;
    assert_eq!(refused.code(), "bad_request");
    let refused = fixture.get("/v1/api-keys/no-uuid").await;
    assert_eq!((refused.status.as_u16(), refused.code()), (404, "not_found"));
}

#[tokio::test]
async fn a_member_is_given_no_more_than_the_credential_that_makes_them_holds() {
    let fixture = Fixture::start().await;
    let body = json!({"name": "inviter", "scopes": ["org:members", "org:read"]});
    let made = fixture.post("/v1/api-keys", body).await;
    let inviter = made.data(201)["key"].as_str().expect("the key").to_owned();
    let org = fixture.get("/v1/organizations/current").await.data(200)["id"].clone();
    let path = format!("/v1/organizations/{}/members", org.as_str().expect("an id"));
    let body = Some(json!({"name": "Eve", "role": "admin"}));
    let made = fixture.call(Some(&inviter), Method::POST, &path, body).await;
    assert_eq!(
        made.data(201)["apiKey"]["scopes"],
        json!(["org:read", "org:members"])
    );
    let eve = made.data(201)["apiKey"]["key"].as_str().expect("the key");
    let refused = fixture
        .call(Some(eve), Method::GET, "/v1/runmesh/nodes", None)
        .await;
    assert_eq!((refused.status.as_u16(), refused.code()), (403, "forbidden"));
}

#[tokio::test]
async fn an_admin_looks_across_the_org_only_with_the_scope_for_it() {
    let fixture = Fixture::start().await;
    for (scopes, status) in [
        (json!(["org:read"]), 403),
        (json!(["org:read", "admin:resources"]), 200),
        (json!(["org:read", "admin:*"]), 200),
    ] {
        let made = fixture
            .post("/v1/api-keys", json!({"name": "k", "scopes": scopes}))
            .await;
        let key = made.data(201)["key"].as_str().expect("the key").to_owned();
        let answer = fixture
            .call(Some(&key), Method::GET, "/v1/api-keys?all=true", None)
            .await;
        assert_eq!(answer.status.as_u16(), status, "{scopes}");
    }
}

#[tokio::test]
async fn no_key_outlives_the_one_that_made_it() {
    let fixture = Fixture::start().await;
    let make = async |key: &str, body: serde_json::Value| {
        let body = Some(body);
        fixture.call(Some(key), Method::POST, "/v1/api-keys", body).await
    };
    let made = make(&fixture.admin, json!({"name": "short", "expiresIn": "90d"})).await;
    let short = made.data(201)["key"].as_str().expect("the key").to_owned();
    let end = made.data(201)["expiresAt"].clone();
    let inherits = make(&short, json!({"name": "inherits"})).await;
    assert_eq!(inherits.data(201)["expiresAt"], end);
    let sooner = make(&short, json!({"name": "sooner", "expiresIn": "30d"})).await;
    assert!(sooner.data(201)["expiresAt"].as_str() < end.as_str());
    let later = make(&short, json!({"name": "later", "expiresIn": "1y"})).await;
    assert_eq!((later.status.as_u16(), later.code()), (403, "forbidden"));
    assert!(later.text.contains("cannot live longer"), "{}", later.text);

    // Neither by a second person, nor by a browser.
    let org = fixture.get("/v1/organizations/current").await.data(200)["id"].clone();
    let path = format!("/v1/organizations/{}/members", org.as_str().expect("an id"));
    let body = Some(json!({"name": "Bob", "role": "member"}));
    let bob = fixture.call(Some(&short), Method::POST, &path, body).await;
    assert_eq!(bob.data(201)["apiKey"]["expiresAt"], end);
    let session = fixture.session(&short).await;
    let of_session = make(&session, json!({"name": "of a session"})).await;
    assert_eq!(of_session.data(201)["expiresAt"], end);
    // A session ends within the day; what its person makes with it lives as long as their key.
    let session = fixture.session(&fixture.admin).await;
    let of_session = make(&session, json!({"name": "for ever"})).await;
    assert_eq!(of_session.data(201)["expiresAt"], json!(null));
}
