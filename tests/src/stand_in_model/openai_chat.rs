//! `POST /v1/chat/completions`, as `OpenAI` has it and many others have taken it over.

use axum::Router;
use axum::body::Bytes;
use axum::extract::Json;
use axum::http::HeaderMap;
use axum::response::IntoResponse;
use axum::routing::post;
use serde_json::{Value, json};

use super::conversation::{Conversation, Said, Tool, Turn};
use super::{
    Answer, Refused, check_key, content_text, events, fresh_id, halves, json_body, required_list,
    required_text, tokens,
};

pub(super) fn routes() -> Router {
    Router::new().route("/v1/chat/completions", post(chat))
}

async fn chat(headers: HeaderMap, body: Bytes) -> Answer {
    check_key(&headers, &["authorization"])?;
    let request = json_body(&headers, &body)?;
    let model = required_text(&request, "model")?;
    let turn = read(&request)?.next();
    if request["stream"] != json!(true) {
        return Ok(Json(whole(&turn, model, body.len())).into_response());
    }
    let wants_usage = request["stream_options"]["include_usage"] == json!(true);
    let frames = chunks(&turn, model, body.len(), wants_usage);
    let frames = frames.into_iter().map(|chunk| chunk.to_string());
    let frames = frames.chain([String::from("[DONE]")]);
    Ok(events(frames.map(|frame| (None, frame))))
}

pub(super) fn read(request: &Value) -> Result<Conversation, Refused> {
    let mut said = Vec::new();
    for message in required_list(request, "messages")? {
        let text = content_text(&message["content"]);
        match message["role"].as_str() {
            Some("system" | "developer") => {}
            Some("user") => said.push(Said::User(text)),
            Some("assistant") => {
                if !text.is_empty() {
                    said.push(Said::Assistant(text));
                }
                for call in message["tool_calls"].as_array().into_iter().flatten() {
                    said.push(read_call(call)?);
                }
            }
            Some("tool") => said.push(Said::Result {
                id: required_text(message, "tool_call_id")?.to_owned(),
                text,
            }),
            other => return Err(Refused::because(format!("no role is called {other:?}"))),
        }
    }
    let mut tools = Vec::new();
    for tool in request["tools"].as_array().into_iter().flatten() {
        if tool["type"] != "function" {
            return Err(Refused::because("a tool is no function"));
        }
        let function = &tool["function"];
        tools.push(Tool::new(&function["name"], &function["parameters"])?);
    }
    Conversation::new(said, tools)
}

fn read_call(call: &Value) -> Result<Said, Refused> {
    let arguments = required_text(&call["function"], "arguments")?;
    required_text(&call["function"], "name")?;
    serde_json::from_str::<Value>(arguments)
        .map_err(|_| Refused::because("the arguments of a call are no JSON"))?;
    let id = required_text(call, "id")?.to_owned();
    Ok(Said::Call { id })
}

fn whole(turn: &Turn, model: &str, asked: usize) -> Value {
    let (message, reason) = match turn {
        Turn::Say(text) => (json!({"role": "assistant", "content": text}), "stop"),
        Turn::Call { tool, arguments } => {
            let function = json!({"name": tool, "arguments": arguments.to_string()});
            let call = json!({"id": fresh_id("call"), "type": "function", "function": function});
            let message = json!({"role": "assistant", "content": null, "tool_calls": [call]});
            (message, "tool_calls")
        }
    };
    json!({
        "id": fresh_id("chatcmpl"), "object": "chat.completion", "created": 0, "model": model, "usage": usage(turn, asked),
        "choices": [{"index": 0, "message": message, "finish_reason": reason}],
    })
}

/// What a stream sends before `[DONE]`.
fn chunks(turn: &Turn, model: &str, asked: usize, wants_usage: bool) -> Vec<Value> {
    let (mut deltas, reason) = match turn {
        Turn::Say(text) => {
            let words = text.split_inclusive(' ').map(|word| json!({"content": word}));
            (words.collect::<Vec<_>>(), "stop")
        }
        Turn::Call { tool, arguments } => (call_deltas(tool, &arguments.to_string()), "tool_calls"),
    };
    deltas.insert(0, json!({"role": "assistant", "content": ""}));
    let id = fresh_id("chatcmpl");
    let chunk = |choices: Value| json!({"id": id, "object": "chat.completion.chunk", "created": 0, "model": model, "choices": choices});
    let choice =
        |delta: Value, reason: Value| chunk(json!([{"index": 0, "delta": delta, "finish_reason": reason}]));
    let mut chunks: Vec<_> = deltas
        .into_iter()
        .map(|delta| choice(delta, Value::Null))
        .collect();
    chunks.push(choice(json!({}), json!(reason)));
    if wants_usage {
        let mut last = chunk(json!([]));
        last["usage"] = usage(turn, asked);
        chunks.push(last);
    }
    chunks
}

fn call_deltas(tool: &str, arguments: &str) -> Vec<Value> {
    let (first, second) = halves(arguments);
    let start = json!({"index": 0, "id": fresh_id("call"), "type": "function",
        "function": {"name": tool, "arguments": ""}});
    let part = |text: &str| json!({"index": 0, "function": {"arguments": text}});
    [start, part(first), part(second)]
        .into_iter()
        .map(|call| json!({"tool_calls": [call]}))
        .collect()
}

fn usage(turn: &Turn, asked: usize) -> Value {
    let said = match turn {
        Turn::Say(text) => tokens(text),
        Turn::Call { arguments, .. } => tokens(&arguments.to_string()),
    };
    let asked = asked / 4;
    json!({"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streamed_chunks_join_to_the_whole_answer() {
        let arguments = json!({"command": "ls"});
        let turn = Turn::Call {
            tool: "shell".to_owned(),
            arguments: arguments.clone(),
        };
        let chunks = chunks(&turn, "m", 40, true);
        let part = |c: &Value| {
            let calls = &c["choices"][0]["delta"]["tool_calls"];
            let part = calls[0]["function"]["arguments"].as_str();
            part.unwrap_or_default().to_owned()
        };
        assert_eq!(chunks.iter().map(part).collect::<String>(), arguments.to_string());
        let [.., finish, last] = &chunks[..] else {
            panic!("too few chunks")
        };
        assert_eq!(finish["choices"][0]["finish_reason"], "tool_calls");
        assert!(last["usage"]["total_tokens"].is_u64());
    }

    #[test]
    fn a_request_that_makes_no_sense_is_refused() {
        let assistant = |call: Value| json!({"role": "assistant", "content": null, "tool_calls": [call]});
        for messages in [
            json!([]),
            json!("hello"),
            json!([{"role": "robot", "content": "x"}]),
            json!([{"role": "user", "content": "x"}, {"role": "tool", "content": "y"}]),
            json!([{"role": "user", "content": "x"}, assistant(json!({"id": "1", "function": {"name": "n", "arguments": "{"}}))]),
        ] {
            read(&json!({"messages": messages})).expect_err("nonsense");
        }
        let request = json!({"messages": [{"role": "user", "content": "x"}], "tools": [{"type": "magic"}]});
        read(&request).expect_err("no function");
    }
}
