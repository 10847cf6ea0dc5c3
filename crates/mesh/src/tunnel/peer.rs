//! One peer: its configuration, its sessions, its handshakes and its timers.
//!
//! What it does when something is sent stands in `sending`, when a datagram arrives in `receiving`, when a timer fires in
//! `timeouts`; the two ends of a handshake stand in `handshaking`.

mod handshaking;
mod receiving;
mod sending;
mod timeouts;

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
use super::{DownReason, Mobility, TunnelEvent};
use crate::endpoint::Endpoint;

/// The shortest persistent keepalive; zero would keep a timer due for ever.
const KEEPALIVE_MIN: Duration = Duration::from_secs(1);

pub(crate) struct Peer {
    id: PeerId,
    pub(crate) key: NodePublicKey,
    pub(crate) allowed_ips: Vec<AllowedIp>,
    pub(crate) timers: Timers,
    mac_keys: MacKeys,
    preshared_key: Option<PresharedKey>,
    endpoint: Option<Endpoint>,
    /// What the configuration said last.
    configured_endpoint: Option<Endpoint>,
    mobility: Mobility,
    /// Where else initiations go.
    handshake_endpoints: Vec<Endpoint>,
    /// Where the last authentic datagram came from.
    heard_from: Option<Endpoint>,
    persistent_keepalive: Option<Duration>,
    sessions: Sessions,
    handshakes: Handshakes,
    queue: Queue,
    /// Whether the last event about sessions was `SessionUp`.
    is_up: bool,
    /// Whether more data came after the passive keepalive was armed.
    owes_another_keepalive: bool,
    last_received: Option<Monotonic>,
    last_packet: Option<Monotonic>,
    last_sent: Option<Monotonic>,
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
            mobility: Mobility::default(),
            handshake_endpoints: Vec::new(),
            heard_from: None,
            persistent_keepalive: None,
            sessions: Sessions::default(),
            handshakes: Handshakes::default(),
            queue: Queue::default(),
            is_up: false,
            owes_another_keepalive: false,
            last_received: None,
            last_packet: None,
            last_sent: None,
            bytes_sent: 0,
            bytes_received: 0,
        }
    }

    /// Our keys changed: initiations carry the current one first.
    pub(crate) fn speak_as_current(&mut self) {
        self.handshakes.speaks_as_other = false;
    }

    /// The peer goes by another key from now on; a handshake under way with the old one begins anew.
    pub(crate) fn rename(&mut self, key: NodePublicKey, shared: &mut Shared, now: Now) {
        self.key = key;
        self.mac_keys = MacKeys::of(&key);
        self.handshakes.forget_cookie();
        let renamed = |endpoint: &mut Endpoint| *endpoint = endpoint.renamed(key);
        self.endpoint.iter_mut().for_each(renamed);
        self.heard_from.iter_mut().for_each(renamed);
        self.handshake_endpoints.iter_mut().for_each(renamed);
        if self.handshakes.is_under_way() {
            self.send_initiation(shared, now);
        }
    }

    /// Takes a new configuration, the allowed IPs excepted: they are the tunnel's.
    pub(crate) fn configure(&mut self, config: &PeerConfig, shared: &mut Shared, now: Now) {
        self.preshared_key.clone_from(&config.preshared_key);
        self.configure_keepalive(config.persistent_keepalive, now);
        self.mobility = config.mobility;
        let configured = config.endpoint.map(Endpoint::from);
        if configured.is_none() || configured == self.configured_endpoint {
            return;
        }
        self.configured_endpoint = configured;
        self.set_endpoint(configured, shared, now);
    }

    /// Sends to `endpoint` from now on.
    pub(crate) fn set_endpoint(&mut self, endpoint: Option<Endpoint>, shared: &mut Shared, now: Now) {
        if std::mem::replace(&mut self.endpoint, endpoint) != endpoint {
            let places: Vec<_> = endpoint.into_iter().collect();
            self.try_new_places(&places, shared, now);
        }
    }

    /// Sends initiations to `endpoints` too, from now on.
    pub(crate) fn set_handshake_endpoints(
        &mut self,
        endpoints: Vec<Endpoint>,
        shared: &mut Shared,
        now: Now,
    ) {
        let is_new = |endpoint: &&Endpoint| {
            self.endpoint != Some(**endpoint) && !self.handshake_endpoints.contains(endpoint)
        };
        let new: Vec<_> = endpoints.iter().filter(is_new).copied().collect();
        self.handshake_endpoints = endpoints;
        if !new.is_empty() {
            self.try_new_places(&new, shared, now);
        }
    }

    /// Whoever waits for an answer from an old place, or for a place at all, need not wait for a timer.
    fn try_new_places(&mut self, places: &[Endpoint], shared: &mut Shared, now: Now) {
        if self.handshakes.is_under_way() {
            self.spread_initiation(places, shared, now);
        } else if !self.queue.is_empty() && self.sessions.sealing(now.mono).is_none() {
            self.start_handshake(shared, now);
        } else if !self.queue.is_empty() {
            self.flush(shared, now);
        }
    }

    pub(crate) fn is_managed(&self) -> bool {
        self.mobility == Mobility::Managed
    }

    pub(crate) fn status(&self) -> PeerStatus {
        PeerStatus {
            endpoint: self.endpoint,
            has_session: self.is_up,
            last_handshake: self.handshakes.last_completed,
            last_received: self.last_received,
            heard_from: self.heard_from,
            last_packet: self.last_packet,
            last_sent: self.last_sent,
            bytes_sent: self.bytes_sent,
            bytes_received: self.bytes_received,
            is_handshaking: self.handshakes.is_under_way(),
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

    /// Notes the source of an authentic datagram: for a peer that roams, the place to send to.
    fn hear_from(&mut self, endpoint: Endpoint, shared: &mut Shared) {
        let before = self.heard_from.replace(endpoint);
        let is_known = if self.is_managed() {
            // Better than nowhere, until the caller has decided.
            self.endpoint.get_or_insert(endpoint);
            before == Some(endpoint)
        } else {
            self.endpoint.replace(endpoint) == Some(endpoint)
        };
        if is_known {
            return;
        }
        shared.event(TunnelEvent::Heard {
            peer: self.key,
            endpoint,
        });
    }

    /// Notes that the current session is a new one.
    fn set_up(&mut self, endpoint: Endpoint, shared: &mut Shared) {
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
