//! The ACP runner against scripted agents: every trap that a real agent was seen to lay.

use types::EventType;

use super::*;

#[path = "acp_wish_tests.rs"]
mod wish_tests;

struct Talk {
    runner: AcpRunner,
    out: Output,
}

impl Talk {
    fn begin(resume: Option<&str>) -> Self {
        Self::asked(resume, Asked::default())
    }

    fn asked(resume: Option<&str>, asked: Asked) -> Self {
        let runner = AcpRunner::new(Path::new("/repo"), Some("Be brief.".to_owned()));
        let mut talk = Self {
            runner: runner.asked(asked),
            out: Output::default(),
        };
        if let Some(session) = resume {
            talk.runner.resume(session);
        }
        talk.runner.prompt("hello", &mut talk.out);
        talk.runner.start(&mut talk.out);
        talk
    }

    fn prompted() -> Self {
        let mut talk = Self::begin(None);
        talk.says(&json!({ "id": 0, "result": { "protocolVersion": 1 } }));
        talk.says(&json!({ "id": 1, "result": { "sessionId": "s1" } }));
        talk.sent();
        talk
    }

    fn says(&mut self, message: &Value) {
        self.runner
            .stdout(format!("{message}\n").as_bytes(), &mut self.out);
    }

    fn updates(&mut self, update: Value) {
        let params = json!({ "sessionId": "s1", "update": update });
        self.says(&json!({ "method": "session/update", "params": params }));
    }

    fn sent(&mut self) -> Vec<Value> {
        let bytes = std::mem::take(&mut self.out.stdin);
        let lines = bytes.split(|&b| b == b'\n').filter(|line| !line.is_empty());
        lines
            .map(|line| serde_json::from_slice(line).expect("JSON"))
            .collect()
    }

    fn events(&self) -> Vec<(EventType, Value)> {
        let event = |produced: &Produced| match produced {
            Produced::Event(draft) => Some((draft.event_type, draft.payload.clone())),
            _ => None,
        };
        self.out.produced.iter().filter_map(event).collect()
    }

    fn ending(&mut self) -> Value {
        self.out.ending.take().expect("the run ended").payload()
    }
}

fn message(text: &str) -> Value {
    json!({ "sessionUpdate": "agent_message_chunk", "content": { "type": "text", "text": text } })
}

#[test]
fn a_turn_goes_from_initialize_to_end_turn() {
    let mut talk = Talk::begin(None);
    let sent = talk.sent();
    assert_eq!(sent[0]["method"], "initialize");
    assert_eq!(sent[0]["params"]["protocolVersion"], 1);
    assert_eq!(talk.runner.phase(), Phase::Opening);
    talk.says(&json!({ "id": 0, "result": { "protocolVersion": 1 } }));
    let sent = talk.sent();
    assert_eq!(
        (&sent[0]["method"], &sent[0]["params"]["cwd"]),
        (&json!("session/new"), &json!("/repo"))
    );
    talk.says(&json!({ "id": 1, "result": { "sessionId": "s1" } }));
    let sent = talk.sent();
    assert_eq!(sent[0]["method"], "session/prompt");
    assert_eq!(sent[0]["params"]["prompt"][0]["text"], "Be brief.");
    assert_eq!(sent[0]["params"]["prompt"][1]["text"], "hello");
    assert_eq!(talk.runner.phase(), Phase::Working);
    talk.updates(message("Hel"));
    talk.updates(message("lo"));
    talk.says(&json!({ "id": 2, "result": { "stopReason": "end_turn", "usage": { "totalTokens": 5 } } }));
    assert_eq!(
        talk.events(),
        [(EventType::AssistantMessage, json!({ "text": "Hello" }))]
    );
    let expected = json!({
        "status": "completed", "stopReason": "end_turn", "result": "Hello", "usage": { "totalTokens": 5 },
        "iterations": 1,
    });
    assert_eq!(talk.ending(), expected);
    assert!(talk.out.close_stdin);
}

#[test]
fn a_tool_call_becomes_one_call_and_one_result_between_the_messages_around_it() {
    let mut talk = Talk::prompted();
    talk.updates(message("Looking."));
    talk.updates(
        json!({ "sessionUpdate": "tool_call", "toolCallId": "t", "title": "shell", "kind": "execute" }),
    );
    talk.updates(json!({ "sessionUpdate": "tool_call_update", "toolCallId": "t", "title": "ls", "rawInput": { "c": 1 } }));
    talk.updates(
        json!({ "sessionUpdate": "tool_call_update", "toolCallId": "t", "status": "completed",
        "content": [{ "type": "content", "content": { "type": "text", "text": "a b" } }] }),
    );
    talk.updates(message("Done."));
    talk.says(&json!({ "id": 2, "result": { "stopReason": "end_turn" } }));
    let events = talk.events();
    let kinds: Vec<EventType> = events.iter().map(|(kind, _)| *kind).collect();
    use EventType::{AssistantMessage, ToolCall, ToolResult};
    assert_eq!(kinds, [AssistantMessage, ToolCall, ToolResult, AssistantMessage]);
    let call = json!({ "toolCallId": "t", "title": "ls", "kind": "execute", "input": { "c": 1 } });
    assert_eq!(events[1].1, call);
    assert_eq!(
        (&events[2].1["content"], &events[2].1["status"]),
        (&json!("a b"), &json!("completed"))
    );
    assert_eq!(talk.ending()["result"], "Done.");
}

#[test]
fn a_tool_that_was_never_announced_is_known_from_its_permission_request() {
    let mut talk = Talk::prompted();
    let options = json!([
        { "optionId": "A", "name": "Always", "kind": "allow_always" },
        { "optionId": "n", "name": "No", "kind": "reject_once" },
        { "optionId": "y", "name": "Yes", "kind": "allow_once" },
    ]);
    for (rpc_id, allow, chosen) in [(7, true, "y"), (8, false, "n")] {
        let tool_call = json!({ "toolCallId": format!("t{rpc_id}"), "title": "rm" });
        let params = json!({ "sessionId": "s1", "toolCall": tool_call, "options": options });
        talk.says(&json!({ "id": rpc_id, "method": "session/request_permission", "params": params }));
        let Some(Produced::Permission { request, title }) = talk.out.produced.last().cloned() else {
            panic!("no permission asked: {:?}", talk.out.produced);
        };
        assert_eq!(title, "rm");
        talk.runner.permission(request, allow, &mut talk.out);
        let sent = talk.sent();
        assert_eq!(sent[0]["id"], rpc_id);
        assert_eq!(
            sent[0]["result"]["outcome"],
            json!({ "outcome": "selected", "optionId": chosen })
        );
    }
    let events = talk.events();
    assert_eq!(
        (events[0].0, &events[0].1["permission"]),
        (EventType::ToolCall, &json!("allowed"))
    );
    assert_eq!(
        (events[1].0, &events[1].1["permission"]),
        (EventType::ToolCall, &json!("rejected"))
    );
}

#[test]
fn without_a_fitting_option_the_answer_is_no() {
    let mut talk = Talk::prompted();
    let options = json!([{ "optionId": "A", "name": "Always", "kind": "allow_always" }]);
    let params = json!({ "sessionId": "s1", "toolCall": { "toolCallId": "t" }, "options": options });
    talk.says(&json!({ "id": "x", "method": "session/request_permission", "params": params }));
    let Some(Produced::Permission { request, .. }) = talk.out.produced.last().cloned() else {
        panic!("no permission asked");
    };
    talk.runner.permission(request, true, &mut talk.out);
    assert_eq!(talk.sent()[0]["result"]["outcome"]["outcome"], "cancelled");
}

#[test]
fn an_interrupted_turn_keeps_what_was_said_and_closes_its_tools() {
    let mut talk = Talk::prompted();
    talk.updates(json!({ "sessionUpdate": "tool_call", "toolCallId": "t", "title": "sleep" }));
    talk.updates(message("Half an ans"));
    talk.runner.exited(ProgramExit::Signal(9), &mut talk.out);
    let events = talk.events();
    let kinds: Vec<EventType> = events.iter().map(|(kind, _)| *kind).collect();
    use EventType::{AssistantMessage, ToolCall, ToolResult};
    assert_eq!(kinds, [AssistantMessage, ToolCall, ToolResult]);
    assert_eq!(events[2].1["status"], "interrupted");
    let ending = talk.ending();
    assert_eq!(
        (&ending["status"], &ending["reason"]),
        (&json!("failed"), &json!("agent_exited"))
    );
}

#[test]
fn every_stop_reason_has_its_status() {
    for (stop, status, reason) in [
        ("cancelled", "failed", "agent_cancelled"),
        ("max_tokens", "failed", "max_tokens"),
        ("max_turn_requests", "failed", "max_turns"),
        ("refusal", "failed", "refusal"),
        ("sleepy", "failed", "unknown_stop_reason"),
    ] {
        let mut talk = Talk::prompted();
        talk.says(&json!({ "id": 2, "result": { "stopReason": stop } }));
        let ending = talk.ending();
        assert_eq!(
            (&ending["status"], &ending["reason"]),
            (&json!(status), &json!(reason))
        );
    }
}

#[test]
fn a_resumed_session_is_not_told_twice_and_a_forgotten_one_is_opened_anew() {
    let capabilities = json!({ "loadSession": true });
    let mut talk = Talk::begin(Some("s1"));
    talk.says(&json!({ "id": 0, "result": { "protocolVersion": 1, "agentCapabilities": capabilities } }));
    assert_eq!(talk.sent()[1]["method"], "session/load");
    talk.updates(message("an old answer"));
    talk.says(&json!({ "id": 1, "result": {} }));
    talk.updates(message("another one, after the session was said to be loaded"));
    assert_eq!((talk.sent().len(), talk.runner.phase()), (0, Phase::Opening));
    assert!(talk.runner.wants_silence().is_some());
    talk.runner.silence(&mut talk.out);
    assert_eq!(talk.runner.wants_silence(), None);
    let sent = talk.sent();
    assert_eq!(
        sent[0]["params"]["prompt"],
        json!([{ "type": "text", "text": "hello" }])
    );
    assert_eq!(talk.out.session.as_deref(), Some("s1"));
    assert_eq!(talk.events(), []);

    let mut talk = Talk::begin(Some("s1"));
    talk.says(&json!({ "id": 0, "result": { "protocolVersion": 1, "agentCapabilities": capabilities } }));
    talk.says(&json!({ "id": 1, "error": { "code": -32002, "message": "not found" } }));
    assert_eq!(talk.sent()[2]["method"], "session/new");
}

#[test]
fn errors_become_endings_with_the_agents_words() {
    let mut talk = Talk::begin(None);
    talk.says(&json!({ "id": 0, "result": { "protocolVersion": 2 } }));
    assert_eq!(talk.ending()["reason"], "protocol_error");

    let mut talk = Talk::begin(None);
    talk.says(&json!({ "id": 0, "result": { "protocolVersion": 1 } }));
    talk.says(&json!({ "id": 1, "error": { "code": -32000, "message": "Authentication\nrequired" } }));
    let ending = talk.ending();
    assert_eq!(ending["reason"], "authentication_required");
    let message = ending["message"].as_str().expect("text");
    assert!(message.contains("Authentication required"), "{message}");
}

#[test]
fn garbage_is_tolerated_up_to_a_limit_and_a_flood_without_lines_is_not() {
    let mut talk = Talk::begin(None);
    for _ in 0..GARBAGE_LINES_MAX {
        talk.runner.stdout(b"Welcome! \xff\n", &mut talk.out);
    }
    assert_eq!(talk.out.ending, None);
    talk.runner.stdout(b"Welcome!\n", &mut talk.out);
    assert_eq!(talk.ending()["reason"], "protocol_error");

    let mut talk = Talk::begin(None);
    let block = vec![b'x'; 1024 * 1024];
    for _ in 0..5 {
        talk.runner.stdout(&block, &mut talk.out);
    }
    assert_eq!(talk.ending()["reason"], "output_limit");
}

#[test]
fn what_the_schema_does_not_know_is_kept_as_it_came() {
    let mut talk = Talk::prompted();
    let update = json!({ "sessionUpdate": "hologram", "beam": [1, 2] });
    talk.updates(update.clone());
    talk.updates(json!({ "sessionUpdate": "plan", "entries": [] }));
    talk.says(&json!({ "id": 2, "result": { "stopReason": "end_turn" } }));
    let ending = talk.ending();
    assert_eq!(ending["update:hologram"], update);
    assert_eq!(ending["update:plan"]["sessionUpdate"], "plan");
}

#[test]
fn requests_we_do_not_offer_are_refused() {
    let mut talk = Talk::prompted();
    let params = json!({ "sessionId": "s1", "path": "/etc/passwd" });
    talk.says(&json!({ "id": 9, "method": "fs/read_text_file", "params": params }));
    assert_eq!(talk.sent()[0]["error"]["code"], -32601);
}

#[test]
fn cancel_is_a_notification_and_answers_open_questions() {
    let mut talk = Talk::prompted();
    let params = json!({ "sessionId": "s1", "toolCall": { "toolCallId": "t" }, "options": [] });
    talk.says(&json!({ "id": 5, "method": "session/request_permission", "params": params }));
    talk.runner.cancel(&mut talk.out);
    let sent = talk.sent();
    assert_eq!(
        (&sent[0]["method"], sent[0].get("id")),
        (&json!("session/cancel"), None)
    );
    assert_eq!(sent[1]["result"]["outcome"]["outcome"], "cancelled");
}

fn wishes() -> Asked {
    let limits = types::RunLimits {
        turns_max: Some(2),
        tokens_max: Some(9),
        duration_s_max: None,
    };
    Asked {
        model: Some("big".to_owned()),
        temperature: Some(0.5),
        limits,
        settings: types::RunSettings::default(),
        history: Some("Earlier: hello".to_owned()),
    }
}

fn opened() -> Value {
    let options = json!([{ "value": "small", "name": "Small" }, { "value": "big", "name": "Big" }]);
    json!({ "sessionId": "s1", "configOptions": [
        { "id": "m", "name": "Model", "category": "model", "type": "select", "currentValue": "small", "options": options },
    ] })
}

fn texts(sent: &Value) -> Vec<&str> {
    let blocks = sent["params"]["prompt"].as_array().expect("blocks");
    blocks.iter().filter_map(|block| block["text"].as_str()).collect()
}

#[test]
fn a_resumed_session_is_not_told_its_history() {
    let asked = Asked {
        model: None,
        ..wishes()
    };
    let mut talk = Talk::asked(Some("s1"), asked);
    talk.says(
        &json!({ "id": 0, "result": { "protocolVersion": 1, "agentCapabilities": { "loadSession": true } } }),
    );
    talk.says(&json!({ "id": 1, "result": {} }));
    talk.runner.silence(&mut talk.out);
    let sent = talk.sent();
    assert_eq!(texts(sent.last().expect("prompted")), ["hello"]);
}

#[test]
fn turns_are_counted_by_words_after_results_and_limited() {
    let asked = Asked {
        model: None,
        ..wishes()
    };
    let mut talk = Talk::asked(None, asked);
    talk.says(&json!({ "id": 0, "result": { "protocolVersion": 1 } }));
    talk.says(&json!({ "id": 1, "result": { "sessionId": "s1" } }));
    let tool = |id: &str| json!({ "sessionUpdate": "tool_call", "toolCallId": id, "title": "t", "status": "completed" });
    talk.updates(message("I look"));
    talk.updates(message(" twice."));
    talk.updates(tool("1"));
    talk.updates(tool("2"));
    talk.updates(message("Once more."));
    assert!(talk.out.ending.is_none(), "two turns are allowed");
    talk.updates(tool("3"));
    talk.sent();
    talk.updates(message("And more."));
    assert_eq!(talk.sent()[0]["method"], "session/cancel");
    let ending = talk.ending();
    assert_eq!(
        (&ending["reason"], &ending["iterations"]),
        (&json!("max_turns"), &json!(2))
    );
}

#[test]
fn only_the_choice_for_once_is_ever_made() {
    let option = |kind: &str| json!({ "optionId": kind, "name": kind, "kind": kind });
    let every = ["reject_always", "allow_always", "reject_once", "allow_once"];
    let cases = [
        (&every[..], true, Some("allow_once"), "allowed"),
        (&every[..], false, Some("reject_once"), "rejected"),
        (&every[..2], true, None, "rejected"),
        (&every[..2], false, None, "rejected"),
        (&every[..0], false, None, "rejected"),
    ];
    for (kinds, allow, chosen, shown) in cases {
        let mut talk = Talk::prompted();
        let options: Vec<Value> = kinds.iter().map(|kind| option(kind)).collect();
        let params = json!({ "sessionId": "s1", "toolCall": { "toolCallId": "t", "title": "rm" }, "options": options });
        talk.says(&json!({ "id": 9, "method": "session/request_permission", "params": params }));
        let Some(Produced::Permission { request, .. }) = talk.out.produced.last().cloned() else {
            panic!("no permission asked");
        };
        talk.runner.permission(request, allow, &mut talk.out);
        let outcome = talk.sent()[0]["result"]["outcome"].clone();
        assert_eq!(outcome["optionId"].as_str(), chosen, "{kinds:?} {allow}");
        assert_eq!(outcome["outcome"] == "cancelled", chosen.is_none());
        assert_eq!(talk.events()[0].1["permission"], shown);
    }
}

#[test]
fn an_agent_that_breaks_off_after_a_no_was_not_cancelled() {
    let mut talk = Talk::prompted();
    let params = json!({ "sessionId": "s1", "toolCall": { "toolCallId": "t" }, "options": [] });
    talk.says(&json!({ "id": 9, "method": "session/request_permission", "params": params }));
    let Some(Produced::Permission { request, .. }) = talk.out.produced.last().cloned() else {
        panic!("no permission asked");
    };
    talk.runner.permission(request, false, &mut talk.out);
    talk.says(&json!({ "id": 2, "result": { "stopReason": "cancelled" } }));
    let ending = talk.ending();
    assert_eq!(
        (&ending["status"], &ending["reason"]),
        (&json!("failed"), &json!("permission_denied"))
    );
}

fn done(id: &str, text: &str) -> Value {
    json!({ "sessionUpdate": "tool_call_update", "toolCallId": id, "status": "completed",
        "content": [{ "type": "content", "content": { "type": "text", "text": text } }] })
}

#[test]
fn an_id_that_is_used_again_is_another_call() {
    let mut talk = Talk::prompted();
    let begin =
        json!({ "sessionUpdate": "tool_call", "toolCallId": "t", "title": "ls", "status": "in_progress" });
    for text in ["one", "two"] {
        talk.updates(begin.clone());
        talk.updates(begin.clone());
        talk.updates(done("t", text));
        talk.updates(done("t", "late and not wanted"));
    }
    talk.says(&json!({ "id": 2, "result": { "stopReason": "end_turn" } }));
    let shown: Vec<_> = talk
        .events()
        .iter()
        .map(|(kind, payload)| (*kind, payload["toolCallId"].clone(), payload["content"].clone()))
        .collect();
    use EventType::{ToolCall, ToolResult};
    let (none, second) = (Value::Null, json!("t#2"));
    assert_eq!(
        shown,
        [
            (ToolCall, json!("t"), none.clone()),
            (ToolResult, json!("t"), json!("one")),
            (ToolCall, second.clone(), none),
            (ToolResult, second, json!("two")),
        ]
    );
}

#[test]
fn an_agent_that_asks_after_it_began_has_its_answer_in_the_result() {
    let mut talk = Talk::prompted();
    talk.updates(
        json!({ "sessionUpdate": "tool_call", "toolCallId": "t", "title": "rm", "status": "in_progress" }),
    );
    let options = json!([{ "optionId": "n", "name": "No", "kind": "reject_once" }]);
    let params = json!({ "sessionId": "s1", "toolCall": { "toolCallId": "t" }, "options": options });
    talk.says(&json!({ "id": 9, "method": "session/request_permission", "params": params }));
    let Some(Produced::Permission { request, .. }) = talk.out.produced.last().cloned() else {
        panic!("no permission asked");
    };
    talk.runner.permission(request, false, &mut talk.out);
    talk.updates(json!({ "sessionUpdate": "tool_call_update", "toolCallId": "t", "status": "failed" }));
    let events = talk.events();
    assert_eq!(
        (events[0].0, events[0].1.get("permission")),
        (EventType::ToolCall, None)
    );
    assert_eq!(
        (events[1].0, &events[1].1["permission"]),
        (EventType::ToolResult, &json!("rejected"))
    );
}

#[test]
fn what_is_said_after_the_answer_is_stored_too() {
    let mut talk = Talk::prompted();
    talk.says(&json!({ "id": 2, "result": { "stopReason": "end_turn" } }));
    assert_eq!(talk.ending()["status"], "completed");
    talk.updates(json!({ "sessionUpdate": "tool_call", "toolCallId": "t", "title": "ls" }));
    talk.updates(done("t", "a b"));
    talk.updates(message("Late."));
    talk.says(&json!({ "id": 5, "method": "session/request_permission", "params": {} }));
    talk.runner.flush(&mut talk.out);
    let kinds: Vec<EventType> = talk.events().iter().map(|(kind, _)| *kind).collect();
    use EventType::{AssistantMessage, ToolCall, ToolResult};
    assert_eq!(kinds, [ToolCall, ToolResult, AssistantMessage]);
    assert_eq!(
        (talk.sent().len(), &talk.out.ending),
        (0, &None),
        "nothing is asked or ended again"
    );
}

#[test]
fn nothing_is_allowed_outside_a_turn() {
    let mut talk = Talk::begin(None);
    talk.sent();
    let options = json!([{ "optionId": "y", "name": "Yes", "kind": "allow_once" }]);
    let params = json!({ "sessionId": "s1", "toolCall": { "toolCallId": "t" }, "options": options });
    talk.says(&json!({ "id": 9, "method": "session/request_permission", "params": params }));
    assert_eq!(talk.sent()[0]["result"]["outcome"]["outcome"], "cancelled");
    assert_eq!(talk.events(), []);
}

#[test]
fn an_error_for_nothing_in_particular_is_one_for_what_was_asked() {
    let mut talk = Talk::begin(None);
    talk.says(
        &json!({ "id": null, "error": { "code": -32700, "message": "Parse error", "data": { "at": 7 } } }),
    );
    let ending = talk.ending();
    assert_eq!(ending["reason"], "agent_error");
    let message = ending["message"].as_str().expect("text");
    assert!(
        message.contains("Parse error") && message.contains("\"at\":7"),
        "{message}"
    );
}
