//! A model server on 127.0.0.1 that stands in for a real one, so that real agents run without internet.
//!
//! It speaks what agents speak to models, each in a file of its own: `OpenAI` chat completions (`openai_chat`) and
//! responses (`openai_responses`), Anthropic messages (`anthropic`) and Gemini (`gemini`), whole and streamed. It does
//! not think: to a prompt it answers with one shell tool call, and to the tool's result with a text that quotes it, so
//! whatever the text says came from a tool that really ran (`conversation`). A request that a real server would refuse is
//! refused here, too.
//!
//! A prompt line `shell: COMMAND` chooses the command, `say: TEXT` answers at once without a tool, and `recall: WORDS`
//! answers with what was said earlier that holds these words.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Json;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_util::stream;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

mod anthropic;
mod conversation;
mod gemini;
mod openai_chat;
mod openai_responses;

pub use conversation::INSPECT_COMMAND;

/// The largest request that is read, in bytes: agents send long system prompts.
const BODY_BYTES_MAX: usize = 16 << 20;
/// The model's name.
pub const MODEL: &str = "stand-in";

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

fn router() -> Router {
    let models = json!({"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "runmesh"}]});
    Router::new()
        .route("/v1/models", get(move || async move { Json(models) }))
        .merge(openai_chat::routes())
        .merge(openai_responses::routes())
        .merge(anthropic::routes())
        .merge(gemini::routes())
        .fallback(|| async { StatusCode::NOT_FOUND })
        .layer(axum::extract::DefaultBodyLimit::max(BODY_BYTES_MAX))
}

/// A request that no model server would answer, in words for whoever wrote it.
#[derive(Debug, PartialEq, Eq)]
struct Refused(String);

impl Refused {
    fn because(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        // On the terminal as well: agents tend to hide what a server says.
        eprintln!("the stand-in model refuses: {}", self.0);
        let error = json!({"error": {"type": "invalid_request_error", "message": self.0, "code": 400, "status": "INVALID_ARGUMENT"}});
        (StatusCode::BAD_REQUEST, Json(error)).into_response()
    }
}

type Answer = Result<Response, Refused>;

/// Reads a body as JSON, whatever the headers call it, but they must call it that.
fn json_body(headers: &HeaderMap, body: &Bytes) -> Result<Value, Refused> {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    if !kind.is_some_and(|kind| kind.starts_with("application/json")) {
        return Err(Refused::because(format!("the content type is {kind:?}")));
    }
    serde_json::from_slice(body).map_err(|error| Refused::because(format!("the body is no JSON: {error}")))
}

/// A header that carries a key must be there; any key will do.
fn check_key(headers: &HeaderMap, names: &[&str]) -> Result<(), Refused> {
    let is_key = |name: &&str| headers.get(*name).is_some_and(|key| key.len() > "Bearer ".len());
    if names.iter().any(is_key) {
        return Ok(());
    }
    Err(Refused::because(format!("no key in {}", names.join(" or "))))
}

fn required_text<'a>(request: &'a Value, name: &str) -> Result<&'a str, Refused> {
    let text = request[name].as_str().filter(|text| !text.is_empty());
    text.ok_or_else(|| Refused::because(format!("{name} is missing")))
}

fn required_list<'a>(request: &'a Value, name: &str) -> Result<&'a [Value], Refused> {
    let list = request[name].as_array().filter(|list| !list.is_empty());
    list.map(Vec::as_slice)
        .ok_or_else(|| Refused::because(format!("{name} is no list, or empty")))
}

/// Returns the text of a content, whether it is one string or a list of parts.
fn content_text(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => {
            let texts = parts.iter().filter_map(|part| part["text"].as_str());
            texts.collect::<Vec<_>>().join("\n")
        }
        _ => String::new(),
    }
}

/// Server-sent events, each with a name or without.
fn events(frames: impl IntoIterator<Item = (Option<String>, String)>) -> Response {
    let frames: Vec<_> = frames
        .into_iter()
        .map(|(name, data)| {
            let name = name.map(|name| format!("event: {name}\n")).unwrap_or_default();
            Ok::<_, Infallible>(format!("{name}data: {data}\n\n"))
        })
        .collect();
    let body = Body::from_stream(stream::iter(frames));
    ([(CONTENT_TYPE, "text/event-stream")], body).into_response()
}

/// Server-sent events whose name is the `type` of what they carry.
fn typed_events(frames: impl IntoIterator<Item = Value>) -> Response {
    let named = |frame: Value| (frame["type"].as_str().map(str::to_owned), frame.to_string());
    events(frames.into_iter().map(named))
}

/// Cuts a text in two, for protocols that send arguments in pieces.
fn halves(text: &str) -> (&str, &str) {
    text.split_at(text.floor_char_boundary(text.len() / 2))
}

/// How many tokens a text is: roughly four characters each, as real models have it.
fn tokens(text: &str) -> usize {
    text.len() / 4 + 1
}

/// A name that was not used before.
fn fresh_id(kind: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    format!("{kind}_{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

#[cfg(test)]
mod tests;
