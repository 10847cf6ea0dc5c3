//! Routes of a thread's events: pages, appends, and following them by `text/event-stream` or WebSocket.

use std::convert::Infallible;
use std::time::Duration;

use api::events::{AppendEvents, Appended, CLOSE_GONE, CLOSE_SIGNED_OUT, CLOSE_TOO_SLOW, Event, EventsQuery};
use api::{APPEND_BODY_BYTES_MAX, Scope, Success};
use axum::extract::State;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::http::header::ACCEPT;
use axum::http::{HeaderMap, HeaderName};
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use futures_util::stream;
use serde_json::json;
use types::ThreadId;
use utoipa_axum::routes;

use super::extract::{Body, Id, Params};
use super::respond::Reply;
use super::{Routes, Shared};
use crate::app::events::{Follower, Next};
use crate::app::{Access, AppError, Caller, access, events};

/// How often an idle WebSocket is pinged (contract §6), and an idle event stream commented.
const PING_EVERY: Duration = Duration::from_secs(20);

/// How long a WebSocket may take to swallow one frame before it is dropped.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);

/// The largest message that is taken from a watcher; nothing it says matters.
const WATCHER_BYTES_MAX: usize = 4096;

pub(super) fn register(routes: Routes) -> Routes {
    routes
        .add(Access::Scope(Scope::AgentRead), routes!(list))
        .add(Access::Scope(Scope::AgentWrite), routes!(append))
}

/// List events, oldest first, or follow them.
///
/// With `Accept: text/event-stream` or a WebSocket upgrade: a snapshot, the events above `after` (or `Last-Event-ID`),
/// then what happens. A reader that is too slow is closed (4408) and resumes with `after`.
#[utoipa::path(get, path = "/v1/threads/{id}/events", tag = "threads", operation_id = "listEvents",
    params(("id" = String, Path), EventsQuery), responses((status = 200, body = api::Page<Event>)))]
async fn list(
    State(app): State<Shared>,
    caller: Caller,
    Id(id): Id<ThreadId>,
    Params(query): Params<EventsQuery>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, AppError> {
    if let Ok(upgrade) = upgrade {
        let follower = Follower::of_thread(&app, &caller, id, query.after).await?;
        let upgrade = upgrade.max_message_size(WATCHER_BYTES_MAX);
        let ended = access::ended(app, caller);
        return Ok(upgrade.on_upgrade(|socket| watch(socket, follower, ended)));
    }
    let accepts = headers.get(ACCEPT).and_then(|value| value.to_str().ok());
    if accepts.is_some_and(|value| value.contains("text/event-stream")) {
        let last = headers.get(HeaderName::from_static("last-event-id"));
        let last = last.and_then(|value| value.to_str().ok()?.parse().ok());
        let follower = Follower::of_thread(&app, &caller, id, last.or(query.after)).await?;
        return Ok(stream(follower));
    }
    let page = events::list(&app, &caller, id, &query).await?;
    Ok(page.into_response())
}

/// Append events of the thread's owner.
#[utoipa::path(post, path = "/v1/threads/{id}/events", tag = "threads", operation_id = "appendEvents",
    params(("id" = String, Path)), request_body = AppendEvents,
    responses((status = 200, body = Success<Appended>)))]
async fn append(
    State(app): State<Shared>,
    caller: Caller,
    Id(id): Id<ThreadId>,
    Body(request): Body<AppendEvents, APPEND_BODY_BYTES_MAX>,
) -> Result<Reply<Appended>, AppError> {
    events::append(&app, &caller, id, request).await.map(Reply::ok)
}

/// Answers with the frames of a follower. The stream ends when the reader is too slow: it resumes by `Last-Event-ID`.
pub(super) fn stream(follower: Follower) -> Response {
    let frames = stream::unfold(follower, |mut follower| async {
        let frame = match follower.next().await {
            Ok(Next::Snapshot(snapshot)) => sse::Event::default().data(snapshot.to_string()),
            Ok(Next::Event(event)) => {
                let id = event.sequence.to_string();
                sse::Event::default().id(id).data(json!(event).to_string())
            }
            Ok(Next::Live(live)) => sse::Event::default().data(json!(*live).to_string()),
            Ok(Next::TooSlow | Next::End) | Err(_) => return None,
        };
        Some((Ok::<_, Infallible>(frame), follower))
    });
    let keep_alive = KeepAlive::new().interval(PING_EVERY);
    Sse::new(frames).keep_alive(keep_alive).into_response()
}

async fn watch(mut socket: WebSocket, mut follower: Follower, ended: impl Future<Output = ()>) {
    let mut ended = std::pin::pin!(ended);
    let mut ping = tokio::time::interval(PING_EVERY);
    ping.reset();
    let close = loop {
        let frame = tokio::select! {
            next = follower.next() => match next {
                Ok(Next::Snapshot(snapshot)) => snapshot.to_string(),
                Ok(Next::Event(event)) => json!(event).to_string(),
                Ok(Next::Live(live)) => json!(*live).to_string(),
                Ok(Next::TooSlow) => break (CLOSE_TOO_SLOW, "too slow: resume with ?after="),
                Ok(Next::End) => break (CLOSE_GONE, "the thread is gone, or the server stops"),
                Err(_) => break (1011, "the server failed: resume with ?after="),
            },
            said = socket.recv() => match said {
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => continue,
            },
            () = &mut ended => break (CLOSE_SIGNED_OUT, "the credential is revoked or has expired"),
            _ = ping.tick() => {
                if send(&mut socket, Message::Ping(bytes::Bytes::new())).await.is_err() {
                    return;
                }
                continue;
            }
        };
        if send(&mut socket, Message::Text(frame.into())).await.is_err() {
            return;
        }
    };
    let (code, reason) = close;
    let frame = CloseFrame {
        code,
        reason: reason.into(),
    };
    // The reader may be gone; then nobody needs to be told.
    let _ = send(&mut socket, Message::Close(Some(frame))).await;
}

async fn send(socket: &mut WebSocket, message: Message) -> Result<(), ()> {
    let sent = tokio::time::timeout(SEND_TIMEOUT, socket.send(message)).await;
    sent.map_err(|_| ())?.map_err(|_| ())
}
