//! The control stream of one node: handshake, hello, netmaps down, presence up, and its end.
//!
//! Encryption and fragments are `mesh::control_stream`, messages are `types::control`; what they mean is
//! `app::presence`. Nothing queues here: a netmap is computed when it is sent, and changes meanwhile are one change.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{Message, WebSocket};
use mesh::control_stream::{Channel, Responder};
use types::control::{FromNode, Hello, ToNode};
use types::names::is_unprintable;
use types::netmap::Difference;
use types::{Generation, Monotonic, NodeId, NodePublicKey, NodeStatus, OrgId};

use crate::app::node_keys::{self, Holder, Standing};
use crate::app::{AppError, Roster, netmap, presence};
use crate::given::{Given, News};
use crate::http::Shared;
use crate::hub::Attendance;
use crate::limits::{Buckets, Quota};
use crate::orchestrator::doubt;
use crate::relays::{Kept, TICKET_EVERY};
use crate::secrets;
use crate::store::nodes::NodeRow;

/// How long a node may take to say hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// The first capability version that takes relay tickets.
const RELAY_CAPABILITY: u32 = 2;

/// The first capability version that is told which key is the node's.
const KEYS_CAPABILITY: u32 = 5;

/// The first capability version that takes netmap deltas.
const DELTA_CAPABILITY: u32 = 4;

/// The first capability version that carries expulsions to relays.
const EXPULSION_CAPABILITY: u32 = 6;

/// How many characters of a node's reason are logged.
const REASON_CHARS_MAX: usize = 200;

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
    if hello.capability_version >= KEYS_CAPABILITY {
        tell_key(app, link, row).await?;
    }
    let mut session = Session::new(app, attendance, (row, hello));
    session
        .push(link, netmap::now(app, row.node.org_id).await?)
        .await?;
    session.serve(link).await
}

/// The stream of a node that has said hello.
struct Session<'a> {
    app: &'a Shared,
    attendance: &'a Attendance,
    row: &'a NodeRow,
    org: OrgId,
    id: NodeId,
    capability: u32,
    given: Given,
    /// The number of the last expulsion that it was sent.
    expulsion_given: u64,
    reports: Buckets,
    /// When the store was told last that the node was heard.
    noted: Monotonic,
}

impl<'a> Session<'a> {
    fn new(app: &'a Shared, attendance: &'a Attendance, (row, hello): (&'a NodeRow, &Hello)) -> Self {
        Self {
            app,
            attendance,
            row,
            org: row.node.org_id,
            id: row.node.id,
            capability: hello.capability_version,
            given: Given::at_hello(hello.generation),
            expulsion_given: 0,
            reports: Buckets::new(REPORTS),
            noted: app.clock.now().mono,
        }
    }

    async fn serve(&mut self, link: &mut Link) -> Result<(), End> {
        let mut changes = self.attendance.changes.clone();
        let mut expulsions = self.app.relays.follow_expulsions(self.org);
        expulsions.mark_changed();
        let mut tickets = tokio::time::interval(TICKET_EVERY);
        let mut ping = tokio::time::interval(PING_EVERY);
        let mut heard = tokio::time::Instant::now();
        loop {
            tokio::select! {
                changed = changes.changed() => {
                    changed.map_err(|_| End::Closed)?;
                    let told = *changes.borrow_and_update();
                    let roster = netmap::at_least(self.app, self.org, told).await?;
                    self.push(link, roster).await?;
                }
                _ = tickets.tick(), if self.capability >= RELAY_CAPABILITY => {
                    let node = (self.org, self.row.node.public_key);
                    let may = || self.attendance.is_in();
                    if let Some(ticket) = self.app.relays.ticket(node, may, &self.app.clock) {
                        link.send(&ToNode::RelayTicket { ticket }).await?;
                    }
                }
                Ok(()) = expulsions.changed(), if self.capability >= EXPULSION_CAPABILITY => {
                    let kept = expulsions.borrow_and_update().clone();
                    self.hand_out(link, &kept).await?;
                }
                _ = ping.tick() => {
                    if heard.elapsed() > SILENCE_MAX {
                        return Err(End::Silent);
                    }
                    link.deliver(Message::Ping(bytes::Bytes::new())).await?;
                }
                message = link.message() => {
                    heard = tokio::time::Instant::now();
                    if let Some(message) = message? {
                        self.take(link, message).await?;
                    }
                    self.note_presence().await?;
                }
            }
        }
    }

    /// Sends who is shut out, as far as the node was not told: it carries it to the relays.
    async fn hand_out(&mut self, link: &mut Link, kept: &Kept) -> Result<(), End> {
        for (number, expulsion) in kept {
            if *number > self.expulsion_given {
                self.expulsion_given = *number;
                let expulsion = *expulsion;
                link.send(&ToNode::RelayExpulsion { expulsion }).await?;
            }
        }
        Ok(())
    }

    /// Sends what a roster says that the node was not given yet, in the shortest form that it understands.
    async fn push(&mut self, link: &mut Link, roster: Arc<Roster>) -> Result<(), End> {
        let difference = netmap::difference(self.app, &roster, (self.org, self.id), self.given.base());
        let Some(difference) = difference else {
            return Err(shut_out(self.app, self.row).await);
        };
        let difference = match difference {
            Difference::Delta(_) if self.capability < DELTA_CAPABILITY => Difference::Whole,
            difference => difference,
        };
        let message = match self.given.renew(roster.generation, difference) {
            News::None => None,
            News::Delta(delta) => Some(ToNode::NetmapDelta(delta)),
            News::Whole => {
                let map = netmap::whole(self.app, &roster, self.id).ok_or(End::Revoked)?;
                Some(ToNode::Netmap(Box::new(map)))
            }
        };
        // A node that reads slowly must not hold what the org was.
        drop(roster);
        if let Some(message) = message {
            link.send(&message).await?;
        }
        self.note(self.given.in_force());
        Ok(())
    }

    /// Takes note of what the node has in force.
    fn note(&self, in_force: Option<Generation>) {
        let Some(generation) = in_force else {
            return;
        };
        tracing::debug!(node = %self.id, generation = generation.0, "a netmap is in force");
        self.attendance.applied(generation);
        let now = self.app.clock.now().mono;
        self.app.cut_offs.confirm(self.org, self.id, generation, now);
    }

    async fn note_presence(&mut self) -> Result<(), End> {
        let now = self.app.clock.now().mono;
        if now.since(self.noted) >= SILENCE_MAX {
            self.noted = now;
            presence::seen(self.app, self.id).await?;
        }
        Ok(())
    }

    async fn take(&mut self, link: &mut Link, message: FromNode) -> Result<(), End> {
        let counted = matches!(
            message,
            FromNode::Endpoints { .. }
                | FromNode::Path { .. }
                | FromNode::HomeRelay { .. }
                | FromNode::OfferKey { .. }
                | FromNode::NetmapRefused { .. }
        );
        if counted && self.reports.take("", self.app.clock.now().mono).is_err() {
            return Err(End::TooMany);
        }
        let (app, own) = (self.app, (self.org, self.id));
        match message {
            FromNode::Ping => link.send(&ToNode::Pong).await?,
            FromNode::Endpoints { endpoints } => presence::moved(app, own.0, own.1, &endpoints).await?,
            FromNode::Path {
                peer_id,
                path,
                reason,
            } => presence::path(app, own, peer_id, (path, reason)).await?,
            FromNode::NetmapApplied { generation } => {
                let in_force = self.given.applied(generation);
                self.note(in_force);
            }
            FromNode::NetmapRefused { generation, reason } => {
                let printable = reason.chars().filter(|c| !is_unprintable(*c));
                let reason: String = printable.take(REASON_CHARS_MAX).collect();
                tracing::warn!(node = %self.id, generation = generation.0, reason, "a node refused its netmap");
                if self.given.refused(generation) {
                    self.push(link, netmap::now(app, self.org).await?).await?;
                }
            }
            FromNode::HomeRelay { relay } => presence::at_relay(app, own.0, own.1, relay).await?,
            FromNode::OfferKey { public_key } => {
                let answer = match node_keys::offer(app, self.row, &public_key).await? {
                    Ok(()) => ToNode::KeyNoted { public_key },
                    Err(reason) => ToNode::KeyRefused { public_key, reason },
                };
                link.send(&answer).await?;
            }
            FromNode::Hello(_) => return Err(End::NoHello),
        }
        Ok(())
    }
}

/// Why a node has no netmap any more.
async fn shut_out(app: &Shared, row: &NodeRow) -> End {
    match node_keys::was_revoked(app, row).await {
        Ok(true) => End::Revoked,
        Ok(false) => End::Expired,
        Err(error) => error.into(),
    }
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
