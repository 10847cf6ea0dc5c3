//! The relay protocol inside a WebSocket, for networks that let no UDP through: `GET /v1/relay`.
//!
//! One binary message is one frame. Anything else that carries something closes the connection; so does silence.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::extract::{ConnectInfo, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use crate::Relay;
use crate::places::{Place, Places};
use crate::stream::{OpenError, StreamReceiver, StreamSender};

/// Where the WebSocket is.
pub const PATH: &str = "/v1/relay";

/// The largest message, in bytes: a frame with a datagram of 64 KiB, named by key.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024 + 40;

/// How much the WebSocket holds back before it writes: a burst leaves in few calls and in large TLS records.
const WRITE_BUFFER_BYTES: usize = 128 * 1024;

/// How many frames leave before they are flushed, however many more there are.
const FRAMES_PER_FLUSH: usize = 256;

/// What WebSockets may do.
#[derive(Debug, Clone, Copy)]
pub struct WebSocketOptions {
    /// How many there may be from one address (IPv6: one /64). 256 by default: an office behind one NAT.
    pub per_address_max: usize,
    /// How many there may be in all; 10,000 by default.
    pub in_all_max: usize,
    /// How often the relay asks whether the other end is there; 20 s by default.
    pub ping_interval: Duration,
    /// For how long nothing may come, and a message to it may wait; 60 s by default.
    pub silence_max: Duration,
}

impl Default for WebSocketOptions {
    fn default() -> Self {
        Self {
            per_address_max: 256,
            in_all_max: 10_000,
            ping_interval: Duration::from_secs(20),
            silence_max: Duration::from_secs(60),
        }
    }
}

#[derive(Clone)]
struct Shared {
    relay: Relay,
    options: WebSocketOptions,
    places: Places,
}

/// The route of the relay, to be served alone or merged into another server.
///
/// Whoever serves it puts the client's address into each request as [`ConnectInfo<SocketAddr>`]; behind a proxy that is what
/// the proxy says.
pub fn router(relay: Relay, options: WebSocketOptions) -> Router {
    let places = Places::new(options.in_all_max, options.per_address_max);
    let shared = Shared {
        relay,
        options,
        places,
    };
    Router::new().route(PATH, get(open)).with_state(Arc::new(shared))
}

async fn open(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(remote): ConnectInfo<SocketAddr>,
    upgrade: WebSocketUpgrade,
) -> Response {
    let Some(place) = shared.places.take(remote.ip()) else {
        return StatusCode::TOO_MANY_REQUESTS.into_response();
    };
    upgrade
        .max_message_size(MESSAGE_BYTES_MAX)
        .max_frame_size(MESSAGE_BYTES_MAX)
        .write_buffer_size(WRITE_BUFFER_BYTES)
        .max_write_buffer_size(WRITE_BUFFER_BYTES + 2 * MESSAGE_BYTES_MAX)
        .on_upgrade(move |socket| serve(socket, remote, shared, place))
}

/// Carries frames both ways until either end has had enough.
async fn serve(mut socket: WebSocket, remote: SocketAddr, shared: Arc<Shared>, _place: Place) {
    let stream = match shared.relay.open_stream(remote).await {
        Ok(stream) => stream,
        Err(error @ (OpenError::Full | OpenError::Draining | OpenError::Stopped)) => {
            let close = closing(close_code::AGAIN, &error.to_string());
            let _ = timeout(shared.options.ping_interval, socket.send(close)).await;
            return;
        }
    };
    let (mut sink, messages) = socket.split();
    // Side by side: one that waits for room in the other's direction could otherwise wait for ever.
    let close = tokio::select! {
        close = take_in(messages, stream.incoming, shared.options) => close,
        close = send_out(&mut sink, stream.outgoing, shared.options) => close,
    };
    if let Some(close) = close {
        let _ = timeout(shared.options.ping_interval, sink.send(close)).await;
    }
}

/// Takes frames to the relay until the connection is over; returns what to say at the end, if there is somebody to hear it.
async fn take_in(
    mut messages: SplitStream<WebSocket>,
    incoming: StreamSender,
    options: WebSocketOptions,
) -> Option<Message> {
    loop {
        let Ok(message) = timeout(options.silence_max, messages.next()).await else {
            return Some(closing(close_code::AWAY, "nothing was heard"));
        };
        match message {
            Some(Ok(Message::Binary(frame))) => {
                if !incoming.send(frame).await {
                    return Some(closing(close_code::AGAIN, "the relay has closed the stream"));
                }
            }
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            Some(Ok(Message::Text(_))) => {
                return Some(closing(
                    close_code::UNSUPPORTED,
                    "only binary messages are frames",
                ));
            }
            Some(Ok(Message::Close(_)) | Err(_)) | None => return None,
        }
    }
}

/// Takes frames from the relay, and pings.
async fn send_out(
    sink: &mut SplitSink<WebSocket, Message>,
    mut outgoing: StreamReceiver,
    options: WebSocketOptions,
) -> Option<Message> {
    let first = Instant::now() + options.ping_interval;
    let mut pings = interval_at(first, options.ping_interval);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let sending = tokio::select! {
            frame = outgoing.recv() => {
                let Some(frame) = frame else {
                    return Some(closing(close_code::AGAIN, "the relay has closed the stream"));
                };
                timeout(options.silence_max, send_burst(sink, frame, &mut outgoing)).await
            }
            _ = pings.tick() => {
                timeout(options.silence_max, sink.send(Message::Ping(bytes::Bytes::new()))).await
            }
        };
        // One that takes nothing for so long hears no reason either.
        if !matches!(sending, Ok(Ok(()))) {
            return None;
        }
    }
}

/// Sends a frame and those that are there already, and flushes once.
async fn send_burst(
    sink: &mut SplitSink<WebSocket, Message>,
    first: bytes::Bytes,
    outgoing: &mut StreamReceiver,
) -> Result<(), axum::Error> {
    sink.feed(Message::Binary(first)).await?;
    for _ in 1..FRAMES_PER_FLUSH {
        let Some(frame) = outgoing.try_recv() else {
            break;
        };
        sink.feed(Message::Binary(frame)).await?;
    }
    sink.flush().await
}

fn closing(code: u16, reason: &str) -> Message {
    Message::Close(Some(CloseFrame {
        code,
        reason: reason.into(),
    }))
}
