//! Device linking: codes, matches, races, guesses, revocation.

mod support;

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use support::{Answer, Fixture, answer};
use types::NodePrivateKey;

const START: &str = "/v1/runmesh/devices/link/start";
const POLL: &str = "/v1/runmesh/devices/link/poll";
const APPROVE: &str = "/v1/runmesh/devices/link/approve";
const DENY: &str = "/v1/runmesh/devices/link/deny";

fn key(seed: u8) -> String {
    NodePrivateKey::from_random([seed; 32]).public().to_string()
}

async fn start(fixture: &Fixture, seed: u8) -> Value {
    let body = json!({"publicKey": key(seed), "deviceLabel": "Ada's laptop", "os": "linux",
        "hostname": "ada.example.org", "appVersion": "0.1.0", "clientMetadata": {"model": "x"}, "junk": 1});
    let answer = fixture.call(None, Method::POST, START, Some(body)).await;
    answer.data(201).clone()
}

async fn poll(fixture: &Fixture, code: &str, seed: u8) -> Answer {
    let body = json!({"code": code, "publicKey": key(seed)});
    fixture.call(None, Method::POST, POLL, Some(body)).await
}

fn code(started: &Value) -> String {
    started["code"].as_str().expect("a code").to_owned()
}

#[tokio::test]
async fn a_device_is_linked_with_a_code() {
    let fixture = Fixture::start().await;
    let started = start(&fixture, 1).await;
    let code = code(&started);
    assert_eq!(code.len(), 6);
    assert!(
        code.bytes()
            .all(|b| b"ABCDEFGHJKLMNPQRSTUVWXYZ23456789".contains(&b))
    );
    assert_eq!(started["match"].as_str().expect("match").len(), 2);
    assert!(
        started["url"]
            .as_str()
            .expect("url")
            .ends_with(&format!("/link/{code}"))
    );

    let pending = poll(&fixture, &code, 1).await;
    assert_eq!(pending.data(200), &json!({"status": "pending"}));
    assert!(pending.headers.contains_key("x-ratelimit-remaining"));

    let shown = fixture.get(&format!("/v1/runmesh/devices/link/{code}")).await;
    assert_eq!(shown.data(200)["match"], started["match"]);
    assert_eq!(shown.data(200)["ip"], "127.0.0.1");

    // As a person types it.
    let typed = format!("{}-{}", code[..3].to_lowercase(), &code[3..]);
    let approved = fixture
        .post(APPROVE, json!({"code": typed, "tags": ["lab"]}))
        .await;
    let node = &approved.data(200)["node"];
    assert_eq!(node["name"], "ada");
    assert_eq!(node["dnsName"], "ada.home.mesh.internal");
    assert_eq!(node["meshIp4"], "100.64.0.2");
    assert_eq!(
        (&node["status"], &node["kind"]),
        (&json!("offline"), &json!("device"))
    );
    assert_eq!(node["clientMetadata"], json!({"model": "x"}));
    assert!(node.get("junk").is_none());

    let polled = poll(&fixture, &code, 1).await;
    let polled = polled.data(200);
    assert_eq!(polled["status"], "approved");
    assert_eq!(polled["node"]["id"], node["id"]);
    let config = &polled["config"];
    assert_eq!(config["interface"]["addresses"][0], "100.64.0.2/32");
    assert_eq!(config["peers"][0]["name"], "platform");
    let endpoint = config["peers"][0]["endpoints"][0].as_str().expect("endpoint");
    assert_eq!(endpoint, fixture.server.mesh_addr.to_string());
    assert!(
        config["control"]["url"]
            .as_str()
            .expect("url")
            .starts_with("ws://127.0.0.1:")
    );
    assert_eq!(config["control"]["publicKey"].as_str().expect("key").len(), 44);
}

#[tokio::test]
async fn a_code_is_decided_once() {
    let fixture = Fixture::start().await;
    let code = code(&start(&fixture, 1).await);
    fixture.post(APPROVE, json!({"code": code})).await.data(200);
    for path in [APPROVE, DENY] {
        let again = fixture.post(path, json!({"code": code})).await;
        assert_eq!((again.status.as_u16(), again.code()), (409, "conflict"));
    }
}

#[tokio::test]
async fn a_decided_code_is_nothing_to_another_org_or_member() {
    let fixture = Fixture::start().await;
    let other = fixture.post("/v1/organizations", json!({"name": "other"})).await;
    let other = other.data(201)["apiKey"]["key"]
        .as_str()
        .expect("a key")
        .to_owned();
    let org = fixture.get("/v1/organizations/current").await.data(200)["id"].clone();
    let members = format!("/v1/organizations/{}/members", org.as_str().expect("an id"));
    let member = fixture
        .post(&members, json!({"name": "Mia", "role": "member"}))
        .await;
    let member = member.data(201)["apiKey"]["key"]
        .as_str()
        .expect("a key")
        .to_owned();
    for (seed, path, hidden_from) in [(1, APPROVE, vec![&other, &member]), (2, DENY, vec![&other])] {
        let code = code(&start(&fixture, seed).await);
        let shown = format!("/v1/runmesh/devices/link/{code}");
        // Until somebody decides, it belongs to nobody: whoever knows the code may look.
        fixture
            .call(Some(&other), Method::GET, &shown, None)
            .await
            .data(200);
        fixture.post(path, json!({"code": code})).await.data(200);
        fixture.get(&shown).await.data(200);
        for key in hidden_from {
            let answer = fixture.call(Some(key), Method::GET, &shown, None).await;
            assert_eq!(
                (answer.status.as_u16(), answer.code()),
                (404, "not_found"),
                "{path}"
            );
        }
        for again in [APPROVE, DENY] {
            let body = json!({"code": code});
            let answer = fixture.call(Some(&other), Method::POST, again, Some(body)).await;
            assert_eq!(
                (answer.status.as_u16(), answer.code()),
                (404, "not_found"),
                "{again}"
            );
        }
    }
}

#[tokio::test]
async fn two_approvals_racing_make_one_node() {
    let fixture = Fixture::start().await;
    let code = code(&start(&fixture, 1).await);
    let body = json!({"code": code});
    let race = (0..8).map(|_| fixture.post(APPROVE, body.clone()));
    let answers = futures_util::future::join_all(race).await;
    let mut statuses: Vec<u16> = answers.iter().map(|answer| answer.status.as_u16()).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 409, 409, 409, 409, 409, 409, 409]);
    let nodes = fixture.get("/v1/runmesh/nodes?kind=device").await;
    assert_eq!(nodes.data(200).as_array().expect("rows").len(), 1);
}

#[tokio::test]
async fn a_code_dies_after_ten_minutes() {
    let fixture = Fixture::start().await;
    let code = code(&start(&fixture, 1).await);
    fixture.clock.advance(Duration::from_secs(600));
    assert_eq!(poll(&fixture, &code, 1).await.data(200)["status"], "expired");
    let late = fixture.post(APPROVE, json!({"code": code})).await;
    assert_eq!((late.status.as_u16(), late.code()), (410, "gone"));
    assert_eq!(
        fixture.get("/v1/runmesh/overview").await.data(200)["byKind"]["device"],
        0
    );
}

#[tokio::test]
async fn a_denied_device_learns_it() {
    let fixture = Fixture::start().await;
    let code = code(&start(&fixture, 1).await);
    assert_eq!(
        fixture.post(DENY, json!({"code": code})).await.data(200)["status"],
        "denied"
    );
    assert_eq!(poll(&fixture, &code, 1).await.data(200)["status"], "denied");
}

#[tokio::test]
async fn a_key_has_one_pending_code() {
    let fixture = Fixture::start().await;
    let first = code(&start(&fixture, 1).await);
    let second = code(&start(&fixture, 1).await);
    assert_ne!(first, second);
    assert_eq!(poll(&fixture, &first, 1).await.data(200)["status"], "expired");
    assert_eq!(fixture.post(APPROVE, json!({"code": first})).await.code(), "gone");
    fixture.post(APPROVE, json!({"code": second})).await.data(200);
}

#[tokio::test]
async fn a_guessed_code_reveals_nothing_and_guesses_are_limited() {
    let fixture = Fixture::start().await;
    let code = code(&start(&fixture, 1).await);
    let wrong_key = poll(&fixture, &code, 2).await;
    let wrong_code = poll(&fixture, "ZZZZZZ", 1).await;
    assert_eq!((wrong_key.status.as_u16(), wrong_key.code()), (404, "not_found"));
    assert_eq!(
        wrong_key.body["error"]["message"],
        wrong_code.body["error"]["message"]
    );
    let mut last = 0;
    for _ in 0..12 {
        last = poll(&fixture, &code, 2).await.status.as_u16();
    }
    assert_eq!(last, 429);

    let mut last = None;
    for _ in 0..12 {
        last = Some(fixture.post(APPROVE, json!({"code": "ZZZZZZ"})).await);
    }
    let last = last.expect("an answer");
    assert_eq!((last.status.as_u16(), last.code()), (429, "rate_limited"));
    assert!(last.headers.contains_key("retry-after"));
}

#[tokio::test]
async fn asking_too_often_is_answered_with_when_to_come_back() {
    let fixture = Fixture::start().await;
    let mut refused = None;
    for seed in 0..30 {
        let body = json!({"publicKey": key(seed)});
        let answer = fixture.call(None, Method::POST, START, Some(body)).await;
        if answer.status.as_u16() == 429 {
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.expect("a limit");
    assert_eq!(refused.code(), "rate_limited");
    for header in [
        "retry-after",
        "x-ratelimit-limit",
        "x-ratelimit-remaining",
        "x-ratelimit-reset",
    ] {
        assert!(refused.headers.contains_key(header), "{header}");
    }
    fixture.clock.advance(Duration::from_secs(60));
    start(&fixture, 40).await;
}

/// Limit and what remains, as an answer tells.
fn standing(answer: &Answer) -> (u64, u64) {
    let header = |name: &str| {
        let value = answer
            .headers
            .get(name)
            .unwrap_or_else(|| panic!("{name}: {}", answer.text));
        value.to_str().expect("text").parse().expect("a number")
    };
    let reset: u64 = header("x-ratelimit-reset");
    let waits = answer.headers.get("retry-after");
    let waits = waits.map(|value| value.to_str().expect("text").parse::<u64>().expect("seconds"));
    assert_eq!(
        waits,
        (answer.status.as_u16() == 429).then_some(reset.max(1)),
        "{}",
        answer.text
    );
    (header("x-ratelimit-limit"), header("x-ratelimit-remaining"))
}

#[tokio::test]
async fn every_answer_of_a_limited_route_tells_how_the_limit_stands() {
    let fixture = Fixture::start().await;
    let open = |path: &'static str, body: Value| fixture.call(None, Method::POST, path, Some(body));
    let started = open(START, json!({"publicKey": key(1)})).await;
    assert_eq!((started.status.as_u16(), standing(&started)), (201, (20, 19)));
    let code = code(started.data(201));
    let bad = open(START, json!({"publicKey": "x"})).await;
    assert_eq!(bad.status.as_u16(), 400);
    let after = standing(&bad).1;
    // One grows back every three seconds, and what cannot be read costs nothing.
    assert!((18..=19).contains(&after), "{after}");
    let unread = open(START, json!([])).await;
    assert!(unread.status.as_u16() == 400 && standing(&unread).1 >= after);
    let post = fixture.http.post(fixture.url(START));
    let typed = answer(post.header("content-type", "text/plain").body("x")).await;
    assert!(typed.status.as_u16() == 415 && standing(&typed).1 >= after);

    let polled = poll(&fixture, &code, 1).await;
    assert_eq!((polled.status.as_u16(), standing(&polled)), (200, (5, 4)));
    let guessed = poll(&fixture, &code, 2).await;
    assert_eq!((guessed.status.as_u16(), standing(&guessed)), (404, (10, 9)));
    let unread = open(POLL, json!({"code": 1})).await;
    assert_eq!((unread.status.as_u16(), standing(&unread)), (400, (10, 9)));

    let path = format!("/v1/runmesh/devices/link/{code}");
    let shown = fixture.get(&path).await;
    assert_eq!((shown.status.as_u16(), standing(&shown)), (200, (10, 10)));
    let guessed = fixture.get("/v1/runmesh/devices/link/ZZZZZZ").await;
    assert_eq!((guessed.status.as_u16(), standing(&guessed)), (404, (10, 9)));
    for (route, body, status) in [
        (APPROVE, json!({"code": "ZZZZZZ"}), 404),
        (APPROVE, json!({"code": 1}), 400),
        (APPROVE, json!({"code": code, "name": "-"}), 400),
        (DENY, json!({"code": code}), 200),
        (DENY, json!({"code": code}), 409),
    ] {
        let decided = fixture.post(route, body).await;
        assert_eq!(
            (decided.status.as_u16(), standing(&decided)),
            (status, (10, 8)),
            "{route}"
        );
    }
    let stranger = open(APPROVE, json!({"code": code})).await;
    assert!(
        !stranger.headers.contains_key("x-ratelimit-limit"),
        "counted by person, and there is none"
    );
    let weak = fixture
        .post("/v1/api-keys", json!({"name": "k", "scopes": ["org:read"]}))
        .await;
    let weak = weak.data(201)["key"].as_str().expect("a key").to_owned();
    let refused = fixture
        .call(Some(&weak), Method::POST, APPROVE, Some(json!({"code": code})))
        .await;
    assert_eq!((refused.status.as_u16(), standing(&refused)), (403, (10, 8)));
    assert!(
        !fixture
            .get("/v1/me")
            .await
            .headers
            .contains_key("x-ratelimit-limit")
    );
}

#[tokio::test]
async fn what_a_device_asked_is_in_the_log_of_whoever_decided() {
    let fixture = Fixture::start().await;
    let denied = code(&start(&fixture, 1).await);
    fixture.post(DENY, json!({"code": denied})).await.data(200);
    let approved = code(&start(&fixture, 2).await);
    let node = fixture.post(APPROVE, json!({"code": approved})).await.data(200)["node"]["id"].clone();
    // Nobody decides it, so that it belongs to nobody.
    start(&fixture, 3).await;
    let log = fixture.get("/v1/runmesh/audit").await;
    let rows: Vec<Value> = log
        .data(200)
        .as_array()
        .expect("rows")
        .iter()
        .rev()
        .cloned()
        .collect();
    let links: Vec<&Value> = rows
        .iter()
        .filter(|row| row["action"].as_str().expect("text").starts_with("device."))
        .collect();
    let told = |row: &Value| {
        [
            row["action"].clone(),
            row["actorType"].clone(),
            row["targetType"].clone(),
            row["targetId"].clone(),
        ]
    };
    let expected = [
        ["device.link_started", "device", "link", denied.as_str()],
        ["device.denied", "api_key", "link", denied.as_str()],
        [
            "device.link_started",
            "device",
            "node",
            node.as_str().expect("an id"),
        ],
        [
            "device.approved",
            "api_key",
            "node",
            node.as_str().expect("an id"),
        ],
    ];
    assert_eq!(links.len(), expected.len(), "{}", log.text);
    for (row, expected) in links.iter().zip(expected) {
        assert_eq!(told(row), expected.map(|text| json!(text)));
        assert_eq!(
            (&row["ip"], &row["attributes"]["deviceIp"]),
            (&json!("127.0.0.1"), &json!("127.0.0.1"))
        );
    }
    for (row, seed) in [(links[0], 1), (links[2], 2)] {
        assert_eq!(row["attributes"]["publicKey"], json!(key(seed)));
        assert!(row["attributes"]["startedAt"].is_string(), "{row}");
    }
}

#[tokio::test]
async fn a_bad_key_is_refused_with_the_reason() {
    let fixture = Fixture::start().await;
    let zero = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    for (bad, reason) in [
        ("abc", "44 characters"),
        ("********************************************", "base64"),
        (zero, "low-order"),
    ] {
        let answer = fixture
            .call(None, Method::POST, START, Some(json!({"publicKey": bad})))
            .await;
        assert_eq!((answer.status.as_u16(), answer.code()), (400, "bad_request"));
        let message = answer.body["error"]["message"].as_str().expect("text");
        assert!(
            message.starts_with("publicKey ") && message.contains(reason),
            "{message}"
        );
    }
    let big = json!({"publicKey": key(1), "clientMetadata": {"x": "y".repeat(9000)}});
    assert_eq!(
        fixture.call(None, Method::POST, START, Some(big)).await.code(),
        "bad_request"
    );
    let sly = json!({"publicKey": key(1), "deviceLabel": "safe\u{202e}gnp.exe"});
    assert_eq!(
        fixture.call(None, Method::POST, START, Some(sly)).await.code(),
        "bad_request"
    );
    let list = json!({"publicKey": key(1), "clientMetadata": [1]});
    assert_eq!(
        fixture.call(None, Method::POST, START, Some(list)).await.code(),
        "bad_request"
    );
}

#[tokio::test]
async fn a_known_key_is_linked_again_and_a_revoked_one_never() {
    let fixture = Fixture::start().await;
    let first = code(&start(&fixture, 1).await);
    let node = fixture.post(APPROVE, json!({"code": first})).await.data(200)["node"].clone();
    let again = code(&start(&fixture, 1).await);
    let same = fixture.post(APPROVE, json!({"code": again})).await.data(200)["node"].clone();
    assert_eq!(node["id"], same["id"]);
    assert_eq!(node["meshIp6"], same["meshIp6"]);

    let pending = code(&start(&fixture, 1).await);
    let id = node["id"].as_str().expect("id");
    for _ in 0..2 {
        let path = format!("/v1/runmesh/nodes/{id}/revoke");
        let revoked = fixture.post(&path, json!({})).await;
        assert_eq!(revoked.data(200)["status"], "revoked");
    }
    let polled = poll(&fixture, &again, 1).await;
    assert_eq!((polled.status.as_u16(), polled.code()), (409, "device_revoked"));
    let late = fixture.post(APPROVE, json!({"code": pending})).await;
    assert_eq!((late.status.as_u16(), late.code()), (409, "device_revoked"));
    let body = json!({"publicKey": key(1)});
    let refused = fixture.call(None, Method::POST, START, Some(body)).await;
    assert_eq!((refused.status.as_u16(), refused.code()), (409, "device_revoked"));
}

#[tokio::test]
async fn the_node_of_another_member_is_not_taken_over() {
    let fixture = Fixture::start().await;
    let org = fixture.get("/v1/organizations/current").await.data(200)["id"].clone();
    let members = format!("/v1/organizations/{}/members", org.as_str().expect("id"));
    let made = fixture
        .post(&members, json!({"name": "Bob", "role": "member"}))
        .await;
    let bob = made.data(201)["apiKey"]["key"].as_str().expect("key").to_owned();

    let first = code(&start(&fixture, 1).await);
    fixture.post(APPROVE, json!({"code": first})).await.data(200);
    let again = code(&start(&fixture, 1).await);
    let body = Some(json!({"code": again}));
    let refused = fixture.call(Some(&bob), Method::POST, APPROVE, body).await;
    assert_eq!((refused.status.as_u16(), refused.code()), (409, "conflict"));
}

#[tokio::test]
async fn names_are_labels_and_unique() {
    let fixture = Fixture::start().await;
    let one = code(&start(&fixture, 1).await);
    fixture.post(APPROVE, json!({"code": one})).await.data(200);
    let two = code(&start(&fixture, 2).await);
    for (name, status) in [("No Label", 400), ("-x", 400), ("ada", 409), ("platform", 409)] {
        let refused = fixture.post(APPROVE, json!({"code": two, "name": name})).await;
        assert_eq!(refused.status.as_u16(), status, "{name}");
    }
    let node = fixture.post(APPROVE, json!({"code": two})).await;
    assert_eq!(node.data(200)["node"]["name"], "ada-2");
}

#[tokio::test]
async fn devices_of_one_name_are_counted_and_then_numbered_by_lot() {
    let proxy = vec!["127.0.0.1/32".parse().expect("a block")];
    let fixture = Fixture::start_with(control::Tuning::default(), |config| {
        config.trusted_proxies = proxy
    })
    .await;
    let mut names = std::collections::BTreeSet::new();
    for seed in 1..=25_u8 {
        let post = fixture
            .http
            .post(fixture.url(START))
            .header("x-forwarded-for", format!("192.0.2.{seed}"));
        let started = answer(post.json(&json!({"publicKey": key(seed), "hostname": "pi"}))).await;
        let approved = fixture
            .post(APPROVE, json!({"code": started.data(201)["code"]}))
            .await;
        names.insert(
            approved.data(200)["node"]["name"]
                .as_str()
                .expect("a name")
                .to_owned(),
        );
    }
    assert_eq!(names.len(), 25);
    assert!(
        names.contains("pi") && names.contains("pi-20") && !names.contains("pi-21"),
        "{names:?}"
    );
}

#[tokio::test]
async fn an_approval_and_a_denial_at_once_have_one_winner() {
    let fixture = Fixture::start().await;
    for seed in 1..=8 {
        let code = code(&start(&fixture, seed).await);
        let body = json!({"code": code});
        let (approved, denied) = tokio::join!(fixture.post(APPROVE, body.clone()), fixture.post(DENY, body));
        let statuses = [approved.status.as_u16(), denied.status.as_u16()];
        assert!(statuses == [200, 409] || statuses == [409, 200], "{statuses:?}");
        let polled = poll(&fixture, &code, seed).await;
        let expected = if statuses[0] == 200 { "approved" } else { "denied" };
        assert_eq!(polled.data(200)["status"], expected);
    }
}

#[tokio::test]
async fn of_two_nodes_that_take_one_name_at_once_one_gets_it() {
    let fixture = Fixture::start().await;
    let mut ids = Vec::new();
    for seed in 1..=4 {
        let body = json!({"code": code(&start(&fixture, seed).await)});
        let approved = fixture.post(APPROVE, body).await;
        ids.push(approved.data(200)["node"]["id"].as_str().expect("id").to_owned());
    }
    let renames = ids.iter().map(|id| {
        let path = format!("/v1/runmesh/nodes/{id}");
        let fixture = &fixture;
        async move {
            let body = Some(json!({"name": "same"}));
            let answer = fixture
                .call(Some(&fixture.admin), Method::PATCH, &path, body)
                .await;
            answer.status.as_u16()
        }
    });
    let mut statuses = futures_util::future::join_all(renames).await;
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 409, 409, 409]);
}
