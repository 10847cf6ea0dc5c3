//! WireGuard, whole: every peer of one key on one socket, as a pure state machine.
//!
//! Standard on the wire (the paper's protocol, version 1), so that any WireGuard is a peer. The bytes stand in `message`,
//! the handshake in `handshake`, MACs and cookies in `cookie` and `gate`, the transport keys in `session` and `replay`,
//! each peer's behaviour in `peer`, its timers in `timers`. Relays and policy are not here, and which path is used is
//! decided elsewhere: a peer has one endpoint at a time, by [`Mobility`] its last datagram's source or the caller's choice.

mod allowed_ips;
mod calls;
mod config;
pub(crate) mod cookie;
mod counters;
mod gate;
pub(crate) mod handshake;
mod message;
mod outbox;
mod packet;
mod peer;
mod peers;
mod queue;
pub(crate) mod replay;
mod session;
mod shared;
mod tai64n;
mod timers;

#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::time::Duration;

use types::{Monotonic, NodePrivateKey, NodePublicKey, Now};

use self::allowed_ips::AllowedIps;
pub use self::calls::{CALL_GROUP_V4, CALL_GROUP_V6, CALL_LEN, CALL_PORT};
pub use self::config::{Mobility, PeerConfig, PeerStatus, PresharedKey};
pub use self::cookie::COOKIE_LIFETIME;
pub use self::counters::{Counters, DropReason};
use self::gate::{Gate, Verdict};
use self::handshake::Responding;
use self::message::{Data, Initiation, Message};
pub use self::outbox::{RELAY_HEADROOM, SEGMENTS_MAX, TRANSMIT_BYTES_MAX, TRANSMITS_MAX};
use self::peer::Peer;
use self::peers::{PeerId, Peers};
pub use self::queue::{QUEUE_BYTES_MAX, QUEUE_PACKETS_MAX};
pub use self::session::PACKET_BYTES_MAX;
use self::shared::Shared;
pub use self::shared::{CALLS_WAITING_MAX, EVENTS_MAX};
pub use self::timers::{
    JITTER_MAX, KEEPALIVE_TIMEOUT, REJECT_AFTER_MESSAGES, REJECT_AFTER_TIME, REKEY_AFTER_MESSAGES,
    REKEY_AFTER_TIME, REKEY_ATTEMPT_TIME, REKEY_TIMEOUT, Timer,
};
use crate::endpoint::Endpoint;
use crate::probe;

/// What the socket received with one call: one datagram, or several of one source that the kernel joined (UDP_GRO).
#[derive(Debug)]
pub struct Received<'a> {
    /// Where it came from.
    pub source: Endpoint,
    /// The datagrams, one after another; their content is of no use afterwards.
    pub bytes: &'a mut [u8],
    /// The length of each datagram but the last, which may be shorter. Zero means that `bytes` is one datagram.
    pub segment_len: usize,
}

/// One send of equal datagrams to one destination (UDP_SEGMENT).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transmit {
    /// Where to.
    pub destination: Endpoint,
    /// The length of each datagram but the last, which may be shorter. Never zero.
    pub segment_len: usize,
    /// The datagrams, one after another: at most 64 of them and 65,507 bytes. For a relayed destination each begins with
    /// [`RELAY_HEADROOM`] zero bytes for the relay's header.
    pub bytes: Vec<u8>,
}

/// Where decrypted packets go.
pub trait PacketSink {
    /// Takes a well-formed IP packet whose source address is one of the peer's allowed IPs.
    fn packet(&mut self, from: &NodePublicKey, packet: &[u8]);

    /// Takes a probe of a managed peer, and where it came from. `probe` may be padded with zeros.
    fn probe(&mut self, from: &NodePublicKey, source: Endpoint, probe: &[u8]) {
        let _ = (from, source, probe);
    }
}

/// Something that happened to a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TunnelEvent {
    /// Data can be sent at once, which it could not before.
    SessionUp {
        /// The peer.
        peer: NodePublicKey,
        /// Where it is.
        endpoint: Endpoint,
    },
    /// Data can no longer be sent at once.
    SessionDown {
        /// The peer.
        peer: NodePublicKey,
        /// Why.
        reason: DownReason,
    },
    /// An authentic datagram came from another place than the one before. Data goes there now, if the peer roams.
    Heard {
        /// The peer.
        peer: NodePublicKey,
        /// The other place.
        endpoint: Endpoint,
    },
    /// A managed peer answered an initiation of ours, and there is a session.
    Answered {
        /// The peer.
        peer: NodePublicKey,
        /// Where its answer came from.
        endpoint: Endpoint,
    },
    /// The peer uses a session that it began and we answered. Whoever forgot the session before began this one.
    Confirmed {
        /// The peer.
        peer: NodePublicKey,
        /// Where its first packet came from.
        endpoint: Endpoint,
        /// How long after our answer, when that went to the same place: then the peer is there, since nobody else could
        /// use the session.
        rtt: Option<Duration>,
    },
    /// Ninety seconds of handshakes had no answer; packets that waited are gone. The next packet starts again.
    HandshakeFailed {
        /// The peer.
        peer: NodePublicKey,
    },
}

/// Why a session ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DownReason {
    /// It was not renewed within 180 s.
    Expired,
    /// The peer was removed.
    Removed,
}

/// Why packets were not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The key is no peer's.
    #[error("the key is no peer's")]
    UnknownPeer,
}

/// How many peers' timers one call acts on: each may cost a handshake's exchanges, together some 10 ms, and what they send
/// must find room among the sends that wait.
pub const TIMEOUT_PEERS_MAX: usize = 64;

/// Every peer of one private key on one UDP socket.
///
/// # Kinds of methods
///
/// - *Configuration*: [`set_keys`](Self::set_keys), [`upsert_peer`](Self::upsert_peer),
///   [`rename_peer`](Self::rename_peer), [`remove_peer`](Self::remove_peer), [`set_mtu`](Self::set_mtu).
/// - *Questions*: [`peer_status`](Self::peer_status), [`counters`](Self::counters), [`route`](Self::route). They change
///   nothing.
/// - *Inputs*: [`send_packets`](Self::send_packets), [`renew`](Self::renew), [`handle_received`](Self::handle_received),
///   [`handle_call`](Self::handle_call), [`call`](Self::call), [`handle_timeout`](Self::handle_timeout). Each takes the time; decrypted packets leave through the sink given to
///   `handle_received`, everything else through the outputs.
/// - *Outputs*: [`poll_transmit`](Self::poll_transmit), [`poll_call`](Self::poll_call), [`poll_event`](Self::poll_event),
///   [`poll_timeout`](Self::poll_timeout).
///
/// # What the caller owes
///
/// 1. After every configuration and every input: `poll_transmit` until `None`, sending each (and giving the buffer back
///    by [`recycle`](Self::recycle)), then `poll_event` until `None`, then `poll_timeout` once to set its alarm. In any
///    other order nothing breaks, but things come later than they could. What is not collected is limited, and dropped
///    and counted beyond the limit.
/// 2. When the alarm rings, `handle_timeout`. Late is as good as never for a keepalive; early does nothing.
/// 3. A `now` that never goes back on its monotonic side. The wall clock may jump.
/// 4. A seed that no other tunnel has: it decides every ephemeral key, index, cookie and jitter.
///
/// A packet is sealed on the spot when the peer has a session. Without one it waits, at most [`QUEUE_PACKETS_MAX`]
/// packets and [`QUEUE_BYTES_MAX`] bytes per peer, while a handshake goes on; when that fails, what waited is dropped.
pub struct Tunnel {
    shared: Shared,
    peers: Peers,
    allowed_ips: AllowedIps,
    gate: Gate,
}

impl Tunnel {
    /// Makes a tunnel without peers. `seed` is 32 bytes of the operating system's randomness.
    #[must_use]
    pub fn new(private_key: NodePrivateKey, seed: [u8; 32]) -> Self {
        Self {
            shared: Shared::new(private_key, seed),
            peers: Peers::default(),
            allowed_ips: AllowedIps::default(),
            gate: Gate::default(),
        }
    }

    /// Returns our own public key.
    #[must_use]
    pub fn public_key(&self) -> NodePublicKey {
        self.shared.identity.public
    }

    /// Takes other keys of our own; sessions stay.
    ///
    /// `current` is ours from now on. While there is an `other`, which some peers may still know us by, or know us by
    /// already, handshakes with it are taken too, and initiations that have no answer are tried with each in turn.
    pub fn set_keys(&mut self, current: NodePrivateKey, other: Option<NodePrivateKey>) {
        self.shared.set_keys(current, other);
        self.peers.for_each(Peer::speak_as_current);
    }

    /// Tells whether a key is one of ours.
    #[must_use]
    pub fn is_own_key(&self, key: &NodePublicKey) -> bool {
        self.shared.is_own_key(key)
    }

    /// A peer goes by another key from now on: a handshake with the old one is a stranger's, and its sessions stay. `false`
    /// when there is no such peer, or the new key is another peer's or ours.
    pub fn rename_peer(&mut self, old: &NodePublicKey, new: NodePublicKey, now: Now) -> bool {
        if self.is_own_key(&new) || self.peers.find(&new).is_some() {
            return false;
        }
        let Some(id) = self.peers.rename(old, new) else {
            return false;
        };
        if let Some(peer) = self.peers.at_mut(id) {
            peer.rename(new, &mut self.shared, now);
        }
        self.peers.reschedule(id);
        true
    }

    /// Adds a peer or changes it; its sessions stay. A peer with a key of our own is ignored.
    pub fn upsert_peer(&mut self, config: PeerConfig, now: Now) {
        let key = config.public_key;
        if self.is_own_key(&key) {
            return;
        }
        let id = self
            .peers
            .find(&key)
            .unwrap_or_else(|| self.peers.add(|id| Peer::new(id, key)));
        let Some(peer) = self.peers.at_mut(id) else {
            return;
        };
        peer.configure(&config, &mut self.shared, now);
        let before = std::mem::replace(&mut peer.allowed_ips, config.allowed_ips.clone());
        for block in before {
            self.allowed_ips.remove(block, id);
        }
        for block in config.allowed_ips {
            self.allowed_ips.insert(block, id);
        }
        self.peers.reschedule(id);
    }

    /// Forgets a peer and erases its sessions; tells whether there was one.
    ///
    /// When this returns, no datagram of the peer opens and no packet to it is sealed.
    pub fn remove_peer(&mut self, peer: &NodePublicKey) -> bool {
        let Some(id) = self.peers.find(peer) else {
            return false;
        };
        let Some(removed) = self.peers.remove(peer) else {
            return false;
        };
        for block in &removed.allowed_ips {
            self.allowed_ips.remove(*block, id);
        }
        removed.dismiss(&mut self.shared);
        true
    }

    /// Sets the MTU that padding must not exceed, in bytes; [`types::MESH_MTU`] at first. Longer packets pass unpadded.
    pub fn set_mtu(&mut self, mtu: usize) {
        self.shared.mtu = mtu;
    }

    /// Returns what is known of a peer.
    #[must_use]
    pub fn peer_status(&self, peer: &NodePublicKey) -> Option<PeerStatus> {
        self.peers
            .find(peer)
            .and_then(|id| self.peers.at(id))
            .map(Peer::status)
    }

    /// Returns what went through and what was dropped.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// Returns the peer that packets to `address` belong to: the one with the longest allowed IP that holds it.
    #[must_use]
    pub fn route(&self, address: IpAddr) -> Option<NodePublicKey> {
        let id = self.allowed_ips.lookup(address)?;
        self.peers.at(id).map(|peer| peer.key)
    }

    /// Seals packets to a peer; without a session it queues them and starts a handshake.
    ///
    /// Packets must be IP packets of at most [`PACKET_BYTES_MAX`] bytes; that their destination is the peer's is the
    /// caller's business. Packets that cannot be sent are dropped and counted.
    pub fn send_packets(&mut self, to: &NodePublicKey, packets: &[&[u8]], now: Now) -> Result<(), SendError> {
        self.with_peer(to, |peer, shared| peer.send(packets, shared, now))
    }

    /// Starts a handshake although there may be a session: for a caller that doubts that the peer still has it.
    ///
    /// The session stays in use until the new one is up. Initiations stay [`REKEY_TIMEOUT`] apart: soon after one this
    /// waits its turn, and while a handshake is under way it does nothing.
    pub fn renew(&mut self, peer: &NodePublicKey, now: Now) -> Result<(), SendError> {
        self.with_peer(peer, |peer, shared| peer.start_handshake(shared, now))
    }

    /// Sends data to a managed peer to `endpoint` from now on; without one it waits.
    pub fn set_endpoint(
        &mut self,
        peer: &NodePublicKey,
        endpoint: Option<Endpoint>,
        now: Now,
    ) -> Result<(), SendError> {
        self.with_peer(peer, |peer, shared| peer.set_endpoint(endpoint, shared, now))
    }

    /// Sends initiations to a managed peer to all of `endpoints`, beside the one where data goes.
    ///
    /// The peer answers the first that arrives, where it came from.
    pub fn set_handshake_endpoints(
        &mut self,
        peer: &NodePublicKey,
        endpoints: Vec<Endpoint>,
        now: Now,
    ) -> Result<(), SendError> {
        self.with_peer(peer, |peer, shared| {
            peer.set_handshake_endpoints(endpoints, shared, now);
        })
    }

    /// Sends a probe to a managed peer, to `endpoint`; returns whether there is a session that carries it.
    ///
    /// The other end hands it to [`PacketSink::probe`]. It must begin as [`probe`] says.
    pub fn send_probe(
        &mut self,
        peer: &NodePublicKey,
        endpoint: Endpoint,
        probe: &[u8],
        now: Now,
    ) -> Result<bool, SendError> {
        debug_assert!(probe::is_probe(probe));
        self.with_peer(peer, |peer, shared| peer.send_probe(probe, endpoint, shared, now))
    }

    fn with_peer<T>(
        &mut self,
        key: &NodePublicKey,
        act: impl FnOnce(&mut Peer, &mut Shared) -> T,
    ) -> Result<T, SendError> {
        let id = self.peers.find(key).ok_or(SendError::UnknownPeer)?;
        let peer = self.peers.at_mut(id).ok_or(SendError::UnknownPeer)?;
        let done = act(peer, &mut self.shared);
        self.peers.reschedule(id);
        Ok(done)
    }

    /// Takes what the socket received. What is malformed, forged, replayed or unknown is dropped and counted.
    pub fn handle_received(&mut self, received: Received<'_>, sink: &mut impl PacketSink, now: Now) {
        if received.bytes.is_empty() {
            self.shared.counters.drop_for(DropReason::BadLength);
            return;
        }
        let segment_len = match received.segment_len {
            0 => received.bytes.len(),
            len => len,
        };
        let mut touched = None;
        for datagram in received.bytes.chunks_mut(segment_len) {
            match self.handle_datagram(datagram, received.source, sink, now) {
                Ok(peer) if touched == peer => {}
                Ok(peer) => {
                    if let Some(before) = std::mem::replace(&mut touched, peer) {
                        self.peers.reschedule(before);
                    }
                }
                Err(reason) => self.shared.counters.drop_for(reason),
            }
        }
        if let Some(last) = touched {
            self.peers.reschedule(last);
        }
    }

    /// Returns the next thing to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.shared.outbox.pop()
    }

    /// Takes back the buffer of a [`Transmit`] that was sent.
    pub fn recycle(&mut self, bytes: Vec<u8>) {
        self.shared.outbox.recycle(bytes);
    }

    /// Returns the next thing that happened; at most [`EVENTS_MAX`] wait.
    pub fn poll_event(&mut self) -> Option<TunnelEvent> {
        self.shared.events.pop_front()
    }

    /// Returns when [`Tunnel::handle_timeout`] must be called next, and for which timer.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Monotonic, Timer)> {
        let (_, id) = self.peers.first_due()?;
        self.peers.at(id)?.timers.earliest()
    }

    /// Acts on the timers that are due, of [`TIMEOUT_PEERS_MAX`] peers at most: [`poll_timeout`](Self::poll_timeout) tells
    /// whether more are.
    pub fn handle_timeout(&mut self, now: Now) {
        for _ in 0..TIMEOUT_PEERS_MAX {
            let Some((_, id)) = self.peers.first_due().filter(|(due, _)| *due <= now.mono) else {
                return;
            };
            if let Some(peer) = self.peers.at_mut(id) {
                peer.handle_timeout(&mut self.shared, now);
            }
            self.peers.reschedule(id);
        }
    }

    /// Takes one datagram; returns the peer whose timers may have changed.
    fn handle_datagram(
        &mut self,
        datagram: &mut [u8],
        source: Endpoint,
        sink: &mut impl PacketSink,
        now: Now,
    ) -> Result<Option<PeerId>, DropReason> {
        match message::parse(datagram)? {
            Message::Data(data) => self.on_data(data, source, sink, now).map(Some),
            Message::Initiation(initiation) => {
                if !self.admits(initiation.bytes(), source, now) {
                    return Ok(None);
                }
                self.on_initiation(initiation, source, now).map(Some)
            }
            Message::Response(response) => {
                if !self.admits(response.bytes(), source, now) {
                    return Ok(None);
                }
                let (id, peer) = whose(&self.shared, &mut self.peers, response.receiver())?;
                peer.on_response(response, source, &mut self.shared, now)?;
                Ok(Some(id))
            }
            Message::CookieReply(reply) => {
                let (id, peer) = whose(&self.shared, &mut self.peers, reply.receiver())?;
                peer.on_cookie_reply(reply, now)?;
                Ok(Some(id))
            }
        }
    }

    fn on_data(
        &mut self,
        data: Data<'_>,
        source: Endpoint,
        sink: &mut impl PacketSink,
        now: Now,
    ) -> Result<PeerId, DropReason> {
        let (id, peer) = whose(&self.shared, &mut self.peers, data.receiver)?;
        let padded = peer.on_data(data, source, &mut self.shared, now)?;
        if padded.is_empty() {
            return Ok(id);
        }
        if peer.is_managed() && probe::is_probe(padded) {
            sink.probe(&peer.key, source, padded);
            return Ok(id);
        }
        // The datagram was authentic, so the peer's timers count it even when the packet inside is of no use.
        match packet::parse(padded) {
            None => self.shared.counters.drop_for(DropReason::BadPacket),
            Some(header) if self.allowed_ips.lookup(header.source) != Some(id) => {
                self.shared.counters.drop_for(DropReason::SpoofedSource);
            }
            Some(header) => {
                self.shared.counters.received(header.len);
                peer.count_received(header.len);
                sink.packet(&peer.key, &padded[..header.len]);
            }
        }
        Ok(id)
    }

    fn on_initiation(
        &mut self,
        initiation: Initiation<'_>,
        source: Endpoint,
        now: Now,
    ) -> Result<PeerId, DropReason> {
        let seed = self.shared.seed();
        let identity = self.shared.addressed(initiation.bytes());
        let responding = Responding::read(identity, initiation, seed);
        let responding = responding.map_err(|_| DropReason::BadHandshake)?;
        let id = self.peers.find(&responding.peer).ok_or(DropReason::UnknownPeer)?;
        let peer = self.peers.at_mut(id).ok_or(DropReason::UnknownPeer)?;
        peer.on_initiation(responding, source, &mut self.shared, now)?;
        Ok(id)
    }

    /// Asks the gate about a handshake message, and does what it says when that is no.
    fn admits(&mut self, bytes: &[u8], source: Endpoint, now: Now) -> bool {
        let own = self.shared.addressed(bytes).mac_keys.clone();
        let rng = &mut self.shared.rng;
        match self.gate.judge(&own, bytes, source.source(), rng, now.mono) {
            Verdict::Admit => return true,
            Verdict::Refuse(reason) => self.shared.counters.drop_for(reason),
            Verdict::Challenge(reply) => {
                self.shared.counters.drop_for(DropReason::CookieRequired);
                self.shared.counters.cookies_sent = self.shared.counters.cookies_sent.wrapping_add(1);
                self.shared.transmit(source, &reply);
            }
        }
        false
    }
}

impl std::fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let key = self.public_key();
        f.debug_struct("Tunnel")
            .field("key", &key)
            .field("peers", &self.peers.len())
            .finish_non_exhaustive()
    }
}

fn whose<'a>(
    shared: &Shared,
    peers: &'a mut Peers,
    index: u32,
) -> Result<(PeerId, &'a mut Peer), DropReason> {
    let id = shared.whose_index(index).ok_or(DropReason::UnknownIndex)?;
    let peer = peers.at_mut(id).ok_or(DropReason::UnknownIndex)?;
    Ok((id, peer))
}
