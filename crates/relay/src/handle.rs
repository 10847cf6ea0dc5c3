//! The handle on a running relay: starts its thread, asks it, and stops it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mesh::relay::frame::FRAME_LEN_MAX;
use mesh::relay::server::{Quota, RelayConfig, RelayCounters, RelayServer};
use net::alarm::Alarm;
use net::random;
use net::udp::UdpSocket;
use net::wake::Bell;
use tokio::sync::{mpsc, oneshot};
use types::relay::RelayExpulsionError;
use types::{NodePrivateKey, RelayId, SignedRelayExpulsion, SigningPublicKey};

use crate::engine::{Command, Engine, Parts};
use crate::stream::{OpenError, Stream};

/// How many commands wait for the thread; a caller beyond that waits its turn.
const COMMAND_QUEUE: usize = 256;

/// What a relay needs to start.
#[derive(Debug)]
pub struct RelayOptions {
    /// Where to receive UDP: port 0 takes a free one, `[::]` takes IPv4 too.
    pub listen: SocketAddr,
    /// Where to answer STUN besides: a second port, so that a node can tell whether its NAT maps by destination.
    pub stun_listen: Option<SocketAddr>,
    /// Its key; the public half is its id.
    pub private_key: NodePrivateKey,
    /// The key that signs tickets: the control plane's.
    pub authority: SigningPublicKey,
    /// What one client may send.
    pub quota: Quota,
    /// How many clients it takes; more are not answered.
    pub clients_max: usize,
    /// How many WebSockets it takes.
    pub streams_max: usize,
    /// For how long a WebSocket may be open without being a client's: before its first Confirm, and after its last.
    pub unbound_max: Duration,
}

impl RelayOptions {
    /// Options with the default limits: 1 Gb/s and 16 MiB at once a client, 10,000 clients, as many WebSockets, 10 s.
    #[must_use]
    pub fn new(listen: SocketAddr, private_key: NodePrivateKey, authority: SigningPublicKey) -> Self {
        Self {
            listen,
            stun_listen: None,
            private_key,
            authority,
            quota: Quota {
                bytes_per_second: 125_000_000,
                burst_bytes: 16 * 1024 * 1024,
            },
            clients_max: 10_000,
            streams_max: 10_000,
            unbound_max: Duration::from_secs(10),
        }
    }
}

/// Why a relay cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A UDP socket cannot be had.
    #[error("cannot receive on UDP {address}: {source}")]
    Bind {
        /// Where it was to be.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// With this quota no client could send even one of the largest frames.
    #[error("a client must be allowed at least {FRAME_LEN_MAX} bytes at once and one byte a second")]
    QuotaTooSmall,
    /// The system gives no thread or no descriptor.
    #[error("cannot start the relay: {0}")]
    System(#[from] io::Error),
}

/// The relay has stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the relay has stopped")]
pub struct Stopped;

/// Why nobody was shut out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ExpelError {
    /// The relay has stopped, and passes nothing on.
    #[error(transparent)]
    Stopped(#[from] Stopped),
    /// The control plane that this relay knows has not said so.
    #[error("the relay does not believe who is to be shut out: {0}")]
    NotBelieved(#[from] RelayExpulsionError),
}

/// What the shell did with what the protocol decided. Every count only grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ShellCounters {
    /// Datagrams received on either port.
    pub datagrams_received: u64,
    /// Bytes in those.
    pub bytes_received: u64,
    /// Frames dropped because the socket's buffer was full.
    pub sends_blocked: u64,
    /// Sends that the operating system refused.
    pub sends_refused: u64,
    /// Receives that the operating system refused.
    pub receives_refused: u64,
    /// Frames dropped because a WebSocket did not take them fast enough, or was closed meanwhile.
    pub stream_full: u64,
    /// WebSockets closed because no client was bound to them.
    pub streams_unbound: u64,
    /// Datagrams to the second port that are no STUN requests.
    pub not_stun: u64,
}

/// A relay at one moment: numbers only, no key, name or address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayStatus {
    /// Clients that are there now.
    pub clients: usize,
    /// WebSockets that are open now.
    pub streams: usize,
    /// Whether it takes nobody new and will stop.
    pub is_draining: bool,
    /// What the protocol counts; STUN requests of both ports are in it.
    pub relay: RelayCounters,
    /// What the shell counts.
    pub shell: ShellCounters,
    /// How much of a processor the relay's thread has used.
    pub cpu: Duration,
}

/// A handle on a running relay. Clones are handles on the same one; when the last is dropped the relay stops at once.
#[derive(Debug, Clone)]
pub struct Relay {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    commands: mpsc::Sender<Command>,
    bell: Arc<Bell>,
    stop: Arc<AtomicBool>,
    id: RelayId,
    local: SocketAddr,
    stun: Option<SocketAddr>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.bell.ring();
    }
}

impl Relay {
    /// Binds the sockets and starts the thread.
    pub fn start(options: RelayOptions) -> Result<Self, StartError> {
        let quota = options.quota;
        if quota.burst_bytes < FRAME_LEN_MAX as u64 || quota.bytes_per_second == 0 {
            return Err(StartError::QuotaTooSmall);
        }
        let socket = bind(options.listen)?;
        let stun = options.stun_listen.map(bind).transpose()?;
        let server = RelayServer::new(RelayConfig {
            private_key: options.private_key,
            authority: options.authority,
            quota,
            clients_max: options.clients_max,
            seed: random::bytes(),
        });
        let (commands, receiver) = mpsc::channel(COMMAND_QUEUE);
        let inner = Inner {
            commands,
            bell: Arc::new(Bell::new()?),
            stop: Arc::default(),
            id: server.id(),
            local: socket.local_addr(),
            stun: stun.as_ref().map(UdpSocket::local_addr),
        };
        let parts = Parts {
            socket,
            stun,
            server,
            alarm: Alarm::new()?,
            commands: receiver,
            bell: inner.bell.clone(),
            stop: inner.stop.clone(),
            streams_max: options.streams_max,
            unbound_max: options.unbound_max,
        };
        std::thread::Builder::new()
            .name("relay".to_owned())
            .spawn(move || Engine::new(parts).run())?;
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Returns where the UDP socket is bound.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.inner.local
    }

    /// Returns where the second port is bound, if there is one.
    #[must_use]
    pub fn stun_addr(&self) -> Option<SocketAddr> {
        self.inner.stun
    }

    /// Returns the relay's id.
    #[must_use]
    pub fn id(&self) -> RelayId {
        self.inner.id
    }

    /// Returns what it is doing and has done.
    pub async fn status(&self) -> Result<RelayStatus, Stopped> {
        self.ask(|reply| Command::Status { reply }).await
    }

    /// Shuts a node out whose tickets the control plane voids. Tells whether it was there.
    pub async fn expel(&self, expulsion: SignedRelayExpulsion) -> Result<bool, ExpelError> {
        let expulsion = Box::new(expulsion);
        let asked = self.ask(|reply| Command::Expel { expulsion, reply }).await;
        Ok(asked??)
    }

    /// Tells every client to go within `left`, takes no new ones, and stops when none is left or the time is over.
    /// Returns when the ports are free.
    pub async fn drain(&self, left: Duration) {
        // Being told that it has stopped already is as good.
        let _ = self.ask(|reply| Command::Drain { left, reply }).await;
    }

    /// Stops at once; clients are told so. Returns when the ports are free.
    pub async fn shutdown(&self) {
        self.drain(Duration::ZERO).await;
    }

    /// Returns when the relay has stopped, for whatever reason.
    pub async fn stopped(&self) {
        self.inner.commands.closed().await;
    }

    /// Opens the relay's side of one WebSocket, whose other end is at `remote`.
    pub async fn open_stream(&self, remote: SocketAddr) -> Result<Stream, OpenError> {
        let opened = self.ask(|reply| Command::Open { remote, reply }).await;
        opened.unwrap_or(Err(OpenError::Stopped))
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, Stopped> {
        let (reply, answer) = oneshot::channel();
        let sent = self.inner.commands.send(command(reply)).await;
        sent.map_err(|_| Stopped)?;
        self.inner.bell.ring();
        answer.await.map_err(|_| Stopped)
    }
}

fn bind(address: SocketAddr) -> Result<UdpSocket, StartError> {
    UdpSocket::bind(address).map_err(|source| StartError::Bind { address, source })
}
