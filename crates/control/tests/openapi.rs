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
    for part in text.split("\"#/components/").skip(1) {
        let place = part.split('"').next().expect("a place");
        let found = document.pointer(&format!("/components/{place}"));
        assert!(found.is_some_and(serde_json::Value::is_object), "{place}");
    }
}

#[test]
fn every_operation_says_which_refusals_it_has_and_what_every_answer_carries() {
    let document: serde_json::Value = serde_json::from_str(&control::openapi()).expect("JSON");
    let paths = document["paths"].as_object().expect("paths");
    let operations = paths.iter().flat_map(|(path, item)| {
        item.as_object()
            .expect("operations")
            .iter()
            .map(move |o| (path, o))
    });
    let mut ids = std::collections::BTreeSet::new();
    for (path, (method, operation)) in operations {
        let answers = operation["responses"].as_object().expect("responses");
        let name = format!("{method} {path}");
        assert!(ids.insert(operation["operationId"].to_string()), "{name}");
        assert!(!answers.contains_key("default"), "{name}");
        // Whoever joins carries the credential in the body.
        let has_credential =
            operation["security"] != serde_json::json!([]) || operation["operationId"] == "joinByAuthKey";
        assert_eq!(answers.contains_key("401"), has_credential, "{name}");
        let has_body = operation.get("requestBody").is_some();
        assert_eq!(answers.contains_key("413"), has_body, "{name}");
        for (status, answer) in answers {
            let answer = match answer["$ref"].as_str() {
                Some(place) => document.pointer(&place[1..]).expect("leads somewhere"),
                None => answer,
            };
            let has = |header: &str| answer["headers"][header].is_object();
            assert!(
                answer["description"].is_string() && has("X-Request-Id"),
                "{name} {status}"
            );
            // What counts by person tells a stranger nothing.
            let told = answers.contains_key("429") && (status != "401" || path.ends_with("/join"));
            assert_eq!(has("X-RateLimit-Limit"), told, "{name} {status}");
            assert_eq!(has("Retry-After"), status == "429", "{name} {status}");
        }
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
