//! A member is taken out of the org: what they held is good for nothing, what they did stays.

use api::api_keys::CreateApiKey;

use super::*;
use crate::app::{access, api_keys};

/// The path of a member of the bench's org.
async fn path_of(bench: &Bench, user: &str) -> String {
    let org = bench.get("/v1/organizations/current").await.ok();
    format!("/v1/organizations/{}/members/{user}", text(&org, "id"))
}

async fn id_of(bench: &Bench, key: &str) -> String {
    let me = bench.call(key, Method::GET, "/v1/me", None).await.ok();
    text(&me["user"], "id").to_owned()
}

async fn remove(bench: &Bench, key: &str, user: &str) -> Answer {
    let path = path_of(bench, user).await;
    bench.call(key, Method::DELETE, &path, None).await
}

/// Links a device of somebody's and binds an agent to it.
async fn device_of(bench: &Bench, key: &str) -> NodeId {
    let public = NodePrivateKey::from_random([2; 32]).public();
    let started = bench
        .post("/v1/runmesh/devices/link/start", json!({ "publicKey": public }))
        .await
        .ok();
    let approve = json!({ "code": started["code"] });
    let path = "/v1/runmesh/devices/link/approve";
    let approved = bench.call(key, Method::POST, path, Some(approve)).await.ok();
    let id = text(&approved["node"], "id").parse().expect("its id");
    let agent = json!({ "slug": "theirs", "executionMode": "local-mac", "targetDeviceId": id });
    bench
        .call(key, Method::POST, "/v1/agents", Some(agent))
        .await
        .ok();
    id
}

#[tokio::test]
async fn whoever_is_taken_out_holds_nothing_any_more() {
    let bench = Bench::start().await;
    let eve = bench.member("admin").await;
    let user = id_of(&bench, &eve).await;
    let made = json!({ "name": "a second one" });
    let second = bench
        .call(&eve, Method::POST, "/v1/api-keys", Some(made))
        .await
        .ok();
    let node = device_of(&bench, &eve).await;
    let mut sidecar = Sidecar::new(node);
    sidecar.connect(&bench).await;
    let start = async |agent: &str| {
        let body = json!({ "agent": agent, "prompt": "x" });
        bench.call(&eve, Method::POST, "/v1/run", Some(body)).await.ok()
    };
    let (own, elsewhere) = (start("theirs").await, start("code-on-my-mac").await);
    let held = sidecar.accept().await;
    sidecar.start(held);
    sidecar.flush(held.0).await;

    let removed = remove(&bench, &bench.admin, &user).await.ok();
    assert_eq!(
        (&removed["userId"], &removed["role"]),
        (&json!(user), &json!("admin"))
    );
    for key in [&eve, text(&second, "key")] {
        let answer = bench.call(key, Method::GET, "/v1/me", None).await;
        answer.refused(401, "invalid_token");
    }
    let shown = bench.get(&format!("/v1/runmesh/nodes/{node}")).await.ok();
    assert_eq!(shown["status"], "revoked");
    assert_eq!(bench.until(&own, "failed").await["reason"], "device_revoked");
    bench.until(&elsewhere, "cancelled").await;
    while sidecar.try_receive().await.is_some() {}

    let path = path_of(&bench, "").await;
    let members = bench.get(path.trim_end_matches('/')).await.body;
    assert_eq!(members["data"].as_array().map(Vec::len), Some(1), "{members}");
    let thread = format!("/v1/threads/{}", text(&own, "threadId"));
    assert_eq!(bench.get(&thread).await.ok()["ownerUserId"], json!(user));
    let audit = bench.get("/v1/runmesh/audit").await.body;
    let deeds: Vec<&str> = audit["data"]
        .as_array()
        .expect("rows")
        .iter()
        .map(|row| text(row, "action"))
        .collect();
    for deed in ["member.removed", "node.revoked"] {
        assert!(deeds.contains(&deed), "{deeds:?}");
    }
    remove(&bench, &bench.admin, &user)
        .await
        .refused(404, "not_found");
}

#[tokio::test]
async fn an_org_keeps_an_admin_and_only_admins_take_members_out() {
    let bench = Bench::start().await;
    let (bob, admin) = (bench.member("member").await, id_of(&bench, &bench.admin).await);
    remove(&bench, &bob, &admin).await.refused(403, "forbidden");
    remove(&bench, &bench.admin, &admin)
        .await
        .refused(409, "conflict");
    let eve = bench.member("admin").await;
    let own = id_of(&bench, &eve).await;
    remove(&bench, &eve, &own).await.ok();
    remove(&bench, &bench.admin, &admin)
        .await
        .refused(409, "conflict");

    let other = bench
        .post("/v1/organizations", json!({ "name": "other" }))
        .await
        .ok();
    let stranger = key_of(&other);
    let bob = id_of(&bench, &bob).await;
    remove(&bench, &stranger, &bob).await.refused(404, "not_found");
    let theirs = format!(
        "/v1/organizations/{}/members/{bob}",
        text(&other["organization"], "id")
    );
    let answer = bench.call(&stranger, Method::DELETE, &theirs, None).await;
    answer.refused(404, "not_found");
}

#[tokio::test]
async fn a_request_that_was_let_in_before_makes_nothing_that_outlives_the_membership() {
    let bench = Bench::start().await;
    let eve = bench.member("admin").await;
    let user = id_of(&bench, &eve).await;
    let app = bench.app();
    let let_in = access::authenticate(app, Some(&eve), [127, 0, 0, 1].into()).await;
    let caller = let_in.expect("a member");
    remove(&bench, &bench.admin, &user).await.ok();
    let request: CreateApiKey = serde_json::from_value(json!({ "name": "late" })).expect("a request");
    let refused = api_keys::create(app, &caller, request)
        .await
        .expect_err("too late");
    assert_eq!(refused.code, api::ErrorCode::InvalidToken);
}
