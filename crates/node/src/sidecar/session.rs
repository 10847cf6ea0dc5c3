//! The stream to the orchestrator: dialled inside the mesh, kept up with backoff, one message after another.
//!
//! Events are sent from the journal, one batch per run at a time: the next goes out when the last was acknowledged, and
//! after a reconnect everything that was not is sent again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use mesh::frame::{Decoder, encode_within};
use net::MeshStream;
use net::clock::Clock;
use runs::protocol::{FRAME_BYTES_MAX, PROTOCOL_VERSION, ToOrchestrator, ToSidecar};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::watch;
use tokio::time::{Instant, interval_at, sleep, sleep_until, timeout};
use types::{Attempt, Fence, Netmap, NodePublicKey, RunId};

use super::{Offer, Outbox, Sidecar};
use crate::backoff::Backoff;
use crate::status::Connection;
use crate::talk::Talk;

/// How long the orchestrator may take to say welcome.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(10);

/// When the control stream was opened anew, the other end may be another process: it must answer within this time.
const PROOF_TIMEOUT: Duration = Duration::from_millis(1500);

/// How often a silent stream is kept alive.
const PING_INTERVAL: Duration = Duration::from_secs(15);

/// A stream on which nothing came for so long is dead.
const SILENCE_MAX: Duration = Duration::from_secs(40);

/// How long one piece of a message may take to be written: a slow link is slow, only a stuck one is given up.
const WRITE_TIMEOUT: Duration = Duration::from_secs(20);

/// A piece of a message, in bytes.
const WRITE_BYTES: usize = 16 * 1024;

/// A session that lived so long was a success: the next wait is short again.
const SETTLED: Duration = Duration::from_secs(10);

/// What is read from the stream at once, in bytes.
const READ_BYTES: usize = 16 * 1024;

/// Offers that are decided at the same time; the stream is not read from while there are more.
const DECIDING_MAX: usize = 64;

/// Where the orchestrator is.
type Address = (NodePublicKey, SocketAddr);

/// Keeps a session with the orchestrator up, for ever. Can be dropped at any await.
pub async fn keep_up(sidecar: Arc<Sidecar>, mut outbox: Outbox, mut backoff: Backoff) {
    let mut netmaps = sidecar.membership().follow();
    let mut reopened = sidecar.membership().follow_control();
    loop {
        let address = netmaps.borrow_and_update().as_deref().and_then(orchestrator);
        let Some(address) = address else {
            down(&sidecar, "no orchestrator is known yet");
            if netmaps.changed().await.is_err() {
                return;
            }
            continue;
        };
        let opened = Instant::now();
        let moved = async {
            let elsewhere =
                |map: &Option<Arc<Netmap>>| map.as_deref().and_then(orchestrator) != Some(address);
            // An error means that the daemon is ending, and with it this task.
            let _ = netmaps.wait_for(elsewhere).await;
        };
        let mut at_once = false;
        let reason = tokio::select! {
            end = session(&sidecar, address, &mut outbox, &mut reopened) => match end {
                End::Broken(reason) => reason,
                End::Replaced => {
                    sidecar.membership().renew_session(&address.0).await;
                    at_once = true;
                    "the control plane was started anew".to_owned()
                }
            },
            () = moved => "the orchestrator moved".to_owned(),
        };
        tracing::info!(reason, "dispatch session is down");
        down(&sidecar, &reason);
        if opened.elapsed() > SETTLED {
            backoff.succeeded();
        }
        // Once per opening of the control stream, which has a backoff of its own.
        if !at_once {
            sleep(backoff.after_failure()).await;
        }
    }
}

fn down(sidecar: &Sidecar, reason: &str) {
    let down = Connection::down(Clock::new().now().wall, reason);
    sidecar.board().change(|status| status.sidecar = down);
}

/// The platform node's IPv6 address and port: the platform talks no IPv4 to its peers.
fn orchestrator(netmap: &Netmap) -> Option<Address> {
    let record = netmap.orchestrator.as_ref()?;
    let peer = netmap.peers.iter().find(|peer| peer.id == record.node_id)?;
    let address = peer
        .allowed_ips
        .iter()
        .map(|block| block.address())
        .find(IpAddr::is_ipv6)?;
    Some((peer.public_key, SocketAddr::new(address, record.port)))
}

/// Why a session ended.
enum End {
    /// It broke, for this reason.
    Broken(String),
    /// The other end does not know it any more.
    Replaced,
}

impl From<String> for End {
    fn from(reason: String) -> Self {
        Self::Broken(reason)
    }
}

async fn session(
    sidecar: &Arc<Sidecar>,
    (peer, remote): Address,
    outbox: &mut Outbox,
    reopened: &mut watch::Receiver<u64>,
) -> End {
    let connecting = sidecar.membership().mesh().connect(peer, remote);
    tokio::pin!(connecting);
    let connected = tokio::select! {
        connected = &mut connecting => connected,
        // A handshake that is on its way may well succeed; starting another at once would only be turned away.
        Ok(()) = reopened.changed() => match timeout(PROOF_TIMEOUT, &mut connecting).await {
            Ok(connected) => connected,
            Err(_) => return End::Replaced,
        },
    };
    let stream = match connected {
        Ok(stream) => stream,
        Err(error) => return End::Broken(format!("the orchestrator cannot be reached: {error}")),
    };
    let (reader, writer) = tokio::io::split(stream);
    let mut session = Session {
        sidecar,
        reader,
        writer,
        decoder: Decoder::new(FRAME_BYTES_MAX),
        sent: BTreeMap::new(),
        wished: 0,
    };
    match session.run(outbox, reopened).await {
        Ok(()) => End::Broken("the orchestrator closed the session".to_owned()),
        Err(end) => end,
    }
}

struct Session<'a> {
    sidecar: &'a Arc<Sidecar>,
    reader: ReadHalf<MeshStream>,
    writer: WriteHalf<MeshStream>,
    decoder: Decoder,
    /// By run and fence: how far it is sent.
    sent: BTreeMap<(RunId, Fence), Sent>,
    /// The last of this device's own wishes that was said.
    wished: u64,
}

/// How far the events of one attempt are sent in this session.
#[derive(Clone, Copy)]
struct Sent {
    /// The number to go on with. It may be ahead of the journal, where an acknowledgement is still being written.
    next: u64,
    /// Whether a batch waits for its acknowledgement.
    under_way: bool,
}

impl Session<'_> {
    async fn run(&mut self, outbox: &mut Outbox, reopened: &mut watch::Receiver<u64>) -> Result<(), End> {
        // Answers of an earlier session are of no use in this one: the orchestrator asks again.
        while let Ok(stale) = outbox.answers.try_recv() {
            tracing::debug!(?stale, "a stale answer was dropped");
        }
        let mut changes = self.sidecar.journal().changes();
        let mut wishes = self.sidecar.follow_wishes();
        self.greet().await?;
        let mut buffer = vec![0; READ_BYTES];
        let mut ping = interval_at(Instant::now() + PING_INTERVAL, PING_INTERVAL);
        let mut heard = Instant::now();
        let mut proof_due: Option<Instant> = None;
        let mut deciding = tokio::task::JoinSet::new();
        self.send_events().await?;
        self.send_wishes().await?;
        // What came together with the welcome is in the decoder already.
        self.read_messages(&mut deciding).await?;
        loop {
            tokio::select! {
                read = self.reader.read(&mut buffer), if deciding.len() < DECIDING_MAX => {
                    let len = read.map_err(|error| error.to_string())?;
                    if len == 0 {
                        return Ok(());
                    }
                    heard = Instant::now();
                    proof_due = None;
                    self.decoder.push(&buffer[..len]);
                    self.read_messages(&mut deciding).await?;
                }
                Some(_) = deciding.join_next(), if !deciding.is_empty() => {}
                Some(answer) = outbox.answers.recv() => self.say(&answer).await?,
                Some(live) = outbox.live.recv() => self.say(&live).await?,
                changed = changes.changed() => {
                    changed.map_err(|_| "the journal is closed".to_owned())?;
                    self.send_events().await?;
                }
                Ok(()) = wishes.changed() => self.send_wishes().await?,
                Ok(()) = reopened.changed() => {
                    proof_due.get_or_insert(Instant::now() + PROOF_TIMEOUT);
                    self.ping().await?;
                }
                () = sleep_until(proof_due.unwrap_or(heard + SILENCE_MAX)), if proof_due.is_some() => {
                    return Err(End::Replaced);
                }
                _ = ping.tick() => {
                    if heard.elapsed() > SILENCE_MAX {
                        return Err("the orchestrator fell silent".to_owned().into());
                    }
                    self.ping().await?;
                }
            }
        }
    }

    async fn ping(&mut self) -> Result<(), String> {
        let places = self.sidecar.places();
        self.say(&ToOrchestrator::Ping { places }).await
    }

    async fn greet(&mut self) -> Result<(), String> {
        let hello = ToOrchestrator::Hello {
            version: PROTOCOL_VERSION,
            open_runs: self.sidecar.journal().look().open_runs(),
            places: self.sidecar.places(),
        };
        self.say(&hello).await?;
        match timeout(WELCOME_TIMEOUT, self.next_message()).await {
            Ok(Ok(ToSidecar::Welcome { version })) => {
                tracing::info!(version, "dispatch session is up");
                let up = Connection::up(Clock::new().now().wall);
                self.sidecar.board().change(|status| status.sidecar = up);
                (self.sidecar.on_talk())(&Talk::Ready);
                Ok(())
            }
            Ok(Ok(_)) => Err("the orchestrator did not begin with welcome".to_owned()),
            Ok(Err(error)) => Err(error),
            Err(_) => Err("the orchestrator did not say welcome in time".to_owned()),
        }
    }

    async fn next_message(&mut self) -> Result<ToSidecar, String> {
        let mut buffer = vec![0; READ_BYTES];
        loop {
            while let Some(payload) = self.decoder.next().map_err(|error| error.to_string())? {
                if let Some(message) = parse(&payload) {
                    return Ok(message);
                }
            }
            let len = self
                .reader
                .read(&mut buffer)
                .await
                .map_err(|error| error.to_string())?;
            if len == 0 {
                return Err("the orchestrator closed the session".to_owned());
            }
            self.decoder.push(&buffer[..len]);
        }
    }

    async fn read_messages(&mut self, deciding: &mut tokio::task::JoinSet<()>) -> Result<(), String> {
        while let Some(payload) = self.decoder.next().map_err(|error| error.to_string())? {
            if let Some(message) = parse(&payload) {
                self.take(message, deciding).await?;
            }
        }
        Ok(())
    }

    async fn take(
        &mut self,
        message: ToSidecar,
        deciding: &mut tokio::task::JoinSet<()>,
    ) -> Result<(), String> {
        match message {
            ToSidecar::Offer {
                run_id,
                order,
                attempt,
                fence,
                ticket,
            } => {
                let offer = Offer {
                    order,
                    attempt,
                    fence,
                    ticket,
                };
                deciding.spawn(self.sidecar.clone().offered(run_id, offer));
            }
            ToSidecar::Cancel { run_id } => self.sidecar.cancel(run_id),
            ToSidecar::Appended { run_id, fence, next } => {
                self.sidecar.journal().acknowledge(run_id, fence, next).await;
                let under_way = false;
                self.sent.insert((run_id, fence), Sent { next, under_way });
                self.send_run(run_id).await?;
            }
            ToSidecar::AppendRefused {
                run_id,
                fence,
                reason,
            } => {
                tracing::warn!(%run_id, ?reason, "the store refuses the events of a run");
                self.sent.remove(&(run_id, fence));
                self.sidecar.taken_away(run_id, fence).await;
            }
            ToSidecar::Registered {
                request,
                run_id,
                order,
                fence,
                ticket,
            } => {
                let offer = Offer {
                    order,
                    attempt: Attempt(1),
                    fence,
                    ticket,
                };
                deciding.spawn(self.sidecar.clone().registered(request, run_id, offer));
            }
            ToSidecar::RegisterRefused {
                request,
                code,
                message,
            } => {
                self.sidecar.register_refused(request, code, message);
            }
            ToSidecar::Ping { number } => self.say(&ToOrchestrator::Pong { number }).await?,
            ToSidecar::Welcome { .. } | ToSidecar::Pong => {}
        }
        Ok(())
    }

    /// Asks for this device's own runs that were not asked for in this session.
    async fn send_wishes(&mut self) -> Result<(), String> {
        while let Some((request, message)) = self.sidecar.wish_after(self.wished) {
            self.wished = request;
            self.say(&message).await?;
        }
        Ok(())
    }

    async fn send_events(&mut self) -> Result<(), String> {
        let open = self.sidecar.journal().look().open_runs();
        let held: BTreeSet<(RunId, Fence)> = open.iter().map(|run| (run.run_id, run.fence)).collect();
        self.sent.retain(|run, _| held.contains(run));
        for run in open {
            self.send_run(run.run_id).await?;
        }
        self.sidecar.show();
        Ok(())
    }

    /// Sends the next batch of a run, unless one is under way.
    async fn send_run(&mut self, run_id: RunId) -> Result<(), String> {
        let Some((fence, _)) = self.sidecar.journal().look().state(run_id) else {
            return Ok(());
        };
        let sent = self.sent.get(&(run_id, fence));
        if sent.is_some_and(|sent| sent.under_way) {
            return Ok(());
        }
        let from = sent.map_or(0, |sent| sent.next);
        let unsent = self.sidecar.journal().unsent(run_id, from).await;
        let Some(batch) = unsent.map_err(|error| format!("the journal cannot be read: {error}"))? else {
            return Ok(());
        };
        if batch.fence != fence {
            // The run was replaced in between; that is a change, which leads here again.
            return Ok(());
        }
        let next = batch.first + batch.events.len() as u64;
        let under_way = true;
        self.sent.insert((run_id, batch.fence), Sent { next, under_way });
        self.say(&ToOrchestrator::Append {
            run_id,
            fence: batch.fence,
            first: batch.first,
            events: batch.events,
        })
        .await
    }

    async fn say(&mut self, message: &ToOrchestrator) -> Result<(), String> {
        let json = serde_json::to_vec(message).expect("messages have only string keys");
        let frame = encode_within(&json, FRAME_BYTES_MAX).map_err(|error| error.to_string())?;
        for piece in frame.chunks(WRITE_BYTES) {
            match timeout(WRITE_TIMEOUT, self.writer.write_all(piece)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(error.to_string()),
                Err(_) => return Err("the orchestrator does not read".to_owned()),
            }
        }
        Ok(())
    }
}

fn parse(payload: &[u8]) -> Option<ToSidecar> {
    serde_json::from_slice(payload)
        .inspect_err(|error| tracing::debug!(%error, "a message of an unknown kind was skipped"))
        .ok()
}
