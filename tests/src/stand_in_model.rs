//! A model server on 127.0.0.1 that stands in for a real one, so that real agents run without internet.
//!
//! It speaks `OpenAI` chat completions, streamed and whole. It does not think: to a prompt it answers with one shell tool
//! call, and to the tool's result with a text that quotes it, so whatever the text says came from a tool that really ran.
//!
//! A prompt line `shell: COMMAND` chooses the command, and a prompt line `say: TEXT` answers at once without a tool.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use axum::Router;
use axum::extract::Json;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures_util::stream;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// What the tool call runs when the prompt does not say: it really looks into the repository.
pub const INSPECT_COMMAND: &str = "git log --oneline -5 && ls";
/// How much of a tool's output the answer quotes, in characters.
const QUOTED_CHARS_MAX: usize = 2000;
/// The largest request that is read, in bytes: agents send long system prompts.
const BODY_BYTES_MAX: usize = 16 << 20;

/// A running stand-in model. Dropping it stops it.
#[derive(Debug)]
pub struct StandInModel {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl StandInModel {
    /// Starts a server; port 0 takes a free one.
    pub async fn start(listen: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(listen)
            .await
            .context("listen for the stand-in model")?;
        let address = listener.local_addr().context("learn the stand-in model's port")?;
        let task = tokio::spawn(async move {
            // It ends only by being dropped; a failure shows as a failed agent.
            let _ = axum::serve(listener, router()).await;
        });
        Ok(Self { address, task })
    }

    /// Returns what agents call the host: `http://127.0.0.1:PORT`, without `/v1`.
    #[must_use]
    pub fn base_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns the environment that points goose at this server.
    #[must_use]
    pub fn goose_environment(&self) -> Vec<(String, String)> {
        goose_environment(&self.base_url())
    }

    /// Waits until the server ends, which it does not by itself.
    pub async fn wait(mut self) {
        let _ = (&mut self.task).await;
    }
}

impl Drop for StandInModel {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Returns the environment that points goose at a stand-in model.
#[must_use]
pub fn goose_environment(base_url: &str) -> Vec<(String, String)> {
    [
        ("GOOSE_PROVIDER", "openai"),
        ("OPENAI_HOST", base_url),
        ("OPENAI_API_KEY", "stand-in"),
        ("GOOSE_MODEL", "stand-in"),
        ("GOOSE_DISABLE_KEYRING", "1"),
        ("GOOSE_MODE", "approve"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec()
}

fn router() -> Router {
    let models =
        json!({"object": "list", "data": [{"id": "stand-in", "object": "model", "owned_by": "runmesh"}]});
    Router::new()
        .route("/v1/models", get(move || async move { Json(models) }))
        .route("/v1/chat/completions", post(chat))
        .layer(axum::extract::DefaultBodyLimit::max(BODY_BYTES_MAX))
}

async fn chat(Json(request): Json<Value>) -> Response {
    let turn = Turn::decide(&request);
    if request["stream"] == json!(true) {
        let frames = turn
            .chunks(&request)
            .into_iter()
            .map(|c| format!("data: {c}\n\n"));
        let frames = frames.chain([String::from("data: [DONE]\n\n")]);
        let body = axum::body::Body::from_stream(stream::iter(frames.map(Ok::<_, Infallible>)));
        return ([(CONTENT_TYPE, "text/event-stream")], body).into_response();
    }
    Json(turn.completion(&request)).into_response()
}

/// What the model says next.
#[derive(Debug, Clone, PartialEq)]
enum Turn {
    Say(String),
    Call { tool: String, arguments: String },
}

impl Turn {
    fn decide(request: &Value) -> Self {
        let messages = request["messages"].as_array().map_or(&[][..], Vec::as_slice);
        let last_user = messages.iter().rposition(|m| m["role"] == "user");
        let since = &messages[last_user.map_or(0, |index| index + 1)..];
        let results: Vec<_> = since
            .iter()
            .filter(|m| m["role"] == "tool")
            .map(text_of)
            .collect();
        if !results.is_empty() {
            return Self::Say(quote(&results.join("\n")));
        }
        let prompt = last_user
            .map(|index| text_of(&messages[index]))
            .unwrap_or_default();
        if let Some(text) = directive(&prompt, "say:") {
            return Self::Say(text.to_owned());
        }
        let command = directive(&prompt, "shell:").unwrap_or(INSPECT_COMMAND);
        match shell_call(&request["tools"], command) {
            Some(call) => call,
            None => Self::Say("Inspect a local repository".to_owned()),
        }
    }

    fn completion(&self, request: &Value) -> Value {
        let (message, reason) = match self {
            Self::Say(text) => (json!({"role": "assistant", "content": text}), "stop"),
            Self::Call { tool, arguments } => {
                let call = json!({"id": call_id(), "type": "function",
                    "function": {"name": tool, "arguments": arguments}});
                (
                    json!({"role": "assistant", "content": null, "tool_calls": [call]}),
                    "tool_calls",
                )
            }
        };
        let choice = json!({"index": 0, "message": message, "finish_reason": reason});
        self.envelope(request, "chat.completion", choice)
    }

    fn chunks(&self, request: &Value) -> Vec<Value> {
        let (mut deltas, reason) = match self {
            Self::Say(text) => {
                let words = text.split_inclusive(' ').map(|word| json!({"content": word}));
                (words.collect::<Vec<_>>(), "stop")
            }
            Self::Call { tool, arguments } => (call_deltas(tool, arguments), "tool_calls"),
        };
        deltas.insert(0, json!({"role": "assistant", "content": ""}));
        let mut chunks: Vec<_> = deltas.into_iter().map(|d| (d, Value::Null)).collect();
        chunks.push((json!({}), json!(reason)));
        let last = chunks.len() - 1;
        let id = call_id();
        let chunk = |(index, (delta, reason)): (usize, (Value, Value))| {
            let choice = json!({"index": 0, "delta": delta, "finish_reason": reason});
            let mut chunk = self.envelope(request, "chat.completion.chunk", choice);
            chunk["id"] = json!(id);
            if index != last {
                chunk["usage"] = Value::Null;
            }
            chunk
        };
        chunks.into_iter().enumerate().map(chunk).collect()
    }

    fn envelope(&self, request: &Value, object: &str, choice: Value) -> Value {
        let said = match self {
            Self::Say(text) => text.len(),
            Self::Call { arguments, .. } => arguments.len(),
        };
        // Roughly four characters to a token, as real models have it.
        let (asked, said) = (request.to_string().len() / 4, said / 4 + 1);
        json!({
            "id": call_id(), "object": object, "created": 0, "model": request["model"], "choices": [choice],
            "usage": {"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said},
        })
    }
}

fn call_deltas(tool: &str, arguments: &str) -> Vec<Value> {
    let half = arguments
        .char_indices()
        .nth(arguments.chars().count() / 2)
        .map_or(0, |(at, _)| at);
    let (first, second) = arguments.split_at(half);
    let start = json!({"index": 0, "id": call_id(), "type": "function",
        "function": {"name": tool, "arguments": ""}});
    let part = |text: &str| json!({"index": 0, "function": {"arguments": text}});
    [start, part(first), part(second)]
        .into_iter()
        .map(|call| json!({"tool_calls": [call]}))
        .collect()
}

/// Chooses the shell among the tools on offer, by the names that agents give it.
fn shell_call(tools: &Value, command: &str) -> Option<Turn> {
    const NAMES: [&str; 6] = [
        "shell",
        "exec_command",
        "bash",
        "run_shell_command",
        "terminal",
        "execute",
    ];
    let tools = tools.as_array()?;
    let is = |tool: &&Value, name: &str| {
        let own = tool["function"]["name"]
            .as_str()
            .unwrap_or_default()
            .to_lowercase();
        own == name || own.ends_with(&format!("__{name}")) || own.ends_with(&format!(".{name}"))
    };
    let tool = NAMES
        .iter()
        .find_map(|name| tools.iter().find(|tool| is(tool, name)))?;
    let function = &tool["function"];
    let properties = &function["parameters"]["properties"];
    let key = if properties.get("cmd").is_some() {
        "cmd"
    } else {
        "command"
    };
    let value = match properties[key]["type"].as_str() {
        Some("array") => json!(["sh", "-c", command]),
        _ => json!(command),
    };
    let mut arguments = json!({ key: value });
    if properties.get("description").is_some() {
        arguments["description"] = json!("Look into the repository");
    }
    Some(Turn::Call {
        tool: function["name"].as_str()?.to_owned(),
        arguments: arguments.to_string(),
    })
}

fn quote(output: &str) -> String {
    let shown: String = output.trim().chars().take(QUOTED_CHARS_MAX).collect();
    format!("I looked into the repository. The tool answered:\n\n{shown}\n")
}

fn directive<'a>(prompt: &'a str, name: &str) -> Option<&'a str> {
    prompt
        .lines()
        .find_map(|line| line.trim().strip_prefix(name))
        .map(str::trim)
}

/// Returns a message's text, whether it is one string or a list of parts.
fn text_of(message: &Value) -> String {
    match &message["content"] {
        Value::String(text) => text.clone(),
        Value::Array(parts) => {
            let texts = parts.iter().filter_map(|part| part["text"].as_str());
            texts.collect::<Vec<_>>().join("\n")
        }
        _ => String::new(),
    }
}

fn call_id() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    format!("call_{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(messages: Value) -> Value {
        let parameters = json!({"type": "object", "properties": {"command": {"type": "string"}}});
        let shell =
            json!({"type": "function", "function": {"name": "developer__shell", "parameters": parameters}});
        json!({"model": "m", "messages": messages, "tools": [shell]})
    }

    #[test]
    fn a_prompt_is_answered_by_a_shell_call() {
        let turn = Turn::decide(&request(json!([{"role": "user", "content": "Inspect"}])));
        let Turn::Call { tool, arguments } = turn else {
            panic!("no call: {turn:?}")
        };
        assert_eq!(tool, "developer__shell");
        assert!(arguments.contains("git log"));
    }

    #[test]
    fn a_tool_result_is_quoted() {
        let turn = Turn::decide(&request(json!([
            {"role": "user", "content": "Inspect"},
            {"role": "assistant", "tool_calls": []},
            {"role": "tool", "content": [{"type": "text", "text": "abc123 first commit"}]},
        ])));
        assert!(matches!(turn, Turn::Say(text) if text.contains("abc123 first commit")));
    }

    #[test]
    fn a_new_prompt_after_a_finished_turn_calls_again() {
        let turn = Turn::decide(&request(json!([
            {"role": "user", "content": "Inspect"},
            {"role": "tool", "content": "old"},
            {"role": "assistant", "content": "done"},
            {"role": "user", "content": "shell: sleep 9"},
        ])));
        assert!(matches!(turn, Turn::Call { arguments, .. } if arguments.contains("sleep 9")));
    }

    #[test]
    fn streamed_chunks_join_to_the_whole_answer() {
        let arguments = "{\"command\":\"ls\"}".to_owned();
        let turn = Turn::Call {
            tool: "shell".to_owned(),
            arguments: arguments.clone(),
        };
        let chunks = turn.chunks(&json!({"model": "m"}));
        let part = |c: &Value| {
            let calls = &c["choices"][0]["delta"]["tool_calls"];
            calls[0]["function"]["arguments"]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        };
        assert_eq!(chunks.iter().map(part).collect::<String>(), arguments);
        let last = chunks.last().expect("a last chunk");
        assert_eq!(last["choices"][0]["finish_reason"], "tool_calls");
        assert!(last["usage"]["total_tokens"].is_u64());
    }
}
