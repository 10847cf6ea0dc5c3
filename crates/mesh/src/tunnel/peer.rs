//! One peer: its configuration, its sessions, its handshakes and its timers.
//!
//! What it does when something is sent stands in `sending`, when a datagram arrives in `receiving`, when a timer fires in
//! `timeouts`; the two ends of a handshake stand in `handshaking`.

mod handshaking;
mod receiving;
mod sending;
mod timeouts;

use std::net::SocketAddr;
use std::time::Duration;

use types::{AllowedIp, Monotonic, NodePublicKey, Now};

use self::handshaking::Handshakes;
use super::config::{PeerConfig, PeerStatus, PresharedKey};
use super::cookie::MacKeys;
use super::counters::DropReason;
use super::peers::PeerId;
use super::queue::Queue;
use super::session::Sessions;
use super::shared::Shared;
use super::timers::{REJECT_AFTER_TIME, Timer, Timers};
use super::{DownReason, TunnelEvent};

/// The shortest persistent keepalive; zero would keep a timer due for ever.
const KEEPALIVE_MIN: Duration = Duration::from_secs(1);

pub(crate) struct Peer {
    id: PeerId,
    pub(crate) key: NodePublicKey,
    pub(crate) allowed_ips: Vec<AllowedIp>,
    pub(crate) timers: Timers,
    mac_keys: MacKeys,
    preshared_key: Option<PresharedKey>,
    endpoint: Option<SocketAddr>,
    /// What the configuration said last.
    configured_endpoint: Option<SocketAddr>,
    persistent_keepalive: Option<Duration>,
    sessions: Sessions,
    handshakes: Handshakes,
    queue: Queue,
    /// Whether the last event about sessions was `SessionUp`.
    is_up: bool,
    /// Whether more data came after the passive keepalive was armed.
    owes_another_keepalive: bool,
    last_received: Option<Monotonic>,
    bytes_sent: u64,
    bytes_received: u64,
}

impl Peer {
    pub(crate) fn new(id: PeerId, key: NodePublicKey) -> Self {
        Self {
            id,
            key,
            allowed_ips: Vec::new(),
            timers: Timers::default(),
            mac_keys: MacKeys::of(&key),
            preshared_key: None,
            endpoint: None,
            configured_endpoint: None,
            persistent_keepalive: None,
            sessions: Sessions::default(),
            handshakes: Handshakes::default(),
            queue: Queue::default(),
            is_up: false,
            owes_another_keepalive: false,
            last_received: None,
            bytes_sent: 0,
            bytes_received: 0,
        }
    }

    /// Takes a new configuration, the allowed IPs excepted: they are the tunnel's.
    pub(crate) fn configure(&mut self, config: &PeerConfig, shared: &mut Shared, now: Now) {
        self.preshared_key.clone_from(&config.preshared_key);
        self.configure_keepalive(config.persistent_keepalive, now);
        if config.endpoint.is_none() || config.endpoint == self.configured_endpoint {
            return;
        }
        self.configured_endpoint = config.endpoint;
        if self.endpoint == config.endpoint {
            return;
        }
        self.endpoint = config.endpoint;
        // Whoever waits for an answer from the old place, or for a place at all, need not wait for a timer.
        if self.handshakes.is_under_way() {
            self.send_initiation(shared, now);
        } else if !self.queue.is_empty() {
            self.start_handshake(shared, now);
        }
    }

    pub(crate) fn status(&self) -> PeerStatus {
        PeerStatus {
            endpoint: self.endpoint,
            has_session: self.is_up,
            last_handshake: self.handshakes.last_completed,
            last_received: self.last_received,
            bytes_sent: self.bytes_sent,
            bytes_received: self.bytes_received,
            packets_queued: self.queue.len(),
        }
    }

    /// Erases everything that the tunnel knows because of this peer.
    pub(crate) fn dismiss(mut self, shared: &mut Shared) {
        shared.free_indices(self.sessions.erase());
        shared.free_indices(self.handshakes.cancel());
        shared
            .counters
            .drop_many(DropReason::QueueAbandoned, self.queue.clear());
        self.set_down(DownReason::Removed, shared);
    }

    fn configure_keepalive(&mut self, span: Option<Duration>, now: Now) {
        let span = span
            .filter(|span| !span.is_zero())
            .map(|span| span.max(KEEPALIVE_MIN));
        if span == self.persistent_keepalive {
            return;
        }
        self.persistent_keepalive = span;
        match span {
            // Due at once: the path is not open yet.
            Some(_) => self.timers.arm(Timer::PersistentKeepalive, now.mono),
            None => self.timers.disarm(Timer::PersistentKeepalive),
        }
    }

    /// Takes the source of an authentic datagram as the place to send to.
    fn set_endpoint(&mut self, endpoint: SocketAddr, shared: &mut Shared) {
        if self.endpoint.replace(endpoint) != Some(endpoint) {
            shared.event(TunnelEvent::EndpointChanged {
                peer: self.key,
                endpoint,
            });
        }
    }

    /// Notes that the current session is a new one.
    fn set_up(&mut self, endpoint: SocketAddr, shared: &mut Shared) {
        if let Some(current) = &self.sessions.current {
            self.timers
                .arm(Timer::SessionExpiry, current.created + REJECT_AFTER_TIME);
        }
        if !std::mem::replace(&mut self.is_up, true) {
            shared.event(TunnelEvent::SessionUp {
                peer: self.key,
                endpoint,
            });
        }
    }

    fn set_down(&mut self, reason: DownReason, shared: &mut Shared) {
        if std::mem::replace(&mut self.is_up, false) {
            shared.event(TunnelEvent::SessionDown {
                peer: self.key,
                reason,
            });
        }
    }
}
