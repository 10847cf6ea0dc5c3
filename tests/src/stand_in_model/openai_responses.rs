//! `POST /v1/responses`, as `OpenAI` has it and codex speaks it. Nothing is stored: the whole conversation comes with each
//! request.

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

pub(super) fn routes() -> Router {
    Router::new().route("/v1/responses", post(respond))
}

async fn respond(headers: HeaderMap, body: Bytes) -> Answer {
    check_key(&headers, &["authorization"])?;
    let request = json_body(&headers, &body)?;
    let model = required_text(&request, "model")?;
    let turn = read(&request)?.next();
    let response = whole(&turn, model, body.len());
    if request["stream"] != json!(true) {
        return Ok(Json(response).into_response());
    }
    Ok(typed_events(frames(&turn, &response)))
}

pub(super) fn read(request: &Value) -> Result<Conversation, Refused> {
    if !request["previous_response_id"].is_null() {
        return Err(Refused::because("no earlier response is stored here"));
    }
    let mut said = Vec::new();
    if let Some(text) = request["input"].as_str() {
        said.push(Said::User(text.to_owned()));
    } else {
        for item in required_list(request, "input")? {
            said.extend(read_item(item)?);
        }
    }
    let mut tools = Vec::new();
    for tool in request["tools"].as_array().into_iter().flatten() {
        // The server's own tools and those with a grammar are never called here.
        if required_text(tool, "type")? == "function" {
            tools.push(Tool::new(&tool["name"], &tool["parameters"])?);
        }
    }
    Conversation::new(said, tools)
}

fn read_item(item: &Value) -> Result<Option<Said>, Refused> {
    let kind = item["type"].as_str().unwrap_or("message");
    let said = match kind {
        "message" => return read_message(item),
        "function_call" => {
            let arguments = required_text(item, "arguments")?;
            serde_json::from_str::<Value>(arguments)
                .map_err(|_| Refused::because("the arguments of a call are no JSON"))?;
            required_text(item, "name")?;
            let id = required_text(item, "call_id")?.to_owned();
            Said::Call { id }
        }
        "function_call_output" => Said::Result {
            id: required_text(item, "call_id")?.to_owned(),
            text: content_text(&item["output"]),
        },
        "reasoning" => return Ok(None),
        other => return Err(Refused::because(format!("no item is of type {other}"))),
    };
    Ok(Some(said))
}

fn read_message(item: &Value) -> Result<Option<Said>, Refused> {
    let text = content_text(&item["content"]);
    match item["role"].as_str() {
        Some("system" | "developer") => Ok(None),
        Some("user") => Ok(Some(Said::User(text))),
        Some("assistant") => Ok(Some(Said::Assistant(text))),
        other => Err(Refused::because(format!("no role is called {other:?}"))),
    }
}

fn whole(turn: &Turn, model: &str, asked: usize) -> Value {
    let (asked, said) = (asked / 4, tokens(&format!("{turn:?}")));
    json!({
        "id": fresh_id("resp"), "object": "response", "created_at": 0, "status": "completed", "model": model,
        "output": [item(turn)], "parallel_tool_calls": false, "error": null, "incomplete_details": null,
        "usage": {"input_tokens": asked, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": said,
                  "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": asked + said},
    })
}

fn item(turn: &Turn) -> Value {
    match turn {
        Turn::Say(text) => json!({
            "type": "message", "id": fresh_id("msg"), "status": "completed", "role": "assistant",
            "content": [{"type": "output_text", "text": text, "annotations": []}],
        }),
        Turn::Call { tool, arguments } => json!({
            "type": "function_call", "id": fresh_id("fc"), "status": "completed", "call_id": fresh_id("call"),
            "name": tool, "arguments": arguments.to_string(),
        }),
    }
}

/// The events of a stream, numbered, from `response.created` to `response.completed`.
fn frames(turn: &Turn, response: &Value) -> Vec<Value> {
    let done = &response["output"][0];
    let mut begun = response.clone();
    begun["status"] = json!("in_progress");
    begun["output"] = json!([]);
    begun["usage"] = Value::Null;
    let mut frames = vec![
        json!({"type": "response.created", "response": begun}),
        json!({"type": "response.in_progress", "response": begun}),
    ];
    frames.extend(item_frames(turn, done));
    frames.push(json!({"type": "response.output_item.done", "output_index": 0, "item": done}));
    frames.push(json!({"type": "response.completed", "response": response}));
    for (number, frame) in frames.iter_mut().enumerate() {
        frame["sequence_number"] = json!(number);
    }
    frames
}

fn item_frames(turn: &Turn, done: &Value) -> Vec<Value> {
    let id = &done["id"];
    let mut added = done.clone();
    added["status"] = json!("in_progress");
    let frame = |kind: &str, key: &str, value: Value| {
        let mut frame = json!({"type": kind, "item_id": id, "output_index": 0});
        frame[key] = value;
        frame
    };
    match turn {
        Turn::Say(text) => {
            added["content"] = json!([]);
            let mut frames =
                vec![json!({"type": "response.output_item.added", "output_index": 0, "item": added})];
            let part = |text: &str| json!({"type": "output_text", "text": text, "annotations": []});
            frames.push(frame("response.content_part.added", "part", part("")));
            let words = text.split_inclusive(' ');
            frames.extend(words.map(|word| frame("response.output_text.delta", "delta", json!(word))));
            frames.push(frame("response.output_text.done", "text", json!(text)));
            frames.push(frame("response.content_part.done", "part", part(text)));
            for frame in &mut frames[1..] {
                frame["content_index"] = json!(0);
            }
            frames
        }
        Turn::Call { arguments, .. } => {
            let arguments = arguments.to_string();
            let (first, second) = halves(&arguments);
            added["arguments"] = json!("");
            vec![
                json!({"type": "response.output_item.added", "output_index": 0, "item": added}),
                frame("response.function_call_arguments.delta", "delta", json!(first)),
                frame("response.function_call_arguments.delta", "delta", json!(second)),
                frame(
                    "response.function_call_arguments.done",
                    "arguments",
                    json!(arguments),
                ),
            ]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_numbered_and_its_pieces_join_to_the_whole() {
        let turns = [
            (
                Turn::Say("one two three".to_owned()),
                "response.output_text.delta",
                "one two three".to_owned(),
            ),
            (
                Turn::Call {
                    tool: "shell".to_owned(),
                    arguments: json!({"command": "ls"}),
                },
                "response.function_call_arguments.delta",
                json!({"command": "ls"}).to_string(),
            ),
        ];
        for (turn, kind, expected) in turns {
            let frames = frames(&turn, &whole(&turn, "m", 40));
            let pieces = frames.iter().filter(|frame| frame["type"] == kind);
            let joined: String = pieces.filter_map(|frame| frame["delta"].as_str()).collect();
            assert_eq!(joined, expected);
            assert!(
                (0..)
                    .zip(&frames)
                    .all(|(number, frame)| frame["sequence_number"] == number)
            );
            assert_eq!(frames.last().expect("some")["type"], "response.completed");
        }
    }

    #[test]
    fn a_request_that_makes_no_sense_is_refused() {
        let user =
            json!({"type": "message", "role": "user", "content": [{"type": "input_text", "text": "x"}]});
        read(&json!({"input": [user]})).expect("makes sense");
        read(&json!({"input": "x"})).expect("makes sense");
        for request in [
            json!({"input": [user], "previous_response_id": "resp_1"}),
            json!({"input": []}),
            json!({"input": [{"type": "hologram"}]}),
            json!({"input": [user, {"type": "function_call_output", "call_id": "1", "output": "y"}]}),
            json!({"input": [user], "tools": [{"name": "shell"}]}),
        ] {
            read(&request).expect_err("nonsense");
        }
    }
}
