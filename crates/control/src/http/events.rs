//! Routes of a thread's events: pages, appends, and following them by `text/event-stream` or WebSocket.

use std::convert::Infallible;
use std::time::Duration;

use api::events::{
    AppendEvents, Appended, CLOSE_GONE, CLOSE_SIGNED_OUT, CLOSE_STOPPING, CLOSE_TOO_SLOW, Event, EventsQuery,
};
use api::forms::StreamedFrame;
use api::{APPEND_BODY_BYTES_MAX, ErrorEnvelope, Scope, Success, schema};
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

/// How long a reader that stalled may take to come to the frame that says so, behind all that it has not read.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(60);

/// What a reader is told that does not keep up.
const TOO_SLOW: (u16, &str) = (CLOSE_TOO_SLOW, "too slow: resume with ?after=");

/// How long a WebSocket may take to answer that it is closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

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
/// then what happens, each a `LiveFrame`. An idle WebSocket is pinged every 20 s. It is closed with 4408 when its reader is
/// too slow (resume with `after`), 4401 when the credential is good no more, 4410 when the thread is gone, 1001 when
/// the server stops.
#[utoipa::path(get, path = "/v1/threads/{id}/events", tag = "threads", operation_id = "listEvents",
    params(("id" = inline(schema::ThreadId), Path), EventsQuery,
        ("Last-Event-ID" = Option<String>, Header, nullable = false, pattern = "^[0-9]{1,19}$",
            description = "In place of `after`, as browsers send it of an event stream.")),
    responses((status = 200, content(
        (api::Page<Event> = "application/json"), (StreamedFrame = "text/event-stream"))),
    (status = 101, description = "A WebSocket of text messages, each a `LiveFrame`.")))]
async fn list(
    State(app): State<Shared>,
    caller: Caller,
    Id(id): Id<ThreadId>,
    Params(query): Params<EventsQuery>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, AppError> {
    let after = last_event_id(&headers)?.or(query.after);
    let query = EventsQuery { after, ..query };
    if let Ok(upgrade) = upgrade {
        let follower = Follower::of_thread(&app, &caller, id, &query).await?;
        let upgrade = upgrade.max_message_size(WATCHER_BYTES_MAX);
        let (token, pace) = (app.watchers.token(), Pace::of(&app));
        let ended = access::ended(app, caller);
        return Ok(upgrade.on_upgrade(move |socket| async move {
            watch(socket, follower, ended, pace).await;
            drop(token);
        }));
    }
    let accepts = headers.get(ACCEPT).and_then(|value| value.to_str().ok());
    if accepts.is_some_and(|value| value.to_ascii_lowercase().contains("text/event-stream")) {
        let follower = Follower::of_thread(&app, &caller, id, &query).await?;
        return Ok(stream(&app, follower));
    }
    let page = events::list(&app, &caller, id, &query).await?;
    Ok(page.into_response())
}

/// Append events of the thread's owner: at most 8 MiB.
#[utoipa::path(post, path = "/v1/threads/{id}/events", tag = "threads", operation_id = "appendEvents",
    params(("id" = inline(schema::ThreadId), Path)), request_body = AppendEvents,
    responses((status = 200, body = Success<Appended>),
    (status = 409, description = "Another rollout is the active one, or the run is over.", body = ErrorEnvelope)))]
async fn append(
    State(app): State<Shared>,
    caller: Caller,
    Id(id): Id<ThreadId>,
    Body(request): Body<AppendEvents, APPEND_BODY_BYTES_MAX>,
) -> Result<Reply<Appended>, AppError> {
    events::append(&app, &caller, id, request).await.map(Reply::ok)
}

/// Reads where a stream that was cut goes on. What cannot be read is refused: to go on from now would lose events.
fn last_event_id(headers: &HeaderMap) -> Result<Option<u64>, AppError> {
    let Some(value) = headers.get(HeaderName::from_static("last-event-id")) else {
        return Ok(None);
    };
    let digits = |text: &&str| text.len() <= 19 && text.bytes().all(|b| b.is_ascii_digit());
    let text = value.to_str().ok().filter(digits);
    let number = text.and_then(|text| text.parse().ok());
    let refused = || AppError::bad_request("Last-Event-ID must be the id of a frame of this stream");
    number.map(Some).ok_or_else(refused)
}

/// Answers with the frames of a follower. Whenever the stream ends early, its reader resumes by `Last-Event-ID`; so the
/// snapshot has an id, too.
pub(super) fn stream(app: &Shared, follower: Follower) -> Response {
    let frames = stream::unfold(follower, |mut follower| async {
        let (id, data) = match follower.next().await {
            Ok(Next::Snapshot(snapshot, after)) => (Some(after), snapshot.to_string()),
            Ok(Next::Event(event)) => (Some(event.sequence), json!(event).to_string()),
            Ok(Next::Live(live)) => (None, json!(*live).to_string()),
            Ok(Next::TooSlow | Next::Over | Next::Stopping) | Err(_) => return None,
        };
        let frame = sse::Event::default().data(data);
        let frame = match id {
            Some(id) => frame.id(id.to_string()),
            None => frame,
        };
        Some((Ok::<_, Infallible>(frame), follower))
    });
    let keep_alive = KeepAlive::new().interval(app.config.ping_every);
    Sse::new(frames).keep_alive(keep_alive).into_response()
}

/// The times of a WebSocket.
#[derive(Clone, Copy)]
struct Pace {
    ping_every: Duration,
    frame_timeout: Duration,
}

impl Pace {
    fn of(app: &Shared) -> Self {
        Self {
            ping_every: app.config.ping_every,
            frame_timeout: app.config.frame_timeout,
        }
    }
}

async fn watch(mut socket: WebSocket, mut follower: Follower, ended: impl Future<Output = ()>, pace: Pace) {
    let mut ended = std::pin::pin!(ended);
    let mut ping = tokio::time::interval(pace.ping_every);
    ping.reset();
    let (code, reason) = loop {
        let message = tokio::select! {
            next = follower.next() => match frame(next) {
                Ok(frame) => Message::Text(frame.into()),
                Err(close) => break close,
            },
            said = socket.recv() => match said {
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => continue,
            },
            () = &mut ended => break (CLOSE_SIGNED_OUT, "the credential is revoked or has expired"),
            _ = ping.tick() => Message::Ping(bytes::Bytes::new()),
        };
        match tokio::time::timeout(pace.frame_timeout, socket.send(message)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return,
            Err(_) => break TOO_SLOW,
        }
    };
    // Nothing more is kept for a reader that is sent away.
    drop(follower);
    let reason = reason.into();
    let close = Message::Close(Some(CloseFrame { code, reason }));
    // The reader may be gone; then nobody needs to be told. One that reads on in time gets all that was sent, and this.
    let goodbye = tokio::time::timeout(GOODBYE_TIMEOUT, socket.send(close));
    if matches!(goodbye.await, Ok(Ok(()))) {
        // Were the socket dropped with something of the reader's unread in it, the goodbye could be cut off.
        let answered = async { while let Some(Ok(_)) = socket.recv().await {} };
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, answered).await;
    }
}

/// Returns the text of a frame, or with which code and words the connection closes.
fn frame(next: Result<Next, AppError>) -> Result<String, (u16, &'static str)> {
    match next {
        Ok(Next::Snapshot(snapshot, _)) => Ok(snapshot.to_string()),
        Ok(Next::Event(event)) => Ok(json!(event).to_string()),
        Ok(Next::Live(live)) => Ok(json!(*live).to_string()),
        Ok(Next::TooSlow) => Err(TOO_SLOW),
        Ok(Next::Over) => Err((CLOSE_GONE, "the thread is deleted")),
        Ok(Next::Stopping) => Err((CLOSE_STOPPING, "the server stops: resume with ?after=")),
        Err(_) => Err((1011, "the server failed: resume with ?after=")),
    }
}
