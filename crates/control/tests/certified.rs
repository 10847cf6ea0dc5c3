//! Signing in at a certified provider (`oidc-provider`, a process of its own), through its own pages.
//!
//! `cargo xtask test` installs it.

mod support;

use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use control::Tuning;
use control::provider::ProviderConfig;
use reqwest::Method;
use serde_json::json;
use support::Fixture;
use support::browser::{Browser, Shown};
use support::provider;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::ChildStdout;

/// The provider's process; ended when it is dropped.
struct Certified {
    process: Child,
    issuer: String,
    /// It writes now and then, and would end if nobody listened.
    _said: Lines<BufReader<ChildStdout>>,
}

impl Certified {
    async fn start(directory: &PathBuf, port: u16, callback: &str, algorithm: &str) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/oidc-provider/provider.mjs");
        let mut process = Command::new("node")
            .arg(script)
            .arg(directory)
            .args([&port.to_string(), callback])
            .env("ALGORITHM", algorithm)
            .env("NODE_NO_WARNINGS", "1")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("node starts");
        let said = process.stdout.take().expect("its output");
        let said = ChildStdout::from_std(said).expect("its output");
        let mut lines = BufReader::new(said).lines();
        let ready = tokio::time::timeout(Duration::from_secs(30), lines.next_line()).await;
        assert_eq!(ready.expect("soon").expect("a line").as_deref(), Some("ready"));
        Self {
            process,
            issuer: format!("http://127.0.0.1:{port}"),
            _said: lines,
        }
    }
}

impl Drop for Certified {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Where the package is, or `None` said aloud.
fn package() -> Option<PathBuf> {
    let package = PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../target/tools/oidc-provider"
    ));
    if package.join("installed").is_file() {
        return package.canonicalize().ok();
    }
    assert!(
        std::env::var_os("RUNMESH_REQUIRE_LAB").is_none(),
        "oidc-provider is required here and missing"
    );
    println!("SKIPPED: oidc-provider is not installed (cargo xtask test installs it)");
    None
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    listener.local_addr().expect("an address").port()
}

/// A server whose provider will be at a port, and the address to which that one leads back.
async fn server(port: u16, change: impl FnOnce(&mut ProviderConfig)) -> (Fixture, String) {
    let mut config = provider::config(&format!("http://127.0.0.1:{port}"));
    change(&mut config);
    let fixture = Fixture::start_with(Tuning::default(), |start| start.provider = Some(config)).await;
    let callback = fixture.url("/sign-in/callback");
    (fixture, callback)
}

/// The value of an attribute after `before`.
fn after<'a>(text: &'a str, before: &str) -> &'a str {
    let rest = text
        .split(before)
        .nth(1)
        .unwrap_or_else(|| panic!("no {before} in {text}"));
    rest.split('"').next().expect("an end")
}

/// Follows redirects until a page is shown, or the server is reached again.
async fn follow(browser: &mut Browser, issuer: &str, mut shown: Shown) -> Shown {
    while let Some(place) = shown.location.clone() {
        let url = match place.strip_prefix('/') {
            Some(path) => format!("{issuer}/{path}"),
            None => place,
        };
        if !url.starts_with(issuer) {
            return browser.get(&url).await;
        }
        shown = browser.get(&url).await;
    }
    shown
}

/// Signs in at the provider's own pages: who, then consent.
async fn sign_in(browser: &mut Browser, issuer: &str, page: &str, who: &str) -> Shown {
    let shown = browser.get(page).await;
    let button = format!(
        "/sign-in?{}",
        after(&shown.text, "href=\"/sign-in?").replace("&amp;", "&")
    );
    let sent = browser.get(&button).await;
    assert!(sent.leads().starts_with(issuer), "{sent:?}");
    let mut shown = follow(browser, issuer, sent).await;
    // Signed in there already, and asked before: it leads straight back.
    for _ in 0..2 {
        if !shown.text.contains("name=\"prompt\"") {
            break;
        }
        let action = after(&shown.text, "action=\"").to_owned();
        let prompt = after(&shown.text, "name=\"prompt\" value=\"").to_owned();
        let fields = [("prompt", prompt.as_str()), ("login", who), ("password", "any")];
        let pressed = browser.submit(&action, &fields).await;
        shown = follow(browser, issuer, pressed).await;
    }
    shown
}

async fn me(fixture: &Fixture, browser: &Browser) -> serde_json::Value {
    let me = fixture.call(browser.session(), Method::GET, "/v1/me", None).await;
    me.data(200).clone()
}

#[tokio::test]
async fn a_person_joins_by_invitation_and_comes_back() {
    let Some(package) = package() else {
        return;
    };
    for algorithm in ["ES256", "RS256"] {
        let port = free_port();
        let (fixture, callback) = server(port, |_| {}).await;
        let provider = Certified::start(&package, port, &callback, algorithm).await;
        let made = fixture
            .post(
                "/v1/invitations",
                json!({"role": "admin", "email": "ada@example.com"}),
            )
            .await;
        let link = made.data(201)["url"].as_str().expect("a link").to_owned();

        let mut browser = Browser::new(&fixture);
        let uninvited = sign_in(&mut browser, &provider.issuer, "/link", "eve").await;
        assert_eq!(uninvited.status, 403, "{uninvited:?}");
        let mut browser = Browser::new(&fixture);
        let wrong = sign_in(&mut browser, &provider.issuer, &link, "unverified-ada").await;
        assert_eq!((wrong.status, browser.session()), (403, None), "{wrong:?}");

        let mut browser = Browser::new(&fixture);
        let joined = sign_in(&mut browser, &provider.issuer, &link, "ada").await;
        assert_eq!((joined.status, joined.leads()), (303, "/account"), "{algorithm}");
        let first = me(&fixture, &browser).await;
        assert_eq!(
            (&first["user"]["name"], &first["role"]),
            (&json!("Name of ada"), &json!("admin"))
        );

        // The same browser is known at the provider; another one signs in anew. Both are the same person.
        let csrf = browser.get("/link").await.csrf();
        browser.submit("/link/sign-out", &[("csrf", &csrf)]).await;
        let back = sign_in(&mut browser, &provider.issuer, "/link", "nobody").await;
        assert_eq!(back.leads(), "/link");
        let mut other = Browser::new(&fixture);
        fixture.clock.advance(Duration::from_secs(60));
        sign_in(&mut other, &provider.issuer, "/link", "ada").await;
        assert_eq!(me(&fixture, &other).await["user"], first["user"]);
        assert_eq!(me(&fixture, &browser).await["user"], first["user"]);
    }
}

#[tokio::test]
async fn a_person_who_refuses_consent_is_not_signed_in() {
    let Some(package) = package() else {
        return;
    };
    let port = free_port();
    let (fixture, callback) = server(port, |_| {}).await;
    let provider = Certified::start(&package, port, &callback, "ES256").await;
    let mut browser = Browser::new(&fixture);
    let sent = browser.get("/sign-in?to=/link").await;
    let shown = follow(&mut browser, &provider.issuer, sent).await;
    let abort = format!("{}/abort", after(&shown.text, "action=\""));
    let pressed = browser.get(&abort).await;
    let back = follow(&mut browser, &provider.issuer, pressed).await;
    assert_eq!((back.status, browser.session()), (403, None), "{back:?}");
    assert!(
        back.text.contains("refused at the sign-in provider"),
        "{}",
        back.text
    );
}

#[tokio::test]
async fn a_provider_that_starts_late_and_again_with_other_keys_is_found() {
    let Some(package) = package() else {
        return;
    };
    let port = free_port();
    let (fixture, callback) = server(port, |config| {
        config.joiners = vec!["member:sub:ada".parse().expect("somebody")];
    })
    .await;
    let mut browser = Browser::new(&fixture);
    assert_eq!(browser.get("/sign-in?to=/link").await.status, 500);
    for _ in 0..2 {
        fixture.clock.advance(Duration::from_secs(30));
        let provider = Certified::start(&package, port, &callback, "ES256").await;
        let mut browser = Browser::new(&fixture);
        let signed = sign_in(&mut browser, &provider.issuer, "/link", "ada").await;
        assert_eq!(signed.status, 303, "{signed:?}");
        assert_eq!(me(&fixture, &browser).await["role"], "member");
    }
}
