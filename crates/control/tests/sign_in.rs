//! Signing in at the provider: who gets in, as whom, and where they land.

mod support;

use std::time::Duration;

use control::provider::Who;
use control::{Tuning, clock::Clock};
use reqwest::Method;
use serde_json::{Value, json};
use support::Fixture;
use support::browser::Browser;
use support::provider::{Behaviour, Provider};
use support::sign_in::{arrive, button, invite, me, members, sign_in};

#[tokio::test]
async fn an_invited_person_joins_and_comes_back_as_the_same() {
    let (fixture, provider) = Fixture::start_with_provider().await;
    provider.claims(json!({"sub": "ada", "name": "Ada <b>Lovelace</b>", "email": "ada@example.com"}));
    let link = invite(&fixture, json!({"role": "member"})).await;
    let mut browser = Browser::new(&fixture);
    let signed = sign_in(&mut browser, &provider, &link).await;
    assert_eq!((signed.status, signed.leads()), (303, "/account"));
    let session = signed
        .cookies
        .iter()
        .find(|cookie| cookie.starts_with("runmesh_session="));
    let session = session.expect("a session");
    assert!(
        session.contains("; HttpOnly; SameSite=Lax;") && !session.contains("Secure"),
        "{session}"
    );
    let first = me(&fixture, &browser).await;
    let first = first.data(200);
    assert_eq!(
        (&first["role"], &first["scopes"]),
        (&json!("member"), &json!(["*"]))
    );
    let account = browser.get("/account").await;
    assert!(
        account.text.contains("Ada &lt;b&gt;Lovelace&lt;/b&gt;"),
        "{}",
        account.text
    );

    let (again, signed) = arrive(&fixture, &provider).await;
    assert_eq!((signed.status, signed.leads()), (303, "/link"));
    assert_eq!(me(&fixture, &again).await.data(200)["user"], first["user"]);
    assert_eq!(members(&fixture).await, 2);
    let spent = fixture.get("/v1/invitations").await;
    assert_eq!(spent.data(200)[0]["acceptedBy"], first["user"]["id"]);
    let audit = fixture.get("/v1/runmesh/audit").await;
    let joined = audit.data(200).as_array().expect("rows").iter();
    let joined: Vec<_> = joined.filter(|row| row["action"] == "member.joined").collect();
    assert_eq!(joined.len(), 1);
    assert_eq!(joined[0]["attributes"]["subject"], "ada");
    assert_eq!(joined[0]["attributes"]["invitation"], spent.data(200)[0]["id"]);
    // A member sees what a member sees.
    let refused = fixture
        .call(again.session(), Method::GET, "/v1/runmesh/nodes?all=true", None)
        .await;
    assert_eq!((refused.status.as_u16(), refused.code()), (403, "forbidden"));
}

#[tokio::test]
async fn nobody_joins_uninvited_and_an_address_is_no_person() {
    let (fixture, provider) = Fixture::start_with_provider().await;
    let ada = json!({"sub": "ada", "email": "ada@example.com", "email_verified": true});
    provider.claims(ada);
    let link = invite(&fixture, json!({"role": "admin"})).await;
    let mut browser = Browser::new(&fixture);
    sign_in(&mut browser, &provider, &link).await;
    assert_eq!(me(&fixture, &browser).await.data(200)["role"], "admin");
    // The same address, verified, and the same domain: somebody else.
    for (subject, email) in [("eve", "ada@example.com"), ("mallory", "m@example.com")] {
        provider.claims(json!({"sub": subject, "email": email, "email_verified": true, "name": "Ada"}));
        let (browser, refused) = arrive(&fixture, &provider).await;
        assert_eq!(refused.status, 403, "{refused:?}");
        assert!(
            refused.text.contains("nobody has invited you"),
            "{}",
            refused.text
        );
        assert_eq!(browser.session(), None);
    }
    assert_eq!(members(&fixture).await, 2);
}

#[tokio::test]
async fn an_invitation_is_good_for_one_person() {
    let (fixture, provider) = Fixture::start_with_provider().await;
    let link = invite(&fixture, json!({"role": "member"})).await;
    // Both have it open before either joins.
    let mut browsers = Vec::new();
    for subject in ["ada", "bob", "eve", "mallory"] {
        let mut browser = Browser::new(&fixture);
        let shown = browser.get(&link).await;
        let sent = browser.get(&button(&shown)).await;
        browsers.push((browser, provider.answer(sent.leads()), subject));
    }
    let mut joined = 0;
    for (mut browser, back, subject) in browsers {
        provider.subject(subject);
        let shown = browser.get(&format!("/sign-in/callback?{back}")).await;
        joined += usize::from(browser.session().is_some());
        assert!([303, 410].contains(&shown.status), "{shown:?}");
    }
    assert_eq!((joined, members(&fixture).await), (1, 2));
    assert_eq!(Browser::new(&fixture).get(&link).await.status, 410);
}

#[tokio::test]
async fn two_who_join_at_once_by_one_invitation_are_one() {
    let (fixture, provider) = Fixture::start_with_provider().await;
    // One identity in many tabs: the person is made once, and once a member.
    provider.subject("ada");
    let link = invite(&fixture, json!({"role": "member"})).await;
    let mut tabs = Vec::new();
    for _ in 0..6 {
        let mut browser = Browser::new(&fixture);
        let shown = browser.get(&link).await;
        let sent = browser.get(&button(&shown)).await;
        tabs.push((browser, provider.answer(sent.leads())));
    }
    let race = tabs.into_iter().map(|(mut browser, back)| async move {
        browser.get(&format!("/sign-in/callback?{back}")).await.status
    });
    let mut statuses = futures_util::future::join_all(race).await;
    statuses.sort_unstable();
    assert_eq!(statuses[0], 303, "{statuses:?}");
    assert!(
        statuses[1..].iter().all(|status| [303, 410].contains(status)),
        "{statuses:?}"
    );
    assert_eq!(members(&fixture).await, 2);
}

#[tokio::test]
async fn an_invitation_by_address_needs_that_address_verified() {
    let (fixture, provider) = Fixture::start_with_provider().await;
    let link = invite(&fixture, json!({"role": "member", "email": "Ada@Example.com"})).await;
    let told = |info: Value| Behaviour {
        claims: json!({"sub": "ada"}),
        info,
        ..Behaviour::default()
    };
    for refused in [
        json!({"sub": "ada", "email": "eve@example.com", "email_verified": true}),
        json!({"sub": "ada", "email": "ada@example.com", "email_verified": false}),
        json!({"sub": "ada", "email": "ada@example.com"}),
        json!({"sub": "ada"}),
        // Somebody else's user info.
        json!({"sub": "eve", "email": "ada@example.com", "email_verified": true}),
    ] {
        provider.behave(told(refused.clone()));
        let mut browser = Browser::new(&fixture);
        let shown = sign_in(&mut browser, &provider, &link).await;
        assert_eq!(
            (shown.status, browser.session()),
            (403, None),
            "{refused}: {shown:?}"
        );
    }
    assert_eq!(members(&fixture).await, 1);
    provider.behave(told(
        json!({"sub": "ada", "email": "ADA@example.COM", "email_verified": true, "name": "Ada"}),
    ));
    let mut browser = Browser::new(&fixture);
    sign_in(&mut browser, &provider, &link).await;
    assert_eq!(me(&fixture, &browser).await.data(200)["user"]["name"], "Ada");
}

#[tokio::test]
async fn an_invitation_hands_on_no_more_than_its_maker_holds_and_can_be_taken_back() {
    let (fixture, provider) = Fixture::start_with_provider().await;
    let body = json!({"name": "inviter", "scopes": ["org:members"]});
    let made = fixture.post("/v1/api-keys", body).await;
    let inviter = made.data(201)["key"].as_str().expect("the key").to_owned();
    let body = Some(json!({"role": "admin", "expiresIn": "1d"}));
    let made = fixture
        .call(Some(&inviter), Method::POST, "/v1/invitations", body)
        .await;
    let link = made.data(201)["url"].as_str().expect("a link").to_owned();
    provider.subject("ada");
    let mut browser = Browser::new(&fixture);
    sign_in(&mut browser, &provider, &link).await;
    let refused = fixture
        .call(browser.session(), Method::GET, "/v1/runmesh/nodes", None)
        .await;
    assert_eq!((refused.status.as_u16(), refused.code()), (403, "forbidden"));

    let link = invite(&fixture, json!({"role": "member"})).await;
    let id = fixture.get("/v1/invitations").await.data(200)[0]["id"].clone();
    let path = format!("/v1/invitations/{}", id.as_str().expect("an id"));
    let shown = Browser::new(&fixture).get(&link).await;
    for _ in 0..2 {
        let taken = fixture
            .call(Some(&fixture.admin), Method::DELETE, &path, None)
            .await;
        assert!(taken.data(200)["revokedAt"].is_string());
    }
    assert_eq!(Browser::new(&fixture).get(&button(&shown)).await.status, 410);
    let late = invite(&fixture, json!({"role": "member", "expiresIn": "1d"})).await;
    fixture.clock.advance(Duration::from_secs(24 * 3600));
    assert_eq!(Browser::new(&fixture).get(&late).await.status, 410);
    for unknown in ["/join?invitation=rti_wrong", "/join"] {
        assert_eq!(Browser::new(&fixture).get(unknown).await.status, 404);
    }
}

#[tokio::test]
async fn who_the_configuration_names_joins_the_first_org() {
    let clock = Clock::system();
    let provider = Provider::start(&clock).await;
    let mut config = provider.config();
    config.joiners = ["admin:sub:ada", "member:email:Bob@example.com"]
        .map(|text| text.parse().expect("somebody"))
        .to_vec();
    assert_eq!(config.joiners[0].who, Who::Subject("ada".to_owned()));
    let fixture = Fixture::start_with(Tuning::default(), |start| {
        start.clock = clock;
        start.provider = Some(config);
    })
    .await;
    provider.subject("ada");
    let (browser, _) = arrive(&fixture, &provider).await;
    let ada = me(&fixture, &browser).await;
    assert_eq!(
        (&ada.data(200)["role"], &ada.data(200)["organization"]["name"]),
        (&json!("admin"), &json!("home"))
    );
    for (verified, status) in [(false, 403), (true, 303)] {
        provider.claims(json!({"sub": "bob", "email": "bob@example.com", "email_verified": verified}));
        assert_eq!(arrive(&fixture, &provider).await.1.status, status);
    }
    // The address has opened the door once: it opens it for nobody else, and is not needed any more.
    provider.subject("bob");
    assert_eq!(arrive(&fixture, &provider).await.1.status, 303);
    assert_eq!(members(&fixture).await, 3);
}

#[tokio::test]
async fn a_second_org_is_joined_as_the_same_person() {
    let (fixture, provider) = Fixture::start_with_provider().await;
    provider.subject("ada");
    let link = invite(&fixture, json!({"role": "member"})).await;
    let mut browser = Browser::new(&fixture);
    sign_in(&mut browser, &provider, &link).await;
    let home = me(&fixture, &browser).await.data(200).clone();
    let made = fixture.post("/v1/organizations", json!({"name": "other"})).await;
    let other = made.data(201)["apiKey"]["key"]
        .as_str()
        .expect("a key")
        .to_owned();
    let body = Some(json!({"role": "admin"}));
    let made = fixture
        .call(Some(&other), Method::POST, "/v1/invitations", body)
        .await;
    let link = made.data(201)["url"].as_str().expect("a link").to_owned();
    sign_in(&mut browser, &provider, &link).await;
    let there = me(&fixture, &browser).await.data(200).clone();
    assert_eq!((&there["user"], &there["role"]), (&home["user"], &json!("admin")));
    assert_eq!(there["organization"]["name"], "other");
    let (browser, _) = arrive(&fixture, &provider).await;
    assert_eq!(
        me(&fixture, &browser).await.data(200)["organization"]["name"],
        "home"
    );
}

#[tokio::test]
async fn a_browser_lands_on_a_page_of_ours() {
    let (fixture, provider) = Fixture::start_with_provider().await;
    let link = invite(&fixture, json!({"role": "member"})).await;
    let mut browser = Browser::new(&fixture);
    sign_in(&mut browser, &provider, &link).await;
    for (to, lands) in [
        ("/link/ABCD23", "/link/ABCD23"),
        ("/account", "/account"),
        ("https://evil.example/", "/link"),
        ("//evil.example", "/link"),
        ("/%5Cevil.example", "/link"),
        ("/link/%2F%2Fevil.example", "/link"),
    ] {
        let sent = browser.get(&format!("/sign-in?to={to}")).await;
        let back = provider.answer(sent.leads());
        let shown = browser.get(&format!("/sign-in/callback?{back}")).await;
        assert_eq!(shown.leads(), lands, "{to}");
        fixture.clock.advance(Duration::from_secs(20));
    }
    let signed = Browser::new(&fixture).sign_in(&fixture.admin, "/link").await;
    assert_eq!(signed.leads(), "/link");
    let mut browser = Browser::new(&fixture);
    let csrf = browser.get("/link").await.csrf();
    let fields = [
        ("csrf", csrf.as_str()),
        ("key", &fixture.admin),
        ("to", "//evil.example"),
    ];
    assert_eq!(browser.submit("/link/sign-in", &fields).await.leads(), "/link");
}

#[tokio::test]
async fn sign_ins_of_one_address_are_limited() {
    let (fixture, _provider) = Fixture::start_with_provider().await;
    let mut browser = Browser::new(&fixture);
    let mut last = browser.get("/sign-in?to=/link").await;
    for _ in 0..12 {
        last = browser.get("/sign-in?to=/link").await;
    }
    assert_eq!(
        (last.status, last.limit.0.as_deref()),
        (429, Some("10")),
        "{last:?}"
    );
    fixture.clock.advance(Duration::from_secs(10));
    assert_eq!(browser.get("/sign-in?to=/link").await.status, 303);
}

#[tokio::test]
async fn without_a_provider_there_is_no_way_to_it() {
    let fixture = Fixture::start().await;
    let mut browser = Browser::new(&fixture);
    assert!(!browser.get("/link").await.text.contains("/sign-in?"));
    assert_eq!(browser.get("/sign-in?to=/link").await.status, 404);
    assert_eq!(browser.get("/sign-in/callback?state=x&code=y").await.status, 404);
    let refused = fixture.post("/v1/invitations", json!({"role": "member"})).await;
    assert_eq!((refused.status.as_u16(), refused.code()), (409, "conflict"));
}

#[tokio::test]
async fn with_https_cookies_keep_to_this_host() {
    let clock = Clock::system();
    let provider = Provider::start(&clock).await;
    let config = provider.config();
    let fixture = Fixture::start_with(Tuning::default(), |start| {
        start.clock = clock;
        start.provider = Some(config);
        start.public_url = Some("https://mesh.example.com".parse().expect("an address"));
    })
    .await;
    let mut browser = Browser::new(&fixture);
    let sent = browser.get("/sign-in?to=/link").await;
    assert!(
        sent.leads()
            .contains("redirect_uri=https%3A%2F%2Fmesh.example.com%2Fsign-in%2Fcallback")
    );
    let cookie = &sent.cookies[0];
    assert!(
        cookie.starts_with("__Host-runmesh_sign_in=") && cookie.ends_with("; Secure"),
        "{cookie}"
    );
    assert!(
        cookie.contains("; Path=/; HttpOnly; SameSite=Lax;") && !cookie.contains("Domain"),
        "{cookie}"
    );
    let made = fixture.post("/v1/invitations", json!({"role": "member"})).await;
    let url = made.data(201)["url"].as_str().expect("a link");
    assert!(
        url.starts_with("https://mesh.example.com/join?invitation=rti_"),
        "{url}"
    );
}

/// Signed in with a key, presses the button and signs in at the provider.
async fn tie(browser: &mut Browser, provider: &Provider) -> support::browser::Shown {
    let csrf = browser.get("/account").await.csrf();
    let shown = browser.submit("/account/identity", &[("csrf", &csrf)]).await;
    if shown.status != 200 {
        return shown;
    }
    let link = shown
        .text
        .split("class=\"button\" href=\"")
        .nth(1)
        .expect("a link");
    let link = link.split('"').next().expect("an end").replace("&amp;", "&");
    let back = provider.answer(&link);
    browser.get(&format!("/sign-in/callback?{back}")).await
}

async fn signed_in_with(fixture: &Fixture, key: &str) -> Browser {
    let mut browser = Browser::new(fixture);
    browser.sign_in(key, "/account").await;
    browser
}

#[tokio::test]
async fn who_had_a_key_first_ties_an_account_and_comes_in_with_it_as_the_same() {
    let (fixture, provider) = Fixture::start_with_provider().await;
    provider.subject("ada");
    let mut browser = signed_in_with(&fixture, &fixture.admin).await;
    let tied = tie(&mut browser, &provider).await;
    assert_eq!((tied.status, tied.leads()), (303, "/account"), "{tied:?}");
    let account = browser.get("/account").await;
    assert!(account.text.contains("You can sign in with"), "{}", account.text);
    assert!(!account.text.contains("/account/identity"), "{}", account.text);

    let (arrived, _) = arrive(&fixture, &provider).await;
    let (by_key, by_provider) = (me(&fixture, &browser).await, me(&fixture, &arrived).await);
    assert_eq!(by_key.data(200), by_provider.data(200));
    assert_eq!(members(&fixture).await, 1);
    let audit = fixture.get("/v1/runmesh/audit").await;
    let rows = audit.data(200).as_array().expect("rows");
    let deed = rows.iter().find(|row| row["action"] == "member.identity_tied");
    assert_eq!(deed.expect("a row")["attributes"]["subject"], "ada");
    // Once is enough, whoever it is.
    provider.subject("eve");
    let again = tie_by_force(&mut browser).await;
    assert_eq!(again.status, 409, "{again:?}");
}

/// Presses the button that is not shown any more.
async fn tie_by_force(browser: &mut Browser) -> support::browser::Shown {
    let csrf = browser.get("/account").await.csrf();
    browser.submit("/account/identity", &[("csrf", &csrf)]).await
}

#[tokio::test]
async fn nobody_ties_more_than_they_hold_or_what_is_somebody_elses() {
    let (fixture, provider) = Fixture::start_with_provider().await;
    let key = async |body: Value| {
        let made = fixture.post("/v1/api-keys", body).await;
        made.data(201)["key"].as_str().expect("the key").to_owned()
    };
    let narrow = key(json!({"name": "narrow", "scopes": ["org:*"]})).await;
    let short = key(json!({"name": "short", "expiresIn": "30d"})).await;
    provider.subject("ada");
    for key in [&narrow, &short] {
        let mut browser = signed_in_with(&fixture, key).await;
        let refused = tie(&mut browser, &provider).await;
        assert_eq!(refused.status, 403, "{refused:?}");
    }
    // Somebody joined with the account; then it is theirs.
    let link = invite(&fixture, json!({"role": "member"})).await;
    let mut joined = Browser::new(&fixture);
    sign_in(&mut joined, &provider, &link).await;
    let mut browser = signed_in_with(&fixture, &fixture.admin).await;
    let refused = tie(&mut browser, &provider).await;
    assert_eq!(refused.status, 409, "{refused:?}");
    let (arrived, _) = arrive(&fixture, &provider).await;
    assert_eq!(me(&fixture, &arrived).await.data(200)["role"], "member");
}

#[tokio::test]
async fn an_account_is_tied_only_in_the_browser_of_who_began_and_still_is_there() {
    let (fixture, provider) = Fixture::start_with_provider().await;
    provider.subject("ada");
    let begin = async |browser: &mut Browser| {
        let csrf = browser.get("/account").await.csrf();
        let shown = browser.submit("/account/identity", &[("csrf", &csrf)]).await;
        let link = shown
            .text
            .split("class=\"button\" href=\"")
            .nth(1)
            .expect("a link");
        let link = link.split('"').next().expect("an end").replace("&amp;", "&");
        format!("/sign-in/callback?{}", provider.answer(&link))
    };
    let mut browser = signed_in_with(&fixture, &fixture.admin).await;
    let forged = browser.submit("/account/identity", &[("csrf", "guessed")]).await;
    assert_eq!(forged.status, 403);
    let back = begin(&mut browser).await;
    let mut other = signed_in_with(&fixture, &fixture.admin).await;
    assert_eq!(other.get(&back).await.status, 403, "another browser");
    // Signed out in between.
    let session = browser.session().expect("signed in").to_owned();
    let listed = fixture
        .call(Some(&session), Method::GET, "/v1/sessions", None)
        .await;
    let rows = listed.data(200).as_array().expect("rows").clone();
    let current = rows.iter().find(|row| row["current"] == true).expect("this one");
    let path = format!("/v1/sessions/{}", current["id"].as_str().expect("an id"));
    fixture
        .call(Some(&fixture.admin), Method::DELETE, &path, None)
        .await
        .data(200);
    assert_eq!(browser.get(&back).await.status, 403, "signed out");
    let (arrived, refused) = arrive(&fixture, &provider).await;
    assert_eq!(
        (refused.status, arrived.session()),
        (403, None),
        "nobody was tied"
    );
}
