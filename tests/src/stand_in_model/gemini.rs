//! `POST /v1beta/models/MODEL:generateContent` and its like, as Google has them and gemini speaks them.

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Json, Path, Query};
use axum::http::HeaderMap;
use axum::response::IntoResponse;
use axum::routing::post;
use serde::Deserialize;
use serde_json::{Value, json};

use super::conversation::{Conversation, Said, Tool, Turn};
use super::{Answer, Refused, check_key, events, fresh_id, json_body, required_list, required_text, tokens};

pub(super) fn routes() -> Router {
    Router::new().route("/v1beta/models/{call}", post(call))
}

/// How a stream is to come.
#[derive(Deserialize)]
struct Form {
    alt: Option<String>,
}

async fn call(Path(call): Path<String>, Query(form): Query<Form>, headers: HeaderMap, body: Bytes) -> Answer {
    check_key(&headers, &["x-goog-api-key", "authorization"])?;
    let request = json_body(&headers, &body)?;
    let (model, method) = call
        .split_once(':')
        .ok_or_else(|| Refused::because("the path names no method"))?;
    let asked = body.len();
    match method {
        "countTokens" => Ok(Json(json!({"totalTokens": asked / 4})).into_response()),
        "generateContent" => {
            let turn = read(&request)?.next();
            Ok(Json(answer(&turn, model, asked, parts(&turn), true)).into_response())
        }
        "streamGenerateContent" if form.alt.as_deref() == Some("sse") => {
            let turn = read(&request)?.next();
            Ok(events(
                frames(&turn, model, asked)
                    .into_iter()
                    .map(|frame| (None, frame.to_string())),
            ))
        }
        other => Err(Refused::because(format!("there is no method {other} here"))),
    }
}

pub(super) fn read(request: &Value) -> Result<Conversation, Refused> {
    let mut said = Vec::new();
    for content in required_list(request, "contents")? {
        let parts = required_list(content, "parts")?;
        match content["role"].as_str() {
            Some("user") | None => read_user(parts, &mut said)?,
            Some("model") => read_model(parts, &mut said)?,
            other => return Err(Refused::because(format!("no role is called {other:?}"))),
        }
    }
    let mut tools = Vec::new();
    for tool in request["tools"].as_array().into_iter().flatten() {
        for function in tool["functionDeclarations"].as_array().into_iter().flatten() {
            let schema = [&function["parametersJsonSchema"], &function["parameters"]];
            let schema = schema.into_iter().find(|schema| schema.is_object());
            // A function without arguments needs no schema here.
            let empty = json!({"type": "object"});
            tools.push(Tool::new(&function["name"], schema.unwrap_or(&empty))?);
        }
    }
    Conversation::new(said, tools)
}

fn read_user(parts: &[Value], said: &mut Vec<Said>) -> Result<(), Refused> {
    let mut texts = Vec::new();
    for part in parts {
        if let Some(text) = part["text"].as_str() {
            texts.push(text);
        } else if part["functionResponse"].is_object() {
            let answered = &part["functionResponse"];
            if !answered["response"].is_object() {
                return Err(Refused::because("the response of a function is no object"));
            }
            let text = response_text(&answered["response"]);
            let id = id_of(answered)?;
            said.push(Said::Result { id, text });
        } else if !part["inlineData"].is_object() && !part["fileData"].is_object() {
            return Err(Refused::because(format!(
                "a user's part is of no known kind: {part}"
            )));
        }
    }
    if !texts.is_empty() {
        said.push(Said::User(texts.join("\n")));
    }
    Ok(())
}

fn read_model(parts: &[Value], said: &mut Vec<Said>) -> Result<(), Refused> {
    for part in parts {
        if part["functionCall"].is_object() {
            if !part["functionCall"]["args"].is_object() {
                return Err(Refused::because("the arguments of a call are no object"));
            }
            let id = id_of(&part["functionCall"])?;
            said.push(Said::Call { id });
        } else if let Some(text) = part["text"].as_str() {
            said.push(Said::Assistant(text.to_owned()));
        } else {
            return Err(Refused::because(format!(
                "a model's part is of no known kind: {part}"
            )));
        }
    }
    Ok(())
}

/// Ids are optional in this protocol; without them a result is known by its function's name.
fn id_of(function: &Value) -> Result<String, Refused> {
    let name = required_text(function, "name")?;
    Ok(function["id"].as_str().unwrap_or(name).to_owned())
}

fn response_text(response: &Value) -> String {
    let output = ["output", "error"].iter().find_map(|key| response[*key].as_str());
    output.map_or_else(|| response.to_string(), str::to_owned)
}

fn parts(turn: &Turn) -> Value {
    match turn {
        Turn::Say(text) => json!([{"text": text}]),
        Turn::Call { tool, arguments } => {
            json!([{"functionCall": {"id": fresh_id("call"), "name": tool, "args": arguments}}])
        }
    }
}

fn answer(turn: &Turn, model: &str, asked: usize, parts: Value, is_last: bool) -> Value {
    let mut candidate = json!({"index": 0, "content": {"role": "model", "parts": parts}});
    if is_last {
        candidate["finishReason"] = json!("STOP");
    }
    let (asked, said) = (asked / 4, tokens(&format!("{turn:?}")));
    json!({
        "candidates": [candidate], "modelVersion": model, "responseId": fresh_id("resp"),
        "usageMetadata": {"promptTokenCount": asked, "candidatesTokenCount": said, "totalTokenCount": asked + said},
    })
}

/// The pieces of a stream: words one by one, a call as a whole.
fn frames(turn: &Turn, model: &str, asked: usize) -> Vec<Value> {
    let pieces: Vec<Value> = match turn {
        Turn::Say(text) => text
            .split_inclusive(' ')
            .map(|word| json!([{"text": word}]))
            .collect(),
        Turn::Call { .. } => vec![parts(turn)],
    };
    let last = pieces.len().saturating_sub(1);
    let numbered = pieces.into_iter().enumerate();
    numbered
        .map(|(number, piece)| answer(turn, model, asked, piece, number == last))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_piece_of_a_stream_says_that_it_is_over() {
        let frames = frames(&Turn::Say("one two three".to_owned()), "m", 40);
        let text = |frame: &Value| {
            frame["candidates"][0]["content"]["parts"][0]["text"]
                .as_str()
                .map(str::to_owned)
        };
        assert_eq!(
            frames.iter().filter_map(text).collect::<String>(),
            "one two three"
        );
        let over: Vec<bool> = frames
            .iter()
            .map(|f| f["candidates"][0]["finishReason"] == "STOP")
            .collect();
        assert_eq!(over, [false, false, true]);
    }

    #[test]
    fn a_result_is_known_by_id_or_by_name() {
        for id in [json!("c1"), Value::Null] {
            let call = json!({"functionCall": {"id": id, "name": "run_shell_command", "args": {}}});
            let answered = json!({"id": id, "name": "run_shell_command", "response": {"output": "abc123"}});
            let contents = json!([
                {"role": "user", "parts": [{"text": "Inspect"}]},
                {"role": "model", "parts": [call]},
                {"role": "user", "parts": [{"functionResponse": answered}]},
            ]);
            let turn = read(&json!({"contents": contents})).expect("makes sense").next();
            assert!(
                matches!(&turn, Turn::Say(text) if text.contains("abc123")),
                "{turn:?}"
            );
        }
    }

    #[test]
    fn a_request_that_makes_no_sense_is_refused() {
        let user = json!({"role": "user", "parts": [{"text": "x"}]});
        for contents in [
            json!([]),
            json!([{"role": "user", "parts": []}]),
            json!([{"role": "robot", "parts": [{"text": "x"}]}]),
            json!([user, {"role": "user", "parts": [{"functionResponse": {"name": "n", "response": {}}}]}]),
            json!([user, {"role": "model", "parts": [{"functionCall": {"name": "n", "args": 7}}]}]),
            json!([{"role": "user", "parts": [{"hologram": 1}]}]),
        ] {
            read(&json!({"contents": contents})).expect_err("nonsense");
        }
    }
}
