//! PostgreSQL over TLS: `RUNMESH_TEST_POSTGRES_TLS_URL` names a server by a person who may only come encrypted, and
//! `RUNMESH_TEST_POSTGRES_CERT` the certificate by which it is known. `cargo xtask test` starts one.

mod support;

use control::clock::Clock;
use control::serve;
use reqwest::Method;
use tempfile::TempDir;
use url::Url;

/// A server that takes only encrypted connections, and its certificate.
fn server() -> Option<(Url, String)> {
    let (Ok(url), Ok(cert)) = (
        std::env::var("RUNMESH_TEST_POSTGRES_TLS_URL"),
        std::env::var("RUNMESH_TEST_POSTGRES_CERT"),
    ) else {
        println!("SKIPPED: no PostgreSQL server with TLS (cargo xtask test starts one)");
        return None;
    };
    Some((url.parse().expect("an address"), cert))
}

fn with(url: &Url, parameters: &[(&str, &str)]) -> String {
    let mut url = url.clone();
    url.query_pairs_mut().extend_pairs(parameters);
    url.into()
}

/// Serves from the database at `url`; the error's text when that does not work.
async fn served(url: String) -> Result<(), String> {
    let dir = TempDir::new().expect("temporary directory");
    let mut config = support::config(&dir, &Clock::system());
    config.database_url = Some(url);
    let server = serve(config).await.map_err(|error| format!("{error:?}"))?;
    let key = server
        .admin_key
        .as_ref()
        .expect("first start")
        .expose()
        .to_owned();
    let request = reqwest::Client::new().request(Method::GET, format!("http://{}/v1/me", server.http_addr));
    support::answer(request.bearer_auth(key)).await.data(200);
    server.shutdown().await;
    Ok(())
}

/// An empty database, which is made over an encrypted connection, too.
async fn database(url: &Url) -> Url {
    let url = with(url, &[("sslmode", "require")]);
    let made = control::scratch_database(&url).await.expect("a database");
    let mut made: Url = made.parse().expect("an address");
    made.set_query(None);
    made
}

#[tokio::test]
async fn a_connection_is_encrypted_when_its_address_says_so() {
    let Some((url, cert)) = server() else { return };
    let refused = served(with(&url, &[("sslmode", "disable")])).await;
    let refused = refused.expect_err("this person may not come in the clear");
    assert!(refused.contains("no encryption"), "{refused}");

    served(with(&database(&url).await, &[("sslmode", "require")]))
        .await
        .expect("encrypted");
    let known = [("sslmode", "verify-full"), ("sslrootcert", cert.as_str())];
    served(with(&database(&url).await, &known))
        .await
        .expect("encrypted, and by whom is known");
}

#[tokio::test]
async fn whoever_cannot_show_who_they_are_is_refused() {
    let Some((url, cert)) = server() else { return };
    let unknown = served(with(&url, &[("sslmode", "verify-full")])).await;
    let unknown = unknown.expect_err("no public authority has signed it");
    assert!(unknown.contains("UnknownIssuer"), "{unknown}");

    let mut elsewhere = url.clone();
    elsewhere.set_host(Some("127.0.0.2")).expect("a host");
    let known = [("sslmode", "verify-full"), ("sslrootcert", cert.as_str())];
    let other = served(with(&elsewhere, &known)).await;
    let other = other.expect_err("the certificate is for 127.0.0.1");
    assert!(other.contains("not valid for name"), "{other}");
}
