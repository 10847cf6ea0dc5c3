//! The control stream of one node: handshake, hello, netmaps down, presence up, and its end.
//!
//! Encryption and fragments are `mesh::control_stream`, messages are `types::control`; what they mean is
//! `app::presence`. Nothing queues here: a netmap is computed when it is sent, and changes meanwhile are one change.

use std::time::Duration;

use axum::extract::ws::{Message, WebSocket};
use mesh::control_stream::{Channel, Responder};
use types::control::{FromNode, Hello, ToNode};
use types::{Generation, NodePublicKey, NodeStatus};

use crate::app::node_keys::{self, Holder, Standing};
use crate::app::{AppError, netmap, presence};
use crate::given::Given;
use crate::http::Shared;
use crate::hub::Attendance;
use crate::limits::{Buckets, Quota};
use crate::orchestrator::doubt;
use crate::relays::TICKET_EVERY;
use crate::secrets;
use crate::store::nodes::NodeRow;

/// How long a node may take to say hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// The first capability version that takes relay tickets.
const RELAY_CAPABILITY: u32 = 2;

/// The first capability version that is told which key is the node's.
const KEYS_CAPABILITY: u32 = 5;

/// How long a stream may be silent before it counts as dead.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// How often the server pings, so that a live stream is never silent that long.
const PING_EVERY: Duration = Duration::from_secs(25);

/// How long one message may take to leave.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the goodbye to a node that is shut out may take.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(1);

/// How many messages that are written down a node may send at once, and how often one more.
const REPORTS: Quota = Quota {
    burst: 50,
    every: Duration::from_millis(500),
};

/// Why a stream ended; for the log only, the node just sees it close.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("the peer closed it")]
    Closed,
    #[error("the peer was silent for too long")]
    Silent,
    #[error("a message took too long to send")]
    Slow,
    #[error("the handshake failed: {0}")]
    Handshake(#[from] mesh::control_stream::HandshakeError),
    #[error("a message does not open: {0}")]
    Channel(#[from] mesh::control_stream::ChannelError),
    #[error("the key is no node's")]
    Unknown,
    #[error("the node has another key by now")]
    OldKey,
    #[error("the first message is no hello")]
    NoHello,
    #[error("the node reports too often")]
    TooMany,
    #[error("the connection broke: {0}")]
    Socket(#[from] axum::Error),
    #[error("the server failed: {0}")]
    App(#[from] AppError),
    #[error("the node was revoked")]
    Revoked,
    #[error("the node's key has expired")]
    Expired,
}

/// Serves one control stream until it ends.
pub(crate) async fn run(app: Shared, socket: WebSocket) {
    let mut link = Link {
        socket,
        channel: None,
    };
    let opened = tokio::time::timeout(HELLO_TIMEOUT, open(&app, &mut link)).await;
    let (row, hello) = match opened.unwrap_or(Err(End::Silent)) {
        Ok(opened) => opened,
        Err(end) => {
            tracing::debug!(%end, "a control stream was not opened");
            return;
        }
    };
    let attendance = app.hub.attend(&row.node);
    let end = attend(&app, &mut link, &attendance, (&row, &hello)).await;
    tracing::info!(node = %row.node.id, %end, "a control stream ended");
    let goodbye = match end {
        End::Revoked => Some(ToNode::Revoked),
        End::Expired => Some(ToNode::KeyExpired),
        _ => None,
    };
    if let Some(goodbye) = goodbye {
        let said = tokio::time::timeout(GOODBYE_TIMEOUT, link.send(&goodbye)).await;
        tracing::debug!(
            told = matches!(said, Ok(Ok(()))),
            "a node was sent away that is shut out"
        );
    } else {
        if attendance.is_current() {
            doubt::begin(&app.orchestrator, row.node.id);
        }
        if let Err(error) = presence::left(&app, row.node.id, &attendance).await {
            tracing::warn!(%error, "a node's leave was not noted");
        }
    }
    // The socket closes before the attendance ends, since a revocation waits for that.
    drop(link);
    drop(attendance);
}

/// Serves the stream of a node that said hello; a revocation or a newer stream cuts in at any point.
async fn attend(
    app: &Shared,
    link: &mut Link,
    attendance: &Attendance,
    (row, hello): (&NodeRow, &Hello),
) -> End {
    tokio::select! {
        biased;
        () = attendance.revoked() => End::Revoked,
        () = attendance.expired() => End::Expired,
        () = attendance.replaced() => End::Closed,
        end = session(app, link, attendance, (row, hello)) => match end {
            Ok(()) => End::Closed,
            Err(end) => end,
        },
    }
}

async fn open(app: &Shared, link: &mut Link) -> Result<(NodeRow, Hello), End> {
    let first = link.binary().await?;
    let accepted = Responder::new(&app.keys.noise, secrets::bytes()).accept(&first)?;
    let holder = node_keys::holder(app, &accepted.node)
        .await?
        .ok_or(End::Unknown)?;
    link.socket.send(Message::Binary(accepted.message.into())).await?;
    link.channel = Some(accepted.channel);
    let hello = loop {
        if let Some(message) = link.message().await? {
            let FromNode::Hello(mut hello) = message else {
                return Err(End::NoHello);
            };
            hello.clamp();
            break *hello;
        }
    };
    let row = settle_key(app, link, holder, accepted.node).await?;
    Ok((row, hello))
}

/// Does what the key means with which the stream was opened. Not before the hello: the handshake alone may be a replay.
async fn settle_key(
    app: &Shared,
    link: &mut Link,
    holder: Holder,
    key: NodePublicKey,
) -> Result<NodeRow, End> {
    let row = holder.row;
    if row.node.status == NodeStatus::Revoked {
        return Ok(row);
    }
    match holder.standing {
        Standing::InForce => Ok(row),
        // It is too late; the session says so.
        Standing::Offered if node_keys::has_expired(app, &row).await? => Ok(row),
        Standing::Offered => {
            let changed = node_keys::put_into_force(app, &row, key).await?;
            changed.ok_or(End::Unknown)
        }
        Standing::Previous => {
            tell_key(app, link, &row).await?;
            Err(End::OldKey)
        }
    }
}

async fn tell_key(app: &Shared, link: &mut Link, row: &NodeRow) -> Result<(), End> {
    let previous_until = node_keys::previous_until(app, row).await?;
    let public_key = row.node.public_key;
    link.send(&ToNode::KeyInForce {
        public_key,
        previous_until,
    })
    .await
}

async fn session(
    app: &Shared,
    link: &mut Link,
    attendance: &Attendance,
    (row, hello): (&NodeRow, &Hello),
) -> Result<(), End> {
    if row.node.status != NodeStatus::Revoked && node_keys::has_expired(app, row).await? {
        return Err(End::Expired);
    }
    if row.node.status == NodeStatus::Revoked || !presence::arrive(app, row, hello).await? {
        return Err(End::Revoked);
    }
    tracing::info!(node = %row.node.id, capability = hello.capability_version, "a node is online");
    let mut changes = attendance.changes.clone();
    if hello.capability_version >= KEYS_CAPABILITY {
        tell_key(app, link, row).await?;
    }
    let mut given = greet(app, link, row, hello.generation).await?;
    note(app, attendance, row, given.in_force());
    let reports = Buckets::new(REPORTS);
    let mut noted = app.clock.now().mono;
    let mut tickets = tokio::time::interval(TICKET_EVERY);
    let takes_tickets = hello.capability_version >= RELAY_CAPABILITY;
    let mut ping = tokio::time::interval(PING_EVERY);
    let mut heard = tokio::time::Instant::now();
    loop {
        tokio::select! {
            changed = changes.changed() => {
                changed.map_err(|_| End::Closed)?;
                let told = *changes.borrow_and_update();
                push(app, link, row, (&mut given, told)).await?;
                note(app, attendance, row, given.in_force());
            }
            _ = tickets.tick(), if takes_tickets => {
                let now = app.clock.wall();
                let ticket = app.relays.ticket(row.node.org_id, row.node.public_key, now);
                if let Some(ticket) = ticket {
                    link.send(&ToNode::RelayTicket { ticket }).await?;
                }
            }
            _ = ping.tick() => {
                if heard.elapsed() > SILENCE_MAX {
                    return Err(End::Silent);
                }
                link.deliver(Message::Ping(bytes::Bytes::new())).await?;
            }
            message = link.message() => {
                heard = tokio::time::Instant::now();
                let message = message?;
                if let Some(FromNode::NetmapApplied { generation }) = message {
                    note(app, attendance, row, given.applied(generation));
                } else if let Some(message) = message {
                    take(app, link, row, (message, &reports)).await?;
                }
                if app.clock.now().mono.since(noted) >= SILENCE_MAX {
                    noted = app.clock.now().mono;
                    presence::seen(app, row.node.id).await?;
                }
            }
        }
    }
}

/// Sends the netmap as it is now, unless the node has this generation.
async fn greet(app: &Shared, link: &mut Link, row: &NodeRow, has: Option<Generation>) -> Result<Given, End> {
    let own = (row.node.org_id, row.node.id);
    let Some(map) = netmap::now(app, own).await? else {
        return Err(shut_out(app, row).await);
    };
    let given = Given::at_hello(map.clone(), has);
    if given.in_force().is_none() {
        link.send(&ToNode::Netmap(Box::new(map))).await?;
    }
    Ok(given)
}

/// Sends the netmap as it is now, unless it says what the one before said.
async fn push(
    app: &Shared,
    link: &mut Link,
    row: &NodeRow,
    (given, told): (&mut Given, Generation),
) -> Result<(), End> {
    let own = (row.node.org_id, row.node.id);
    let Some(map) = netmap::at_least(app, own, told).await? else {
        return Err(shut_out(app, row).await);
    };
    if given.renew(&map) {
        link.send(&ToNode::Netmap(Box::new(map))).await?;
    }
    Ok(())
}

/// Why a node has no netmap any more.
async fn shut_out(app: &Shared, row: &NodeRow) -> End {
    match node_keys::was_revoked(app, row).await {
        Ok(true) => End::Revoked,
        Ok(false) => End::Expired,
        Err(error) => error.into(),
    }
}

/// Takes note of what the node has in force.
fn note(app: &Shared, attendance: &Attendance, row: &NodeRow, in_force: Option<Generation>) {
    let Some(generation) = in_force else {
        return;
    };
    let (org, id) = (row.node.org_id, row.node.id);
    tracing::debug!(node = %id, generation = generation.0, "a netmap is in force");
    attendance.applied(generation);
    let now = app.clock.now().mono;
    app.cut_offs.confirm(org, id, generation, now);
}

async fn take(
    app: &Shared,
    link: &mut Link,
    row: &NodeRow,
    (message, reports): (FromNode, &Buckets),
) -> Result<(), End> {
    let (org, id) = (row.node.org_id, row.node.id);
    let counted = matches!(
        message,
        FromNode::Endpoints { .. } | FromNode::Path { .. } | FromNode::OfferKey { .. }
    );
    if counted && reports.take("", app.clock.now().mono).is_err() {
        return Err(End::TooMany);
    }
    match message {
        FromNode::Ping => link.send(&ToNode::Pong).await?,
        FromNode::Endpoints { endpoints } => presence::moved(app, org, id, &endpoints).await?,
        FromNode::Path {
            peer_id,
            path,
            reason,
        } => presence::path(app, (org, id), peer_id, (path, reason)).await?,
        FromNode::NetmapRefused { generation, .. } => {
            tracing::warn!(node = %id, generation = generation.0, "a node refused its netmap");
        }
        FromNode::OfferKey { public_key } => {
            let answer = match node_keys::offer(app, row, &public_key).await? {
                Ok(()) => ToNode::KeyNoted { public_key },
                Err(reason) => ToNode::KeyRefused { public_key, reason },
            };
            link.send(&answer).await?;
        }
        // The session has taken what is in force.
        FromNode::NetmapApplied { .. } => {}
        FromNode::Hello(_) => return Err(End::NoHello),
    }
    Ok(())
}

/// The WebSocket and the channel inside it.
struct Link {
    socket: WebSocket,
    channel: Option<Channel>,
}

impl Link {
    /// Receives the next binary frame; pings and pongs are not passed on.
    async fn binary(&mut self) -> Result<bytes::Bytes, End> {
        loop {
            match self.socket.recv().await.ok_or(End::Closed)?? {
                Message::Binary(bytes) => return Ok(bytes),
                Message::Close(_) => return Err(End::Closed),
                Message::Ping(_) | Message::Pong(_) | Message::Text(_) => {}
            }
        }
    }

    /// Receives one frame; `None` when it is no whole message that this build knows. Safe to cancel.
    async fn message(&mut self) -> Result<Option<FromNode>, End> {
        let frame = self.socket.recv().await.ok_or(End::Closed)??;
        let sealed = match frame {
            Message::Binary(bytes) => bytes,
            Message::Close(_) => return Err(End::Closed),
            Message::Ping(_) | Message::Pong(_) | Message::Text(_) => return Ok(None),
        };
        let channel = self.channel.as_mut().ok_or(End::NoHello)?;
        let json = channel.open(&sealed)?;
        // A message of a newer node is skipped; the channel has proven that it is the node's.
        Ok(json.and_then(|json| serde_json::from_slice(&json).ok()))
    }

    async fn send(&mut self, message: &ToNode) -> Result<(), End> {
        let json = serde_json::to_vec(message).expect("a control message has only string keys");
        let channel = self.channel.as_mut().ok_or(End::NoHello)?;
        for sealed in channel.seal(&json)? {
            self.deliver(Message::Binary(sealed.into())).await?;
        }
        Ok(())
    }

    async fn deliver(&mut self, message: Message) -> Result<(), End> {
        let sending = tokio::time::timeout(SEND_TIMEOUT, self.socket.send(message));
        Ok(sending.await.map_err(|_| End::Slow)??)
    }
}
