//! The thread of the data plane: it owns the socket, the mesh core and every peer's stack, and runs each batch to completion.
//!
//! It blocks in one place only, waiting for the socket, the host's device, the bell or a deadline. No lock, channel or allocation is paid per
//! packet; streams pay one short lock per chunk of bytes.

pub(crate) mod command;
mod host;
mod links;
mod peer;
mod peers;
mod sockets;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mesh::{Datagrams, Mesh, MeshEvent, Output, SocketNumber};
use rustix::event::{PollFd, PollFlags};
use tokio::sync::{broadcast, mpsc, oneshot};
use types::{Monotonic, NodePublicKey, Now, RelayId};

use self::command::Command;
use self::host::HostSide;
use self::links::Links;
use self::peer::Peer;
use self::peers::{Ingress, Peers};
use self::sockets::ExtraSockets;
use crate::alarm::Alarm;
use crate::clock::Clock;
use crate::mesh_net::ConnectError;
use crate::netstack::{BATCH_PACKETS, Packets, StackConfig};
use crate::relay_stream::RelayStreams;
use crate::stream::{Doorbell, StreamId};
use crate::tun::Held;
use crate::udp::{Batch, ReceiveBuffer, SendOutcome, UdpSocket};

/// How often one turn asks the socket, so that timers and commands are not starved by a flood: at most 2 MiB.
const RECEIVES_PER_TURN: usize = 4;

/// How many batches of one peer go out in one turn before the others have theirs.
const BATCHES_PER_TURN: usize = 8;

/// How many batches go out in one turn before the socket is asked again: about 8 MiB, some 10 ms of sealing.
const BATCHES_PER_TURN_IN_ALL: usize = 64;

/// How often in a row the socket may fail to receive before it is left alone for a while: a broken one reports that there
/// is something to read, and fails, for ever.
const RECEIVE_FAILURES_MAX: u32 = 16;

/// How long it is left alone.
const SOCKET_REST: Duration = Duration::from_secs(1);

/// The parts of an engine that are made before its thread is.
pub(crate) struct Parts {
    pub(crate) socket: UdpSocket,
    pub(crate) alarm: Alarm,
    pub(crate) mesh: Mesh,
    pub(crate) relay_streams: RelayStreams,
    /// The host's device, in TUN mode.
    pub(crate) host: Option<Held>,
    pub(crate) stack: StackConfig,
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) doorbell: Arc<Doorbell>,
    pub(crate) events: broadcast::Sender<MeshEvent>,
    pub(crate) stop: Arc<AtomicBool>,
}

pub(crate) struct Engine {
    clock: Clock,
    alarm: Alarm,
    socket: UdpSocket,
    extra: ExtraSockets,
    links: Links,
    received: ReceiveBuffer,
    mesh: Mesh,
    relay_streams: RelayStreams,
    host: Option<HostSide>,
    peers: Peers,
    commands: mpsc::Receiver<Command>,
    doorbell: Arc<Doorbell>,
    announced: Vec<StreamId>,
    events: broadcast::Sender<MeshEvent>,
    stop: Arc<AtomicBool>,
    stopping: Option<Stopping>,
    out: Packets,
    replies: Vec<(NodePublicKey, usize)>,
    /// A send that the socket had no room for, and how much of it is gone.
    blocked: Option<(Datagrams, usize)>,
    /// A limit of this turn was reached: the next one must not wait.
    has_more: bool,
    batches_left: usize,
    /// Receives that failed since the last that did not.
    receive_failures: u32,
    /// Until when the socket is left alone.
    resting: Option<Monotonic>,
}

struct Stopping {
    by: Monotonic,
    replies: Vec<oneshot::Sender<()>>,
}

impl Engine {
    pub(crate) fn new(parts: Parts) -> Self {
        Self {
            clock: Clock::new(),
            alarm: parts.alarm,
            extra: ExtraSockets::new(parts.socket.local_addr()),
            socket: parts.socket,
            links: Links::default(),
            received: ReceiveBuffer::default(),
            mesh: parts.mesh,
            relay_streams: parts.relay_streams,
            host: parts.host.map(HostSide::new),
            peers: Peers::new(parts.stack, parts.doorbell.clone()),
            commands: parts.commands,
            doorbell: parts.doorbell,
            announced: Vec::new(),
            events: parts.events,
            stop: parts.stop,
            stopping: None,
            out: Packets::default(),
            replies: Vec::new(),
            blocked: None,
            has_more: false,
            batches_left: 0,
            receive_failures: 0,
            resting: None,
        }
    }

    /// Runs until every handle is gone or a shutdown is complete.
    pub(crate) fn run(mut self) {
        while !self.is_done() {
            self.wait();
            let now = self.clock.now();
            self.transmit();
            self.receive(now);
            self.receive_extra(now);
            self.hear_calls(now);
            self.take_from_host(now);
            self.take_commands(now);
            self.visit_streams();
            self.fire_timers(now);
            self.serve_peers(now);
            self.transmit();
            self.publish();
        }
        self.finish();
        let replies = self
            .stopping
            .take()
            .map_or_else(Vec::new, |stopping| stopping.replies);
        // The socket is closed before anyone is told that it is.
        drop(self);
        for reply in replies {
            let _ = reply.send(());
        }
    }

    fn is_done(&self) -> bool {
        if self.stop.load(Ordering::Acquire) {
            return true;
        }
        self.stopping
            .as_ref()
            .is_some_and(|stopping| self.peers.are_quiet() || self.clock.mono() >= stopping.by)
    }

    /// Sleeps until there is something to do. Afterwards the bell is silent and what it announced is still to be taken.
    fn wait(&mut self) {
        let is_held_up = self.blocked.is_some();
        let has_work = std::mem::take(&mut self.has_more)
            || self.doorbell.bell.is_rung()
            || (!is_held_up && self.peers.has_dirty());
        if !self.extra.is_empty() || !has_work && self.links.is_watch_due() {
            self.wait_for_all(has_work);
        } else if !has_work {
            let until = [self.next_deadline(), self.links.look_due()];
            let until = until.into_iter().flatten().min();
            let mut interest = PollFlags::IN;
            if is_held_up {
                interest |= PollFlags::OUT;
            }
            let bell = PollFd::new(&self.doorbell.bell, PollFlags::IN);
            let socket = match self.resting {
                // A broken socket would end the wait even if nothing were asked of it.
                Some(_) => bell.clone(),
                None => PollFd::new(&self.socket, interest),
            };
            let host = match &self.host {
                Some(host) if !is_held_up => PollFd::new(host, PollFlags::IN),
                _ => bell.clone(),
            };
            self.alarm.wait([socket, bell, host], until);
        }
        self.doorbell.bell.silence();
    }

    /// Waits for the extra sockets and those of the links, too; while there is work, only looks at them.
    fn wait_for_all(&mut self, has_work: bool) {
        let until = if has_work {
            Some(Monotonic::ZERO)
        } else {
            self.next_deadline()
        };
        let held_up = self.blocked.as_ref().map(|(datagrams, _)| datagrams.socket);
        let mut fds: Vec<_> = self.links.interests().collect();
        let ears = fds.len();
        fds.extend(self.extra.interests(held_up));
        fds.push(PollFd::new(&self.doorbell.bell, PollFlags::IN));
        if let Some(host) = self.host.as_ref().filter(|_| self.blocked.is_none()) {
            fds.push(PollFd::new(host, PollFlags::IN));
        }
        if self.resting.is_none() {
            let room = match held_up {
                Some(SocketNumber::MAIN) => PollFlags::OUT,
                _ => PollFlags::empty(),
            };
            fds.push(PollFd::new(&self.socket, PollFlags::IN | room));
        }
        let ready = self.alarm.wait_for_many(fds, until);
        self.links.note_ready(&ready[..ears]);
        self.extra.note_ready(&ready[ears..]);
    }

    fn next_deadline(&self) -> Option<Monotonic> {
        let mesh = self.mesh.poll_timeout().map(|(at, _)| at);
        // Peers that are due cannot do anything while the socket is full.
        let peers = if self.blocked.is_none() {
            self.peers.next_deadline()
        } else {
            None
        };
        let stopping = self.stopping.as_ref().map(|stopping| stopping.by);
        let waits = [mesh, peers, stopping, self.resting, self.links.rested_at()];
        waits.into_iter().flatten().min()
    }

    /// Takes what the socket received, and hands the host what of it is for the host.
    fn receive(&mut self, now: Now) {
        if self.resting.is_some_and(|until| now.mono < until) {
            return;
        }
        self.resting = None;
        self.receive_batches(now);
        self.hand_to_host();
    }

    fn receive_batches(&mut self, now: Now) {
        for _ in 0..RECEIVES_PER_TURN {
            let (mesh, replies) = (&mut self.mesh, &mut self.replies);
            let mut sink =
                Ingress::new(&mut self.peers, &mut self.out, replies, now).with_host(self.host.as_mut());
            let mut broken = 0;
            let may_have_more = self.socket.receive(&mut self.received, |batch| {
                let Batch {
                    source,
                    bytes,
                    segment_len,
                } = batch;
                broken += contained(|| {
                    mesh.handle_datagrams(SocketNumber::MAIN, source, bytes, segment_len, &mut sink, now);
                });
            });
            self.peers.counters.batches_broken += broken;
            self.finish_intake(now);
            self.transmit();
            match may_have_more {
                Ok(true) => self.receive_failures = 0,
                Ok(false) => {
                    self.receive_failures = 0;
                    return;
                }
                Err(error) => return self.note_receive_failure(&error, now),
            }
        }
        self.has_more = true;
    }

    /// Takes one round of what the extra sockets received; a flood of them waits for the next turn.
    fn receive_extra(&mut self, now: Now) {
        while let Some(number) = self.extra.take_ready() {
            let (mesh, replies) = (&mut self.mesh, &mut self.replies);
            let Some(socket) = self.extra.get_mut(number) else {
                continue;
            };
            let mut sink =
                Ingress::new(&mut self.peers, &mut self.out, replies, now).with_host(self.host.as_mut());
            let mut broken = 0;
            let received = socket.receive(&mut self.received, |batch| {
                let (source, len) = (batch.source, batch.segment_len);
                broken += contained(|| {
                    mesh.handle_datagrams(number, source, batch.bytes, len, &mut sink, now);
                });
            });
            self.peers.counters.batches_broken += broken;
            self.finish_intake(now);
            self.hand_to_host();
            self.transmit();
            if let Err(error) = &received {
                tracing::debug!(%error, "receiving failed on an extra socket");
                self.peers.counters.receives_refused += 1;
            }
            if self.extra.note_receive(number, received.is_err()) {
                self.extra.close(number);
                self.mesh.socket_closed(number, now);
            }
        }
    }

    fn note_receive_failure(&mut self, error: &std::io::Error, now: Now) {
        tracing::debug!(%error, "receiving failed");
        self.peers.counters.receives_refused += 1;
        self.receive_failures += 1;
        if self.receive_failures == RECEIVE_FAILURES_MAX {
            tracing::warn!(%error, "the socket keeps failing and is left alone for a second");
            self.resting = Some(now.mono + SOCKET_REST);
            self.receive_failures = 0;
        }
    }

    /// Seals what the stacks answered at once while they took a batch in, each run of packets to its peer. What is for the host
    /// waits for more until it is a full batch: a socket whose system joins nothing brings eight datagrams at a time.
    fn finish_intake(&mut self, now: Now) {
        if self.host.as_ref().is_some_and(|host| host.inbound.is_full()) {
            self.hand_to_host();
        }
        let mut first = 0;
        for (key, end) in std::mem::take(&mut self.replies) {
            self.seal(&key, first..end, now);
            first = end;
        }
        self.out.clear();
    }

    /// Seals these of the packets written for a peer.
    fn seal(&mut self, to: &NodePublicKey, packets: Range<usize>, now: Now) {
        let (mesh, out) = (&mut self.mesh, &self.out);
        for first in packets.clone().step_by(BATCH_PACKETS) {
            let count = (packets.end - first).min(BATCH_PACKETS);
            let mut batch: [&[u8]; BATCH_PACKETS] = [&[]; BATCH_PACKETS];
            for (slot, index) in batch.iter_mut().zip(first..first + count) {
                *slot = out.packet(index);
            }
            self.peers.counters.batches_broken += contained(|| {
                // The only error is that the peer was removed, and then nobody waits for these packets.
                let _ = mesh.send_packets(to, &batch[..count], now);
            });
        }
    }

    fn visit_streams(&mut self) {
        self.doorbell.collect(&mut self.announced);
        for stream in self.announced.drain(..) {
            self.peers.touch_stream(stream);
        }
    }

    fn fire_timers(&mut self, now: Now) {
        if self.mesh.poll_timeout().is_some_and(|(at, _)| at <= now.mono) {
            let mesh = &mut self.mesh;
            self.peers.counters.batches_broken += contained(|| mesh.handle_timeout(now));
        }
        self.peers.mark_due(now.mono);
    }

    fn serve_peers(&mut self, now: Now) {
        self.batches_left = BATCHES_PER_TURN_IN_ALL;
        for _ in 0..self.peers.dirty_count() {
            // Who is left over comes first in the next turn.
            if self.blocked.is_some() || self.batches_left == 0 {
                self.has_more |= self.blocked.is_none();
                return;
            }
            let Some(key) = self.peers.pop_dirty() else {
                return;
            };
            let Some(mut peer) = self.peers.take_out(&key) else {
                continue;
            };
            self.peers.pump(&mut peer, now);
            if let Some(since) = peer.take_doubt(now.mono) {
                self.doubt_session(&key, since, now);
            }
            let has_more = self.send_due(&key, &mut peer, now);
            // Timeouts that just struck are told to their streams.
            self.peers.pump(&mut peer, now);
            self.peers.put_back(peer, now.mono);
            if has_more {
                self.peers.mark_dirty(&key);
                self.has_more |= self.blocked.is_none();
            }
        }
    }

    /// Renews a session on which nothing was heard since a connection was begun.
    fn doubt_session(&mut self, key: &NodePublicKey, since: Monotonic, now: Now) {
        let heard = self.mesh.peer_status(key).and_then(|status| status.last_received);
        if heard.is_none_or(|heard| heard < since) {
            // The only error is that the peer was removed.
            let _ = self.mesh.renew(key, now);
        }
    }

    /// Seals and sends what a peer's stack has to send; returns whether there is more.
    fn send_due(&mut self, key: &NodePublicKey, peer: &mut Peer, now: Now) -> bool {
        for _ in 0..BATCHES_PER_TURN {
            let has_more = peer.egress(now.mono, &mut self.out);
            self.seal(key, 0..self.out.len(), now);
            self.out.clear();
            self.transmit();
            self.batches_left = self.batches_left.saturating_sub(1);
            if !has_more {
                return false;
            }
            if self.blocked.is_some() {
                return true;
            }
        }
        true
    }

    fn transmit(&mut self) {
        loop {
            let next = self.blocked.take();
            let Some((datagrams, mut sent)) = next.or_else(|| self.next_datagrams()) else {
                return;
            };
            let Datagrams {
                to,
                segment_len,
                ref bytes,
                ..
            } = datagrams;
            let socket = match datagrams.socket {
                _ if self.leads_back(to) => None,
                SocketNumber::MAIN => Some(&mut self.socket),
                number => self.extra.get_mut(number),
            };
            let outcome = socket.map_or(SendOutcome::Dropped, |socket| {
                socket.send(to, bytes, segment_len, &mut sent)
            });
            match outcome {
                SendOutcome::Blocked => {
                    self.blocked = Some((datagrams, sent));
                    return;
                }
                SendOutcome::Sent => {}
                SendOutcome::Dropped => self.peers.counters.sends_refused += 1,
            }
            self.mesh.recycle(datagrams.bytes);
        }
    }

    /// Tells whether datagrams for an address would come back by the device, to be sealed again, and so without end: whatever a
    /// peer says of where it is reached.
    fn leads_back(&self, to: SocketAddr) -> bool {
        self.host.is_some() && self.mesh.route(to.ip()).is_some()
    }

    /// Returns the next datagrams to send; what else the core wants is done on the way.
    fn next_datagrams(&mut self) -> Option<(Datagrams, usize)> {
        loop {
            let output = self.mesh.poll_output()?;
            if let Some(datagrams) = self.carry_out(output) {
                return Some((datagrams, 0));
            }
        }
    }

    /// Does what the core wants, but for datagrams, which come back.
    fn carry_out(&mut self, output: Output) -> Option<Datagrams> {
        match output {
            Output::Datagrams(datagrams) => return Some(datagrams),
            Output::Stream(frames) => {
                self.relay_streams
                    .send(frames.relay, &frames.bytes, frames.frame_len);
                self.mesh.recycle(frames.bytes);
            }
            Output::OpenStream(relay) => {
                if !self.relay_streams.open(relay) {
                    self.mesh.stream_closed(relay, self.clock.now());
                }
            }
            Output::CloseStream(relay) => self.relay_streams.close(relay),
            Output::OpenSocket(number) => {
                if let Err(error) = self.extra.open(number) {
                    tracing::debug!(%error, "no socket to guess with");
                    self.mesh.socket_closed(number, self.clock.now());
                }
            }
            Output::CloseSocket(number) => self.extra.close(number),
            Output::Call(call) => self.call(&call),
        }
        None
    }

    /// Takes a message of a relay's WebSocket.
    fn take_stream_message(&mut self, relay: RelayId, mut bytes: Vec<u8>, now: Now) {
        let (mesh, replies) = (&mut self.mesh, &mut self.replies);
        let mut sink =
            Ingress::new(&mut self.peers, &mut self.out, replies, now).with_host(self.host.as_mut());
        let broken = contained(|| mesh.handle_stream(relay, &mut bytes, &mut sink, now));
        self.peers.counters.batches_broken += broken;
        self.finish_intake(now);
        self.hand_to_host();
    }

    fn publish(&mut self) {
        while let Some(event) = self.mesh.poll_event() {
            tracing::debug!(?event, "mesh event");
            // Without a subscriber the event is of no interest.
            let _ = self.events.send(event);
        }
    }

    /// Cuts what is still open, so that the other ends need not find out by themselves.
    fn finish(&mut self) {
        let now = self.clock.now();
        for key in self.peers.keys() {
            if let Some(mut peer) = self.peers.remove(&key) {
                peer.fail_all(ConnectError::Stopped, false);
                self.send_due(&key, &mut peer, now);
            }
        }
        self.transmit();
        self.commands.close();
    }
}

/// Calls into the mesh core; returns how many panics that made. What goes wrong with one peer must not end the loop for all:
/// the rest of this batch is lost, no more.
fn contained(call: impl FnOnce()) -> u64 {
    let outcome = catch_unwind(AssertUnwindSafe(call));
    if outcome.is_err() {
        tracing::error!("the mesh core panicked");
    }
    u64::from(outcome.is_err())
}
