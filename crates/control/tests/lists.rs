//! Lists: how long a page is at most, that pages add up to the whole, cursors of strangers, and the filters of activity.

mod support;

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::{Value, json};
use support::{Answer, Fixture};
use types::NodePrivateKey;

/// One more than the longest page.
const MANY: usize = 101;

async fn link(fixture: &Fixture, key: &str, seed: u8) -> String {
    let public = NodePrivateKey::from_random([seed; 32]).public();
    let start = json!({"publicKey": public, "hostname": format!("node-{seed}")});
    let request = fixture
        .http
        .post(fixture.url("/v1/runmesh/devices/link/start"))
        .json(&start);
    // Each device from an address of its own, so that no limit is met.
    let started = support::answer(request.header("x-forwarded-for", format!("198.51.100.{seed}"))).await;
    let code = json!({"code": started.data(201)["code"]});
    let path = "/v1/runmesh/devices/link/approve";
    let approved = fixture.call(Some(key), Method::POST, path, Some(code)).await;
    approved.data(200)["node"]["id"]
        .as_str()
        .expect("an id")
        .to_owned()
}

async fn behind_a_proxy() -> Fixture {
    let proxy = vec!["127.0.0.1/32".parse().expect("a block")];
    Fixture::start_with(control::Tuning::default(), |config| {
        config.trusted_proxies = proxy
    })
    .await
}

async fn member(fixture: &Fixture, name: &str) -> (String, String) {
    let org = fixture.get("/v1/organizations/current").await.data(200)["id"].clone();
    let path = format!("/v1/organizations/{}/members", org.as_str().expect("an id"));
    let made = fixture.post(&path, json!({"name": name, "role": "member"})).await;
    let data = made.data(201);
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    (text(&data["member"]["userId"]), text(&data["apiKey"]["key"]))
}

/// The rows of a page, and the cursor of the next; checks that both places say the same.
fn page(answer: &Answer) -> (Vec<Value>, Option<String>) {
    assert_eq!(answer.status.as_u16(), 200, "{}", answer.text);
    let (body, meta) = (&answer.body, &answer.body["meta"]);
    assert_eq!(
        (&body["hasMore"], &body["nextCursor"]),
        (&meta["hasMore"], &meta["nextCursor"])
    );
    assert_eq!(body["hasMore"], json!(body["nextCursor"].is_string()));
    let rows = body["data"].as_array().expect("rows").clone();
    (rows, body["nextCursor"].as_str().map(str::to_owned))
}

fn with(path: &str, query: &str) -> String {
    format!("{path}{}{query}", if path.contains('?') { '&' } else { '?' })
}

/// Everything of a list, in pages of `limit`; checks how long each page is.
async fn all(fixture: &Fixture, path: &str, limit: usize) -> Vec<Value> {
    let mut rows = Vec::new();
    let mut next: Option<String> = None;
    loop {
        let cursor = next.map_or(String::new(), |cursor| format!("&cursor={cursor}"));
        let answer = fixture.get(&with(path, &format!("limit={limit}{cursor}"))).await;
        let (page, cursor) = page(&answer);
        assert!(
            page.len() == limit || cursor.is_none(),
            "{path}: {} of {limit}",
            page.len()
        );
        rows.extend(page);
        next = cursor;
        if next.is_none() {
            return rows;
        }
    }
}

/// What tells rows apart.
fn key(row: &Value) -> String {
    let fields = ["id", "runId", "rolloutId", "userId"];
    let field = fields
        .iter()
        .find(|field| !row[**field].is_null())
        .expect("an id");
    row[*field].to_string()
}

/// A device, and more of everything than fits on a page. Returns the thread that was compacted.
async fn fill(fixture: &Fixture) -> String {
    let node = link(fixture, &fixture.admin, 1).await;
    for n in 0..MANY {
        let body = json!({"slug": format!("a{n}"), "executionMode": "local-mac", "targetDeviceId": node});
        fixture.post("/v1/agents", body).await.data(200);
        fixture
            .post("/v1/api-keys", json!({"name": format!("k{n}")}))
            .await
            .data(201);
        fixture
            .post("/v1/run", json!({"agent": "a0", "prompt": "x"}))
            .await
            .data(200);
        member(fixture, &format!("m{n}")).await;
        let node = u8::try_from(n + 2).expect("small");
        link(fixture, &fixture.admin, node).await;
    }
    let run = fixture.get("/v1/runs?limit=1").await.data(200)[0].clone();
    let id = run["runId"].as_str().expect("an id");
    fixture
        .post(&format!("/v1/runs/{id}/cancel"), json!({}))
        .await
        .data(200);
    let thread = run["threadId"].as_str().expect("an id").to_owned();
    for _ in 0..MANY {
        let compacted = fixture
            .post(&format!("/v1/threads/{thread}/compact"), json!({"summary": "x"}))
            .await;
        compacted.data(200);
    }
    thread
}

#[tokio::test]
async fn a_page_of_a_list_has_at_most_a_hundred_rows_and_all_pages_add_up() {
    let fixture = behind_a_proxy().await;
    let thread = fill(&fixture).await;
    let org = fixture.get("/v1/organizations/current").await.data(200)["id"].clone();
    let org = org.as_str().expect("an id");
    let lists = [
        "/v1/agents".to_owned(),
        "/v1/api-keys".to_owned(),
        "/v1/api-keys?all=true".to_owned(),
        "/v1/runs".to_owned(),
        "/v1/threads".to_owned(),
        "/v1/run/threads?agent=a0".to_owned(),
        format!("/v1/organizations/{org}/members"),
        "/v1/runmesh/nodes".to_owned(),
        "/v1/runmesh/audit".to_owned(),
        "/v1/activity".to_owned(),
        format!("/v1/threads/{thread}/activity"),
        format!("/v1/threads/{thread}/rollouts"),
    ];
    for list in &lists {
        let (usual, _) = page(&fixture.get(list).await);
        assert_eq!(usual.len(), 50, "{list}");
        for limit in ["100", "101", "4294967295"] {
            let (longest, next) = page(&fixture.get(&with(list, &format!("limit={limit}"))).await);
            assert_eq!((longest.len(), next.is_some()), (100, true), "{list} {limit}");
        }
        let whole = all(&fixture, list, 100).await;
        let keys: Vec<String> = whole.iter().map(key).collect();
        assert!(keys.len() >= MANY, "{list}: {}", keys.len());
        assert_eq!(
            keys.iter().collect::<BTreeSet<_>>().len(),
            keys.len(),
            "{list}: a row comes twice"
        );
        let small: Vec<String> = all(&fixture, list, 37).await.iter().map(key).collect();
        assert_eq!(small, keys, "{list}");
    }
}

#[tokio::test]
async fn a_page_of_events_has_at_most_five_hundred() {
    let fixture = behind_a_proxy().await;
    let node = link(&fixture, &fixture.admin, 1).await;
    let agent = json!({"slug": "a", "executionMode": "local-mac", "targetDeviceId": node});
    fixture.post("/v1/agents", agent).await.data(200);
    let run = fixture
        .post("/v1/run", json!({"agent": "a", "prompt": "x"}))
        .await;
    let thread = run.data(200)["threadId"].as_str().expect("an id").to_owned();
    let path = format!("/v1/threads/{thread}/events");
    for _ in 0..2 {
        let event = json!({"type": "user_message", "payload": {"text": "x"}});
        fixture
            .post(&path, json!({"events": vec![event; 300]}))
            .await
            .data(200);
    }
    for (query, len) in [
        ("", 50),
        ("?limit=500", 500),
        ("?limit=501", 500),
        ("?limit=4294967295", 500),
    ] {
        let (rows, next) = page(&fixture.get(&format!("{path}{query}")).await);
        assert_eq!((rows.len(), next.is_some()), (len, true), "{query}");
    }
    for bad in [
        "limit=0",
        "limit=-1",
        "limit=abc",
        "limit=",
        "cursor=*",
        "after=-1",
        "after=x",
    ] {
        let refused = fixture.get(&format!("{path}?{bad}")).await;
        assert_eq!(
            (refused.status.as_u16(), refused.code()),
            (400, "bad_request"),
            "{bad}"
        );
    }
    let numbers: Vec<u64> = all(&fixture, &path, 500)
        .await
        .iter()
        .filter_map(|row| row["sequence"].as_u64())
        .collect();
    assert_eq!(numbers, (1..=601).collect::<Vec<u64>>());
    assert_eq!(all(&fixture, &path, 77).await.len(), 601);
}

#[tokio::test]
async fn a_cursor_is_a_place_and_opens_nothing() {
    let fixture = behind_a_proxy().await;
    for n in 0..3 {
        fixture
            .post("/v1/api-keys", json!({"name": format!("k{n}")}))
            .await
            .data(201);
    }
    let (_, next) = page(&fixture.get("/v1/api-keys?limit=1").await);
    let next = next.expect("more");
    let other = fixture.post("/v1/organizations", json!({"name": "other"})).await;
    let other = other.data(201)["apiKey"]["key"]
        .as_str()
        .expect("a key")
        .to_owned();
    let path = format!("/v1/api-keys?cursor={next}");
    let seen = fixture.call(Some(&other), Method::GET, &path, None).await;
    assert!(
        !seen.text.contains("\"k0\"") && !seen.text.contains("\"k1\""),
        "{}",
        seen.text
    );
}

#[tokio::test]
async fn a_cursor_that_somebody_made_up_is_a_place_or_refused() {
    let fixture = Fixture::start().await;
    let lists = [
        "/v1/api-keys",
        "/v1/agents",
        "/v1/runs",
        "/v1/threads",
        "/v1/activity",
        "/v1/runmesh/audit",
        "/v1/runmesh/nodes",
    ];
    for list in lists {
        // Well made, by whomever: a place at which nothing, or something of one's own, comes next.
        for place in ["999999999999999999", "0", "0.OR-1_1", "1.zzzz"] {
            let answer = fixture.get(&format!("{list}?cursor={place}")).await;
            page(&answer);
        }
        for bad in [
            "9223372036854775808.x",
            "-1",
            "x.y",
            ".",
            "1.",
            "1.%C3%A9",
            "1.a%20b",
            "1.%0A",
            "0.'%20OR%201=1%20--",
            "0.%25_%25",
        ] {
            let refused = fixture.get(&format!("{list}?cursor={bad}")).await;
            assert_eq!(
                (refused.status.as_u16(), refused.code()),
                (400, "bad_request"),
                "{list} {bad:?}"
            );
        }
        let long = "A".repeat(513);
        for bad in ["=", "", "%2B%2B%2B%2B", &long] {
            let refused = fixture.get(&format!("{list}?cursor={bad}")).await;
            assert_eq!(
                (refused.status.as_u16(), refused.code()),
                (400, "bad_request"),
                "{list} {bad}"
            );
        }
    }
}

/// Two members, each with a device and an agent, and one run of the second.
struct Busy {
    fixture: Fixture,
    ada: (String, String),
    bob: (String, String),
    node: String,
    agent: String,
    run: String,
    thread: String,
}

impl Busy {
    async fn start() -> Self {
        let fixture = behind_a_proxy().await;
        let (ada, bob) = (member(&fixture, "Ada").await, member(&fixture, "Bob").await);
        let mut made = Vec::new();
        for (seed, slug, key) in [(1, "adas", &ada.1), (2, "bobs", &bob.1)] {
            let node = link(&fixture, key, seed).await;
            let body = json!({"slug": slug, "executionMode": "local-mac", "targetDeviceId": node});
            let agent = fixture
                .call(Some(key), Method::POST, "/v1/agents", Some(body))
                .await;
            made.push((node, agent.data(200)["id"].as_str().expect("an id").to_owned()));
        }
        let (node, agent) = made.pop().expect("Bob's");
        let body = json!({"agent": "bobs", "prompt": "x"});
        let run = fixture
            .call(Some(&bob.1), Method::POST, "/v1/run", Some(body))
            .await;
        let id = |field: &str| run.data(200)[field].as_str().expect("an id").to_owned();
        let (run, thread) = (id("runId"), id("threadId"));
        let path = format!("/v1/runs/{run}/cancel");
        fixture
            .call(Some(&bob.1), Method::POST, &path, None)
            .await
            .data(200);
        let path = format!("/v1/threads/{thread}/compact");
        fixture
            .call(Some(&bob.1), Method::POST, &path, None)
            .await
            .data(200);
        Self {
            fixture,
            ada,
            bob,
            node,
            agent,
            run,
            thread,
        }
    }

    async fn types(&self, key: &str, path: &str) -> Vec<String> {
        let answer = self.fixture.call(Some(key), Method::GET, path, None).await;
        let (rows, _) = page(&answer);
        let types = rows
            .iter()
            .map(|row| row["eventType"].as_str().expect("text").to_owned());
        types.collect()
    }
}

const BOBS: [&str; 4] = [
    "thread.compacted",
    "agent.run.cancelled",
    "agent.created",
    "runmesh.device.linked",
];

#[tokio::test]
async fn a_member_sees_their_own_activity_and_an_admin_the_orgs() {
    let busy = Busy::start().await;
    let admin = busy.fixture.admin.clone();
    assert_eq!(busy.types(&busy.bob.1, "/v1/activity").await, BOBS);
    assert_eq!(busy.types(&busy.ada.1, "/v1/activity").await, BOBS[2..]);
    assert_eq!(
        busy.types(&admin, "/v1/activity").await,
        Vec::<String>::new(),
        "the admin did nothing of it"
    );
    assert_eq!(busy.types(&admin, "/v1/activity?all=true").await.len(), 6);
    let refused = busy
        .fixture
        .call(Some(&busy.bob.1), Method::GET, "/v1/activity?all=true", None)
        .await;
    assert_eq!((refused.status.as_u16(), refused.code()), (403, "forbidden"));
    let others = format!("/v1/activity?actor_user_id={}", busy.bob.0);
    assert_eq!(busy.types(&busy.ada.1, &others).await, Vec::<String>::new());
    for (path, expected) in [
        (format!("/v1/runmesh/devices/{}/activity", busy.node), &BOBS[1..]),
        (format!("/v1/threads/{}/activity", busy.thread), &BOBS[..2]),
    ] {
        for key in [&busy.bob.1, &admin] {
            assert_eq!(busy.types(key, &path).await, expected, "{path}");
        }
        let refused = busy
            .fixture
            .call(Some(&busy.ada.1), Method::GET, &path, None)
            .await;
        assert_eq!(
            (refused.status.as_u16(), refused.code()),
            (404, "not_found"),
            "{path}"
        );
    }
}

#[tokio::test]
async fn every_filter_of_activity_keeps_what_it_names() {
    let busy = Busy::start().await;
    let (bob, admin) = (busy.bob.1.clone(), busy.fixture.admin.clone());
    let (node, agent, run, thread) = (&busy.node, &busy.agent, &busy.run, &busy.thread);
    for (query, expected) in [
        ("resource_type=agent".to_owned(), vec![1, 2]),
        ("resource_type=thread".to_owned(), vec![0]),
        ("resource_type=runmesh_device".to_owned(), vec![3]),
        (format!("resource_id={agent}"), vec![1, 2]),
        (format!("resource_type=agent&resource_id={node}"), vec![]),
        ("event_type=agent.created".to_owned(), vec![2]),
        ("event_type=agent".to_owned(), vec![]),
        ("severity=success".to_owned(), vec![3]),
        ("severity=warning".to_owned(), vec![1]),
        ("severity=info".to_owned(), vec![0, 2]),
        ("status=cancelled".to_owned(), vec![1]),
        (format!("actor_user_id={}", busy.bob.0), vec![0, 1, 2, 3]),
        (format!("thread_id={thread}"), vec![0, 1]),
        (format!("agent_run_id={run}"), vec![1]),
        ("sandbox_id=sandbox-1".to_owned(), vec![]),
        (format!("runmesh_node_id={node}"), vec![1, 2, 3]),
        (
            "since=2020-01-01T00:00:00Z&until=2999-01-01T00:00:00.000Z".to_owned(),
            vec![0, 1, 2, 3],
        ),
        ("since=2999-01-01T00:00:00Z".to_owned(), vec![]),
        ("until=2020-01-01T00:00:00Z".to_owned(), vec![]),
        (
            format!("thread_id={thread}&severity=warning&resource_type=agent"),
            vec![1],
        ),
    ] {
        let expected: Vec<&str> = expected.into_iter().map(|at: usize| BOBS[at]).collect();
        assert_eq!(
            busy.types(&bob, &format!("/v1/activity?{query}")).await,
            expected,
            "{query}"
        );
        let across = format!("/v1/activity?all=true&actor_user_id={}&{query}", busy.bob.0);
        if !query.starts_with("actor_user_id") {
            assert_eq!(busy.types(&admin, &across).await, expected, "{across}");
        }
    }
    let rows = page(&busy.fixture.get("/v1/activity?all=true").await).0;
    let at = rows[2]["createdAt"].as_str().expect("a time");
    let since = busy
        .types(&admin, &format!("/v1/activity?all=true&since={at}"))
        .await;
    assert!(since.len() >= 3, "since takes its own time in: {since:?}");
    let until = busy
        .types(&admin, &format!("/v1/activity?all=true&until={at}"))
        .await;
    assert!(until.len() <= 3, "until leaves its own time out: {until:?}");
    assert_eq!(since.len() + until.len(), rows.len());
    for bad in [
        "resource_type=toaster",
        "severity=loud",
        "thread_id=x",
        "agent_run_id=x",
        "actor_user_id=me",
        "since=now",
    ] {
        let refused = busy.fixture.get(&format!("/v1/activity?{bad}")).await;
        assert_eq!(
            (refused.status.as_u16(), refused.code()),
            (400, "bad_request"),
            "{bad}"
        );
    }
}
