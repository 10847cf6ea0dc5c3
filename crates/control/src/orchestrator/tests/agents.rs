//! Agents over HTTP: every field and limit, upserts, changes, and who may see them.

use super::*;

fn local(bench: &Bench, more: Value) -> Value {
    let mut body = json!({ "slug": "a", "executionMode": "local-mac", "targetDeviceId": bench.node });
    for (field, value) in more.as_object().expect("fields") {
        body[field] = value.clone();
    }
    body
}

#[tokio::test]
async fn an_upsert_creates_and_then_replaces() {
    let bench = Bench::start().await;
    let body = local(&bench, json!({ "maxIterations": 5, "env": { "A": "1" } }));
    let made = bench.post("/v1/agents", body).await.ok();
    assert_eq!(
        (&made["action"], &made["version"]),
        (&json!("created"), &json!(1))
    );
    assert_eq!(made["endpoint"], "/v1/agents/a/run");
    assert_eq!(made["targetDeviceId"], json!(bench.node));
    let again = bench
        .post("/v1/agents", local(&bench, json!({ "name": "A" })))
        .await
        .ok();
    assert_eq!(
        (&again["action"], &again["version"]),
        (&json!("updated"), &json!(2))
    );
    assert_eq!(again["id"], made["id"]);
    let found = bench.get("/v1/agents/a").await.ok();
    assert_eq!(
        (&found["name"], &found["maxIterations"]),
        (&json!("A"), &Value::Null)
    );

    let patch = async |body: Value| {
        bench
            .call(&bench.admin, Method::PATCH, "/v1/agents/a", Some(body))
            .await
    };
    let patched = patch(json!({ "maxIterations": 7, "name": null, "junk": 1, "slug": "b" }))
        .await
        .ok();
    assert_eq!(
        (&patched["maxIterations"], &patched["name"]),
        (&json!(7), &json!("a"))
    );
    assert_eq!((&patched["slug"], &patched["junk"]), (&json!("a"), &Value::Null));
    assert_eq!(patched["version"], 3);
    assert_eq!(bench.get("/v1/agents/a").await.ok(), patched);
    let same = patch(json!({ "maxIterations": 7, "junk": 2 })).await.ok();
    assert_eq!(same, patched, "what changes nothing is no new version");
    patch(json!({ "sandbox": {} })).await.refused(409, "conflict");
    patch(json!({ "topP": "much" })).await.refused(400, "bad_request");

    let listed = bench.get("/v1/agents?limit=1").await.body;
    assert_eq!(
        (&listed["data"][0]["slug"], &listed["hasMore"]),
        (&json!("code-on-my-mac"), &json!(true))
    );
    let deleted = bench
        .call(&bench.admin, Method::DELETE, "/v1/agents/a", None)
        .await;
    assert_eq!(deleted.status, 204);
    bench.get("/v1/agents/a").await.refused(404, "not_found");
}

#[tokio::test]
async fn an_agent_without_a_name_is_called_by_its_slug() {
    let bench = Bench::start().await;
    for (slug, name, shown) in [
        ("a", Value::Null, "a"),
        ("b", json!("Bee"), "Bee"),
        ("a", json!("Ay"), "Ay"),
        ("a", Value::Null, "a"),
    ] {
        let body = local(&bench, json!({ "slug": slug, "name": name }));
        bench.post("/v1/agents", body).await.ok();
        let found = bench.get(&format!("/v1/agents/{slug}")).await.ok();
        assert_eq!(found["name"], shown, "{slug} {name}");
    }
    let listed = bench.get("/v1/agents").await.body;
    let names = listed["data"].as_array().expect("rows").iter();
    let names: Vec<&str> = names.map(|agent| text(agent, "name")).collect();
    assert_eq!(names, ["code-on-my-mac", "a", "Bee"]);
}

#[tokio::test]
async fn an_agent_is_answered_with_everything_the_contract_names() {
    let bench = Bench::start().await;
    let body = json!({
        "slug": "full", "name": "Full", "description": "d", "model": "m", "systemPrompt": "s", "tools": ["shell"],
        "maxIterations": 3, "maxTokens": 9, "temperature": 0.5, "topP": 0.25, "topK": 40, "env": { "A": "1" },
        "providerOptions": { "seed": 1 }, "executionMode": "local-mac", "targetDeviceId": bench.node,
        "resources": [{ "type": "repo", "resourceId": "r", "alias": "here", "config": { "depth": 1 } }],
        "defaultFolderHint": "~/code", "runner": { "type": "acp", "name": "goose" },
    });
    let made = bench.post("/v1/agents", body.clone()).await.ok();
    let mut fields: Vec<&str> = made
        .as_object()
        .expect("fields")
        .keys()
        .map(String::as_str)
        .collect();
    fields.sort_unstable();
    assert_eq!(
        fields,
        [
            "action",
            "endpoint",
            "id",
            "sandboxId",
            "slug",
            "targetDeviceId",
            "version"
        ]
    );
    assert_eq!(
        (&made["sandboxId"], &made["slug"]),
        (&Value::Null, &json!("full"))
    );
    let found = bench.get("/v1/agents/full").await.ok();
    for (field, value) in body.as_object().expect("fields") {
        assert_eq!(&found[field], value, "{field}");
    }
    let me = bench.get("/v1/me").await.ok();
    for (field, value) in [
        ("id", &made["id"]),
        ("orgId", &me["organization"]["id"]),
        ("ownerUserId", &me["user"]["id"]),
        ("visibility", &json!("private")),
        ("status", &json!("active")),
        ("version", &json!(1)),
        ("sandbox", &Value::Null),
    ] {
        assert_eq!(&found[field], value, "{field}");
    }
    for field in ["createdAt", "updatedAt"] {
        let time = text(&found, field);
        assert!(time.len() == 24 && time.ends_with('Z'), "{time}");
    }
}

#[tokio::test]
async fn each_mode_demands_and_refuses_what_the_contract_says() {
    let bench = Bench::start().await;
    let device = json!(bench.node);
    for (settings, taken) in [
        (json!({}), false),
        (json!({ "sandbox": {} }), true),
        (
            json!({ "sandbox": { "template": "debian" }, "executionMode": "in_sandbox" }),
            true,
        ),
        (json!({ "executionMode": "in_sandbox" }), false),
        (json!({ "executionMode": "in_sandbox", "sandbox": null }), false),
        (
            json!({ "executionMode": "in_sandbox", "sandbox": "debian" }),
            false,
        ),
        (json!({ "executionMode": "managed" }), true),
        (json!({ "executionMode": "local-mac" }), false),
        (
            json!({ "executionMode": "local-mac", "targetDeviceId": device }),
            true,
        ),
        (
            json!({ "executionMode": "local-mac", "targetDeviceId": device, "sandbox": null }),
            true,
        ),
        (
            json!({ "executionMode": "local-mac", "targetDeviceId": device, "sandbox": {} }),
            false,
        ),
        (
            json!({ "executionMode": "local_mac", "targetDeviceId": device }),
            false,
        ),
    ] {
        let mut body = settings.clone();
        body["slug"] = json!("a");
        let answer = bench.post("/v1/agents", body).await;
        assert_eq!(
            answer.status,
            if taken { 200 } else { 400 },
            "{settings}: {}",
            answer.body
        );
    }
    let patch = async |body: Value| {
        bench
            .call(&bench.admin, Method::PATCH, "/v1/agents/a", Some(body))
            .await
    };
    patch(json!({ "executionMode": null }))
        .await
        .refused(409, "conflict");
    patch(json!({ "targetDeviceId": null }))
        .await
        .refused(409, "conflict");
    let moved = patch(json!({ "executionMode": "in_sandbox", "sandbox": {}, "targetDeviceId": null }));
    assert_eq!(moved.await.ok()["executionMode"], "in_sandbox");
}

#[tokio::test]
async fn a_slug_that_looks_like_an_id_is_a_slug() {
    let bench = Bench::start().await;
    let slug = "00000000-0000-4000-8000-000000000000";
    bench.agent(slug, bench.node).await;
    let run = bench.run(json!({ "agent": slug })).await;
    let run = bench.get(&format!("/v1/runs/{}", text(&run, "runId"))).await.ok();
    assert_eq!(run["agentSlug"], slug);
}

#[tokio::test]
async fn what_happens_to_an_agent_is_told_to_people() {
    let bench = Bench::start().await;
    let made = bench.post("/v1/agents", local(&bench, json!({}))).await.ok();
    bench
        .post("/v1/agents", local(&bench, json!({ "name": "A" })))
        .await
        .ok();
    let patched = json!({ "name": "B" });
    bench
        .call(&bench.admin, Method::PATCH, "/v1/agents/a", Some(patched))
        .await
        .ok();
    bench
        .call(&bench.admin, Method::DELETE, "/v1/agents/a", None)
        .await;
    let path = format!(
        "/v1/activity?resource_type=agent&resource_id={}",
        text(&made, "id")
    );
    let rows = bench.get(&path).await.body["data"]
        .as_array()
        .expect("rows")
        .clone();
    let types: Vec<&str> = rows.iter().map(|row| text(row, "eventType")).collect();
    assert_eq!(
        types,
        ["agent.deleted", "agent.updated", "agent.updated", "agent.created"]
    );
    let versions: Vec<&Value> = rows.iter().map(|row| &row["attributes"]["version"]).collect();
    assert_eq!(versions, [&json!(3), &json!(3), &json!(2), &json!(1)]);
    assert_eq!(rows[0]["title"], "a was deleted");
    assert_eq!(rows[0]["runmeshNodeId"], json!(bench.node));
}

#[tokio::test]
async fn settings_at_their_limits_are_taken() {
    let bench = Bench::start().await;
    let tools: Vec<String> = (0..128).map(|n| n.to_string()).collect();
    let env: serde_json::Map<String, Value> = (0..64)
        .map(|n| (format!("V{n}"), json!("x".repeat(4096))))
        .collect();
    let resource = json!({ "type": "repo", "resourceId": "r", "alias": "a", "config": {} });
    for good in [
        json!({ "maxIterations": 1, "maxTokens": 1, "temperature": 0, "topP": 0, "topK": 1 }),
        json!({ "maxIterations": 100, "maxTokens": 128_000, "temperature": 2, "topP": 1 }),
        json!({ "name": "ä".repeat(128), "description": "ä".repeat(2000), "systemPrompt": "x".repeat(65536) }),
        json!({ "tools": tools, "env": env, "resources": vec![resource; 32] }),
        json!({ "defaultFolderHint": "~/code", "runner": { "type": "command", "name": "make" } }),
        json!({ "slug": "x".repeat(63) }),
    ] {
        bench.post("/v1/agents", local(&bench, good)).await.ok();
    }
}

#[tokio::test]
async fn settings_past_their_limits_are_refused() {
    let bench = Bench::start().await;
    let tools: Vec<String> = (0..129).map(|n| n.to_string()).collect();
    let env: serde_json::Map<String, Value> = (0..65).map(|n| (format!("V{n}"), json!("x"))).collect();
    let resource = json!({ "type": "repo", "resourceId": "r" });
    for bad in [
        json!({ "slug": "-a" }),
        json!({ "slug": "x".repeat(64) }),
        json!({ "slug": "A" }),
        json!({ "name": "x".repeat(129) }),
        json!({ "name": "a\u{202e}b" }),
        json!({ "description": "x".repeat(2001) }),
        json!({ "systemPrompt": "x".repeat(65537) }),
        json!({ "tools": tools }),
        json!({ "maxIterations": 0 }),
        json!({ "maxIterations": 101 }),
        json!({ "maxTokens": 128_001 }),
        json!({ "temperature": 2.01 }),
        json!({ "temperature": -0.1 }),
        json!({ "topP": 1.1 }),
        json!({ "topK": 0 }),
        json!({ "env": { "1A": "x" } }),
        json!({ "env": { "A=B": "x" } }),
        json!({ "env": { "A": "x".repeat(4097) } }),
        json!({ "env": { "A": "x\u{0}" } }),
        json!({ "env": env }),
        json!({ "resources": vec![resource; 33] }),
        json!({ "resources": vec![json!({ "type": "repo", "resourceId": "r", "config": { "x": "y".repeat(9000) } }); 8] }),
        json!({ "resources": [{ "type": "repo", "resourceId": "r", "config": { "x": "y".repeat(16384) } }] }),
        json!({ "providerOptions": { "x": "y".repeat(16384) } }),
        json!({ "defaultFolderHint": "a\nb" }),
        json!({ "runner": { "type": "rocket", "name": "x" } }),
        json!({ "runner": { "type": "acp", "name": "" } }),
        json!({ "executionMode": "on-the-moon" }),
        json!({ "sandbox": { "template": "debian" } }),
        json!({ "targetDeviceId": null }),
        json!({ "executionMode": "in_sandbox" }),
        json!({ "description": "a\u{0}" }),
        json!({ "systemPrompt": "a\u{0}" }),
        json!({ "sandbox": "debian" }),
    ] {
        let refused = bench.post("/v1/agents", local(&bench, bad)).await;
        refused.refused(400, "bad_request");
    }
    let elsewhere = json!({ "targetDeviceId": NodeId::from_random([9; 16]) });
    let refused = bench.post("/v1/agents", local(&bench, elsewhere)).await;
    refused.refused(409, "conflict");
    let list = bench.get("/v1/agents").await.body;
    assert_eq!(
        list["data"].as_array().map(Vec::len),
        Some(1),
        "nothing of it was kept"
    );
}

#[tokio::test]
async fn an_agent_is_bound_to_a_device_that_its_owner_may_use() {
    let bench = Bench::start().await;
    let org = bench.get("/v1/organizations/current").await.ok();
    let path = format!("/v1/organizations/{}/members", text(&org, "id"));
    let made = bench
        .post(&path, json!({ "name": "Grace", "role": "member" }))
        .await
        .ok();
    let grace = text(&made["apiKey"], "key").to_owned();
    let put = async |body: Value| bench.call(&grace, Method::POST, "/v1/agents", Some(body)).await;
    put(local(&bench, json!({}))).await.refused(409, "conflict");
    put(json!({ "slug": "code-on-my-mac", "executionMode": "managed" }))
        .await
        .refused(409, "conflict");
    put(json!({ "slug": "mine", "executionMode": "managed" }))
        .await
        .ok();
    bench
        .call(&grace, Method::GET, "/v1/agents/code-on-my-mac", None)
        .await
        .refused(404, "not_found");
    let seen = bench.call(&grace, Method::GET, "/v1/agents", None).await.body;
    assert_eq!(seen["data"].as_array().map(Vec::len), Some(1));
    assert_eq!(
        bench.get("/v1/agents?all=true").await.body["data"]
            .as_array()
            .map(Vec::len),
        Some(2)
    );
}
