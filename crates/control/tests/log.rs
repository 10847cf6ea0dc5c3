//! The log, at its most talkative, tells no secret. Alone in its file: a process has one log.

mod support;

use std::io::Write;
use std::sync::{Arc, Mutex};

use reqwest::Method;
use reqwest::header::{COOKIE, SET_COOKIE};
use serde_json::json;
use support::Fixture;
use support::browser::Browser;
use support::provider::{Provider, SECRET};
use tracing_subscriber::filter::LevelFilter;
use types::NodePrivateKey;
use url::Url;

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("not poisoned").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Takes an API key through everything that reads one; returns what must not be in the log.
async fn use_credentials(fixture: &Fixture) -> Vec<String> {
    let made = fixture.post("/v1/api-keys", json!({"name": "k"})).await;
    let key = made.data(201)["key"].as_str().expect("a key").to_owned();
    for header in ["x-api-key", "authorization"] {
        let request = fixture
            .http
            .get(fixture.url("/v1/me"))
            .header(header, format!("Bearer {key}"));
        support::answer(request).await;
    }
    let wrong = format!("rt_live_{}", "Z".repeat(32));
    fixture.call(Some(&wrong), Method::GET, "/v1/me", None).await;
    let url = fixture
        .url("/v1/threads/thr_00000000000000000000000000000000/events")
        .replace("http", "ws");
    let refused = tokio_tungstenite::connect_async(format!("{url}?api_key={key}")).await;
    assert!(refused.is_err());
    let shown = fixture
        .http
        .get(fixture.url("/link"))
        .send()
        .await
        .expect("a page");
    let cookie = shown.headers()[SET_COOKIE].to_str().expect("text").to_owned();
    let cookie = cookie.split(';').next().expect("a pair").to_owned();
    let csrf = cookie.split_once('=').expect("a pair").1.to_owned();
    let client = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .build();
    let form = client.expect("a client").post(fixture.url("/link/sign-in"));
    let form = form
        .header(COOKIE, cookie)
        .body(format!("csrf={csrf}&key={key}&code="));
    let signed = form.send().await.expect("an answer");
    assert_eq!(signed.status().as_u16(), 303);
    let session = signed.headers()[SET_COOKIE].to_str().expect("text").to_owned();
    let session = session.split(['=', ';']).nth(1).expect("a value").to_owned();
    vec![fixture.admin.clone(), key, wrong, csrf, session]
}

/// Takes a person through an invitation and the provider; returns what must not be in the log.
async fn sign_in(fixture: &Fixture, provider: &Provider) -> Vec<String> {
    let made = fixture.post("/v1/invitations", json!({"role": "member"})).await;
    let link = made.data(201)["url"].as_str().expect("a link").to_owned();
    let token = link.split('=').nth(1).expect("a token").to_owned();
    let mut browser = Browser::new(fixture);
    browser.get(&link).await;
    let sent = browser
        .get(&format!("/sign-in?to=/account&invitation={token}"))
        .await;
    let cookie = sent.cookies[0]
        .split(['=', ';'])
        .nth(1)
        .expect("a value")
        .to_owned();
    let asked: Url = sent.leads().parse().expect("an address");
    let secrets = asked
        .query_pairs()
        .filter(|(name, _)| name == "state" || name == "nonce");
    let mut secrets: Vec<String> = secrets.map(|(_, value)| value.into_owned()).collect();
    let back = provider.answer(sent.leads());
    let signed = browser.get(&format!("/sign-in/callback?{back}")).await;
    assert_eq!(signed.status, 303);
    secrets.extend([token, cookie, browser.session().expect("signed in").to_owned()]);
    secrets.extend([SECRET.to_owned(), "an-access-token".to_owned()]);
    secrets.extend(provider.verifiers());
    secrets
}

async fn link(fixture: &Fixture) {
    let key = NodePrivateKey::from_random([1; 32]).public();
    let body = Some(json!({"publicKey": key}));
    let started = fixture
        .call(None, Method::POST, "/v1/runmesh/devices/link/start", body)
        .await;
    let code = started.data(201)["code"].clone();
    let approved = fixture
        .post("/v1/runmesh/devices/link/approve", json!({"code": code}))
        .await;
    approved.data(200);
}

#[tokio::test]
async fn the_log_tells_no_secret() {
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::fmt()
        .with_max_level(LevelFilter::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .init();
    let (fixture, provider) = Fixture::start_with_provider().await;
    link(&fixture).await;
    let mut secrets = use_credentials(&fixture).await;
    secrets.extend(sign_in(&fixture, &provider).await);
    let data = fixture.dir.path().join("data");
    for file in ["control.key", "platform.key"] {
        let key = std::fs::read_to_string(data.join(file)).expect("a key file");
        secrets.push(key.trim().to_owned());
    }
    fixture.server.shutdown().await;
    let text = String::from_utf8_lossy(&log.0.lock().expect("not poisoned")).into_owned();
    assert!(text.contains("answered"), "nothing was logged");
    for line in text.lines() {
        // The test's own client is part of the same process, and not what is tested.
        if line.contains(" reqwest")
            || line.contains("hyper_util::client")
            || line.contains("tungstenite::handshake::client")
        {
            continue;
        }
        for secret in &secrets {
            assert!(!line.contains(secret.as_str()), "{line}");
        }
    }
}
