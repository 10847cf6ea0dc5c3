//! What becomes of an agent's wishes that ACP has a word for, and of those it has none for.

use super::*;

#[test]
fn a_wished_model_is_asked_for_and_what_has_no_word_is_named_at_the_end() {
    let mut talk = Talk::asked(None, wishes());
    talk.says(&json!({ "id": 0, "result": { "protocolVersion": 1 } }));
    talk.says(&json!({ "id": 1, "result": opened() }));
    let sent = talk.sent();
    let last = sent.last().expect("asked");
    let expected = json!({ "sessionId": "s1", "configId": "m", "value": "big" });
    assert_eq!(
        (last["method"].as_str(), &last["params"]),
        (Some("session/set_config_option"), &expected)
    );
    talk.says(&json!({ "id": 2, "result": { "configOptions": [] } }));
    let sent = talk.sent();
    assert_eq!(texts(&sent[0]), ["Be brief.", "Earlier: hello", "hello"]);
    talk.says(&json!({ "id": 3, "result": { "stopReason": "end_turn" } }));
    assert_eq!(talk.ending()["notApplied"], json!(["temperature", "maxTokens"]));
}

#[test]
fn what_the_protocol_has_no_word_for_is_said_under_our_own_name_only() {
    let options = json!({ "claudeCode": { "options": { "permissionMode": "bypassPermissions" } } });
    let settings = types::RunSettings {
        tools: Some(vec!["shell".to_owned()]),
        top_p: Some(0.25),
        top_k: Some(40),
        provider_options: options.as_object().cloned(),
        resources: vec![json!({ "type": "repo", "resourceId": "r" })],
    };
    let asked = Asked {
        model: None,
        settings,
        ..wishes()
    };
    let mut talk = Talk::asked(None, asked);
    talk.says(&json!({ "id": 0, "result": { "protocolVersion": 1 } }));
    talk.says(&json!({ "id": 1, "result": { "sessionId": "s1" } }));
    let sent = talk.sent();
    let prompt = sent.last().expect("prompted");
    let expected = json!({ "runmesh": {
        "temperature": 0.5, "maxTokens": 9, "topP": 0.25, "topK": 40, "tools": ["shell"],
        "providerOptions": options, "resources": [{ "type": "repo", "resourceId": "r" }],
    } });
    assert_eq!(prompt["params"]["_meta"], expected);
    assert!(
        sent.iter()
            .all(|call| call["params"].pointer("/_meta/claudeCode").is_none())
    );
    talk.says(&json!({ "id": 2, "result": { "stopReason": "end_turn" } }));
    assert_eq!(
        talk.ending()["notApplied"],
        json!([
            "temperature",
            "maxTokens",
            "topP",
            "topK",
            "tools",
            "providerOptions",
            "resources"
        ])
    );
}

#[test]
fn an_agent_without_the_model_works_nonetheless_and_it_is_said() {
    for answer in [
        json!({ "id": 2, "error": { "code": -32602, "message": "no" } }),
        Value::Null,
    ] {
        let mut talk = Talk::asked(None, wishes());
        talk.says(&json!({ "id": 0, "result": { "protocolVersion": 1 } }));
        let mut next = 2;
        if answer.is_null() {
            talk.says(&json!({ "id": 1, "result": { "sessionId": "s1" } }));
        } else {
            talk.says(&json!({ "id": 1, "result": opened() }));
            talk.says(&answer);
            next = 3;
        }
        assert_eq!(talk.sent().last().expect("sent")["method"], "session/prompt");
        talk.says(&json!({ "id": next, "result": { "stopReason": "end_turn" } }));
        let ending = talk.ending();
        assert_eq!(ending["status"], "completed");
        assert_eq!(ending["notApplied"], json!(["temperature", "maxTokens", "model"]));
    }
}
