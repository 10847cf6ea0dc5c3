//! The thread of a relay: it owns the sockets and every client, and runs each batch to completion.
//!
//! It blocks in one place only, waiting for a socket, the bell or a deadline. No lock, channel or allocation is paid for a
//! datagram from UDP to UDP.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mesh::relay::server::{Forward as _, RelayServer, Source};
use mesh::stun::{self, Answer};
use net::alarm::Alarm;
use net::clock::{self, Clock};
use net::udp::{ReceiveBuffer, UdpSocket};
use net::wake::Bell;
use rustix::event::{PollFd, PollFlags};
use tokio::sync::{mpsc, oneshot};
use types::relay::RelayExpulsionError;
use types::{Monotonic, Now, SignedRelayExpulsion};

use crate::handle::RelayStatus;
use crate::outbox::Outbox;
use crate::stream::{OpenError, Stream, Streams};

/// How many commands one turn takes.
const COMMANDS_PER_TURN: usize = 64;

/// How often in a row a socket may fail to receive before all are left alone for a while: a broken one reports that there is
/// something to read, and fails, for ever.
const RECEIVE_FAILURES_MAX: u32 = 16;

/// How long they are left alone.
const SOCKET_REST: Duration = Duration::from_secs(1);

/// What a handle asks of the thread.
pub(crate) enum Command {
    Status {
        reply: oneshot::Sender<RelayStatus>,
    },
    Expel {
        expulsion: Box<SignedRelayExpulsion>,
        reply: oneshot::Sender<Result<bool, RelayExpulsionError>>,
    },
    Drain {
        left: Duration,
        reply: oneshot::Sender<()>,
    },
    Open {
        remote: SocketAddr,
        reply: oneshot::Sender<Result<Stream, OpenError>>,
    },
}

/// The parts of an engine that are made before its thread is.
pub(crate) struct Parts {
    pub(crate) socket: UdpSocket,
    pub(crate) stun: Option<UdpSocket>,
    pub(crate) server: RelayServer,
    pub(crate) alarm: Alarm,
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) bell: Arc<Bell>,
    pub(crate) stop: Arc<AtomicBool>,
    pub(crate) streams_max: usize,
    pub(crate) unbound_max: Duration,
}

pub(crate) struct Engine {
    clock: Clock,
    alarm: Alarm,
    server: RelayServer,
    outbox: Outbox,
    stun: Option<UdpSocket>,
    /// Whether something may have come to the second port; a turn that did not wait does not know.
    is_stun_due: bool,
    stun_requests: u64,
    received: ReceiveBuffer,
    commands: mpsc::Receiver<Command>,
    bell: Arc<Bell>,
    stop: Arc<AtomicBool>,
    draining: Option<Draining>,
    unbound_max: Duration,
    /// When the streams are looked through next; `None` while there are none.
    sweep_at: Option<Monotonic>,
    scratch: Vec<u8>,
    /// A limit of this turn was reached: the next one must not wait.
    has_more: bool,
    receive_failures: u32,
    resting: Option<Monotonic>,
}

struct Draining {
    by: Monotonic,
    replies: Vec<oneshot::Sender<()>>,
}

impl Engine {
    pub(crate) fn new(parts: Parts) -> Self {
        let streams = Streams::new(parts.bell.clone(), parts.streams_max);
        Self {
            clock: Clock::new(),
            alarm: parts.alarm,
            server: parts.server,
            outbox: Outbox::new(parts.socket, streams),
            stun: parts.stun,
            is_stun_due: false,
            stun_requests: 0,
            received: ReceiveBuffer::for_many(),
            commands: parts.commands,
            bell: parts.bell,
            stop: parts.stop,
            draining: None,
            unbound_max: parts.unbound_max,
            sweep_at: None,
            scratch: Vec::new(),
            has_more: false,
            receive_failures: 0,
            resting: None,
        }
    }

    /// Runs until every handle is gone or the relay is drained.
    pub(crate) fn run(mut self) {
        while !self.is_done() {
            self.wait();
            let now = self.clock.now();
            self.receive(now);
            self.answer_stun(now);
            self.take_commands(now);
            self.serve_streams(now);
            self.fire_timers(now);
            self.outbox.flush();
            self.answer();
        }
        let draining = self.draining.take();
        // The sockets are closed before anyone is told that they are.
        drop(self);
        for reply in draining.into_iter().flat_map(|draining| draining.replies) {
            let _ = reply.send(());
        }
    }

    fn is_done(&self) -> bool {
        let is_drained =
            |draining: &Draining| self.server.client_count() == 0 || self.clock.mono() >= draining.by;
        self.stop.load(Ordering::Acquire) || self.draining.as_ref().is_some_and(is_drained)
    }

    /// Sleeps until there is something to do. Afterwards the bell is silent and what it announced is still to be taken.
    fn wait(&mut self) {
        self.is_stun_due = true;
        if !std::mem::take(&mut self.has_more) && !self.bell.is_rung() {
            let until = self.next_deadline();
            let bell = PollFd::new(&*self.bell, PollFlags::IN);
            let socket = PollFd::new(self.outbox.socket(), PollFlags::IN);
            let stun = self.stun.as_ref().map(|stun| PollFd::new(stun, PollFlags::IN));
            match (self.resting, stun) {
                // A broken socket would end the wait even if nothing were asked of it.
                (Some(_), _) => drop(self.alarm.wait([bell], until)),
                (None, Some(stun)) => {
                    let [_, stun, _] = self.alarm.wait([socket, stun, bell], until);
                    self.is_stun_due = !stun.is_empty();
                }
                (None, None) => drop(self.alarm.wait([socket, bell], until)),
            }
        }
        self.bell.silence();
    }

    fn next_deadline(&self) -> Option<Monotonic> {
        let server = self.server.poll_timeout().map(|(at, _)| at);
        let draining = self.draining.as_ref().map(|draining| draining.by);
        [server, draining, self.sweep_at, self.resting]
            .into_iter()
            .flatten()
            .min()
    }

    /// Asks the socket once a turn, so that WebSockets, timers and commands are not starved by a flood: at most 2 MiB.
    fn receive(&mut self, now: Now) {
        if self.resting.is_some_and(|until| now.mono < until) {
            return;
        }
        self.resting = None;
        match self.outbox.socket().fill(&mut self.received) {
            Ok(may_have_more) => self.has_more |= may_have_more,
            Err(error) => return self.note_receive_failure(&error, now),
        }
        self.receive_failures = 0;
        for batch in self.received.batches() {
            let datagrams = batch.bytes.len().div_ceil(batch.segment_len);
            self.outbox.counters.datagrams_received += datagrams as u64;
            self.outbox.counters.bytes_received += batch.bytes.len() as u64;
            let source = Source::Udp(batch.source);
            self.server
                .handle_frames(source, batch.bytes, batch.segment_len, &mut self.outbox, now);
            send_answers(&mut self.server, &mut self.outbox);
        }
    }

    fn note_receive_failure(&mut self, error: &std::io::Error, now: Now) {
        tracing::debug!(%error, "receiving failed");
        self.outbox.counters.receives_refused += 1;
        self.receive_failures += 1;
        if self.receive_failures == RECEIVE_FAILURES_MAX {
            tracing::warn!(%error, "the socket keeps failing and is left alone for a second");
            self.resting = Some(now.mono + SOCKET_REST);
            self.receive_failures = 0;
        }
        self.has_more |= self.resting.is_none();
    }

    /// Answers what came to the second port: STUN, and nothing else. A request may have its answer come from the first port, or
    /// go to another port of who asks: it is no longer than the question by more than an address, and goes to no other host.
    fn answer_stun(&mut self, now: Now) {
        let may_ask = self.is_stun_due && self.resting.is_none();
        let Some(stun) = self.stun.as_mut().filter(|_| may_ask) else {
            return;
        };
        match stun.fill(&mut self.received) {
            Ok(may_have_more) => self.has_more |= may_have_more,
            Err(error) => return self.note_receive_failure(&error, now),
        }
        for batch in self.received.batches() {
            for datagram in batch.bytes.chunks(batch.segment_len) {
                self.outbox.counters.datagrams_received += 1;
                self.outbox.counters.bytes_received += datagram.len() as u64;
                let Some(request) = stun::parse_request(datagram) else {
                    self.outbox.counters.not_stun += 1;
                    continue;
                };
                let answer = stun::response(request.transaction, batch.source);
                let port = match request.answer {
                    Answer::ToPort(port) => port,
                    Answer::Plain | Answer::OtherPort => batch.source.port(),
                };
                let to = SocketAddr::new(batch.source.ip(), port);
                if request.answer == Answer::OtherPort {
                    self.outbox.forward(Source::Udp(to), &answer, answer.len());
                } else {
                    // Lost on the way, if the system has no room.
                    let _ = stun.send(to, &answer, answer.len(), &mut 0);
                }
                self.stun_requests += 1;
            }
        }
    }

    fn take_commands(&mut self, now: Now) {
        for _ in 0..COMMANDS_PER_TURN {
            let Ok(command) = self.commands.try_recv() else {
                return;
            };
            match command {
                Command::Status { reply } => drop(reply.send(self.status())),
                Command::Expel { expulsion, reply } => {
                    let _ = reply.send(self.server.expel(&expulsion, now));
                }
                Command::Drain { left, reply } => self.drain(left, reply, now),
                Command::Open { remote, reply } => {
                    // Whoever asked may be gone; then the stream is closed again when the answer is dropped.
                    drop(reply.send(self.open_stream(remote, now)));
                }
            }
        }
        self.has_more = true;
    }

    fn drain(&mut self, left: Duration, reply: oneshot::Sender<()>, now: Now) {
        self.server.drain(left);
        let by = now.mono + left;
        let draining = self.draining.get_or_insert_with(|| Draining {
            by,
            replies: Vec::new(),
        });
        draining.by = draining.by.min(by);
        draining.replies.push(reply);
    }

    fn open_stream(&mut self, remote: SocketAddr, now: Now) -> Result<Stream, OpenError> {
        if self.draining.is_some() {
            return Err(OpenError::Draining);
        }
        let stream = self.outbox.streams.open(remote, now.mono)?;
        let sweep = now.mono + self.unbound_max / 4;
        self.sweep_at.get_or_insert(sweep);
        Ok(stream)
    }

    /// Takes what WebSockets sent: from each that has something a few frames, then the next one.
    fn serve_streams(&mut self, now: Now) {
        for _ in 0..self.outbox.streams.ready_count() {
            let taken = self.outbox.streams.take_next();
            let Some(source) = taken.source else {
                continue;
            };
            for frame in taken.frames {
                self.scratch.clear();
                self.scratch.extend_from_slice(&frame);
                self.server
                    .handle_frames(source, &mut self.scratch, 0, &mut self.outbox, now);
                send_answers(&mut self.server, &mut self.outbox);
            }
            if taken.is_closed {
                self.server.stream_closed(source);
            }
        }
        self.has_more |= self.outbox.streams.ready_count() > 0;
    }

    fn fire_timers(&mut self, now: Now) {
        if self.server.poll_timeout().is_some_and(|(at, _)| at <= now.mono) {
            self.server.handle_timeout(now);
        }
        if self.sweep_at.is_some_and(|at| at <= now.mono) {
            let server = &self.server;
            let streams = &mut self.outbox.streams;
            let closed = streams.sweep(|source| server.is_bound(source), self.unbound_max, now.mono);
            self.outbox.counters.streams_unbound += closed as u64;
            self.sweep_at = (!streams.is_empty()).then(|| now.mono + self.unbound_max / 4);
        }
    }

    fn answer(&mut self) {
        send_answers(&mut self.server, &mut self.outbox);
        self.outbox.flush();
    }

    fn status(&self) -> RelayStatus {
        let mut relay = self.server.counters().clone();
        relay.stun_requests += self.stun_requests;
        RelayStatus {
            clients: self.server.client_count(),
            streams: self.outbox.streams.len(),
            is_draining: self.draining.is_some(),
            relay,
            shell: self.outbox.counters,
            cpu: clock::thread_cpu(),
        }
    }
}

fn send_answers(server: &mut RelayServer, outbox: &mut Outbox) {
    while let Some((to, frame)) = server.poll_transmit() {
        outbox.forward(to, &frame, frame.len());
    }
}
