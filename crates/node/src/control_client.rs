//! The node's end of the control stream: a Noise session inside a WebSocket, kept up with backoff; netmaps down,
//! presence and path reports up. What a netmap does is [`crate::membership`]'s matter.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use mesh::control_stream::{Channel, ChannelError, HandshakeError, Initiator};
use net::clock::Clock;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, interval_at, sleep, timeout};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config};
use types::control::{CAPABILITY_VERSION, FromNode, Hello, ToNode};
use types::{DisplayText, Generation, NodePublicKey, SigningPublicKey, Timestamp};
use url::Url;

use crate::backoff::Backoff;
use crate::config::OnTalk;
use crate::keyring::{InForce, KeyView, Refusal};
use crate::link::with_causes;
use crate::membership::Membership;
use crate::state_dir::StateDirError;
use crate::status::{Connection, StatusBoard};
use crate::talk::Talk;

/// How long connecting and the handshake may take, together.
const OPEN_TIMEOUT: Duration = Duration::from_secs(15);

/// How often the stream is kept alive.
const PING_INTERVAL: Duration = Duration::from_secs(20);

/// A stream on which nothing came for so long is dead.
const SILENCE_MAX: Duration = Duration::from_secs(50);

/// How long one message may take to be sent.
const SEND_TIMEOUT: Duration = Duration::from_secs(15);

/// A stream that lived so long was a success: the next wait is short again.
const SETTLED: Duration = Duration::from_secs(10);

/// The largest WebSocket message: one Noise message and some room.
const WEBSOCKET_MESSAGE_BYTES_MAX: usize = 128 * 1024;

/// Why a control stream ended.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The WebSocket failed.
    #[error("the control plane cannot be reached: {0}")]
    WebSocket(String),
    /// The server is not the one that was pinned, or does not know this node.
    #[error("the control plane does not prove to be the one this device is linked to: {0}")]
    Handshake(#[from] HandshakeError),
    /// A message was changed on the way.
    #[error("the control stream is broken: {0}")]
    Channel(#[from] ChannelError),
    /// Nothing came for too long.
    #[error("the control plane fell silent")]
    Silent,
    /// The server closed the stream.
    #[error("the control plane closed the stream{0}")]
    Closed(String),
    /// The node has a key by now that is not on this device.
    #[error("this node has another key by now, which is not in the state directory: {0}")]
    ForeignKey(NodePublicKey),
    /// The keys cannot be kept.
    #[error("the node's keys cannot be kept: {0}")]
    Keys(#[from] StateDirError),
}

impl From<tungstenite::Error> for StreamError {
    fn from(error: tungstenite::Error) -> Self {
        Self::WebSocket(with_causes(&error))
    }
}

/// The node's end of the control stream.
pub struct ControlClient {
    /// The server's address, `http` or `https`.
    pub server_url: Url,
    /// The key with which it signs records.
    pub signing_key: SigningPublicKey,
    /// The version of the program.
    pub app_version: String,
    /// The netmap in force.
    pub membership: Arc<Membership>,
    /// What there is to report.
    pub reports: mpsc::Receiver<FromNode>,
    /// Where the connection's state is shown.
    pub board: StatusBoard,
    /// Who is told.
    pub on_talk: OnTalk,
    /// Decides the waits between attempts.
    pub backoff: Backoff,
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

impl ControlClient {
    /// Keeps the stream up until this node is shut out; says why. Can be dropped at any await.
    pub async fn run_until_shut_out(mut self) -> ShutOut {
        let mut told = false;
        loop {
            let opened = Instant::now();
            let error = match timeout(OPEN_TIMEOUT, self.open()).await {
                Ok(Ok((stream, key))) => match self.talk(stream, key).await {
                    Ok(End::ShutOut(why)) => return why,
                    Ok(End::OtherKey) => continue,
                    Err(error) => {
                        told = false;
                        error
                    }
                },
                Ok(Err(error)) => error,
                Err(_) => StreamError::Silent,
            };
            if opened.elapsed() > SETTLED {
                self.backoff.succeeded();
            }
            self.membership.keyring().turn();
            let retry_in = self.backoff.after_failure();
            let reason = error.to_string();
            tracing::info!(reason, ?retry_in, "control stream is down");
            let down = Connection::down(Clock::new().now().wall, reason.clone());
            self.board.change(|status| status.control = down);
            if !std::mem::replace(&mut told, true) {
                (self.on_talk)(&Talk::ControlLost { reason, retry_in });
            }
            sleep(retry_in).await;
        }
    }

    /// Opens a stream; returns with which key.
    async fn open(&self) -> Result<(Stream, NodePublicKey), StreamError> {
        let keyring = self.membership.keyring();
        keyring.expire(Clock::new().now().wall)?;
        // Before the key to be can be in force, so that nobody who hears of it is turned away.
        self.membership.use_keys().await;
        let private_key = keyring.to_open_with();
        let config = WebSocketConfig::default()
            .max_message_size(Some(WEBSOCKET_MESSAGE_BYTES_MAX))
            .max_frame_size(Some(WEBSOCKET_MESSAGE_BYTES_MAX));
        let url = control_url(&self.server_url);
        let (mut socket, _) = connect_async_with_config(url.as_str(), Some(config), true).await?;
        let control_key = &self.membership.pinned().control_key;
        let initiator = Initiator::new(&private_key, control_key, net::random::bytes());
        socket.send(Message::binary(initiator.message())).await?;
        let second = next_binary(&mut socket).await?;
        let channel = initiator.finish(&second)?;
        Ok((Stream { socket, channel }, private_key.public()))
    }

    /// Talks until the stream ends, well or not.
    async fn talk(&mut self, mut stream: Stream, key: NodePublicKey) -> Result<End, StreamError> {
        stream.say(&FromNode::Hello(Box::new(self.hello().await))).await?;
        for report in self.membership.all_paths() {
            stream.say(&report).await?;
        }
        let up = Connection::up(Clock::new().now().wall);
        self.board.change(|status| status.control = up);
        self.membership.control_opened();
        (self.on_talk)(&Talk::ControlConnected);
        let mut ping = interval_at(Instant::now() + PING_INTERVAL, PING_INTERVAL);
        let mut heard = Instant::now();
        let mut keys = self.membership.keyring().follow();
        let mut offer = Offer::default();
        loop {
            let (offered, (previous_until, change_at)) = {
                let keys = keys.borrow_and_update();
                (
                    offer.due(&keys),
                    (keys.previous_until, self.membership.change_key_at(&keys)),
                )
            };
            if let Some(offered) = offered {
                stream.say(&offered).await?;
            }
            tokio::select! {
                message = next_binary(&mut stream.socket) => {
                    heard = Instant::now();
                    if let Some(json) = stream.channel.open(&message?)? {
                        match self.heard(&json).await {
                            Heard::ShutOut(why) => return Ok(End::ShutOut(why)),
                            Heard::Answer(answer) => stream.say(&answer).await?,
                            Heard::Key { public_key, previous_until } => {
                                self.take_key(&public_key, previous_until).await?;
                                if public_key != key {
                                    return Ok(End::OtherKey);
                                }
                                offer.is_understood = true;
                            }
                            Heard::KeyNoted => return Ok(End::OtherKey),
                            Heard::KeyRefused { public_key, reason } => {
                                tracing::warn!(key = %public_key, reason, "the control plane refuses the new key");
                                let at = Clock::new().now().wall;
                                self.membership.keyring().refused(Refusal { key: public_key, reason, at })?;
                            }
                            Heard::Nothing => {}
                        }
                    }
                }
                Some(report) = self.reports.recv() => stream.say(&report).await?,
                Ok(()) = keys.changed() => {}
                () = at(change_at.filter(|_| offer.is_understood)) => {
                    tracing::info!("this node changes its key before that expires");
                    self.membership.keyring().prepare()?;
                }
                () = at(previous_until) => {
                    self.membership.keyring().expire(Clock::new().now().wall)?;
                    self.membership.use_keys().await;
                }
                _ = ping.tick() => {
                    if heard.elapsed() > SILENCE_MAX {
                        return Err(StreamError::Silent);
                    }
                    stream.say(&FromNode::Ping).await?;
                }
            }
        }
    }

    /// Takes the control plane's word of which key is in force.
    async fn take_key(
        &self,
        key: &NodePublicKey,
        previous_until: Option<Timestamp>,
    ) -> Result<(), StreamError> {
        match self.membership.keyring().in_force(key, previous_until)? {
            InForce::Unknown => return Err(StreamError::ForeignKey(*key)),
            InForce::AsBefore => {}
            InForce::Changed => tracing::info!(%key, "this node has a new key"),
        }
        self.membership.use_keys().await;
        Ok(())
    }

    async fn heard(&self, json: &[u8]) -> Heard {
        match serde_json::from_slice::<ToNode>(json) {
            Ok(ToNode::Netmap(netmap)) => {
                let generation = netmap.generation;
                answer(generation, self.membership.offer(*netmap).await)
            }
            Ok(ToNode::NetmapDelta(delta)) => {
                let generation = delta.generation;
                answer(generation, self.membership.offer_delta(&delta).await)
            }
            Ok(ToNode::RelayTicket { ticket }) => {
                self.membership.mesh().set_ticket(ticket).await;
                Heard::Nothing
            }
            Ok(ToNode::RelayExpulsion { expulsion }) => {
                self.membership.mesh().expel_from_relays(expulsion).await;
                Heard::Nothing
            }
            Ok(ToNode::KeyInForce {
                public_key,
                previous_until,
            }) => Heard::Key {
                public_key,
                previous_until,
            },
            Ok(ToNode::KeyNoted { public_key }) => match self.membership.keyring().noted(&public_key) {
                true => Heard::KeyNoted,
                false => Heard::Nothing,
            },
            Ok(ToNode::KeyRefused { public_key, reason }) => Heard::KeyRefused {
                public_key,
                reason: reason.to_string(),
            },
            Ok(ToNode::Revoked) => Heard::ShutOut(ShutOut::Revoked),
            Ok(ToNode::KeyExpired) => Heard::ShutOut(ShutOut::KeyExpired),
            Ok(ToNode::Pong) => Heard::Nothing,
            Err(error) => unreadable(json, &error),
        }
    }

    async fn hello(&self) -> Hello {
        Hello {
            capability_version: CAPABILITY_VERSION,
            app_version: self.app_version.parse::<DisplayText>().ok(),
            os: std::env::consts::OS.parse().ok(),
            hostname: hostname().parse().ok(),
            signing_key: self.signing_key,
            generation: self.membership.generation(),
            endpoints: self.membership.endpoints().await,
            home_relay: self.membership.mesh().surroundings().await.home,
        }
    }
}

/// Why a node is shut out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ShutOut {
    /// The org revoked it; it does not come back.
    Revoked,
    /// Its key has expired; it is the same node once somebody has approved it anew.
    KeyExpired,
}

/// Why a stream ended that did what it was for.
enum End {
    /// The node was shut out.
    ShutOut(ShutOut),
    /// The next one is opened at once, with another key.
    OtherKey,
}

/// The key to be, as it is offered on one stream: once, and only to a control plane that says which key is in force.
#[derive(Default)]
struct Offer {
    is_understood: bool,
    offered: Option<NodePublicKey>,
}

impl Offer {
    fn due(&mut self, keys: &KeyView) -> Option<FromNode> {
        let next = keys.next.filter(|_| self.is_understood)?;
        let public_key = next;
        (self.offered.replace(next) != Some(next)).then_some(FromNode::OfferKey { public_key })
    }
}

/// Waits for a time, if there is one.
async fn at(time: Option<Timestamp>) {
    match time {
        Some(time) => sleep(time.since(Clock::new().now().wall)).await,
        None => std::future::pending().await,
    }
}

enum Heard {
    Nothing,
    Answer(FromNode),
    Key {
        public_key: NodePublicKey,
        previous_until: Option<Timestamp>,
    },
    KeyNoted,
    KeyRefused {
        public_key: NodePublicKey,
        reason: String,
    },
    ShutOut(ShutOut),
}

fn answer(generation: Generation, outcome: Result<Generation, String>) -> Heard {
    match outcome {
        Ok(generation) => Heard::Answer(FromNode::NetmapApplied { generation }),
        Err(reason) => refused(generation, reason),
    }
}

fn refused(generation: Generation, reason: String) -> Heard {
    tracing::warn!(generation = generation.0, reason, "netmap refused");
    Heard::Answer(FromNode::NetmapRefused { generation, reason })
}

/// A netmap or a delta that cannot be read is refused aloud; any other message may be a later version's.
fn unreadable(json: &[u8], error: &serde_json::Error) -> Heard {
    let value: Value = serde_json::from_slice(json).unwrap_or_default();
    let kind = value.get("type").and_then(Value::as_str);
    if matches!(kind, Some("netmap" | "netmap_delta")) {
        let generation = Generation(value.get("generation").and_then(Value::as_u64).unwrap_or(0));
        return refused(generation, format!("it cannot be read: {error}"));
    }
    tracing::debug!(%error, "a message of an unknown kind was skipped");
    Heard::Nothing
}

struct Stream {
    socket: Socket,
    channel: Channel,
}

impl Stream {
    async fn say(&mut self, message: &FromNode) -> Result<(), StreamError> {
        let json = serde_json::to_vec(message).expect("messages have only string keys");
        for sealed in self.channel.seal(&json)? {
            timeout(SEND_TIMEOUT, self.socket.send(Message::binary(sealed)))
                .await
                .map_err(|_| StreamError::Silent)??;
        }
        Ok(())
    }
}

async fn next_binary(socket: &mut Socket) -> Result<Vec<u8>, StreamError> {
    loop {
        match socket.next().await {
            Some(Ok(Message::Binary(bytes))) => return Ok(bytes.to_vec()),
            Some(Ok(Message::Close(frame))) => {
                let reason = frame
                    .map(|frame| format!(": {}", frame.reason))
                    .unwrap_or_default();
                return Err(StreamError::Closed(reason));
            }
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(error.into()),
            None => return Err(StreamError::Closed(String::new())),
        }
    }
}

fn control_url(server: &Url) -> Url {
    let mut url = server.clone();
    let scheme = if server.scheme() == "https" { "wss" } else { "ws" };
    // Both schemes are special ones, so the change cannot fail.
    let _ = url.set_scheme(scheme);
    url.set_path(&format!(
        "{}/v1/runmesh/control",
        server.path().trim_end_matches('/')
    ));
    url.set_query(None);
    url
}

/// The host's name, as the kernel knows it.
pub(crate) fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_is_below_the_servers_path_and_as_secure_as_it() {
        for (server, expected) in [
            ("http://127.0.0.1:8080", "ws://127.0.0.1:8080/v1/runmesh/control"),
            (
                "https://mesh.example.com/",
                "wss://mesh.example.com/v1/runmesh/control",
            ),
            (
                "https://example.com/mesh?x=1",
                "wss://example.com/mesh/v1/runmesh/control",
            ),
        ] {
            let server = server.parse().expect("a URL");
            assert_eq!(control_url(&server).as_str(), expected);
        }
    }

    #[test]
    fn a_netmap_that_cannot_be_read_is_refused_aloud_and_other_messages_are_skipped() {
        let read = |text: &str| {
            let error = serde_json::from_str::<ToNode>(text).expect_err("unknown");
            unreadable(text.as_bytes(), &error)
        };
        for kind in ["netmap", "netmap_delta"] {
            match read(&format!(r#"{{"type":"{kind}","generation":7}}"#)) {
                Heard::Answer(FromNode::NetmapRefused { generation, .. }) => {
                    assert_eq!(generation, Generation(7));
                }
                _ => panic!("not refused"),
            }
        }
        assert!(matches!(read(r#"{"type":"dance"}"#), Heard::Nothing));
        assert!(matches!(read("}"), Heard::Nothing));
    }
}
