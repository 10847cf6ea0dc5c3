//! The committed OpenAPI document is the one that the routes make; `UPDATE_OPENAPI=1` rewrites it.

mod support;

use std::path::Path;

use support::Fixture;

#[test]
fn the_committed_document_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../openapi/runmesh.json");
    let current = control::openapi();
    if std::env::var_os("UPDATE_OPENAPI").is_some() {
        std::fs::write(&path, &current).expect("written");
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == current,
        "the API has changed: run `UPDATE_OPENAPI=1 cargo test -p control --test openapi` and commit the difference"
    );
}

#[test]
fn every_reference_in_the_document_leads_somewhere() {
    let document: serde_json::Value = serde_json::from_str(&control::openapi()).expect("JSON");
    assert!(
        document["openapi"]
            .as_str()
            .expect("a version")
            .starts_with("3.1")
    );
    let text = document.to_string();
    for part in text.split("\"#/components/schemas/").skip(1) {
        let name = part.split('"').next().expect("a name");
        assert!(document["components"]["schemas"][name].is_object(), "{name}");
    }
}

#[tokio::test]
async fn the_server_describes_itself() {
    let fixture = Fixture::start().await;
    let get = |path: &'static str| fixture.call(None, reqwest::Method::GET, path, None);
    assert_eq!(get("/v1/openapi.json").await.text, control::openapi());
    assert!(get("/llms.txt").await.text.contains("/v1/openapi.json"));
    assert_eq!(get("/healthz").await.text, "ok\n");
}
