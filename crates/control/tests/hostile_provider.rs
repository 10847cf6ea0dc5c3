//! A provider, or somebody in its place, that lies, stalls, repeats itself or is away: nobody is signed in who is not there.

mod support;

use std::time::Duration;

use control::{Tuning, clock::Clock};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use support::Fixture;
use support::browser::Browser;
use support::provider::{Behaviour, CLIENT, Provider};
use support::sign_in::{arrive, button, invite, members, sign_in};

/// What a provider, or somebody in its place, could say of somebody who is not here.
fn false_claims(provider: &Provider) -> Vec<(&'static str, Value)> {
    let now = provider.now();
    let slashed = format!("{}/", provider.issuer());
    vec![
        ("another issuer", json!({"iss": "http://127.0.0.1:1"})),
        ("the issuer with a slash", json!({"iss": slashed})),
        ("another audience", json!({"aud": "another-client"})),
        ("no audience", json!({"aud": null})),
        ("a further audience", json!({"aud": [CLIENT, "another-client"]})),
        ("expired", json!({"exp": now - 90, "iat": now - 200})),
        ("no end", json!({"exp": null})),
        ("from the future", json!({"iat": now + 90})),
        ("stale", json!({"iat": now - 700})),
        ("another nonce", json!({"nonce": "another"})),
        ("no nonce", json!({"nonce": null})),
        ("no subject", json!({"sub": null})),
        ("an empty subject", json!({"sub": ""})),
        ("a subject with a NUL", json!({"sub": "ada\0"})),
        ("a long subject", json!({"sub": "a".repeat(256)})),
        (
            "another access token",
            json!({"at_hash": "AAAAAAAAAAAAAAAAAAAAAA"}),
        ),
    ]
}

/// How somebody without the provider's key could try to speak for it: algorithm, key, signature.
fn false_signatures() -> Vec<(&'static str, Behaviour)> {
    let head = |head: Value, signature: Option<&str>| Behaviour {
        head,
        signature: signature.map(str::to_owned),
        ..Behaviour::default()
    };
    let stolen_name = Behaviour {
        keys: (2, 1),
        ..head(json!({"kid": "key-1"}), None)
    };
    let by_secret = Behaviour {
        hmac: true,
        ..head(json!({"alg": "HS256", "kid": null}), None)
    };
    let unknown_key = Behaviour {
        keys: (2, 1),
        ..Behaviour::default()
    };
    let no_id_token = Behaviour {
        no_id_token: true,
        ..Behaviour::default()
    };
    let other = "A".repeat(86);
    vec![
        ("not signed", head(json!({"alg": "none"}), Some(""))),
        ("not signed, with a signature", head(json!({"alg": "none"}), None)),
        ("a signature of nothing", head(json!({}), Some(""))),
        ("a signature of something else", head(json!({}), Some(&other))),
        ("critical extensions", head(json!({"crit": ["exp"]}), None)),
        ("signed with the client secret", by_secret),
        ("signed by an unknown key", unknown_key),
        ("signed by an unknown key under a known name", stolen_name),
        ("no ID token", no_id_token),
    ]
}

fn lies(provider: &Provider) -> Vec<(&'static str, Behaviour)> {
    let claims = false_claims(provider).into_iter().map(|(lie, claims)| {
        let behaviour = Behaviour {
            claims,
            ..Behaviour::default()
        };
        (lie, behaviour)
    });
    claims.chain(false_signatures()).collect()
}

#[tokio::test]
async fn a_lie_signs_nobody_in() {
    let (fixture, provider) = Fixture::start_with_provider().await;
    let link = invite(&fixture, json!({"role": "admin"})).await;
    for turn in 0..lies(&provider).len() {
        let (lie, behaviour) = lies(&provider).swap_remove(turn);
        provider.behave(behaviour);
        let mut browser = Browser::new(&fixture);
        let shown = sign_in(&mut browser, &provider, &link).await;
        assert_eq!((shown.status, browser.session()), (403, None), "{lie}: {shown:?}");
        assert!(shown.text.contains("is not believed"), "{lie}: {}", shown.text);
        // The same address asks often here.
        fixture.clock.advance(Duration::from_secs(20));
    }
    assert_eq!(members(&fixture).await, 1);
    provider.behave(Behaviour::default());
    let mut browser = Browser::new(&fixture);
    assert_eq!(
        sign_in(&mut browser, &provider, &link).await.status,
        303,
        "the truth"
    );
}

#[tokio::test]
async fn clocks_may_differ_by_a_minute() {
    let (fixture, provider) = Fixture::start_with_provider().await;
    let now = provider.now();
    for claims in [
        json!({"exp": now - 30, "iat": now - 200}),
        json!({"iat": now + 30, "exp": now + 300}),
    ] {
        let link = invite(&fixture, json!({"role": "member"})).await;
        provider.claims(claims);
        let mut browser = Browser::new(&fixture);
        assert_eq!(sign_in(&mut browser, &provider, &link).await.status, 303);
    }
}

#[tokio::test]
async fn an_answer_is_good_once_in_the_browser_that_asked_and_not_for_long() {
    let (fixture, provider) = Fixture::start_with_provider().await;
    provider.subject("ada");
    let link = invite(&fixture, json!({"role": "member"})).await;
    let mut browser = Browser::new(&fixture);
    let shown = browser.get(&link).await;
    let sent = browser.get(&button(&shown)).await;
    let begun = sent.cookies[0].clone();
    assert!(begun.contains("; HttpOnly; SameSite=Lax;"), "{begun}");
    let callback = format!("/sign-in/callback?{}", provider.answer(sent.leads()));
    // Somebody who got hold of the address, without and with a sign-in of their own: nothing, and nothing is lost.
    let mut thief = Browser::new(&fixture);
    assert_eq!(thief.get(&callback).await.status, 403);
    thief.get("/sign-in?to=/link").await;
    assert_eq!((thief.get(&callback).await.status, thief.session()), (403, None));
    let mixed = browser
        .get(&format!("{callback}&iss=http%3A%2F%2F127.0.0.1%3A1"))
        .await;
    assert_eq!(mixed.status, 403, "another provider's answer");
    let over = browser.get(&callback).await;
    assert_eq!(over.status, 403, "spent by the attempt before");

    let sent = browser.get(&button(&shown)).await;
    let callback = format!("/sign-in/callback?{}", provider.answer(sent.leads()));
    let cookie = sent.cookies[0].split(';').next().expect("a pair").to_owned();
    assert_eq!(browser.get(&callback).await.status, 303);
    let replay = browser.request(Method::GET, &callback).header("cookie", cookie);
    assert_eq!(browser.send(replay).await.status, 403);

    let sent = browser.get("/sign-in?to=/link").await;
    let callback = format!("/sign-in/callback?{}", provider.answer(sent.leads()));
    fixture.clock.advance(Duration::from_secs(600));
    assert_eq!(browser.get(&callback).await.status, 403, "ten minutes are over");
    for broken in ["", "?state=", "?code=1", "?state=x&code=y"] {
        let shown = browser.get(&format!("/sign-in/callback{broken}")).await;
        assert_eq!(shown.status, 403, "{broken}");
    }
}

#[tokio::test]
async fn who_is_refused_at_the_provider_is_told_so() {
    let (fixture, provider) = Fixture::start_with_provider().await;
    for (error, said) in [
        ("access_denied", "refused at the sign-in provider"),
        ("<script>", "did not sign you in"),
    ] {
        let mut browser = Browser::new(&fixture);
        let sent = browser.get("/sign-in?to=/link").await;
        let back = provider.answer(sent.leads());
        let state = back.split("state=").nth(1).expect("a state");
        let shown = browser
            .get(&format!("/sign-in/callback?error={error}&state={state}"))
            .await;
        assert_eq!(shown.status, 403);
        assert!(
            shown.text.contains(said) && !shown.text.contains("<script"),
            "{}",
            shown.text
        );
    }
}

#[tokio::test]
async fn keys_may_change_and_what_is_known_is_kept() {
    let (fixture, provider) = Fixture::start_with_provider().await;
    assert_eq!(provider.discoveries(), 0, "nobody has asked yet");
    let link = invite(&fixture, json!({"role": "member"})).await;
    let mut browser = Browser::new(&fixture);
    sign_in(&mut browser, &provider, &link).await;
    for _ in 0..3 {
        assert_eq!(arrive(&fixture, &provider).await.1.status, 303);
    }
    assert_eq!(provider.discoveries(), 1);
    provider.behave(Behaviour {
        keys: (7, 7),
        ..Behaviour::default()
    });
    fixture.clock.advance(Duration::from_secs(30));
    assert_eq!(arrive(&fixture, &provider).await.1.status, 303, "a new key");
    assert_eq!(provider.discoveries(), 2);
    fixture.clock.advance(Duration::from_secs(3600));
    arrive(&fixture, &provider).await;
    assert_eq!(provider.discoveries(), 3, "an hour later it is asked again");
}

#[tokio::test]
async fn a_provider_that_is_away_keeps_nothing_from_starting() {
    let clock = Clock::system();
    let away = Provider::start(&clock).await;
    let (config, address) = (away.config(), away.issuer().replace("http://", ""));
    drop(away);
    let fixture = Fixture::start_with(Tuning::default(), |start| {
        start.clock = clock.clone();
        start.provider = Some(config);
    })
    .await;
    let mut browser = Browser::new(&fixture);
    let shown = browser.get("/link").await;
    assert!(shown.text.contains("Sign in with Example ID") && shown.text.contains("API key"));
    let failed = browser.get("/sign-in?to=/link").await;
    assert_eq!(failed.status, 500);
    assert!(failed.text.contains("cannot be reached"), "{}", failed.text);
    let provider = Provider::start_at(&clock, &address).await;
    assert_eq!(
        browser.get("/sign-in?to=/link").await.status,
        500,
        "not asked at once again"
    );
    assert_eq!(provider.discoveries(), 0);
    fixture.clock.advance(Duration::from_secs(10));
    assert_eq!(browser.get("/sign-in?to=/link").await.status, 303);
    // Away once more: what is known serves on for a day.
    drop(provider);
    fixture.clock.advance(Duration::from_secs(3 * 3600));
    assert_eq!(browser.get("/sign-in?to=/link").await.status, 303);
    fixture.clock.advance(Duration::from_secs(24 * 3600));
    assert_eq!(browser.get("/sign-in?to=/link").await.status, 500);
}

/// Metadata that are not believed.
fn false_metadata() -> Vec<(&'static str, Behaviour)> {
    let says = |metadata: Value| Behaviour {
        metadata,
        ..Behaviour::default()
    };
    let open = "http://id.example.com/";
    let huge = Behaviour {
        padding: 300 * 1024,
        ..Behaviour::default()
    };
    let elsewhere = Behaviour {
        status: StatusCode::FOUND,
        ..Behaviour::default()
    };
    vec![
        ("huge", huge),
        ("redirecting", elsewhere),
        ("another issuer", says(json!({"issuer": "http://127.0.0.1:1"}))),
        ("no keys", says(json!({"jwks_uri": null}))),
        ("no token endpoint", says(json!({"token_endpoint": null}))),
        ("tokens without TLS", says(json!({"token_endpoint": open}))),
        (
            "a page without TLS",
            says(json!({"authorization_endpoint": open})),
        ),
        ("keys without TLS", says(json!({"jwks_uri": open}))),
        ("user info without TLS", says(json!({"userinfo_endpoint": open}))),
        (
            "a script",
            says(json!({"authorization_endpoint": "javascript:alert(1)"})),
        ),
    ]
}

#[tokio::test]
async fn metadata_are_bounded_and_not_believed_blindly() {
    let clock = Clock::system();
    let provider = Provider::start(&clock).await;
    let config = provider.config();
    let tuning = Tuning {
        provider_timeout: Some(Duration::from_millis(500)),
        ..Tuning::default()
    };
    let fixture = Fixture::start_with(tuning, |start| {
        start.clock = clock;
        start.provider = Some(config);
    })
    .await;
    let slow = Behaviour {
        delay: Duration::from_secs(30),
        ..Behaviour::default()
    };
    let failing = Behaviour {
        status: StatusCode::BAD_GATEWAY,
        ..Behaviour::default()
    };
    let away = [("slow", slow, 500), ("failing", failing, 500)];
    let odd = false_metadata().into_iter();
    for (what, behaviour, status) in odd.map(|(what, behaviour)| (what, behaviour, 403)).chain(away) {
        provider.behave(behaviour);
        let shown = Browser::new(&fixture).get("/sign-in?to=/link").await;
        assert_eq!(shown.status, status, "{what}: {shown:?}");
        fixture.clock.advance(Duration::from_secs(20));
    }
    provider.behave(Behaviour::default());
    assert_eq!(Browser::new(&fixture).get("/sign-in?to=/link").await.status, 303);
}
