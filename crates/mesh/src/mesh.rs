//! One node's share of the mesh: its tunnel, the paths to every peer, and its relays, as one state machine.
//!
//! # Kinds of methods
//!
//! - *Configuration*: [`set_keys`](Mesh::set_keys), [`upsert_peer`](Mesh::upsert_peer),
//!   [`rename_peer`](Mesh::rename_peer), [`remove_peer`](Mesh::remove_peer),
//!   [`set_relays`](Mesh::set_relays), [`set_ticket`](Mesh::set_ticket), [`expel_from_relays`](Mesh::expel_from_relays),
//!   [`set_local`](Mesh::set_local), [`set_on_link`](Mesh::set_on_link), [`set_filter`](Mesh::set_filter).
//! - *Inputs*: [`send_packets`](Mesh::send_packets), [`handle_datagrams`](Mesh::handle_datagrams),
//!   [`handle_call`](Mesh::handle_call), [`ping`](Mesh::ping), [`handle_stream`](Mesh::handle_stream), [`stream_opened`](Mesh::stream_opened),
//!   [`stream_closed`](Mesh::stream_closed), [`socket_closed`](Mesh::socket_closed), [`network_changed`](Mesh::network_changed),
//!   [`handle_timeout`](Mesh::handle_timeout). Decrypted packets that the filter lets pass leave through the sink handed in.
//! - *Outputs*: [`poll_output`](Mesh::poll_output), [`poll_event`](Mesh::poll_event), each until `None`, then
//!   [`poll_timeout`](Mesh::poll_timeout), which names the timer that is due first.
//!
//! # What the caller owes
//!
//! What [`Tunnel`] asks of its caller; and for every [`Output::OpenStream`] one `stream_opened` or `stream_closed`.

mod calls;
mod inbound;
mod peers;
mod questions;
mod relays;
mod seam;
mod sockets;

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use rand_chacha::ChaCha20Rng;
use rand_core::{Rng as _, SeedableRng as _};
use types::{
    AllowedIp, Monotonic, NodePrivateKey, NodePublicKey, Now, PacketFilter, RelayId, SignedRelayExpulsion,
    SignedRelayTicket,
};

use self::calls::Calls;
use self::inbound::{Inbound, ReceivedProbe};
use self::peers::Peers;
use self::relays::Relays;
pub use self::relays::{RelayConfig, RelayView};
pub use self::seam::{Datagrams, MeshEvent, MeshPeer, MeshTimer, Output, StreamFrames};
use self::sockets::Sockets;
pub use self::sockets::{EXTRA_SOCKETS_MAX, GUESSES_AT_ONCE};
use crate::endpoint::{Endpoint, SocketNumber};
use crate::filter::Filter;
use crate::paths::{Liveness, OwnCandidates, PathAction, PeerPaths};
use crate::probe::{Probe, Transaction};
use crate::relay::client::ClientEvent;
use crate::tunnel::{Mobility, PacketSink, PeerConfig, Received, SendError, Transmit, Tunnel, TunnelEvent};

/// How many events wait at most for a caller that does not collect them.
const EVENTS_MAX: usize = 16_384;

/// One node's share of the mesh.
pub struct Mesh {
    tunnel: Tunnel,
    peers: Peers,
    relays: Relays,
    sockets: Sockets,
    calls: Calls,
    own: Arc<OwnCandidates>,
    filter: Filter,
    rng: ChaCha20Rng,
    events: VecDeque<MeshEvent>,
}

impl Mesh {
    /// Makes a mesh without peers and relays. `seed` is 32 bytes of the operating system's randomness.
    #[must_use]
    pub fn new(private_key: NodePrivateKey, seed: [u8; 32]) -> Self {
        let mut rng = ChaCha20Rng::from_seed(seed);
        let tunnel = Tunnel::new(private_key.clone(), draw(&mut rng));
        Self {
            tunnel,
            peers: Peers::default(),
            relays: Relays::new(private_key, draw(&mut rng)),
            sockets: Sockets::default(),
            calls: Calls::default(),
            own: Arc::default(),
            filter: Filter::default(),
            rng,
            events: VecDeque::new(),
        }
    }

    /// Goes on under `current`; handshakes with `other` are taken, too. Sessions and paths stay. When `current` is another
    /// key than before, the relays are told of it with the ticket for it, which must come next.
    pub fn set_keys(&mut self, current: NodePrivateKey, other: Option<NodePrivateKey>) {
        if current.public() != self.public_key() {
            self.relays.set_key(current.clone());
        }
        self.tunnel.set_keys(current, other);
    }

    /// A peer goes by another key from now on; its session and its paths stay. `false` when there is no such peer, or the
    /// new key is another peer's or ours.
    pub fn rename_peer(&mut self, old: &NodePublicKey, new: NodePublicKey, now: Now) -> bool {
        if !self.tunnel.rename_peer(old, new, now) {
            return false;
        }
        self.peers.rename(old, new);
        self.sockets.rename(old, new);
        self.with_paths(&new, now, |paths, now| paths.renamed(new, now));
        true
    }

    /// Adds a peer or changes it; its sessions stay.
    pub fn upsert_peer(&mut self, peer: MeshPeer, now: Now) {
        let key = peer.public_key;
        if self.tunnel.is_own_key(&key) {
            return;
        }
        let is_managed = peer.mobility == Mobility::Managed;
        let config = PeerConfig {
            public_key: key,
            preshared_key: peer.preshared_key,
            allowed_ips: peer.allowed_ips,
            endpoint: peer.endpoints.first().copied().filter(|_| !is_managed),
            mobility: peer.mobility,
            persistent_keepalive: peer.persistent_keepalive,
        };
        self.tunnel.upsert_peer(config, now);
        if !is_managed {
            self.peers.remove(&key);
            self.sockets.forget(&key);
            return;
        }
        let seed = draw(&mut self.rng);
        let own = &self.own;
        self.peers
            .upsert(key, || PeerPaths::new(key, own.clone(), seed), peer.relays);
        let relays = self.relays.common(self.peers.homes(&key));
        self.with_paths(&key, now, |paths, now| {
            paths.set_relays(relays, now);
            paths.set_named(&peer.endpoints, now);
        });
    }

    /// Forgets a peer and erases its sessions; tells whether there was one.
    pub fn remove_peer(&mut self, peer: &NodePublicKey) -> bool {
        self.peers.remove(peer);
        self.sockets.forget(peer);
        self.tunnel.remove_peer(peer)
    }

    /// Takes the relays there are; those not named any more are left.
    pub fn set_relays(&mut self, relays: Vec<RelayConfig>, now: Now) {
        self.relays.set(relays, now.mono);
        self.after_relays(now);
    }

    /// Takes the ticket that lets us use them.
    pub fn set_ticket(&mut self, ticket: SignedRelayTicket, now: Now) {
        self.relays.set_ticket(ticket, now.mono);
        self.after_relays(now);
    }

    /// Has every relay at which we are, or get in while it matters, shut out a node whose tickets the control plane voids.
    pub fn expel_from_relays(&mut self, expulsion: SignedRelayExpulsion, now: Now) {
        self.relays.expel(expulsion, now.mono);
    }

    /// Takes what peers may open towards us from now on; with `None`, which is so at first, they may everything.
    pub fn set_filter(&mut self, filter: Option<&PacketFilter>) {
        self.filter.set(filter);
    }

    /// Takes what peers may open from now on where it differs from before in what it says of some blocks only; see
    /// [`Filter::change`](crate::filter::Filter::change).
    pub fn change_filter(&mut self, filter: Option<&PacketFilter>, blocks: &BTreeSet<AllowedIp>) {
        self.filter.change(filter, blocks);
    }

    /// Takes the addresses of our interfaces, each with the port of our main socket.
    pub fn set_local(&mut self, addresses: Vec<SocketAddr>, now: Now) {
        if Arc::make_mut(&mut self.own).set_local(addresses) {
            self.after_own(now);
        }
    }

    /// Takes the outer address of a port that our router opened, or that there is none.
    pub fn set_mapped(&mut self, address: Option<SocketAddr>, now: Now) {
        if Arc::make_mut(&mut self.own).set_mapped(address) {
            self.after_own(now);
        }
    }

    /// We may be in another network: every path must prove itself anew, and the relays hear where we are.
    pub fn network_changed(&mut self, now: Now) {
        Arc::make_mut(&mut self.own).network_changed();
        self.relays.network_changed(now.mono);
        for key in self.peers.keys() {
            let own = self.own.clone();
            self.with_paths(&key, now, |paths, now| paths.network_changed(&own, now));
        }
        self.event(MeshEvent::Candidates);
        self.after_relays(now);
    }

    /// Seals packets to a peer; without a session it queues them and starts a handshake.
    pub fn send_packets(&mut self, to: &NodePublicKey, packets: &[&[u8]], now: Now) -> Result<(), SendError> {
        if self.peers.get(to).is_some_and(PeerPaths::is_resting) {
            self.with_paths(to, now, PeerPaths::wanted);
        }
        for packet in packets {
            self.filter.outgoing(packet, now.mono);
        }
        let sent = self.tunnel.send_packets(to, packets, now);
        self.drain_tunnel_events(now);
        sent
    }

    /// Pings a managed peer on the path that data would take; without a session a handshake comes first. [`MeshEvent::Pong`]
    /// tells the answer. `None` when it is no managed peer.
    pub fn ping(&mut self, peer: &NodePublicKey, now: Now) -> Option<Transaction> {
        let mut ping = None;
        let has_session = self.peers.get(peer)?.has_session();
        self.with_paths(peer, now, |paths, now| ping = Some(paths.ask(now)));
        if !has_session {
            self.tunnel.renew(peer, now).ok()?;
        }
        ping
    }

    /// Starts a handshake although there may be a session.
    pub fn renew(&mut self, peer: &NodePublicKey, now: Now) -> Result<(), SendError> {
        self.tunnel.renew(peer, now)
    }

    /// Sets the MTU that padding must not exceed, in bytes.
    pub fn set_mtu(&mut self, mtu: usize) {
        self.tunnel.set_mtu(mtu);
    }

    /// Takes what one of our sockets received: datagrams of `segment_len` bytes, the last may be shorter; zero means that
    /// `bytes` is one datagram.
    pub fn handle_datagrams(
        &mut self,
        socket: SocketNumber,
        source: SocketAddr,
        bytes: &mut [u8],
        segment_len: usize,
        sink: &mut impl PacketSink,
        now: Now,
    ) {
        let mut probes = Vec::new();
        if let Some(relay) = self.relays.whose(source, bytes) {
            self.take_frames((relay, false), (bytes, segment_len), (sink, &mut probes), now);
        } else {
            let received = Received {
                source: Endpoint::Direct {
                    socket,
                    remote: source,
                },
                bytes,
                segment_len,
            };
            let mut inbound = Inbound {
                sink,
                probes: &mut probes,
                filter: &mut self.filter,
                now: now.mono,
            };
            self.tunnel.handle_received(received, &mut inbound, now);
        }
        self.after_input(probes, now);
    }

    /// Takes one message of a relay's WebSocket.
    pub fn handle_stream(&mut self, relay: RelayId, bytes: &mut [u8], sink: &mut impl PacketSink, now: Now) {
        let mut probes = Vec::new();
        let len = bytes.len();
        self.take_frames((relay, true), (bytes, len), (sink, &mut probes), now);
        self.after_input(probes, now);
    }

    /// A WebSocket that was asked for is open.
    pub fn stream_opened(&mut self, relay: RelayId, now: Now) {
        self.relays.stream_opened(relay, now.mono);
        self.after_relays(now);
    }

    /// A WebSocket is closed, or could not be opened.
    pub fn stream_closed(&mut self, relay: RelayId, now: Now) {
        self.relays.stream_closed(relay, now.mono);
        self.after_relays(now);
    }

    /// A socket that was asked for could not be opened, or is broken and closed.
    pub fn socket_closed(&mut self, socket: SocketNumber, now: Now) {
        if let Some(owner) = self.sockets.broken(socket) {
            self.with_paths(&owner, now, |paths, now| paths.socket_closed(socket, now));
        }
    }

    /// Returns the next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        // A socket must be there before anything is sent from it.
        if let Some(output) = self.sockets.poll_output() {
            return Some(output);
        }
        if let Some(output) = self.relays.poll_output() {
            return Some(output);
        }
        if let Some(call) = self.tunnel.poll_call() {
            return Some(Output::Call(call));
        }
        while let Some(transmit) = self.tunnel.poll_transmit() {
            let Transmit {
                destination,
                segment_len,
                bytes,
            } = transmit;
            match destination {
                Endpoint::Direct { socket, remote } => {
                    return Some(Output::Datagrams(Datagrams {
                        socket,
                        to: remote,
                        segment_len,
                        bytes,
                    }));
                }
                Endpoint::Relayed { relay, peer } => match self.relays.wrap(relay, &peer, bytes, segment_len)
                {
                    Ok(output) => return Some(output),
                    Err(bytes) => self.tunnel.recycle(bytes),
                },
            }
        }
        None
    }

    /// Takes back the buffer of what was sent.
    pub fn recycle(&mut self, bytes: Vec<u8>) {
        self.tunnel.recycle(bytes);
    }

    /// Returns the next thing that happened.
    pub fn poll_event(&mut self) -> Option<MeshEvent> {
        self.events.pop_front()
    }

    /// Returns when [`Mesh::handle_timeout`] must be called next, and for which timer.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Monotonic, MeshTimer)> {
        let tunnel = self.tunnel.poll_timeout();
        let tunnel = tunnel.map(|(due, timer)| (due, MeshTimer::Tunnel(timer)));
        let paths = self.peers.first_due();
        let paths = paths.map(|(due, timer)| (due, MeshTimer::Path(timer)));
        [tunnel, paths, self.relays.poll_timeout()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Acts on every timer that is due.
    pub fn handle_timeout(&mut self, now: Now) {
        self.tunnel.handle_timeout(now);
        self.drain_tunnel_events(now);
        while let Some(key) = self.peers.take_due(now.mono) {
            let liveness = self.liveness(&key);
            self.with_paths(&key, now, |paths, now| paths.handle_timeout(liveness, now));
        }
        self.relays.handle_timeout(now.mono);
        self.after_relays(now);
    }

    /// Takes frames of a relay, by UDP or over its WebSocket; datagrams in them go to the tunnel.
    fn take_frames(
        &mut self,
        (relay, is_from_stream): (RelayId, bool),
        (bytes, frame_len): (&mut [u8], usize),
        (sink, probes): (&mut impl PacketSink, &mut Vec<ReceivedProbe>),
        now: Now,
    ) {
        let frame_len = if frame_len == 0 {
            bytes.len().max(1)
        } else {
            frame_len
        };
        let (peers, tunnel) = (&self.peers, &mut self.tunnel);
        let mut inbound = Inbound {
            sink,
            probes,
            filter: &mut self.filter,
            now: now.mono,
        };
        for frame in bytes.chunks_mut(frame_len) {
            let known = |key: &[u8; 32]| peers.whose_bytes(key);
            let from = (relay, is_from_stream);
            let Some(delivered) = self.relays.handle_frame(from, frame, known, now.mono) else {
                continue;
            };
            let source = Endpoint::Relayed {
                relay,
                peer: delivered.from,
            };
            let received = Received {
                source,
                bytes: delivered.datagram,
                segment_len: 0,
            };
            tunnel.handle_received(received, &mut inbound, now);
        }
    }

    fn after_input(&mut self, probes: Vec<ReceivedProbe>, now: Now) {
        self.drain_tunnel_events(now);
        for (key, source, bytes) in probes {
            if let Some(probe) = Probe::decode(&bytes) {
                self.with_paths(&key, now, |paths, now| paths.handle_probe(source, probe, now));
            }
        }
        self.after_relays(now);
    }

    /// Does what happened in the tunnel means for the paths.
    fn drain_tunnel_events(&mut self, now: Now) {
        while let Some(event) = self.tunnel.poll_event() {
            match event {
                TunnelEvent::SessionUp { peer, .. } => {
                    self.with_paths(&peer, now, |paths, now| paths.session(true, now));
                    self.event(MeshEvent::SessionUp(peer));
                }
                TunnelEvent::SessionDown { peer, reason } => {
                    self.with_paths(&peer, now, |paths, now| paths.session(false, now));
                    self.event(MeshEvent::SessionDown(peer, reason));
                }
                TunnelEvent::Answered { peer, endpoint } => {
                    self.with_paths(&peer, now, |paths, now| paths.answered(endpoint, now));
                }
                TunnelEvent::Confirmed { peer, endpoint, rtt } => {
                    self.with_paths(&peer, now, |paths, now| paths.confirmed(endpoint, rtt, now));
                }
                TunnelEvent::HandshakeFailed { peer } => self.event(MeshEvent::HandshakeFailed(peer)),
                TunnelEvent::Heard { peer, endpoint } => {
                    if self.peers.get(&peer).is_none() {
                        self.event(MeshEvent::Roamed(peer, endpoint));
                    }
                    self.with_paths(&peer, now, |paths, now| paths.heard(endpoint, now));
                }
            }
        }
    }

    /// Does what happened at the relays means for us and for the paths.
    fn after_relays(&mut self, now: Now) {
        let mut changed = false;
        while let Some((relay, event)) = self.relays.poll_event() {
            match event {
                ClientEvent::NotHere { peer: Some(peer) } => {
                    self.with_paths(&peer, now, |paths, now| paths.not_here(relay, now));
                }
                ClientEvent::NotHere { peer: None } | ClientEvent::TooMuch => {}
                ClientEvent::Up { .. }
                | ClientEvent::Confirmed { .. }
                | ClientEvent::Down
                | ClientEvent::Draining { .. } => {
                    changed = true;
                    if let Some(view) = self.relays.view(relay) {
                        self.event(MeshEvent::Relay(view));
                    }
                }
            }
        }
        if changed {
            self.relays_changed(now);
        }
        if let Some(home) = self.relays.take_home_change() {
            self.event(MeshEvent::HomeRelay(home));
        }
    }

    fn relays_changed(&mut self, now: Now) {
        let mut own_changed = false;
        let own = Arc::make_mut(&mut self.own);
        for view in self.relays.views() {
            let observed = [view.observed, view.observed_besides];
            let observed = observed.map(|address| address.filter(|_| view.is_up && !view.is_stream));
            own_changed |= own.set_observed(view.id, observed);
        }
        own_changed |= own.set_udp_blocked(self.relays.is_udp_blocked());
        let leaving = self.relays.leaving();
        for key in self.peers.keys() {
            let common = self.relays.common(self.peers.homes(&key));
            self.with_paths(&key, now, |paths, now| {
                paths.set_relays(common, now);
                leaving.iter().for_each(|relay| paths.relay_leaves(*relay, now));
            });
        }
        if own_changed {
            self.after_own(now);
        }
    }

    fn after_own(&mut self, now: Now) {
        let own = self.own.clone();
        for key in self.peers.keys() {
            self.with_paths(&key, now, |paths, now| paths.own_changed(&own, now));
        }
        self.event(MeshEvent::Candidates);
    }

    /// Does something with a peer's paths, and then what they want done.
    fn with_paths(&mut self, key: &NodePublicKey, now: Now, act: impl FnOnce(&mut PeerPaths, Monotonic)) {
        let Some(paths) = self.peers.get_mut(key) else {
            return;
        };
        act(paths, now.mono);
        let mut observed = Vec::new();
        while let Some(action) = paths.poll_action() {
            // The only error is that the peer was removed, and then its paths are gone too.
            match action {
                PathAction::Probe(to, probe) => {
                    let _ = self.tunnel.send_probe(key, to, &probe.encode(), now);
                }
                PathAction::Use(endpoint) => {
                    let _ = self.tunnel.set_endpoint(key, endpoint, now);
                }
                PathAction::Handshake(endpoints) => {
                    let _ = self.tunnel.set_handshake_endpoints(key, endpoints, now);
                }
                PathAction::Renew => {
                    let _ = self.tunnel.renew(key, now);
                }
                PathAction::CheckRelay(relay) => self.relays.check(relay, now.mono),
                PathAction::CheckRelays => self.relays.check_all(now.mono),
                PathAction::Observed(address) => observed.push(address),
                PathAction::Answered(pong) => {
                    if self.events.len() < EVENTS_MAX {
                        self.events.push_back(MeshEvent::Pong(*key, pong));
                    }
                }
                PathAction::Guess(count) => {
                    let sockets = self.sockets.begin(*key, count);
                    paths.guess_answered(sockets, now.mono);
                }
                PathAction::Call => {
                    let is_made = self.calls.admit(now.mono) && self.tunnel.call(key, now).is_ok();
                    paths.called(is_made, now.mono);
                }
                PathAction::GuessOver => self.sockets.over(key),
                PathAction::CloseSockets(gone) => self.sockets.close(&gone),
                PathAction::Changed => {
                    let view = paths.view();
                    if self.events.len() < EVENTS_MAX {
                        self.events.push_back(MeshEvent::Path(*key, view));
                    }
                }
            }
        }
        self.peers.reschedule(key);
        let own = Arc::make_mut(&mut self.own);
        let mut changed = false;
        for address in observed {
            changed |= own.seen_by_peer(address);
        }
        if changed {
            self.event(MeshEvent::Candidates);
        }
    }

    fn liveness(&self, key: &NodePublicKey) -> Liveness {
        let Some(status) = self.tunnel.peer_status(key) else {
            return Liveness::default();
        };
        Liveness {
            heard: status.heard_from.zip(status.last_received),
            sent: status.last_sent,
            received: status.last_packet,
            is_handshaking: status.is_handshaking,
        }
    }

    fn event(&mut self, event: MeshEvent) {
        if self.events.len() < EVENTS_MAX {
            self.events.push_back(event);
        }
    }
}

impl std::fmt::Debug for Mesh {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mesh")
            .field("tunnel", &self.tunnel)
            .finish_non_exhaustive()
    }
}

fn draw(rng: &mut ChaCha20Rng) -> [u8; 32] {
    let mut seed = [0; 32];
    rng.fill_bytes(&mut seed);
    seed
}
