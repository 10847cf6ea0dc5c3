//! Connections and data directories: who is asking, how many, how slowly, and no two servers on one directory.

mod support;

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use control::clock::Clock;
use control::{ServeError, Tuning, serve};
use reqwest::Method;
use serde_json::json;
use support::Fixture;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use types::NodePrivateKey;

const START: &str = "/v1/runmesh/devices/link/start";

/// Starts a link as somebody at `ip`, if the server believes it; returns the address that the page shows.
async fn asked_from(fixture: &Fixture, seed: u8, ip: &str) -> String {
    let key = NodePrivateKey::from_random([seed; 32]).public();
    let request = fixture
        .http
        .post(fixture.url(START))
        .header("x-forwarded-for", ip);
    let started = support::answer(request.json(&json!({"publicKey": key}))).await;
    let code = started.data(201)["code"].as_str().expect("a code").to_owned();
    let shown = fixture.get(&format!("/v1/runmesh/devices/link/{code}")).await;
    shown.data(200)["ip"].as_str().expect("an address").to_owned()
}

#[tokio::test]
async fn only_a_trusted_proxy_names_its_client() {
    let fixture = Fixture::start().await;
    assert_eq!(asked_from(&fixture, 1, "203.0.113.9").await, "127.0.0.1");
    let proxy = vec!["127.0.0.1/32".parse().expect("a block")];
    let fixture = Fixture::start_with(Tuning::default(), |config| config.trusted_proxies = proxy).await;
    assert_eq!(asked_from(&fixture, 1, "203.0.113.9").await, "203.0.113.9");
}

#[tokio::test]
async fn the_addresses_of_one_ipv6_network_share_their_limit() {
    let proxy = vec!["127.0.0.1/32".parse().expect("a block")];
    let fixture = Fixture::start_with(Tuning::default(), |config| config.trusted_proxies = proxy).await;
    let mut refused = 0;
    for n in 0..40_u8 {
        let body = json!({"publicKey": NodePrivateKey::from_random([n + 1; 32]).public()});
        let request = fixture.http.post(fixture.url(START)).json(&body);
        let request = request.header("x-forwarded-for", format!("2001:db8::{n:x}"));
        refused += u32::from(support::answer(request).await.status.as_u16() == 429);
    }
    assert!(refused >= 10, "{refused}");
    assert_eq!(
        asked_from(&fixture, 99, "2001:db8:0:1::1").await,
        "2001:db8:0:1::1"
    );
}

#[tokio::test]
async fn a_client_that_dawdles_is_cut_and_others_are_served() {
    let tuning = Tuning {
        head_timeout: Some(Duration::from_millis(300)),
        ..Tuning::default()
    };
    let fixture = Fixture::start_with(tuning, |_| {}).await;
    let mut slow = Vec::new();
    for _ in 0..50 {
        let mut socket = TcpStream::connect(fixture.server.http_addr).await.expect("taken");
        socket
            .write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n")
            .await
            .expect("sent");
        slow.push(socket);
    }
    let alive = fixture.call(None, Method::GET, "/healthz", None).await;
    assert_eq!(alive.text, "ok\n");
    for mut socket in slow {
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(5), socket.read_to_end(&mut rest));
        // However it ends, it ends.
        let _ = ended.await.expect("cut");
        assert!(!rest.starts_with(b"HTTP/1.1 200"));
    }
}

#[tokio::test]
async fn one_address_holds_a_bounded_number_of_connections() {
    let tuning = Tuning {
        connections_per_address_max: Some(3),
        ..Tuning::default()
    };
    let fixture = Fixture::start_with(tuning, |_| {}).await;
    let mut held = Vec::new();
    let mut served = 0;
    for _ in 0..6 {
        let mut socket = TcpStream::connect(fixture.server.http_addr).await.expect("taken");
        let mut answer = [0; 12];
        // One that is closed at once may already refuse the write.
        let _ = socket
            .write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
            .await;
        if socket.read_exact(&mut answer).await.is_ok() && &answer == b"HTTP/1.1 200" {
            served += 1;
        }
        held.push(socket);
    }
    assert_eq!(served, 3);
    drop(held);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(
        fixture.call(None, Method::GET, "/healthz", None).await.text,
        "ok\n"
    );
}

#[tokio::test]
async fn a_data_directory_is_for_one_server() {
    let fixture = Fixture::start().await;
    let second = serve(fixture.config.clone()).await;
    let error = second.expect_err("refused");
    assert!(matches!(error, ServeError::InUse { .. }), "{error}");
    assert!(
        error.to_string().contains("another control plane runs on"),
        "{error}"
    );
    fixture.server.shutdown().await;
    serve(fixture.config.clone())
        .await
        .expect("free again")
        .shutdown()
        .await;
}

#[tokio::test]
async fn the_database_is_for_its_owner_alone_in_whatever_directory() {
    let dir = tempfile::TempDir::new().expect("temporary directory");
    let place = dir.path().join("shared");
    std::fs::create_dir(&place).expect("made");
    std::fs::set_permissions(&place, std::fs::Permissions::from_mode(0o755)).expect("opened");
    let fixture = Fixture::start_with(Tuning::default(), |config| config.data_dir = place.clone()).await;
    fixture.post("/v1/api-keys", json!({"name": "x"})).await.data(201);
    for entry in std::fs::read_dir(&place).expect("a directory") {
        let entry = entry.expect("an entry");
        let mode = entry.metadata().expect("a file").permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{:?}", entry.file_name());
    }
}

#[tokio::test]
async fn a_database_that_cannot_be_used_is_refused_with_its_reason() {
    let dir = tempfile::TempDir::new().expect("temporary directory");
    std::fs::write(
        dir.path().join("runmesh.db"),
        "no database at all, but long enough to be read as one",
    )
    .expect("written");
    let mut config = support::config(&dir, &Clock::system());
    config.data_dir = dir.path().to_owned();
    let refused = serve(config.clone()).await.expect_err("refused").to_string();
    assert!(refused.contains("file is not a database"), "{refused}");
    config.data_dir = dir.path().join("other");
    config.database_url = Some("postgres://somebody:password@127.0.0.1:1/runmesh".to_owned());
    let refused = serve(config).await.expect_err("refused").to_string();
    assert!(
        refused.contains("onnection refused") && !refused.contains("password"),
        "{refused}"
    );
}
