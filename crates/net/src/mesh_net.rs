//! The mesh, as the rest of the program sees it: peers, streams to them, streams from them.
//!
//! The work is done by one thread of the operating system (`engine`); everything here asks it and waits for its answer.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mesh::filter::FilterCounters;
use mesh::paths::{PathView, Pong};
use mesh::probe::{Candidate, Mapping};
use mesh::tunnel::{Counters, PeerStatus};
use mesh::{Mesh, MeshEvent, MeshPeer, RelayView};
use tokio::sync::{broadcast, mpsc, oneshot};
use types::{
    AllowedIp, NodePrivateKey, NodePublicKey, PacketFilter, RelayId, SignedRelayExpulsion, SignedRelayTicket,
};

use crate::alarm::Alarm;
use crate::engine::command::Command;
use crate::engine::{Engine, Parts};
use crate::netstack::StackConfig;
use crate::networks::Link;
use crate::random;
use crate::relay_stream::{RelayPoint, RelayStreams};
use crate::stream::{Doorbell, MeshStream};
use crate::tun::{Held, Loss, Tun};
use crate::udp::UdpSocket;

/// How long [`MeshNet::connect`] tries.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long [`MeshNet::shutdown`] waits for the last bytes to be acknowledged.
pub const SHUTDOWN_GRACE: Duration = Duration::from_secs(3);

/// How many commands wait for the engine; a caller beyond that waits its turn.
const COMMAND_QUEUE: usize = 256;

/// How many events a subscriber may be behind before it is told that it missed some.
const EVENT_QUEUE: usize = 1024;

/// Answers a datagram: who sent it, what it says, and the answer, if it gets one.
///
/// Called on the thread of the data plane: it must return at once.
pub type Responder = Arc<dyn Fn(SocketAddr, &[u8]) -> Option<Vec<u8>> + Send + Sync>;

/// What a mesh needs to start.
#[derive(Debug, Clone)]
pub struct MeshNetConfig {
    /// Our own key.
    pub private_key: NodePrivateKey,
    /// Where to receive: port 0 takes a free one, `[::]` takes IPv4 too.
    pub listen: SocketAddr,
}

/// Why a mesh cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The UDP socket cannot be had.
    #[error("cannot receive on UDP {address}: {source}")]
    Bind {
        /// Where it was to be.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The system gives no thread or no descriptor.
    #[error("cannot start the data path: {0}")]
    System(#[from] io::Error),
}

/// Why no stream could be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// The key is no peer's, or was removed meanwhile.
    #[error("the node is no peer")]
    PeerUnknown,
    /// The address is none of the peer's, or none that can be connected to.
    #[error("the address is not the peer's")]
    NotThePeers,
    /// We have no address of the remote one's family towards this peer.
    #[error("there is no address of our own of this family towards the peer")]
    NoLocalAddress,
    /// The peer has as many connections as one may have.
    #[error("there are too many connections to the peer")]
    TooMany,
    /// The peer did not answer in time: it is away, or no path leads to it.
    #[error("the peer did not answer in time")]
    TimedOut,
    /// The peer answered that nobody listens there.
    #[error("the peer refused the connection")]
    Refused,
    /// The mesh has stopped.
    #[error("the mesh has stopped")]
    Stopped,
}

/// Why nobody can listen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ListenError {
    /// Port 0 names nothing.
    #[error("port 0 cannot be listened on")]
    BadPort,
    /// Another listener has the port.
    #[error("port {0} is already listened on")]
    InUse(u16),
    /// The mesh has stopped.
    #[error("the mesh has stopped")]
    Stopped,
}

/// Why a ping has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PingError {
    /// The key is no managed peer's.
    #[error("the node is no peer")]
    PeerUnknown,
    /// Nothing came back in time.
    #[error("the peer did not answer in time")]
    NoAnswer,
    /// The mesh has stopped.
    #[error("the mesh has stopped")]
    Stopped,
}

/// What is known of the networks around us.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Surroundings {
    /// How our NAT maps.
    pub mapping: Mapping,
    /// The addresses of our interfaces, each with the port of our main socket.
    pub local: Vec<SocketAddr>,
    /// Where we may be reached directly, best first.
    pub candidates: Vec<Candidate>,
    /// Every relay as we see it.
    pub relays: Vec<RelayView>,
    /// The relay that is nearest.
    pub home: Option<RelayId>,
}

/// What the shell did with packets that the tunnel had found in order. Every count only grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NetCounters {
    /// Handed to the peer's stack.
    pub packets_taken: u64,
    /// Dropped: not for an address of ours towards that peer.
    pub packets_misdirected: u64,
    /// Dropped: the headers are not in order, or have IPv6 extensions of which a stack can make nothing.
    pub packets_malformed: u64,
    /// Sends that the operating system refused.
    pub sends_refused: u64,
    /// Receives that the operating system refused.
    pub receives_refused: u64,
    /// Handed to the host, in TUN mode.
    pub packets_to_host: u64,
    /// Sent by the host into the mesh, in TUN mode.
    pub packets_from_host: u64,
    /// Of the host, dropped: for no node that we know.
    pub host_unrouted: u64,
    /// Of the host, dropped: not from our own address.
    pub host_spoofed: u64,
    /// Of the host, dropped: the headers are not in order, or it is longer than the mesh's packets are.
    pub host_malformed: u64,
    /// Of the host, dropped: the node itself has a connection between these addresses and ports.
    pub host_port_taken: u64,
    /// For the host, dropped: it did not take them.
    pub host_refused: u64,
    /// Connections cut because the listener's queue was full or the listener gone.
    pub accepts_refused: u64,
    /// Batches received or to send, and rounds of timers, given up because they made the tunnel panic: each is a defect.
    pub batches_broken: u64,
    /// Stacks thrown away with their streams because they panicked: each is a defect.
    pub stacks_broken: u64,
}

impl NetCounters {
    /// Returns every reason for which the shell dropped something or gave it up, with its word and its count.
    #[must_use]
    pub fn drops(&self) -> [(&'static str, u64); 12] {
        [
            ("host_unrouted", self.host_unrouted),
            ("host_spoofed", self.host_spoofed),
            ("host_malformed", self.host_malformed),
            ("host_port_taken", self.host_port_taken),
            ("host_refused", self.host_refused),
            ("misdirected", self.packets_misdirected),
            ("malformed", self.packets_malformed),
            ("send_refused", self.sends_refused),
            ("receive_refused", self.receives_refused),
            ("accept_refused", self.accepts_refused),
            ("batch_broken", self.batches_broken),
            ("stack_broken", self.stacks_broken),
        ]
    }
}

/// The counters of the tunnel, of the packet filter behind it, and of the shell around both.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MeshCounters {
    /// What the tunnel counts.
    pub tunnel: Counters,
    /// What the packet filter counts.
    pub filter: FilterCounters,
    /// What the shell counts.
    pub net: NetCounters,
}

/// A handle on a running mesh. Clones are handles on the same one; when the last is dropped the mesh stops at once.
#[derive(Debug, Clone)]
pub struct MeshNet {
    handle: Arc<Handle>,
}

#[derive(Debug)]
struct Handle {
    commands: mpsc::Sender<Command>,
    doorbell: Arc<Doorbell>,
    events: broadcast::Sender<MeshEvent>,
    stop: Arc<AtomicBool>,
    local: SocketAddr,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.doorbell.bell.ring();
    }
}

impl MeshNet {
    /// Starts a mesh without peers, with the default limits.
    pub fn start(config: MeshNetConfig) -> Result<Self, StartError> {
        Self::start_with(config, StackConfig::default())
    }

    /// Starts a mesh without peers; `stack` limits every peer's connections.
    pub fn start_with(config: MeshNetConfig, stack: StackConfig) -> Result<Self, StartError> {
        Self::start_parts(config, stack, None)
    }

    /// Starts a mesh without peers, in which the host is with all its programs, by a device: TUN mode. The device goes when the
    /// mesh stops; [`Loss`] tells when it goes before.
    pub fn start_with_host(config: MeshNetConfig, tun: Tun) -> Result<(Self, Loss), StartError> {
        let (held, loss) = tun.hold();
        let mesh = Self::start_parts(config, StackConfig::default(), Some(held))?;
        Ok((mesh, loss))
    }

    fn start_parts(
        config: MeshNetConfig,
        stack: StackConfig,
        host: Option<Held>,
    ) -> Result<Self, StartError> {
        let socket = UdpSocket::bind(config.listen).map_err(|source| StartError::Bind {
            address: config.listen,
            source,
        })?;
        let (commands, receiver) = mpsc::channel(COMMAND_QUEUE);
        let handle = Handle {
            commands,
            doorbell: Arc::new(Doorbell::new()?),
            events: broadcast::Sender::new(EVENT_QUEUE),
            stop: Arc::default(),
            local: socket.local_addr(),
        };
        let mut mesh = Mesh::new(config.private_key, random::bytes());
        mesh.set_mtu(stack.mtu);
        let relay_streams = RelayStreams::new(handle.commands.downgrade(), handle.doorbell.clone());
        let parts = Parts {
            socket,
            alarm: Alarm::new()?,
            mesh,
            relay_streams,
            host,
            stack,
            commands: receiver,
            doorbell: handle.doorbell.clone(),
            events: handle.events.clone(),
            stop: handle.stop.clone(),
        };
        std::thread::Builder::new()
            .name("mesh".to_owned())
            .spawn(move || Engine::new(parts).run())?;
        Ok(Self {
            handle: Arc::new(handle),
        })
    }

    /// Returns where the UDP socket is bound.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.handle.local
    }

    /// Adds a peer or changes it. `local_addresses` (at most 8) are ours towards this peer: it can reach no others.
    ///
    /// A live session and its streams stay, but for streams with addresses that are no longer allowed.
    pub async fn upsert_peer(&self, config: MeshPeer, local_addresses: Vec<IpAddr>) {
        let command = |reply| Command::Upsert {
            config,
            locals: local_addresses,
            reply,
        };
        // After a stop there are no peers, so there is nothing to say about this one.
        let _ = self.ask(command).await;
    }

    /// Removes a peer; returns whether there was one. When this returns, its session is gone and its streams are reset.
    pub async fn remove_peer(&self, peer: NodePublicKey) -> bool {
        let command = |reply| Command::Remove { peer, reply };
        self.ask(command).await.unwrap_or(false)
    }

    /// A peer goes by another key from now on: its session and its streams stay, and a handshake with the old key is a
    /// stranger's. `false` when there is no such peer, or the new key is another peer's or ours.
    pub async fn rename_peer(&self, old: NodePublicKey, new: NodePublicKey) -> bool {
        let command = |reply| Command::Rename { old, new, reply };
        self.ask(command).await.unwrap_or(false)
    }

    /// Goes on under `current`; handshakes with `other` are taken, too. Sessions and streams stay. When `current` is another
    /// key than before, [`MeshNet::set_ticket`] with a ticket for it must come next.
    pub async fn set_keys(&self, current: NodePrivateKey, other: Option<NodePrivateKey>) {
        let keys = (current, other);
        let command = |reply| Command::Keys { keys, reply };
        // After a stop no key is of use.
        let _ = self.ask(command).await;
    }

    /// Opens a stream to an address of a peer within [`CONNECT_TIMEOUT`].
    pub async fn connect(&self, peer: NodePublicKey, remote: SocketAddr) -> Result<MeshStream, ConnectError> {
        self.connect_within(peer, remote, CONNECT_TIMEOUT).await
    }

    /// Opens a stream to an address of a peer within `timeout`, the session's handshake included.
    pub async fn connect_within(
        &self,
        peer: NodePublicKey,
        remote: SocketAddr,
        timeout: Duration,
    ) -> Result<MeshStream, ConnectError> {
        let command = |reply| Command::Connect {
            peer,
            remote,
            timeout,
            reply,
        };
        self.ask(command).await.unwrap_or(Err(ConnectError::Stopped))
    }

    /// Listens on a TCP port of every address of ours towards every peer. Dropping the listener frees the port.
    pub async fn listen(&self, port: u16) -> Result<MeshListener, ListenError> {
        let command = |reply| Command::Listen { port, reply };
        let streams = self.ask(command).await.unwrap_or(Err(ListenError::Stopped))?;
        Ok(MeshListener { port, streams })
    }

    /// Answers what comes to a UDP port of any address of ours, each datagram by itself; an answer longer than a packet is
    /// not sent. One port has one responder: the last.
    pub async fn respond(&self, port: u16, responder: Responder) {
        self.tell(Command::Respond { port, responder }).await;
    }

    /// Takes the relays there are; those not named any more are left.
    pub async fn set_relays(&self, relays: Vec<RelayPoint>) {
        self.tell(Command::Relays { relays }).await;
    }

    /// Takes the ticket that lets us use the relays.
    pub async fn set_ticket(&self, ticket: SignedRelayTicket) {
        self.tell(Command::Ticket { ticket }).await;
    }

    /// Has every relay shut out a node whose tickets the control plane voids: those at which we are, at once; others when
    /// we get in there within seven minutes.
    pub async fn expel_from_relays(&self, expulsion: SignedRelayExpulsion) {
        self.tell(Command::ExpelFromRelays { expulsion }).await;
    }

    /// Takes what peers may open towards us; with `None`, which is so at first, they may everything.
    ///
    /// When this returns the rules are in force, and streams that peers opened and may open no longer are reset.
    pub async fn set_filter(&self, filter: Option<Arc<PacketFilter>>) {
        self.tell_filter(filter, None).await;
    }

    /// Does the same for a filter in the canonical form that differs from the one before in what it says of `blocks`, and of no
    /// other: this costs less.
    pub async fn change_filter(&self, filter: Option<Arc<PacketFilter>>, blocks: BTreeSet<AllowedIp>) {
        self.tell_filter(filter, Some(blocks)).await;
    }

    async fn tell_filter(&self, filter: Option<Arc<PacketFilter>>, blocks: Option<BTreeSet<AllowedIp>>) {
        let command = |reply| Command::Filter {
            filter,
            blocks,
            reply,
        };
        // After a stop nothing comes in.
        let _ = self.ask(command).await;
    }

    /// Takes the addresses at which our socket is reached from our own networks.
    pub async fn set_local(&self, addresses: Vec<SocketAddr>) {
        self.tell(Command::Local { addresses }).await;
    }

    /// Takes the outer address of a port that our router opened for our socket, or that there is none.
    pub async fn set_mapped(&self, address: Option<SocketAddr>) {
        self.tell(Command::Mapped { address }).await;
    }

    /// Takes the links on which peers are called of which nobody knows where they are, and on which we hear others call; none
    /// at first. A socket bound to loopback calls nobody, and one bound to a single address by IPv4 only, on its link.
    pub async fn set_links(&self, links: Vec<Link>) {
        self.tell(Command::Links { links }).await;
    }

    /// We may be in another network: every path must prove itself anew.
    pub async fn network_changed(&self) {
        self.tell(Command::NetworkChanged).await;
    }

    /// Returns what is known of the networks around us.
    pub async fn surroundings(&self) -> Surroundings {
        let command = |reply| Command::Surroundings { reply };
        self.ask(command).await.unwrap_or_default()
    }

    /// Asks a peer inside its session whether it is there, on the path that data would take, and waits for at most `timeout`; a
    /// peer without a session is woken first.
    pub async fn ping(&self, peer: NodePublicKey, timeout: Duration) -> Result<Pong, PingError> {
        // Before it is sent, so that no answer is too fast.
        let mut events = self.subscribe();
        let command = |reply| Command::Ping { peer, reply };
        let sent = self.ask(command).await.map_err(|_| PingError::Stopped)?;
        let transaction = sent.ok_or(PingError::PeerUnknown)?;
        let answer = async {
            loop {
                match events.recv().await {
                    Ok(MeshEvent::Pong(from, pong)) if from == peer && pong.transaction == transaction => {
                        return Ok(pong);
                    }
                    Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => return Err(PingError::Stopped),
                }
            }
        };
        let waited = tokio::time::timeout(timeout, answer).await;
        waited.unwrap_or(Err(PingError::NoAnswer))
    }

    /// Returns what is known of a peer, and of the path to it when it is one of ours; `None` when the key is no peer's.
    pub async fn peer_status(&self, peer: NodePublicKey) -> Option<(PeerStatus, Option<PathView>)> {
        let command = |reply| Command::Status { peer, reply };
        self.ask(command).await.ok().flatten()
    }

    /// Returns the events of sessions from now on; a subscriber more than 1024 behind is told how many it missed.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<MeshEvent> {
        self.handle.events.subscribe()
    }

    /// Returns the counters; all zero after a stop.
    pub async fn counters(&self) -> MeshCounters {
        let command = |reply| Command::Counters { reply };
        self.ask(command).await.unwrap_or_default()
    }

    /// Stops in good order within [`SHUTDOWN_GRACE`]: what was written is sent, streams are finished, then the port is
    /// free. Streams fail from then on.
    pub async fn shutdown(&self) {
        let command = |reply| Command::Shutdown {
            grace: SHUTDOWN_GRACE,
            reply,
        };
        // Being told that it has stopped already is as good.
        let _ = self.ask(command).await;
    }

    /// Asks for something that has no answer; after a stop there is nobody to do it.
    async fn tell(&self, command: Command) {
        if self.handle.commands.send(command).await.is_ok() {
            self.handle.doorbell.bell.ring();
        }
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, Stopped> {
        let (reply, answer) = oneshot::channel();
        let sent = self.handle.commands.send(command(reply)).await;
        sent.map_err(|_| Stopped)?;
        self.handle.doorbell.bell.ring();
        answer.await.map_err(|_| Stopped)
    }
}

#[derive(Debug)]
struct Stopped;

/// Streams that peers open to one port of ours.
#[derive(Debug)]
pub struct MeshListener {
    port: u16,
    streams: mpsc::Receiver<MeshStream>,
}

impl MeshListener {
    /// Waits for the next stream; [`MeshStream::peer`] says whose it is. An error means that the mesh has stopped.
    pub async fn accept(&mut self) -> io::Result<MeshStream> {
        let stopped = || io::Error::new(io::ErrorKind::ConnectionAborted, "the mesh has stopped");
        self.streams.recv().await.ok_or_else(stopped)
    }

    /// Returns the port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}
