//! WebSockets to relays, for networks that let no UDP through: each a task that carries frames between the engine and TLS.
//!
//! What the frames mean is `mesh::relay`'s, and when a WebSocket is wanted is decided there too. A task that cannot keep up
//! loses frames, as a full socket does.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use mesh::RelayConfig;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_tungstenite::connect_async_with_config;
use tokio_tungstenite::tungstenite::{Bytes, Message};
use types::{RelayId, RelayRecord};
use url::Url;

use crate::engine::command::Command;
use crate::resolve::resolve;
use crate::stream::Doorbell;

/// How many messages wait for a WebSocket; what is beyond is dropped.
const MESSAGES_MAX: usize = 256;

/// How long it may take to open a WebSocket.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// How long one message may take to leave.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// A relay as the shell knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayPoint {
    /// Which relay.
    pub id: RelayId,
    /// Its UDP addresses.
    pub udp: Vec<SocketAddr>,
    /// Where it answers STUN besides.
    pub stun: Vec<SocketAddr>,
    /// Where its WebSocket is, `ws` or `wss`; none when it has none.
    pub url: Option<Url>,
}

impl RelayPoint {
    /// Turns a relay as a netmap names it into addresses.
    pub async fn resolve(record: &RelayRecord) -> Self {
        Self {
            id: record.id,
            udp: resolve(&record.endpoints).await,
            stun: resolve(&record.stun_endpoints).await,
            url: record.url.as_ref().and_then(|url| url.parse().ok()),
        }
    }

    pub(crate) fn into_config(self) -> RelayConfig {
        RelayConfig {
            id: self.id,
            udp: self.udp,
            stun: self.stun,
            has_stream: self.url.is_some(),
        }
    }
}

/// What happened to a WebSocket.
#[derive(Debug)]
pub(crate) enum StreamEvent {
    Opened,
    Message(Vec<u8>),
    Closed,
}

/// The engine's side of all WebSockets.
pub(crate) struct RelayStreams {
    commands: mpsc::WeakSender<Command>,
    doorbell: Arc<Doorbell>,
    /// Absent outside a runtime; then no WebSocket can be opened.
    runtime: Option<tokio::runtime::Handle>,
    urls: BTreeMap<RelayId, Url>,
    open: BTreeMap<RelayId, mpsc::Sender<Vec<u8>>>,
}

impl RelayStreams {
    /// Tasks run in the runtime of whoever calls this; events come back as commands.
    pub(crate) fn new(commands: mpsc::WeakSender<Command>, doorbell: Arc<Doorbell>) -> Self {
        Self {
            commands,
            doorbell,
            runtime: tokio::runtime::Handle::try_current().ok(),
            urls: BTreeMap::new(),
            open: BTreeMap::new(),
        }
    }

    pub(crate) fn set_urls(&mut self, relays: &[RelayPoint]) {
        let with_url = relays
            .iter()
            .filter_map(|relay| Some((relay.id, relay.url.clone()?)));
        self.urls = with_url.collect();
    }

    /// Opens a WebSocket; what becomes of it is said by an event. `false` when there is no way to try.
    pub(crate) fn open(&mut self, relay: RelayId) -> bool {
        let (frames, receiver) = mpsc::channel(MESSAGES_MAX);
        let task = Task {
            relay,
            commands: self.commands.clone(),
            doorbell: self.doorbell.clone(),
        };
        let (Some(runtime), Some(url)) = (&self.runtime, self.urls.get(&relay)) else {
            return false;
        };
        runtime.spawn(task.run(url.clone(), receiver));
        self.open.insert(relay, frames);
        true
    }

    /// Closes a WebSocket; what waits for it is sent before.
    pub(crate) fn close(&mut self, relay: RelayId) {
        self.open.remove(&relay);
    }

    /// Sends each frame as a message of its own.
    pub(crate) fn send(&mut self, relay: RelayId, bytes: &[u8], frame_len: usize) {
        if let Some(frames) = self.open.get(&relay) {
            for frame in bytes.chunks(frame_len) {
                if frames.try_send(frame.to_vec()).is_err() {
                    return;
                }
            }
        }
    }
}

struct Task {
    relay: RelayId,
    commands: mpsc::WeakSender<Command>,
    doorbell: Arc<Doorbell>,
}

impl Task {
    async fn run(self, url: Url, mut frames: mpsc::Receiver<Vec<u8>>) {
        if let Err(error) = self.carry(url, &mut frames).await {
            tracing::debug!(%error, relay = %self.relay, "the WebSocket to a relay ended");
        }
        // A WebSocket that the engine closed is none whose end it must hear of: another may be open by now.
        if !frames.is_closed() {
            self.tell(StreamEvent::Closed).await;
        }
    }

    async fn carry(
        &self,
        url: Url,
        frames: &mut mpsc::Receiver<Vec<u8>>,
    ) -> Result<(), tokio_tungstenite::tungstenite::Error> {
        let late = || std::io::Error::from(std::io::ErrorKind::TimedOut);
        // Each frame is a packet of somebody's, and must not wait until the one before it is acknowledged.
        let without_nagle = true;
        let connecting = connect_async_with_config(url.as_str(), None, without_nagle);
        let connecting = timeout(OPEN_TIMEOUT, connecting);
        let (socket, _) = connecting.await.map_err(|_| late())??;
        let (mut sink, mut source) = socket.split();
        self.tell(StreamEvent::Opened).await;
        loop {
            tokio::select! {
                frame = frames.recv() => {
                    let Some(frame) = frame else {
                        return sink.close().await;
                    };
                    let sending = sink.send(Message::Binary(Bytes::from(frame)));
                    timeout(SEND_TIMEOUT, sending).await.map_err(|_| late())??;
                }
                message = source.next() => match message.transpose()? {
                    Some(Message::Binary(bytes)) => self.tell(StreamEvent::Message(bytes.into())).await,
                    Some(Message::Close(_)) | None => return Ok(()),
                    Some(_) => {}
                },
            }
        }
    }

    /// Waits while the engine has no room: so the relay is held up, and not our memory filled.
    async fn tell(&self, event: StreamEvent) {
        let Some(commands) = self.commands.upgrade() else {
            return;
        };
        let relay = self.relay;
        if commands.send(Command::Stream { relay, event }).await.is_ok() {
            self.doorbell.bell.ring();
        }
    }
}
