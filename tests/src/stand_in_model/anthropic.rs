//! `POST /v1/messages`, as Anthropic has it and Claude's agent speaks it.

use axum::Router;
use axum::body::Bytes;
use axum::extract::Json;
use axum::http::HeaderMap;
use axum::response::IntoResponse;
use axum::routing::post;
use serde_json::{Value, json};

use super::conversation::{Conversation, Said, Tool, Turn};
use super::{
    Answer, Refused, check_key, content_text, fresh_id, halves, json_body, required_list, required_text,
    tokens, typed_events,
};

/// What the agent itself adds to a message of the user.
const REMINDER: &str = "<system-reminder>";

pub(super) fn routes() -> Router {
    Router::new()
        .route("/v1/messages", post(messages))
        .route("/v1/messages/count_tokens", post(count_tokens))
}

async fn messages(headers: HeaderMap, body: Bytes) -> Answer {
    let request = checked(&headers, &body)?;
    let model = required_text(&request, "model")?;
    if request["max_tokens"].as_u64().unwrap_or(0) == 0 {
        return Err(Refused::because("max_tokens is missing"));
    }
    let turn = read(&request)?.next();
    let message = whole(&turn, model, body.len());
    if request["stream"] != json!(true) {
        return Ok(Json(message).into_response());
    }
    Ok(typed_events(frames(&turn, &message)))
}

async fn count_tokens(headers: HeaderMap, body: Bytes) -> Answer {
    checked(&headers, &body)?;
    Ok(Json(json!({"input_tokens": body.len() / 4})).into_response())
}

fn checked(headers: &HeaderMap, body: &Bytes) -> Result<Value, Refused> {
    check_key(headers, &["x-api-key", "authorization"])?;
    if !headers.contains_key("anthropic-version") {
        return Err(Refused::because("anthropic-version is missing"));
    }
    json_body(headers, body)
}

pub(super) fn read(request: &Value) -> Result<Conversation, Refused> {
    let mut said = Vec::new();
    for message in required_list(request, "messages")? {
        let text = json!(message["content"].as_str());
        let one = [json!({"type": "text", "text": text})];
        let blocks = message["content"].as_array().map_or(&one[..], Vec::as_slice);
        match message["role"].as_str() {
            Some("user") => read_user(blocks, &mut said)?,
            Some("assistant") => read_assistant(blocks, &mut said)?,
            // A note of the agent's own between messages.
            Some("system") => {}
            other => return Err(Refused::because(format!("no role is called {other:?}"))),
        }
    }
    let mut tools = Vec::new();
    for tool in request["tools"].as_array().into_iter().flatten() {
        // Tools with a type of their own are the server's.
        if matches!(tool["type"].as_str(), None | Some("custom")) {
            tools.push(Tool::new(&tool["name"], &tool["input_schema"])?);
        }
    }
    Conversation::new(said, tools)
}

fn read_user(blocks: &[Value], said: &mut Vec<Said>) -> Result<(), Refused> {
    let mut texts = Vec::new();
    for block in blocks {
        match block["type"].as_str() {
            Some("tool_result") => said.push(Said::Result {
                id: required_text(block, "tool_use_id")?.to_owned(),
                text: content_text(&block["content"]),
            }),
            Some("text") => {
                let text = block["text"].as_str().unwrap_or_default();
                texts.extend(Some(text).filter(|text| !text.trim_start().starts_with(REMINDER)));
            }
            Some("image" | "document") => {}
            other => return Err(Refused::because(format!("no user's block is of type {other:?}"))),
        }
    }
    if !texts.is_empty() {
        said.push(Said::User(texts.join("\n")));
    }
    Ok(())
}

fn read_assistant(blocks: &[Value], said: &mut Vec<Said>) -> Result<(), Refused> {
    for block in blocks {
        match block["type"].as_str() {
            Some("text") => said.push(Said::Assistant(required_text(block, "text")?.to_owned())),
            Some("tool_use") => {
                required_text(block, "name")?;
                if !block["input"].is_object() {
                    return Err(Refused::because("the input of a call is no object"));
                }
                let id = required_text(block, "id")?.to_owned();
                said.push(Said::Call { id });
            }
            Some("thinking" | "redacted_thinking") => {}
            other => return Err(Refused::because(format!("no model's block is of type {other:?}"))),
        }
    }
    Ok(())
}

fn whole(turn: &Turn, model: &str, asked: usize) -> Value {
    let (block, reason) = match turn {
        Turn::Say(text) => (json!({"type": "text", "text": text}), "end_turn"),
        Turn::Call { tool, arguments } => {
            let call = json!({"type": "tool_use", "id": fresh_id("toolu"), "name": tool, "input": arguments});
            (call, "tool_use")
        }
    };
    json!({
        "id": fresh_id("msg"), "type": "message", "role": "assistant", "model": model, "content": [block],
        "stop_reason": reason, "stop_sequence": null,
        "usage": {"input_tokens": asked / 4, "output_tokens": tokens(&format!("{turn:?}")),
                  "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0},
    })
}

/// The events of a stream, from `message_start` to `message_stop`.
fn frames(turn: &Turn, message: &Value) -> Vec<Value> {
    let mut begun = message.clone();
    begun["content"] = json!([]);
    begun["stop_reason"] = Value::Null;
    begun["usage"]["output_tokens"] = json!(1);
    let mut block = message["content"][0].clone();
    let deltas: Vec<Value> = match turn {
        Turn::Say(text) => {
            block["text"] = json!("");
            let words = text.split_inclusive(' ');
            words
                .map(|word| json!({"type": "text_delta", "text": word}))
                .collect()
        }
        Turn::Call { arguments, .. } => {
            block["input"] = json!({});
            let arguments = arguments.to_string();
            let (first, second) = halves(&arguments);
            let piece = |json: &str| json!({"type": "input_json_delta", "partial_json": json});
            vec![piece(first), piece(second)]
        }
    };
    let mut frames = vec![
        json!({"type": "message_start", "message": begun}),
        json!({"type": "content_block_start", "index": 0, "content_block": block}),
        json!({"type": "ping"}),
    ];
    let delta = |delta: Value| json!({"type": "content_block_delta", "index": 0, "delta": delta});
    frames.extend(deltas.into_iter().map(delta));
    frames.push(json!({"type": "content_block_stop", "index": 0}));
    frames.push(json!({
        "type": "message_delta", "usage": message["usage"],
        "delta": {"stop_reason": message["stop_reason"], "stop_sequence": null},
    }));
    frames.push(json!({"type": "message_stop"}));
    frames
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_a_streamed_call_join_to_its_input() {
        let turn = Turn::Call {
            tool: "Bash".to_owned(),
            arguments: json!({"command": "ls"}),
        };
        let frames = frames(&turn, &whole(&turn, "m", 40));
        let pieces = frames
            .iter()
            .filter_map(|frame| frame["delta"]["partial_json"].as_str());
        let joined: Value = serde_json::from_str(&pieces.collect::<String>()).expect("JSON");
        assert_eq!(joined, json!({"command": "ls"}));
        let reasons: Vec<_> = frames
            .iter()
            .filter_map(|f| f["delta"]["stop_reason"].as_str())
            .collect();
        assert_eq!(reasons, ["tool_use"]);
        assert_eq!(frames.last().expect("some")["type"], "message_stop");
    }

    #[test]
    fn a_reminder_beside_a_result_is_no_new_prompt() {
        let use_ = json!({"type": "tool_use", "id": "t1", "name": "Bash", "input": {}});
        let result = json!({"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "abc123"}]});
        let reminder = json!({"type": "text", "text": "<system-reminder>be kind</system-reminder>"});
        let messages = json!([
            {"role": "user", "content": "Inspect"},
            {"role": "assistant", "content": [use_]},
            {"role": "user", "content": [result, reminder]},
        ]);
        let turn = read(&json!({"messages": messages})).expect("makes sense").next();
        assert!(
            matches!(&turn, Turn::Say(text) if text.contains("abc123")),
            "{turn:?}"
        );
    }

    #[test]
    fn a_request_that_makes_no_sense_is_refused() {
        for messages in [
            json!([]),
            json!([{"role": "tool", "content": "x"}]),
            json!([{"role": "user", "content": [{"type": "hologram"}]}]),
            json!([{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "x"}]}]),
            json!([{"role": "user", "content": "x"}, {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "n", "input": "s"}]}]),
        ] {
            read(&json!({"messages": messages})).expect_err("nonsense");
        }
        let request = json!({"messages": [{"role": "user", "content": "x"}], "tools": [{"name": "Bash"}]});
        read(&request).expect_err("no schema");
    }
}
