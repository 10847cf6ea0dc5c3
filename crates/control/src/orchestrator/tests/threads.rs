//! Threads over HTTP: appends and their limits, pages, compaction, who sees what.

use super::*;

async fn thread(bench: &Bench) -> String {
    let run = bench.run(json!({})).await;
    bench
        .post(&format!("/v1/runs/{}/cancel", text(&run, "runId")), json!({}))
        .await
        .ok();
    text(&run, "threadId").to_owned()
}

fn message(text: &str) -> Value {
    json!({ "type": "user_message", "payload": { "text": text } })
}

#[tokio::test]
async fn appends_keep_to_the_limits_of_the_contract() {
    let bench = Bench::start().await;
    let path = format!("/v1/threads/{}/events", thread(&bench).await);
    let append = async |events: Vec<Value>| bench.post(&path, json!({ "events": events })).await;
    append(vec![message("x"); 500]).await.ok();
    append(vec![message("x"); 501]).await.refused(400, "bad_request");
    append(vec![]).await.refused(400, "bad_request");
    let empty = serde_json::to_string(&message("")).expect("JSON").len();
    let mebibyte = 1024 * 1024;
    append(vec![message(&"x".repeat(mebibyte - empty))]).await.ok();
    let large = message(&"x".repeat(mebibyte - empty + 1));
    append(vec![large]).await.refused(413, "payload_too_large");
    let eight = vec![message(&"x".repeat(mebibyte - 64)); 8];
    append(eight.clone()).await.ok();
    let nine = [eight, vec![message("x"); 300]].concat();
    append(nine).await.refused(413, "payload_too_large");
    for bad in [
        json!({ "type": "run_completed", "payload": {} }),
        json!({ "type": "thread_deleted", "payload": {} }),
        json!({ "type": "assistant_message_delta", "payload": {} }),
        json!({ "type": "user_message", "payload": [] }),
        json!({ "type": "user_message", "payload": {}, "clientEventId": "" }),
        json!({ "type": "user_message", "payload": {}, "clientEventId": "x".repeat(129) }),
    ] {
        append(vec![bad]).await.refused(400, "bad_request");
    }
}

#[tokio::test]
async fn a_repeated_client_event_id_is_stored_once_and_acknowledged() {
    let bench = Bench::start().await;
    let thread = thread(&bench).await;
    let path = format!("/v1/threads/{thread}/events");
    let mut event = message("once");
    event["clientEventId"] = json!("a");
    let body = json!({ "events": [event, event, message("always")] });
    let first = bench.post(&path, body.clone()).await.ok();
    assert_eq!((&first["appended"], &first["sequence"]), (&json!(2), &json!(4)));
    let again = bench.post(&path, body).await.ok();
    assert_eq!((&again["appended"], &again["sequence"]), (&json!(1), &json!(5)));
    assert_eq!(again["threadId"], json!(thread));
}

#[tokio::test]
async fn events_come_in_pages_and_large_ones_in_smaller_pages() {
    let bench = Bench::start().await;
    let thread = thread(&bench).await;
    let path = format!("/v1/threads/{thread}/events");
    let large = vec![message(&"x".repeat(1_000_000)); 8];
    for _ in 0..3 {
        bench.post(&path, json!({ "events": large })).await.ok();
    }
    let (mut seen, mut cursor, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let page = bench.get(&format!("{path}?limit=500{cursor}")).await.body;
        let rows = page["data"].as_array().expect("a list");
        seen.extend(rows.iter().filter_map(|row| row["sequence"].as_u64()));
        pages += 1;
        assert_eq!(page["hasMore"], page["meta"]["hasMore"]);
        let Some(next) = page["nextCursor"].as_str() else {
            break;
        };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(seen, (1..=26).collect::<Vec<u64>>());
    assert!(pages > 1, "26 MB do not fit one page");
    let page = bench.get(&format!("{path}?limit=3&after=2")).await.body;
    assert_eq!(page["data"][0]["sequence"], 3);
    assert_eq!(page["data"].as_array().map(Vec::len), Some(3));
}

#[tokio::test]
async fn a_compaction_begins_a_new_rollout_and_keeps_what_was() {
    let bench = Bench::start().await;
    let thread = thread(&bench).await;
    let path = format!("/v1/threads/{thread}");
    // What it is told is optional, and so is the body.
    let compact = format!("{path}/compact");
    let compacted = bench.call(&bench.admin, Method::POST, &compact, None).await.ok();
    assert_ne!(compacted["rolloutId"], compacted["previousRolloutId"]);
    let stale = json!({ "events": [message("x")], "rolloutId": compacted["previousRolloutId"] });
    bench
        .post(&format!("{path}/events"), stale)
        .await
        .refused(409, "conflict");
    let events = bench
        .get(&format!("{path}/events?include=all_rollouts"))
        .await
        .body;
    let events = events["data"].as_array().expect("a list");
    let expected = [
        "user_message",
        "run_completed",
        "compaction_started",
        "compaction_completed",
    ];
    assert_eq!(types_of(events), expected);
    assert!(text(&events[3]["payload"], "summary").contains("Inspect this local repo"));
    let active = bench.get(&format!("{path}/events")).await.body;
    assert_eq!(active["data"].as_array().map(Vec::len), Some(1));
    let rollouts = bench.get(&format!("{path}/rollouts")).await.body;
    let counts: Vec<u64> = rollouts["data"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|rollout| rollout["eventCount"].as_u64())
        .collect();
    assert_eq!(counts, [3, 1]);
    assert_eq!(bench.get(&path).await.ok()["messages"], json!([]));
    let whole = bench
        .get(&format!("{path}?include=all_rollouts&limit=1"))
        .await
        .ok();
    assert_eq!(whole["messages"].as_array().map(Vec::len), Some(1));

    bench.run(json!({ "threadId": thread })).await;
    bench
        .post(&format!("{path}/compact"), json!({}))
        .await
        .refused(409, "conflict");
}

#[tokio::test]
async fn a_thread_is_renamed_put_away_and_deleted() {
    let bench = Bench::start().await;
    let thread = thread(&bench).await;
    let path = format!("/v1/threads/{thread}");
    let patch = async |body: Value| bench.call(&bench.admin, Method::PATCH, &path, Some(body)).await;
    let renamed = patch(json!({ "title": "Repo", "archived": true })).await.ok();
    assert_eq!(
        (&renamed["title"], &renamed["archived"]),
        (&json!("Repo"), &json!(true))
    );
    for bad in ["", "\u{202e}x", &"x".repeat(201)] {
        patch(json!({ "title": bad })).await.refused(400, "bad_request");
    }
    let count = async |query: &str| {
        let list = bench.get(&format!("/v1/threads{query}")).await.body;
        list["data"].as_array().map(Vec::len)
    };
    assert_eq!(count("").await, Some(0));
    assert_eq!(count("?archived=true").await, Some(1));
    assert_eq!(count("?archived=true&agent=code-on-my-mac").await, Some(1));
    let events = bench.get(&format!("{path}/events")).await.body;
    let events = events["data"].as_array().expect("a list");
    assert_eq!(types_of(&events[2..]), ["thread_renamed", "thread_archived"]);
    assert_eq!(
        bench.call(&bench.admin, Method::DELETE, &path, None).await.status,
        204
    );
    bench.get(&path).await.refused(404, "not_found");
    bench
        .call(&bench.admin, Method::DELETE, &path, None)
        .await
        .refused(404, "not_found");
}

#[tokio::test]
async fn on_the_paths_of_an_agent_threads_of_other_agents_are_none() {
    let bench = Bench::start().await;
    let thread = thread(&bench).await;
    bench.agent("another", bench.node).await;
    let path = |agent: &str| format!("/v1/run/threads/{thread}?agent={agent}");
    for agent in ["another", "nobody"] {
        for method in [Method::GET, Method::DELETE] {
            let answer = bench.call(&bench.admin, method, &path(agent), None).await;
            answer.refused(404, "not_found");
        }
    }
    for method in [Method::GET, Method::DELETE] {
        let nobodys = format!("/v1/run/threads/{thread}");
        let answer = bench.call(&bench.admin, method, &nobodys, None).await;
        answer.refused(400, "bad_request");
    }
    bench.get("/v1/run/threads").await.refused(400, "bad_request");
    let own = path("code-on-my-mac");
    assert_eq!(bench.get(&own).await.status, 200);
    let deleted = bench.call(&bench.admin, Method::DELETE, &own, None).await;
    assert_eq!(deleted.status, 204);
    bench.get(&own).await.refused(404, "not_found");
}

#[tokio::test]
async fn a_thread_is_there_for_its_owner_and_without_its_content_for_an_admin() {
    let bench = Bench::start().await;
    let grace = bench.member("member").await;
    let other = bench
        .post("/v1/organizations", json!({ "name": "other" }))
        .await
        .ok();
    let stranger = key_of(&other);
    let thread_of_admin = thread(&bench).await;
    let path = format!("/v1/threads/{thread_of_admin}");
    let run = bench.get("/v1/runs").await.body["data"][0]["runId"].clone();
    let run = format!("/v1/runs/{}", run.as_str().expect("a run"));
    for key in [&grace, &stranger] {
        for path in [
            &path,
            &format!("{path}/events"),
            &format!("{path}/rollouts"),
            &run,
        ] {
            bench
                .call(key, Method::GET, path, None)
                .await
                .refused(404, "not_found");
        }
        let body = json!({ "events": [message("x")] });
        let append = bench
            .call(key, Method::POST, &format!("{path}/events"), Some(body))
            .await;
        append.refused(404, "not_found");
        bench
            .call(key, Method::DELETE, &path, None)
            .await
            .refused(404, "not_found");
        bench
            .call(key, Method::POST, &format!("{run}/cancel"), None)
            .await
            .refused(404, "not_found");
        let body = json!({ "agent": "code-on-my-mac", "prompt": "x" });
        bench
            .call(key, Method::POST, "/v1/run", Some(body))
            .await
            .refused(404, "not_found");
    }
    let second = bench.member("admin").await;
    let seen = bench.call(&second, Method::GET, &path, None).await.ok();
    assert_eq!(seen.get("messages"), None);
    let events = bench
        .call(&second, Method::GET, &format!("{path}/events"), None)
        .await
        .body;
    assert_eq!(events["data"][0]["payload"], json!({}));
    let body = json!({ "events": [message("x")] });
    let append = bench
        .call(&second, Method::POST, &format!("{path}/events"), Some(body))
        .await;
    append.refused(403, "forbidden");
    let deleted = bench.call(&second, Method::DELETE, &path, None).await;
    assert_eq!(deleted.status, 204);
}

#[tokio::test]
async fn requests_that_break_a_rule_of_runs_are_refused() {
    let bench = Bench::start().await;
    for bad in [
        json!({ "agent": "code-on-my-mac" }),
        json!({ "prompt": "x" }),
        json!({ "agent": "code-on-my-mac", "prompt": " " }),
        json!({ "agent": "code-on-my-mac", "prompt": "x", "messages": [] }),
        json!({ "agent": "code-on-my-mac", "prompt": "x".repeat(256 * 1024 + 1) }),
        json!({ "agent": "code-on-my-mac", "prompt": "x", "wait": 601 }),
        json!({ "agent": "code-on-my-mac", "prompt": "x", "config": { "maxTurns": 0 } }),
        json!({ "agent": "code-on-my-mac", "prompt": "x", "config": { "temperature": 2.1 } }),
        json!({ "agent": "code-on-my-mac", "messages": [{ "role": "assistant", "content": "x" }] }),
    ] {
        bench.post("/v1/run", bad).await.refused(400, "bad_request");
    }
    let nobody = json!({ "agent": "nobody", "prompt": "x" });
    bench.post("/v1/run", nobody).await.refused(404, "not_found");
    let put = json!({ "slug": "boxed", "sandbox": { "template": "debian" } });
    bench.post("/v1/agents", put).await.ok();
    let body = json!({ "agent": "boxed", "prompt": "x" });
    bench.post("/v1/run", body).await.refused(409, "conflict");
    let body =
        json!({ "agent": "code-on-my-mac", "prompt": "x", "threadId": format!("thr_{}", "0".repeat(32)) });
    bench.post("/v1/run", body).await.refused(404, "not_found");
}

#[tokio::test]
async fn an_admin_reads_the_title_that_somebody_chose_and_never_what_was_asked() {
    let bench = Bench::start().await;
    let run = bench.run(json!({ "prompt": "my password is hunter2" })).await;
    let path = format!("/v1/threads/{}", text(&run, "threadId"));
    let other = bench.member("admin").await;
    let archive = async |archived: bool| {
        let change = json!({ "archived": archived });
        bench.call(&other, Method::PATCH, &path, Some(change)).await
    };
    let mut answers = vec![archive(true).await, archive(false).await];
    for path in [&path, "/v1/threads?all=true"] {
        answers.push(bench.call(&other, Method::GET, path, None).await);
    }
    for answer in &answers {
        assert_eq!(answer.status, 200);
        assert!(!answer.body.to_string().contains("hunter2"), "{}", answer.body);
    }
    let own = bench.get(&path).await.ok();
    assert_eq!(own["title"], "my password is hunter2");
    let change = json!({ "title": "Accounts" });
    bench
        .call(&bench.admin, Method::PATCH, &path, Some(change))
        .await
        .ok();
    let compact = format!("{path}/compact");
    bench
        .post(&format!("/v1/runs/{}/cancel", text(&run, "runId")), json!({}))
        .await
        .ok();
    bench.post(&compact, json!({})).await.ok();
    let listed = bench
        .call(&other, Method::GET, "/v1/threads?all=true", None)
        .await
        .body;
    assert_eq!(listed["data"][0]["title"], "Accounts");
}

#[tokio::test]
async fn nothing_is_appended_to_a_run_that_is_over() {
    let bench = Bench::start().await;
    let run = bench.run(json!({})).await;
    let path = format!("/v1/threads/{}/events", text(&run, "threadId"));
    let mut known = message("before the end");
    known["clientEventId"] = json!("a");
    let of_run = |events: Vec<Value>| json!({ "events": events, "runId": run["runId"] });
    bench.post(&path, of_run(vec![known.clone()])).await.ok();
    let cancel = format!("/v1/runs/{}/cancel", text(&run, "runId"));
    bench.post(&cancel, json!({})).await.ok();

    let forged = vec![known.clone(), message("after the end")];
    bench.post(&path, of_run(forged)).await.refused(409, "conflict");
    let types = ["user_message", "user_message", "run_completed"];
    assert_eq!(types_of(&bench.events(&run).await), types);
    let again = bench.post(&path, of_run(vec![known.clone()])).await.ok();
    assert_eq!(again["appended"], 0, "what is stored is acknowledged still");
    bench
        .post(&path, json!({ "events": [message("to the thread")] }))
        .await
        .ok();

    let compacted = bench
        .post(&path.replace("/events", "/compact"), json!({}))
        .await
        .ok();
    let mut late = json!({ "events": [known], "rolloutId": compacted["previousRolloutId"] });
    assert_eq!(bench.post(&path, late.clone()).await.ok()["appended"], 0);
    late["events"][0]["clientEventId"] = json!("b");
    bench.post(&path, late).await.refused(409, "conflict");
}

#[tokio::test]
async fn what_was_done_by_an_agent_is_found_by_its_name_when_it_is_gone() {
    let bench = Bench::start().await;
    let run = bench.run(json!({})).await;
    let thread = text(&run, "threadId");
    let agent = bench.get("/v1/agents/code-on-my-mac").await.ok();
    let delete = Method::DELETE;
    bench
        .call(&bench.admin, delete, "/v1/agents/code-on-my-mac", None)
        .await;
    bench
        .get("/v1/agents/code-on-my-mac")
        .await
        .refused(404, "not_found");
    for name in ["code-on-my-mac", text(&agent, "id")] {
        for list in ["threads", "run/threads", "runs"] {
            let found = bench.get(&format!("/v1/{list}?agent={name}")).await.body;
            let rows = found["data"].as_array().map(Vec::len);
            assert_eq!(rows, Some(1), "{list} {name}: {found}");
        }
        let one = format!("/v1/run/threads/{thread}?agent={name}");
        assert_eq!(bench.get(&one).await.ok()["id"], json!(thread));
    }
    let (other, path) = (bench.member("member").await, "/v1/threads?agent=code-on-my-mac");
    bench
        .call(&other, Method::GET, path, None)
        .await
        .refused(404, "not_found");
    bench
        .get("/v1/threads?agent=never-was")
        .await
        .refused(404, "not_found");
}
