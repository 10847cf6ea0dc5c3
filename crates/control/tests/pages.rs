//! The link page as a browser without JavaScript uses it, and as an attacker would.

mod support;

use reqwest::Method;
use serde_json::json;
use support::Fixture;
use support::browser::Browser;
use types::NodePrivateKey;

async fn start(fixture: &Fixture, label: &str) -> String {
    let key = NodePrivateKey::from_random([1; 32]).public();
    let body = json!({"publicKey": key, "deviceLabel": label, "os": "linux", "hostname": "ada"});
    let path = "/v1/runmesh/devices/link/start";
    let started = fixture.call(None, Method::POST, path, Some(body)).await;
    started.data(201)["code"].as_str().expect("a code").to_owned()
}

async fn devices(fixture: &Fixture) -> usize {
    let nodes = fixture.get("/v1/runmesh/nodes?kind=device").await;
    nodes.data(200).as_array().expect("rows").len()
}

#[tokio::test]
async fn a_person_signs_in_and_approves() {
    let fixture = Fixture::start().await;
    let code = start(&fixture, "<script>alert(1)</script>").await;
    let mut browser = Browser::new(&fixture);
    assert_eq!(browser.get("/").await.location.as_deref(), Some("/link"));

    let place = format!("/link/{code}");
    let signed = browser.sign_in(&fixture.admin, &place).await;
    assert_eq!(
        (signed.status, signed.location.as_deref()),
        (303, Some(place.as_str()))
    );
    let session = &signed.cookies[0];
    assert!(
        session.contains("HttpOnly") && session.contains("SameSite=Lax"),
        "{session}"
    );
    assert!(!session.contains(&fixture.admin));

    let shown = browser.get(&place).await;
    assert!(shown.text.contains("&lt;script&gt;") && !shown.text.contains("<script"));
    assert!(shown.text.contains("127.0.0.1") && shown.text.contains("ada"));
    let policy = shown.policy.as_deref().expect("a policy");
    assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"));

    let csrf = shown.csrf();
    let done = browser
        .submit(&format!("{place}/approve"), &[("csrf", &csrf), ("name", "desk")])
        .await;
    assert_eq!(done.status, 200);
    assert!(done.text.contains("desk.home.mesh.internal"));
    let again = browser
        .submit(&format!("{place}/approve"), &[("csrf", &csrf)])
        .await;
    assert_eq!(again.status, 409);
    assert!(again.text.contains("used already"));
    let out = browser.submit("/link/sign-out", &[("csrf", &csrf)]).await;
    assert_eq!(out.status, 303);
    assert!(browser.get("/link").await.text.contains("API key"));
}

#[tokio::test]
async fn a_person_types_a_code_and_denies() {
    let fixture = Fixture::start().await;
    let code = start(&fixture, "laptop").await;
    let mut browser = Browser::new(&fixture);
    let csrf = browser.get("/link").await.csrf();
    browser
        .submit("/link/sign-in", &[("csrf", &csrf), ("key", &fixture.admin)])
        .await;
    let csrf = browser.get("/link").await.csrf();
    let typed = code.to_lowercase();
    let taken = browser
        .submit("/link", &[("csrf", &csrf), ("code", &typed)])
        .await;
    assert_eq!(taken.location, Some(format!("/link/{code}")));
    let denied = browser
        .submit(&format!("/link/{code}/deny"), &[("csrf", &csrf)])
        .await;
    assert!(denied.status == 200 && denied.text.contains("was not linked"));
    assert_eq!(devices(&fixture).await, 0);
    let unknown = browser
        .submit("/link", &[("csrf", &csrf), ("code", "nonsense")])
        .await;
    assert_eq!(unknown.status, 404);
}

#[tokio::test]
async fn a_form_of_another_site_does_nothing() {
    let fixture = Fixture::start().await;
    let code = start(&fixture, "laptop").await;
    let approve = format!("/link/{code}/approve");
    let mut browser = Browser::new(&fixture);
    let csrf = browser.get("/link").await.csrf();
    let forged = browser
        .submit("/link/sign-in", &[("csrf", "wrong"), ("key", &fixture.admin)])
        .await;
    assert_eq!(forged.status, 403);
    let request = browser
        .request(Method::POST, "/link/sign-in")
        .header("origin", "http://evil.example");
    let forged = browser
        .send(request.body(format!("csrf={csrf}&key={}", fixture.admin)))
        .await;
    assert_eq!(forged.status, 403);

    browser
        .submit("/link/sign-in", &[("csrf", &csrf), ("key", &fixture.admin)])
        .await;
    let csrf = browser.get("/link").await.csrf();
    for fields in [vec![], vec![("csrf", "wrong")]] {
        assert_eq!(browser.submit(&approve, &fields).await.status, 403);
    }
    for (header, value) in [
        ("origin", "http://evil.example"),
        ("origin", "null"),
        ("sec-fetch-site", "cross-site"),
    ] {
        let request = browser.request(Method::POST, &approve).header(header, value);
        let forged = browser.send(request.body(format!("csrf={csrf}"))).await;
        assert_eq!(forged.status, 403, "{header}: {value}");
    }
    let mut stranger = Browser::new(&fixture);
    assert_eq!(stranger.submit(&approve, &[("csrf", &csrf)]).await.status, 403);
    assert_eq!(devices(&fixture).await, 0);
}

#[tokio::test]
async fn a_wrong_key_is_told_so_and_tries_are_limited() {
    let fixture = Fixture::start().await;
    let mut browser = Browser::new(&fixture);
    let csrf = browser.get("/link").await.csrf();
    let wrong = browser
        .submit("/link/sign-in", &[("csrf", &csrf), ("key", "rt_live_wrong")])
        .await;
    assert_eq!(wrong.status, 401);
    assert!(wrong.text.contains("unknown or revoked"));
    assert_eq!(wrong.limit, (None, Some("9".to_owned())));
    let mut last = wrong;
    for _ in 0..12 {
        let csrf = last.csrf();
        last = browser
            .submit("/link/sign-in", &[("csrf", &csrf), ("key", "rt_live_wrong")])
            .await;
    }
    assert_eq!(last.status, 429);
    let (wait, remaining) = last.limit;
    let wait: u64 = wait.expect("when to come back").parse().expect("seconds");
    assert!((1..=10).contains(&wait), "{wait}");
    assert_eq!(remaining.as_deref(), Some("0"));
}

#[tokio::test]
async fn guesses_on_the_page_are_limited_and_it_says_when_to_come_back() {
    let fixture = Fixture::start().await;
    let mut browser = Browser::new(&fixture);
    let code = start(&fixture, "laptop").await;
    browser.sign_in(&fixture.admin, &format!("/link/{code}")).await;
    let mut last = browser.get("/link/ZZZZZZ").await;
    assert_eq!((last.status, &last.limit.0), (404, &None));
    for _ in 0..12 {
        last = browser.get("/link/ZZZZZZ").await;
    }
    assert_eq!(last.status, 429);
    let (wait, remaining) = last.limit;
    let wait: u64 = wait.expect("when to come back").parse().expect("seconds");
    assert!((1..=30).contains(&wait), "{wait}");
    assert_eq!(remaining.as_deref(), Some("0"));
}

#[tokio::test]
async fn a_key_that_may_not_link_sees_nothing_and_a_session_dies_with_its_key() {
    let fixture = Fixture::start().await;
    let code = start(&fixture, "laptop").await;
    let made = fixture
        .post(
            "/v1/api-keys",
            json!({"name": "weak", "scopes": ["runmesh:read"]}),
        )
        .await;
    let made = made.data(201);
    let weak = made["key"].as_str().expect("the key");
    let mut browser = Browser::new(&fixture);
    browser.sign_in(weak, &format!("/link/{code}")).await;
    assert_eq!(browser.get(&format!("/link/{code}")).await.status, 403);
    let path = format!("/v1/api-keys/{}", made["id"].as_str().expect("id"));
    fixture
        .call(Some(&fixture.admin), Method::DELETE, &path, None)
        .await
        .data(200);
    assert!(
        browser
            .get(&format!("/link/{code}"))
            .await
            .text
            .contains("API key")
    );
}
