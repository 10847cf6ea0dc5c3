//! Nodes, their configuration, the audit log, activity, restarts, a full disk.

mod support;

use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use control::clock::Clock;
use control::{Tuning, serve, serve_with};
use reqwest::Method;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use support::{Fixture, answer, config};
use types::NodePrivateKey;

async fn link(fixture: &Fixture, seed: u8) -> Value {
    let key = NodePrivateKey::from_random([seed; 32]).public();
    let body = json!({"publicKey": key, "hostname": format!("host{seed}"), "os": "linux"});
    let path = "/v1/runmesh/devices/link/start";
    let started = fixture.call(None, Method::POST, path, Some(body)).await;
    let code = started.data(201)["code"].clone();
    let approved = fixture
        .post("/v1/runmesh/devices/link/approve", json!({"code": code}))
        .await;
    approved.data(200)["node"].clone()
}

fn id(node: &Value) -> &str {
    node["id"].as_str().expect("an id")
}

#[tokio::test]
async fn nodes_are_filtered_and_paged() {
    let fixture = Fixture::start().await;
    let first = link(&fixture, 1).await;
    for seed in 2..5 {
        link(&fixture, seed).await;
    }
    let revoke = format!("/v1/runmesh/nodes/{}", id(&first));
    fixture
        .call(Some(&fixture.admin), Method::DELETE, &revoke, None)
        .await
        .data(200);
    for (query, count) in [
        ("", 5),
        ("?kind=platform", 1),
        ("?status=revoked", 1),
        ("?status=offline", 3),
        ("?status=online", 1),
        ("?owner=me", 4),
        ("?q=HOST3", 1),
        ("?q=%25", 0),
        ("?q=host_", 0),
        ("?limit=2", 2),
    ] {
        let page = fixture.get(&format!("/v1/runmesh/nodes{query}")).await;
        assert_eq!(page.data(200).as_array().expect("rows").len(), count, "{query}");
    }
    assert_eq!(
        fixture.get("/v1/runmesh/nodes?kind=car").await.code(),
        "bad_request"
    );
    let overview = fixture.get("/v1/runmesh/overview").await;
    let expected = json!({"total": 5, "online": 1, "offline": 3, "revoked": 1,
        "byKind": {"device": 3, "sandbox": 0, "platform": 1}});
    assert_eq!(overview.data(200), &expected);

    // It counts what the list shows: another admin has no device here, and sees those of others when they ask.
    let org = fixture.get("/v1/organizations/current").await.data(200)["id"].clone();
    let members = format!("/v1/organizations/{}/members", org.as_str().expect("an id"));
    let made = fixture
        .post(&members, json!({"name": "Eve", "role": "admin"}))
        .await;
    let eve = made.data(201)["apiKey"]["key"]
        .as_str()
        .expect("a key")
        .to_owned();
    let path = "/v1/runmesh/overview";
    let own = fixture.call(Some(&eve), Method::GET, path, None).await;
    assert_eq!(
        (own.data(200)["total"].as_u64(), own.data(200)["online"].as_u64()),
        (Some(1), Some(1))
    );
    let all = format!("{path}?all=true");
    let everyone = fixture.call(Some(&eve), Method::GET, &all, None).await;
    assert_eq!(everyone.data(200), &expected);
    let made = fixture
        .post(&members, json!({"name": "Bob", "role": "member"}))
        .await;
    let bob = made.data(201)["apiKey"]["key"]
        .as_str()
        .expect("a key")
        .to_owned();
    let refused = fixture.call(Some(&bob), Method::GET, &all, None).await;
    assert_eq!((refused.status.as_u16(), refused.code()), (403, "forbidden"));
}

#[tokio::test]
async fn a_wg_quick_configuration_is_accepted_by_wg_quick() {
    let fixture = Fixture::start().await;
    let node = link(&fixture, 1).await;
    link(&fixture, 2).await;
    let url = fixture.url(&format!("/v1/runmesh/nodes/{}/config?format=wg-quick", id(&node)));
    let text = answer(fixture.http.get(url).bearer_auth(&fixture.admin)).await;
    assert_eq!(text.headers["content-type"], "text/plain; charset=utf-8");
    let file = fixture.dir.path().join("runmesh0.conf");
    std::fs::write(&file, &text.text).expect("written");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("mode");
    let stripped = Command::new("wg-quick").arg("strip").arg(&file).output();
    let stripped = stripped.expect("wg-quick is installed (Debian: wireguard-tools)");
    assert!(stripped.status.success(), "{stripped:?}");
    let stripped = String::from_utf8(stripped.stdout).expect("text");
    assert_eq!(stripped.matches("PublicKey = ").count(), 2);
    assert!(!stripped.contains("Address"));
}

#[tokio::test]
async fn a_configuration_of_the_platform_or_a_revoked_node_shows_nobody() {
    let fixture = Fixture::start().await;
    let node = link(&fixture, 1).await;
    let nodes = fixture.get("/v1/runmesh/nodes?kind=platform").await;
    let platform = nodes.data(200)[0].clone();
    let path = format!("/v1/runmesh/nodes/{}", id(&platform));
    assert_eq!(fixture.get(&format!("{path}/config")).await.code(), "forbidden");
    assert_eq!(
        fixture.post(&format!("{path}/revoke"), json!({})).await.code(),
        "forbidden"
    );

    let path = format!("/v1/runmesh/nodes/{}", id(&node));
    fixture.post(&format!("{path}/revoke"), json!({})).await.data(200);
    let config = fixture.get(&format!("{path}/config")).await;
    assert_eq!((config.status.as_u16(), config.code()), (409, "device_revoked"));
    let body = Some(json!({"name": "back"}));
    let refused = fixture
        .call(Some(&fixture.admin), Method::PATCH, &path, body)
        .await;
    assert_eq!(refused.code(), "device_revoked");
}

#[tokio::test]
async fn a_name_is_a_free_label_or_refused() {
    let fixture = Fixture::start().await;
    let node = link(&fixture, 1).await;
    link(&fixture, 2).await;
    let path = format!("/v1/runmesh/nodes/{}", id(&node));
    let long = "x".repeat(64);
    let cases = [
        ("Upper", 400),
        ("a b", 400),
        ("", 400),
        (&long, 400),
        ("host2", 409),
        ("new", 200),
    ];
    for (name, status) in cases {
        let body = Some(json!({"name": name}));
        let answer = fixture
            .call(Some(&fixture.admin), Method::PATCH, &path, body)
            .await;
        assert_eq!(answer.status.as_u16(), status, "{name}: {}", answer.text);
    }
    let answer = fixture
        .call(Some(&fixture.admin), Method::PATCH, &path, Some(json!({})))
        .await;
    assert_eq!(answer.code(), "bad_request");
    assert_eq!(fixture.get(&path).await.data(200)["name"], "new");
}

#[tokio::test]
async fn whatever_becomes_part_of_a_name_is_a_dns_label_or_refused() {
    let fixture = Fixture::start().await;
    let node = format!("/v1/runmesh/nodes/{}", id(&link(&fixture, 1).await));
    let started = json!({"publicKey": NodePrivateKey::from_random([2; 32]).public()});
    let started = fixture.post("/v1/runmesh/devices/link/start", started).await;
    let code = started.data(201)["code"].clone();
    let approve = "/v1/runmesh/devices/link/approve";
    let long = "x".repeat(64);
    for bad in [
        "", "Upper", "a b", "a.b", "a_b", "-a", "a-", "\u{fc}", "a\n", "a\u{0}", &long,
    ] {
        let cases = [
            (Method::PATCH, node.as_str(), json!({"name": bad})),
            (Method::PATCH, &node, json!({"deviceLabel": bad})),
            (Method::PATCH, &node, json!({"tags": ["good", bad]})),
            (Method::POST, approve, json!({"code": code, "name": bad})),
            (Method::POST, approve, json!({"code": code, "tags": [bad]})),
            (Method::POST, "/v1/organizations", json!({"name": bad})),
            (
                Method::POST,
                "/v1/agents",
                json!({"slug": bad, "executionMode": "managed"}),
            ),
            (
                Method::POST,
                "/v1/runmesh/auth-keys",
                json!({"name": "k", "tags": [bad]}),
            ),
        ];
        for (method, path, body) in cases {
            let shown = body.to_string();
            let answer = fixture.call(Some(&fixture.admin), method, path, Some(body)).await;
            assert_eq!(
                (answer.status.as_u16(), answer.code()),
                (400, "bad_request"),
                "{path} {shown}"
            );
        }
    }
    assert_eq!(fixture.get(&node).await.data(200)["tags"], json!([]));
    for list in ["/v1/agents", "/v1/runmesh/auth-keys"] {
        assert_eq!(fixture.get(list).await.data(200), &json!([]), "{list}");
    }
    // A refusal costs nothing: the code is still good.
    fixture
        .post(approve, json!({"code": code, "name": "good"}))
        .await
        .data(200);
}

/// Recomputes a row's hash by the recipe that the API documents.
fn hash(row: &Value) -> String {
    let mut attributes = row["attributes"].clone();
    attributes.sort_all_objects();
    let recipe = json!([
        row["previousHash"],
        row["sequence"],
        row["id"],
        row["orgId"],
        row["actorType"],
        row["actorId"],
        row["action"],
        row["targetType"],
        row["targetId"],
        row["ip"],
        attributes.to_string(),
        row["createdAt"]
    ]);
    let digest = Sha256::digest(recipe.to_string().as_bytes());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn the_audit_log_is_a_chain_that_anyone_can_check() {
    let fixture = Fixture::start().await;
    let node = link(&fixture, 1).await;
    let path = format!("/v1/runmesh/nodes/{}", id(&node));
    fixture
        .call(Some(&fixture.admin), Method::DELETE, &path, None)
        .await
        .data(200);
    let log = fixture.get("/v1/runmesh/audit?format=jsonl").await;
    let rows: Vec<Value> = log
        .text
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let actions: Vec<&str> = rows
        .iter()
        .map(|row| row["action"].as_str().expect("text"))
        .collect();
    let expected = [
        "organization.created",
        "device.link_started",
        "device.approved",
        "node.revoked",
    ];
    assert_eq!(actions, expected);
    let mut previous = json!("0".repeat(64));
    for (index, row) in rows.iter().enumerate() {
        assert_eq!(row["sequence"], index + 1);
        assert_eq!(row["previousHash"], previous);
        assert_eq!(row["hash"], hash(row).as_str());
        previous = row["hash"].clone();
    }
    let newest = fixture.get("/v1/runmesh/audit?limit=2").await;
    let page = newest.data(200);
    assert_eq!(page[0], rows[3]);
    let cursor = newest.body["nextCursor"].as_str().expect("more");
    let rest = fixture
        .get(&format!("/v1/runmesh/audit?limit=2&cursor={cursor}"))
        .await;
    assert_eq!(rest.data(200)[1], rows[0]);
    assert_eq!(rest.body["hasMore"], false);
}

#[tokio::test]
async fn activity_tells_people_what_happened() {
    let fixture = Fixture::start().await;
    let node = link(&fixture, 1).await;
    let other = link(&fixture, 2).await;
    let path = format!("/v1/runmesh/nodes/{}", id(&node));
    fixture
        .call(Some(&fixture.admin), Method::DELETE, &path, None)
        .await
        .data(200);
    let types = |answer: &support::Answer| -> Vec<String> {
        let rows = answer.data(200).as_array().expect("rows").clone();
        rows.iter()
            .map(|row| row["eventType"].as_str().expect("text").to_owned())
            .collect()
    };
    let own = fixture
        .get(&format!("/v1/runmesh/devices/{}/activity", id(&node)))
        .await;
    assert_eq!(types(&own), ["runmesh.device.revoked", "runmesh.device.linked"]);
    for (query, count) in [
        ("", 3),
        ("?event_type=runmesh.device.linked", 2),
        ("?severity=warning", 1),
        ("?resource_type=runmesh_device", 3),
        ("?resource_type=agent", 0),
        ("?until=2020-01-01T00:00:00Z", 0),
        ("?since=2020-01-01T00:00:00Z", 3),
    ] {
        let page = fixture.get(&format!("/v1/activity{query}")).await;
        assert_eq!(types(&page).len(), count, "{query}");
    }
    let page = fixture
        .get(&format!("/v1/activity?runmesh_node_id={}", id(&other)))
        .await;
    assert_eq!(types(&page), ["runmesh.device.linked"]);
    assert_eq!(
        fixture.get("/v1/activity?since=yesterday").await.code(),
        "bad_request"
    );
}

#[tokio::test]
async fn a_restart_keeps_everything_and_makes_no_second_admin() {
    let fixture = Fixture::start().await;
    let node = link(&fixture, 1).await;
    let path = format!("/v1/runmesh/nodes/{}/config", id(&node));
    let before = fixture.get(&path).await.data(200).clone();
    fixture.server.shutdown().await;

    for key in ["control.key", "platform.key"] {
        let file = fixture.dir.path().join("data").join(key);
        let mode = file.metadata().expect("a key file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{key}");
    }
    let server = serve(fixture.config.clone()).await.expect("starts again");
    assert!(server.admin_key.is_none());
    let fixture = Fixture { server, ..fixture };
    let after = fixture.get(&path).await.data(200).clone();
    assert_eq!(after["control"]["publicKey"], before["control"]["publicKey"]);
    assert_eq!(after["orgSigningKey"], before["orgSigningKey"]);
    assert_eq!(after["peers"][0]["publicKey"], before["peers"][0]["publicKey"]);
    // The platform's socket is elsewhere now, which nodes must be told: the same generation would keep it from them.
    assert_ne!(after["peers"][0]["endpoints"], before["peers"][0]["endpoints"]);
    assert!(after["generation"].as_u64() > before["generation"].as_u64());

    fixture.server.shutdown().await;
    let mut config = fixture.config.clone();
    let endpoint = after["peers"][0]["endpoints"][0].as_str().expect("an address");
    config.mesh_listen = endpoint.parse().expect("an address");
    let server = serve(config).await.expect("starts where it was");
    let fixture = Fixture { server, ..fixture };
    let same = fixture.get(&path).await.data(200).clone();
    assert_eq!(same["generation"], after["generation"]);
}

#[tokio::test]
async fn a_full_database_refuses_and_loses_nothing() {
    let dir = tempfile::TempDir::new().expect("temporary directory");
    let clock = Clock::system();
    let tuning = Tuning {
        sqlite_pages_max: Some(110),
        ..Tuning::default()
    };
    let config = config(&dir, &clock);
    let server = serve_with(config.clone(), tuning)
        .await
        .expect("the server starts");
    let admin = server
        .admin_key
        .as_ref()
        .expect("first start")
        .expose()
        .to_owned();
    let http = reqwest::Client::new();
    let fixture = Fixture {
        server,
        clock,
        admin,
        http,
        dir,
        config,
    };
    let mut made = 0;
    let refused = loop {
        let body = json!({"name": format!("{made}-{}", "x".repeat(100))});
        let answer = fixture.post("/v1/api-keys", body).await;
        if answer.status.as_u16() != 201 {
            break answer;
        }
        made += 1;
        assert!(made < 2000, "the database never fills");
    };
    assert_eq!((refused.status.as_u16(), refused.code()), (500, "internal_error"));
    let message = refused.body["error"]["message"].as_str().expect("text");
    assert_eq!(message, "the server's storage is full; nothing was changed");

    let mut keys = 0;
    let mut path = "/v1/api-keys?limit=100".to_owned();
    loop {
        let page = fixture.get(&path).await;
        keys += page.data(200).as_array().expect("rows").len();
        match page.body["nextCursor"].as_str() {
            Some(cursor) => path = format!("/v1/api-keys?limit=100&cursor={cursor}"),
            None => break,
        }
    }
    // The refused key is nowhere, and neither is its row in the log.
    assert_eq!(keys, made + 1);
    let log = fixture.get("/v1/runmesh/audit?format=jsonl").await;
    assert_eq!(log.text.lines().count(), made + 1);
}

#[tokio::test]
async fn a_server_that_dies_in_the_middle_leaves_a_whole_log() {
    let mut fixture = Fixture::start().await;
    let mut made = 0;
    for round in 0..3 {
        let calls = (0..40).map(|n| {
            let name = format!("{round}-{n}");
            let request = fixture
                .http
                .post(fixture.url("/v1/api-keys"))
                .bearer_auth(&fixture.admin);
            request.json(&json!({"name": name})).send()
        });
        let calls = tokio::spawn(futures_util::future::join_all(calls.collect::<Vec<_>>()));
        tokio::time::sleep(std::time::Duration::from_millis(30)).await;
        let Fixture {
            server,
            clock,
            admin,
            http,
            dir,
            config,
        } = fixture;
        // No farewell: whatever was being written is not.
        drop(server);
        let answers = calls.await.expect("no panic");
        made += answers
            .iter()
            .filter(|a| a.as_ref().is_ok_and(|a| a.status() == 201))
            .count();
        let server = loop {
            match serve(config.clone()).await {
                Ok(server) => break server,
                // Requests that go on without their clients hold the old database a moment longer.
                Err(error) => assert!(error.to_string().contains("another control plane"), "{error}"),
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        };
        fixture = Fixture {
            server,
            clock,
            admin,
            http,
            dir,
            config,
        };
    }
    let log = fixture.get("/v1/runmesh/audit?format=jsonl").await;
    let rows: Vec<Value> = log
        .text
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let mut previous = json!("0".repeat(64));
    for (index, row) in rows.iter().enumerate() {
        assert_eq!(row["sequence"], index + 1);
        assert_eq!(row["previousHash"], previous);
        assert_eq!(row["hash"], hash(row).as_str());
        previous = row["hash"].clone();
    }
    // What was answered is in it; what was not answered may be.
    assert!(rows.len() > made, "{} {made}", rows.len());
}
