//! The org's policy: who may change it, what it must be, and what nodes and people see by it.

mod support;

use std::net::IpAddr;

use reqwest::Method;
use serde_json::{Value, json};
use support::device::{Device, link, link_as, second_member};
use support::{Answer, Fixture};
use types::control::ToNode;
use types::{Netmap, Service};

const POLICY: &str = "/v1/runmesh/policy";

async fn put(fixture: &Fixture, document: Value) -> Answer {
    put_as(fixture, &fixture.admin, json!({"document": document})).await
}

async fn put_as(fixture: &Fixture, key: &str, body: Value) -> Answer {
    fixture.call(Some(key), Method::PUT, POLICY, Some(body)).await
}

async fn patch(fixture: &Fixture, key: &str, device: &Device, body: Value) -> Answer {
    let path = format!("/v1/runmesh/nodes/{}", device.id);
    fixture.call(Some(key), Method::PATCH, &path, Some(body)).await
}

fn grant(src: &str, dst: &str, ports: &str) -> Value {
    json!({"src": [src], "dst": [dst], "ports": [ports]})
}

/// The ids of the peers that are no platform.
fn peers(map: &Netmap) -> Vec<String> {
    let devices = map
        .peers
        .iter()
        .filter(|peer| peer.kind != types::NodeKind::Platform);
    devices.map(|peer| peer.id.to_string()).collect()
}

/// Whether a netmap's filter lets `from` reach `service`.
fn lets(map: &Netmap, from: &Device, service: Service) -> bool {
    let addresses: Vec<IpAddr> = ["meshIp4", "meshIp6"]
        .iter()
        .map(|field| {
            from.node[*field]
                .as_str()
                .expect("an address")
                .parse()
                .expect("an address")
        })
        .collect();
    let rules = &map.filter.as_ref().expect("a filter").rules;
    let reached = addresses.iter().filter(|address| {
        rules.iter().any(|rule| {
            rule.from.iter().any(|block| block.contains(**address))
                && rule.to.iter().any(|to| to.covers(service))
        })
    });
    let count = reached.count();
    assert!(count == 0 || count == 2, "both families or none");
    count == 2
}

#[tokio::test]
async fn an_org_begins_with_the_standard_policy_and_counts_its_changes() {
    let fixture = Fixture::start().await;
    let first = fixture.get(POLICY).await.data(200).clone();
    assert_eq!(
        (&first["version"], &first["isStandard"]),
        (&json!(0), &json!(true))
    );
    assert_eq!(first["document"]["grants"][1]["dst"], json!(["owner:self"]));
    assert_eq!(first["updatedAt"], Value::Null);

    let document = json!({"grants": [grant("*", "*", "tcp:22")]});
    let put_first = put(&fixture, document.clone()).await;
    let second = put_first.data(200);
    assert_eq!(
        (&second["version"], &second["isStandard"]),
        (&json!(1), &json!(false))
    );
    assert_eq!(fixture.get(POLICY).await.data(200), second);
    assert_eq!(second["document"], document);
    let me = fixture.get("/v1/me").await.data(200)["user"]["id"].clone();
    assert_eq!(second["updatedBy"], me);

    let audit = fixture.get("/v1/runmesh/audit").await;
    let row = &audit.body["data"][0];
    assert_eq!(row["action"], "policy.changed");
    assert_eq!(row["attributes"]["fromVersion"], 0);
    assert_eq!(row["attributes"]["toVersion"], 1);
    assert_eq!(
        row["attributes"]["toSha256"].as_str().expect("a digest").len(),
        64
    );
}

#[tokio::test]
async fn a_change_from_an_older_version_is_refused_and_changes_nothing() {
    let fixture = Fixture::start().await;
    let closed = json!({"grants": []});
    let body = |version: u64| json!({"document": closed, "version": version});
    put_as(&fixture, &fixture.admin, body(0)).await.data(200);
    let late = put_as(&fixture, &fixture.admin, body(0)).await;
    assert_eq!((late.status.as_u16(), late.code()), (409, "conflict"));
    assert_eq!(fixture.get(POLICY).await.data(200)["version"], 1);
    put_as(&fixture, &fixture.admin, body(1)).await.data(200);
}

#[tokio::test]
async fn a_document_that_is_none_or_fails_its_own_tests_is_refused_with_its_place() {
    let fixture = Fixture::start().await;
    let check = |document: Value, expected: &'static str| {
        let fixture = &fixture;
        async move {
            let refused = put(fixture, document).await;
            assert_eq!((refused.status.as_u16(), refused.code()), (400, "bad_request"));
            let message = refused.body["error"]["message"].as_str().expect("a message");
            assert!(message.contains(expected), "{message}");
        }
    };
    check(
        json!({"grants": [grant("tag:Ci", "*", "*")]}),
        "document: grants[0].src[0]: tag: must be",
    )
    .await;
    check(json!({"grants": [], "acls": []}), "document: acls: unknown field").await;
    check(json!([]), "document: .: must be an object").await;
    check(
        json!({"grants": [grant("group:eng", "*", "*")]}),
        "grants[0].src[0]: group:eng is not among",
    )
    .await;
    let test = json!({"src": "kind:device", "dst": "tag:prod", "port": 22, "expect": "accept"});
    check(
        json!({"grants": [], "tests": [test]}),
        "document: tests[0]: expected accept",
    )
    .await;
    let test = json!({"src": "node:gone", "dst": "tag:prod", "port": 22, "expect": "deny"});
    check(
        json!({"grants": [], "tests": [test]}),
        "tests[0].src: no node of the org is called gone",
    )
    .await;
    assert_eq!(
        fixture.get(POLICY).await.data(200)["version"],
        0,
        "nothing was changed"
    );
    let large =
        json!({"grants": [{"src": ["*"], "dst": ["*"], "ports": ["*"], "comment": "x".repeat(300_000)}]});
    check(large, "document: .: it is larger than").await;
}

#[tokio::test]
async fn only_admins_read_and_change_it_and_each_org_has_its_own() {
    let fixture = Fixture::start().await;
    let bob = second_member(&fixture).await;
    let body = Some(json!({"document": {"grants": []}, "src": "a", "dst": "b", "port": 1}));
    for (method, path) in [
        (Method::GET, POLICY),
        (Method::PUT, POLICY),
        (Method::POST, "/v1/runmesh/policy/test"),
        (Method::POST, "/v1/runmesh/policy/explain"),
    ] {
        let refused = fixture.call(Some(&bob), method, path, body.clone()).await;
        assert_eq!(
            (refused.status.as_u16(), refused.code()),
            (403, "forbidden"),
            "{path}"
        );
    }
    let device = link(&fixture, 1).await;
    let made = fixture.post("/v1/organizations", json!({"name": "other"})).await;
    let other = made.data(201)["apiKey"]["key"]
        .as_str()
        .expect("a key")
        .to_owned();
    put(&fixture, json!({"grants": []})).await.data(200);
    let theirs = fixture.call(Some(&other), Method::GET, POLICY, None).await;
    assert_eq!(theirs.data(200)["version"], 0);
    let body = Some(json!({"src": device.id, "dst": device.id, "port": 22}));
    let path = "/v1/runmesh/policy/explain";
    let hidden = fixture.call(Some(&other), Method::POST, path, body).await;
    assert_eq!((hidden.status.as_u16(), hidden.code()), (404, "not_found"));
}

#[tokio::test]
async fn a_change_reaches_connected_nodes_at_once_and_shows_them_no_more_than_it_grants() {
    let fixture = Fixture::start().await;
    let bob = second_member(&fixture).await;
    let (mine, theirs) = (link(&fixture, 1).await, link_as(&fixture, &bob, 2).await);
    let mut stream = mine.open(None).await;
    let first = stream.netmap().await;
    assert_eq!(peers(&first), Vec::<String>::new());
    let mut other = theirs.open(None).await;
    assert_eq!(peers(&other.netmap().await), Vec::<String>::new());
    // Its endpoints are news to nobody.
    stream.ping().await;

    put(
        &fixture,
        json!({"grants": [grant("node:host2", "node:host1", "tcp:22")]}),
    )
    .await
    .data(200);
    let second = stream.netmap().await;
    assert!(second.generation > first.generation);
    assert_eq!(peers(&second), [theirs.id.as_str()], "whom it must answer");
    assert!(lets(&second, &theirs, Service::Tcp(22)) && !lets(&second, &theirs, Service::Tcp(23)));
    let far = other.netmap().await;
    assert_eq!(peers(&far), [mine.id.as_str()]);
    assert!(
        !lets(&far, &mine, Service::Tcp(22)),
        "it is a way in one direction"
    );

    // A name that a grant speaks of is taken away, and given to nobody.
    patch(&fixture, &fixture.admin, &mine, json!({"name": "elsewhere"}))
        .await
        .data(200);
    assert_eq!(peers(&stream.netmap().await), Vec::<String>::new());
    assert_eq!(peers(&other.netmap().await), Vec::<String>::new());
}

#[tokio::test]
async fn dispatch_cannot_be_cut_off_by_a_policy() {
    let fixture = Fixture::start().await;
    put(&fixture, json!({"grants": []})).await.data(200);
    let device = link(&fixture, 1).await;
    let map = device.open(None).await.netmap().await;
    assert_eq!(map.peers.len(), 1);
    assert!(map.orchestrator.is_some());
    assert_eq!(
        map.filter.as_ref().expect("a filter").rules.len(),
        0,
        "nothing comes in unasked"
    );
}

#[tokio::test]
async fn tags_are_given_by_admins_and_by_whom_the_policy_names() {
    let fixture = Fixture::start().await;
    let bob = second_member(&fixture).await;
    let device = link_as(&fixture, &bob, 1).await;
    let tags = |tags: &[&str]| json!({"tags": tags});
    let refused = patch(&fixture, &bob, &device, tags(&["ci"])).await;
    assert_eq!((refused.status.as_u16(), refused.code()), (403, "forbidden"));
    let owner = device.node["ownerUserId"].as_str().expect("an owner");
    let document = json!({"tagOwners": {"tag:ci": [format!("user:{owner}")]}, "grants": []});
    put(&fixture, document).await.data(200);
    let tagged = patch(&fixture, &bob, &device, tags(&["ci"])).await;
    assert_eq!(tagged.data(200)["tags"], json!(["ci"]));
    let refused = patch(&fixture, &bob, &device, tags(&["ci", "prod"])).await;
    assert_eq!(refused.status.as_u16(), 403);
    let tagged = patch(
        &fixture,
        &fixture.admin,
        &device,
        json!({"tags": ["prod", "ci", "prod"], "name": "box"}),
    )
    .await;
    assert_eq!(
        (&tagged.data(200)["tags"], &tagged.data(200)["name"]),
        (&json!(["ci", "prod"]), &json!("box"))
    );
    let refused = patch(&fixture, &bob, &device, tags(&[])).await;
    assert_eq!(refused.status.as_u16(), 403, "taking away is giving, too");
    for bad in [json!({"tags": ["Ci"]}), json!({"tags": vec!["x"; 17]}), json!({})] {
        assert_eq!(
            patch(&fixture, &fixture.admin, &device, bad)
                .await
                .status
                .as_u16(),
            400
        );
    }
    // An approval is no way around it.
    let public = support::device::private_key(9).public().to_string();
    let body = Some(json!({"publicKey": public}));
    let path = "/v1/runmesh/devices/link/start";
    let started = fixture.call(None, Method::POST, path, body).await;
    let body = json!({"code": started.data(201)["code"], "tags": ["prod"]});
    let path = "/v1/runmesh/devices/link/approve";
    let refused = fixture
        .call(Some(&bob), Method::POST, path, Some(body.clone()))
        .await;
    assert_eq!((refused.status.as_u16(), refused.code()), (403, "forbidden"));
    fixture.post(path, body).await.data(200);
    let audit = fixture.get("/v1/runmesh/audit").await;
    let rows = audit.body["data"].as_array().expect("rows");
    assert_eq!(
        rows.iter().filter(|row| row["action"] == "node.tagged").count(),
        2
    );
}

#[tokio::test]
async fn a_tag_lets_a_node_be_seen_by_whom_a_grant_names() {
    let fixture = Fixture::start().await;
    let bob = second_member(&fixture).await;
    let (server, laptop) = (link(&fixture, 1).await, link_as(&fixture, &bob, 2).await);
    put(
        &fixture,
        json!({"grants": [grant("kind:device", "tag:prod", "tcp:443")]}),
    )
    .await
    .data(200);
    let mut stream = laptop.open(None).await;
    assert_eq!(peers(&stream.netmap().await), Vec::<String>::new());
    patch(&fixture, &fixture.admin, &server, json!({"tags": ["prod"]}))
        .await
        .data(200);
    let seen = stream.netmap().await;
    assert_eq!(peers(&seen), [server.id.as_str()]);
    assert!(!lets(&seen, &server, Service::Tcp(443)));
    let path = format!("/v1/runmesh/nodes/{}/revoke", server.id);
    fixture.post(&path, json!({})).await.data(200);
    let after = stream.netmap().await;
    assert_eq!(peers(&after), Vec::<String>::new());
}

#[tokio::test]
async fn a_member_sees_what_their_nodes_may_reach_and_may_not_touch_it() {
    let fixture = Fixture::start().await;
    let bob = second_member(&fixture).await;
    let (server, laptop) = (link(&fixture, 1).await, link_as(&fixture, &bob, 2).await);
    let path = format!("/v1/runmesh/nodes/{}", server.id);
    let get = |path: String| {
        let (fixture, bob) = (&fixture, &bob);
        async move { fixture.call(Some(bob), Method::GET, &path, None).await }
    };
    assert_eq!(get(path.clone()).await.code(), "not_found");
    let listed = |answer: &Answer| -> Vec<String> {
        let rows = answer.body["data"].as_array().expect("rows").iter();
        rows.map(|row| row["id"].as_str().expect("an id").to_owned())
            .collect()
    };
    let all = get("/v1/runmesh/nodes".to_owned()).await;
    assert!(!listed(&all).contains(&server.id) && listed(&all).contains(&laptop.id));
    assert_eq!(get("/v1/runmesh/overview".to_owned()).await.data(200)["total"], 2);

    let owner = laptop.node["ownerUserId"].as_str().expect("an owner");
    put(
        &fixture,
        json!({"grants": [grant(&format!("user:{owner}"), "node:host1", "tcp:22")]}),
    )
    .await
    .data(200);
    assert_eq!(get(path.clone()).await.data(200)["name"], "host1");
    assert!(listed(&get("/v1/runmesh/nodes?kind=device".to_owned()).await).contains(&server.id));
    assert_eq!(get("/v1/runmesh/overview".to_owned()).await.data(200)["total"], 3);
    for refused in [
        get(format!("{path}/config")).await,
        patch(&fixture, &bob, &server, json!({"name": "mine"})).await,
        fixture.call(Some(&bob), Method::DELETE, &path, None).await,
    ] {
        assert_eq!((refused.status.as_u16(), refused.code()), (403, "forbidden"));
    }
    // The other way round nothing is granted, and so nothing is seen: the server's owner is an admin here.
    let config = fixture.get(&format!("{path}/config")).await;
    let seen = config.data(200)["peers"].as_array().expect("peers").len();
    assert_eq!(seen, 2, "the platform, and the laptop that it must answer");
}

#[tokio::test]
async fn documents_are_tried_out_and_decisions_explained() {
    let fixture = Fixture::start().await;
    let (a, b) = (link(&fixture, 1).await, link(&fixture, 2).await);
    let test = |expect: &str| json!({"src": "node:host1", "dst": "node:host2", "port": 22, "expect": expect});
    let document = |expect: &str| json!({"grants": [grant("node:host1", "node:host2", "tcp:22")], "tests": [test(expect)]});
    let path = "/v1/runmesh/policy/test";
    let tried = fixture.post(path, json!({"document": document("accept")})).await;
    assert_eq!(
        *tried.data(200),
        json!({"passed": true, "grants": 1, "tests": 1, "failures": []})
    );
    let tried = fixture.post(path, json!({"document": document("deny")})).await;
    assert_eq!(tried.data(200)["failures"][0]["path"], "tests[0]");
    let in_force = fixture.post(path, json!({})).await;
    assert_eq!(
        *in_force.data(200),
        json!({"passed": true, "grants": 2, "tests": 0, "failures": []})
    );
    let unread = fixture.post(path, json!({"document": {"grants": 7}})).await;
    assert_eq!(unread.status.as_u16(), 400);

    let path = "/v1/runmesh/policy/explain";
    let ask = |body: Value| fixture.post(path, body);
    let by_owner = ask(json!({"src": a.id, "dst": "host2", "port": 22})).await;
    let by_owner = by_owner.data(200);
    assert_eq!(
        (&by_owner["accepted"], &by_owner["grant"]),
        (&json!(true), &json!(1))
    );
    assert_eq!(by_owner["text"]["dst"], json!(["owner:self"]));
    assert_eq!(
        (&by_owner["src"], &by_owner["service"]),
        (&json!("host1"), &json!("tcp:22"))
    );
    let nobody = ask(json!({"src": "host1", "dst": b.id, "port": 23, "document": document("accept")})).await;
    let nobody = nobody.data(200);
    assert_eq!(
        (&nobody["accepted"], &nobody["by"]),
        (&json!(false), &Value::Null)
    );
    let platform = fixture.get("/v1/runmesh/nodes?kind=platform").await.body["data"][0]["name"].clone();
    let built_in = ask(json!({"src": "host1", "dst": platform, "port": 7420})).await;
    assert_eq!(built_in.data(200)["by"], "built_in");
    let ping = ask(json!({"src": "host1", "dst": "host2", "proto": "icmp"})).await;
    assert_eq!(ping.data(200)["service"], "icmp");
    assert_eq!(
        ask(json!({"src": "host1", "dst": "gone", "port": 22}))
            .await
            .status
            .as_u16(),
        404
    );
    for bad in [
        json!({"src": "host1", "dst": "host2"}),
        json!({"src": "host1", "dst": "host2", "port": 65536}),
    ] {
        assert_eq!(ask(bad).await.status.as_u16(), 400);
    }
}

#[tokio::test]
async fn the_policy_is_there_after_a_restart() {
    let mut fixture = Fixture::start().await;
    put(&fixture, json!({"grants": [grant("*", "*", "icmp")]}))
        .await
        .data(200);
    let before = fixture.get(POLICY).await.data(200).clone();
    fixture.server.shutdown().await;
    fixture.server = control::serve(fixture.config.clone())
        .await
        .expect("starts again");
    assert_eq!(*fixture.get(POLICY).await.data(200), before);
    let device = link(&fixture, 1).await;
    assert!(matches!(
        device.open(None).await.next().await,
        Some(ToNode::Netmap(_))
    ));
}
