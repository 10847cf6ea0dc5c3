//! What a run is told of what was said before it, what of an agent's settings reaches it, and threads that grew long.

use std::time::Instant;

use super::*;

async fn finish(sidecar: &mut Sidecar, run: RunId, words: &str) {
    let (fence, _) = sidecar.journal.state(run).expect("held");
    sidecar.start((run, fence));
    sidecar.say((run, fence), words);
    sidecar.end((run, fence), "completed");
    sidecar.flush(run).await;
}

#[tokio::test]
async fn a_second_run_of_a_thread_waits_for_the_first_and_is_told_what_was_said() {
    let (bench, mut sidecar) = Bench::connected().await;
    let first = bench.run(json!({ "prompt": "remember 42" })).await;
    let order = sidecar.accept_order().await;
    assert_eq!(order.history, None);
    let thread = text(&first, "threadId").to_owned();
    let second = bench
        .run(json!({ "prompt": "what was it?", "threadId": thread }))
        .await;
    let third = bench.run(json!({ "prompt": "again?", "threadId": thread })).await;
    assert_eq!(
        (&second["status"], &third["status"]),
        (&json!("queued"), &json!("queued"))
    );
    finish(&mut sidecar, order.run_id, "I will.").await;
    let order = sidecar.accept_order().await;
    assert_eq!(order.run_id, run_id(&second));
    let history = order.history.expect("told");
    assert!(
        history.contains("User: remember 42\n\nAssistant: I will."),
        "{history}"
    );
    assert!(
        !history.contains("what was it?") && !history.contains("again?"),
        "{history}"
    );

    finish(&mut sidecar, order.run_id, "42").await;
    let order = sidecar.accept_order().await;
    finish(&mut sidecar, order.run_id, "42 again").await;
    bench.until(&third, "completed").await;
    bench
        .post(
            &format!("/v1/threads/{thread}/compact"),
            json!({ "summary": "It is 42." }),
        )
        .await
        .ok();
    let _ = bench
        .run(json!({ "prompt": "and now?", "threadId": thread }))
        .await;
    let history = sidecar.accept_order().await.history.expect("told");
    assert!(
        history.contains("before: It is 42.") && !history.contains("remember"),
        "{history}"
    );
}

#[tokio::test]
async fn messages_begin_a_thread_with_what_was_said_and_end_with_what_is_asked() {
    let (bench, mut sidecar) = Bench::connected().await;
    let message = |role: &str, content: &str| json!({ "role": role, "content": content });
    let messages = json!([
        message("system", "Be brief."),
        message("user", "My name is Ada."),
        message("assistant", "Hello Ada."),
        message("user", "Who am I?"),
    ]);
    let body = json!({ "agent": "code-on-my-mac", "messages": messages });
    let run = bench.post("/v1/run", body.clone()).await.ok();
    let order = sidecar.accept_order().await;
    assert_eq!(
        (order.prompt.as_str(), order.system_prompt.as_deref()),
        ("Who am I?", Some("Be brief."))
    );
    assert!(
        order
            .history
            .expect("told")
            .contains("User: My name is Ada.\n\nAssistant: Hello Ada.")
    );
    let events = bench.events(&run).await;
    assert_eq!(
        types_of(&events),
        ["user_message", "assistant_message", "user_message"]
    );
    assert_eq!(events[2]["runId"], run["runId"]);

    let mut with_thread = body.clone();
    with_thread["threadId"] = run["threadId"].clone();
    bench
        .post("/v1/run", with_thread)
        .await
        .refused(400, "bad_request");
    for bad in [
        json!([message("tool", "x"), message("user", "y")]),
        json!([message("assistant", "x")]),
    ] {
        let body = json!({ "agent": "code-on-my-mac", "messages": bad });
        bench.post("/v1/run", body).await.refused(400, "bad_request");
    }
}

#[tokio::test]
async fn what_an_agent_and_a_run_ask_for_is_in_the_order() {
    let (bench, mut sidecar) = Bench::connected().await;
    let settings = json!({ "slug": "picky", "executionMode": "local-mac", "targetDeviceId": bench.node,
        "model": "big", "temperature": 0.25, "maxIterations": 9, "maxTokens": 1000, "systemPrompt": "Be brief." });
    bench.post("/v1/agents", settings).await.ok();
    bench.run(json!({ "agent": "picky" })).await;
    let order = sidecar.accept_order().await;
    assert_eq!(
        (order.model.as_deref(), order.temperature),
        (Some("big"), Some(0.25))
    );
    assert_eq!(
        (order.limits.turns_max, order.limits.tokens_max),
        (Some(9), Some(1000))
    );
    bench
        .run(json!({ "agent": "picky", "config": { "temperature": 1.5, "maxTurns": 2, "maxTokens": 7 } }))
        .await;
    let order = sidecar.accept_order().await;
    assert_eq!(order.temperature, Some(1.5));
    assert_eq!(
        (order.limits.turns_max, order.limits.tokens_max),
        (Some(2), Some(7))
    );
}

#[tokio::test]
async fn the_rest_of_what_an_agent_asks_is_in_the_order_too() {
    let bench = Bench::start().await;
    let mut sidecar = Sidecar::connected(&bench).await;
    let resource = json!({ "type": "repo", "resourceId": "r", "alias": "here", "config": { "depth": 1 } });
    let settings = json!({ "slug": "picky", "executionMode": "local-mac", "targetDeviceId": bench.node,
        "tools": ["shell", "edit"], "topP": 0.25, "topK": 40, "providerOptions": { "seed": 1 },
        "resources": [resource], "env": { "A": "1" } });
    bench.post("/v1/agents", settings).await.ok();
    bench.run(json!({ "agent": "picky" })).await;
    let order = sidecar.accept_order().await;
    let expected = types::RunSettings {
        tools: Some(vec!["shell".to_owned(), "edit".to_owned()]),
        top_p: Some(0.25),
        top_k: Some(40),
        provider_options: json!({ "seed": 1 }).as_object().cloned(),
        resources: vec![resource],
    };
    assert_eq!(order.settings, expected);
    assert_eq!(order.env.get("A").map(String::as_str), Some("1"));
}

#[tokio::test]
async fn a_stream_shows_its_own_run_only_and_ends_with_it() {
    let (bench, mut sidecar) = Bench::connected().await;
    let first = bench.run(json!({})).await;
    let order = sidecar.accept_order().await;
    let body = json!({ "agent": "code-on-my-mac", "prompt": "second", "stream": true, "threadId": first["threadId"] });
    let request = bench
        .http
        .post(bench.url("/v1/run"))
        .bearer_auth(&bench.admin)
        .json(&body);
    let answer = request.send().await.expect("an answer");
    finish(&mut sidecar, order.run_id, "one").await;
    let order = sidecar.accept_order().await;
    finish(&mut sidecar, order.run_id, "two").await;
    let whole = tokio::time::timeout(PATIENCE, answer.text())
        .await
        .expect("it ends")
        .expect("reads");
    assert!(whole.contains("\"two\"") && !whole.contains("\"one\""), "{whole}");
    assert_eq!(whole.matches("\"run_completed\"").count(), 1, "{whole}");
}

#[tokio::test]
async fn a_client_that_goes_away_does_not_stop_its_run() {
    let (bench, mut sidecar) = Bench::connected().await;
    let body = json!({ "agent": "code-on-my-mac", "prompt": "x", "stream": true });
    let request = bench
        .http
        .post(bench.url("/v1/run"))
        .bearer_auth(&bench.admin)
        .json(&body);
    let answer = request.send().await.expect("an answer");
    let order = sidecar.accept_order().await;
    drop(answer);
    finish(&mut sidecar, order.run_id, "done").await;
    let run = json!({ "runId": order.run_id });
    let run = bench.until(&run, "completed").await;
    assert_eq!(
        (&run["cancelRequested"], &run["result"]),
        (&json!(false), &json!("done"))
    );
}

#[tokio::test]
async fn a_thread_of_twenty_thousand_events_opens_at_once() {
    let bench = Bench::start().await;
    let run = bench.run(json!({})).await;
    let thread = text(&run, "threadId");
    let path = format!("/v1/threads/{thread}/events");
    for _ in 0..40 {
        let events: Vec<Value> = (0..500)
            .map(|n| json!({ "type": "assistant_message", "payload": { "text": format!("{n} {}", "x".repeat(200)) } }))
            .collect();
        bench.post(&path, json!({ "events": events })).await.ok();
    }
    let begun = Instant::now();
    let snapshot = bench.get(&format!("/v1/threads/{thread}")).await.ok();
    let took = begun.elapsed();
    eprintln!("snapshot of 20,001 events: {took:?}");
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert_eq!(
        (&snapshot["lastSequence"], &snapshot["truncated"]),
        (&json!(20_001), &json!(true))
    );
    assert_eq!(snapshot["activity"], "waiting");
    let messages = snapshot["messages"].as_array().expect("messages");
    assert_eq!(messages.len(), 500);
    assert_eq!(messages[499]["sequence"], 20_001);
    for (query, rows) in [("", 50), ("?limit=500", 500), ("?limit=1000", 500)] {
        let page = bench.get(&format!("{path}{query}")).await.body;
        assert_eq!(page["data"].as_array().map(Vec::len), Some(rows), "{query}");
        assert_eq!(page["hasMore"], true);
    }
}
