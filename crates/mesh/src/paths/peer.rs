//! The paths to one peer, as a state machine.
//!
//! # What it does
//!
//! While there is no session, initiations go through every relay at which both are, and straight to what the peer names:
//! a relay that has just died is not known to be dead yet. Once there is a session, both ends tell each other their candidates and ping them, all at once: that
//! opens their NATs towards each other. A candidate that answers from where it was asked is proven, and the best proven
//! one carries the data. The path in use must go on showing that it works; when it does not, the relay carries again
//! within two seconds and the search begins anew.
//!
//! # Kinds of methods
//!
//! - *Inputs*: [`set_relays`](PeerPaths::set_relays), [`set_named`](PeerPaths::set_named), [`session`](PeerPaths::session),
//!   [`confirmed`](PeerPaths::confirmed), [`answered`](PeerPaths::answered), [`called`](PeerPaths::called), [`link_changed`](PeerPaths::link_changed), [`renamed`](PeerPaths::renamed), [`wanted`](PeerPaths::wanted), [`ask`](PeerPaths::ask), [`heard`](PeerPaths::heard), [`own_changed`](PeerPaths::own_changed),
//!   [`network_changed`](PeerPaths::network_changed), [`not_here`](PeerPaths::not_here),
//!   [`relay_leaves`](PeerPaths::relay_leaves),
//!   [`handle_probe`](PeerPaths::handle_probe), [`guess_answered`](PeerPaths::guess_answered),
//!   [`socket_closed`](PeerPaths::socket_closed), [`handle_timeout`](PeerPaths::handle_timeout).
//! - *Outputs*: [`poll_action`](PeerPaths::poll_action) until `None`, then [`poll_timeout`](PeerPaths::poll_timeout).
//! - *Questions*: [`view`](PeerPaths::view).

mod asking;
mod calling;
mod guessing;
mod liveness;
mod reason;
mod search;

pub use self::asking::Pong;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rand_chacha::ChaCha20Rng;
use rand_core::{Rng as _, SeedableRng as _};
use types::{Monotonic, NodePublicKey, PathKind, PathReason, RelayId};

use self::asking::Asked;
use self::calling::Calling;
use super::RETRY_MIN;
use super::guess::{Guess, Memory};
use super::own::OwnCandidates;
use super::table::Table;
use crate::endpoint::{Endpoint, SocketNumber};
use crate::probe::{Mapping, Probe, Transaction};

/// How many direct endpoints an initiation goes to, beside the relays.
const HANDSHAKE_ENDPOINTS_MAX: usize = 8;

/// What the peer's paths want done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PathAction {
    /// Send this probe there, inside the session.
    Probe(Endpoint, Probe),
    /// Data goes there from now on; `None` when nothing is known.
    Use(Option<Endpoint>),
    /// Initiations go there too from now on.
    Handshake(Vec<Endpoint>),
    /// The session may be gone at the other end: renew it.
    Renew,
    /// The relay may be gone: ask it.
    CheckRelay(RelayId),
    /// UDP as a whole may have stopped: ask every relay. Each end sends through the relay at which it finds the other.
    CheckRelays,
    /// A ping that somebody asked for was answered.
    Answered(Pong),
    /// The peer saw us at this address.
    Observed(SocketAddr),
    /// May ports be guessed now, with so many sockets besides the main one? [`PeerPaths::guess_answered`] is the answer.
    Guess(usize),
    /// That attempt is over; its sockets may still be open.
    GuessOver,
    /// These sockets are not needed any more.
    CloseSockets(Vec<SocketNumber>),
    /// Call the peer on our links; [`PeerPaths::called`] is the answer.
    Call,
    /// The view changed.
    Changed,
}

/// Why a peer's paths want to be woken.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum PathTimer {
    /// A candidate's next ping is due.
    Ping,
    /// A round is over: what did not answer will not.
    RoundEnd,
    /// The path in use is looked at: whether it works, or must be kept open.
    Liveness,
    /// A relay carries: try direct paths again.
    Retry,
    /// The next few ports are guessed, or an attempt at it is over.
    Guess,
    /// Nobody knows where the peer is: it is called on our links.
    Call,
}

/// What the tunnel knows of a peer's traffic.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Liveness {
    /// Where the last authentic datagram came from, and when.
    pub heard: Option<(Endpoint, Monotonic)>,
    /// When the last packet was sent to it.
    pub sent: Option<Monotonic>,
    /// When the last packet came from it; probes and keepalives are none.
    pub received: Option<Monotonic>,
    /// Whether a handshake waits for its answer, since somebody wants something of it.
    pub is_handshaking: bool,
}

/// How a peer is reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PathView {
    /// Where data goes; `None` when nothing is known.
    pub endpoint: Option<Endpoint>,
    /// Direct or relayed; `None` when it is not reached.
    pub kind: Option<PathKind>,
    /// Why so.
    pub reason: PathReason,
    /// The round trip of the last ping on it.
    pub rtt: Option<Duration>,
}

/// The paths to one peer.
pub struct PeerPaths {
    peer: NodePublicKey,
    rng: ChaCha20Rng,
    /// Relays at which both ends are.
    relays: Vec<RelayId>,
    /// Those of them that said that the peer is not there.
    absent: Vec<RelayId>,
    table: Table,
    own: Arc<OwnCandidates>,
    peer_mapping: Mapping,
    /// Where relays see the peer, by IPv4.
    peer_outer: Vec<SocketAddr>,
    guess: Guess,
    guesses: Memory,
    has_session: bool,
    /// Whether the peer ever sent a probe; before that it may be a plain WireGuard, and is where it was heard last.
    speaks_probes: bool,
    current: Option<Endpoint>,
    reason: PathReason,
    round_end: Option<Monotonic>,
    /// Whether a round has ended without a direct path since the last change.
    has_searched: bool,
    retry_due: Option<Monotonic>,
    retry_wait: Duration,
    liveness_due: Option<Monotonic>,
    /// Whether the path in use is looked at within a second.
    is_watched: bool,
    unanswered: u32,
    /// A ping through the relay that waits for its answer.
    relay_ping: Option<(Transaction, Monotonic)>,
    relay_rtt: Option<Duration>,
    /// Through which relay the peer answered last, and when.
    relay_heard: Option<(RelayId, Monotonic)>,
    asked: Asked,
    calling: Calling,
    actions: VecDeque<PathAction>,
    told: Option<PathView>,
}

impl PeerPaths {
    /// Makes the paths of a peer of which nothing is known yet. `seed` is 32 bytes that nothing else uses.
    #[must_use]
    pub fn new(peer: NodePublicKey, own: Arc<OwnCandidates>, seed: [u8; 32]) -> Self {
        Self {
            peer,
            rng: ChaCha20Rng::from_seed(seed),
            relays: Vec::new(),
            absent: Vec::new(),
            table: Table::default(),
            own,
            peer_mapping: Mapping::Unknown,
            peer_outer: Vec::new(),
            guess: Guess::Idle,
            guesses: Memory::default(),
            has_session: false,
            speaks_probes: false,
            current: None,
            reason: PathReason::NoCandidate,
            round_end: None,
            has_searched: false,
            retry_due: None,
            retry_wait: RETRY_MIN,
            liveness_due: None,
            is_watched: false,
            unanswered: 0,
            relay_ping: None,
            relay_rtt: None,
            relay_heard: None,
            asked: Asked::default(),
            calling: Calling::default(),
            actions: VecDeque::new(),
            told: None,
        }
    }

    /// Returns how the peer is reached.
    #[must_use]
    pub fn view(&self) -> PathView {
        let kind = self.current.filter(|_| self.has_session).map(|current| {
            if current.is_direct() {
                PathKind::Direct
            } else {
                PathKind::Relay
            }
        });
        PathView {
            endpoint: self.current,
            kind,
            reason: self.reason,
            rtt: self.current.and_then(|current| match current {
                Endpoint::Direct { .. } => self.table.proof(&current).map(|proof| proof.rtt),
                Endpoint::Relayed { .. } => self.relay_rtt,
            }),
        }
    }

    /// Takes the relays at which both this node and the peer are, best first.
    pub fn set_relays(&mut self, relays: Vec<RelayId>, now: Monotonic) {
        if relays == self.relays {
            return;
        }
        self.relays = relays;
        self.absent.clear();
        self.calling.begin_anew();
        let is_lost =
            matches!(self.current, Some(Endpoint::Relayed { relay, .. }) if !self.relays.contains(&relay));
        // Without a session a direct endpoint is a guess, and the first packets must not be spent on it.
        if is_lost || !self.has_session {
            self.fall_back(now);
        }
        self.update_handshake();
        self.update_reason(now);
    }

    /// Takes the addresses that the netmap names for the peer.
    pub fn set_named(&mut self, addresses: &[SocketAddr], now: Monotonic) {
        let named: Vec<_> = addresses.iter().copied().map(Endpoint::from).collect();
        if self.table.set_named(&named, self.current, now) && self.has_session && !self.is_direct() {
            self.start_round(now);
        }
        if self.current.is_none() {
            self.fall_back(now);
        }
        self.update_handshake();
        self.update_reason(now);
    }

    /// Takes whether there is a session.
    pub fn session(&mut self, is_up: bool, now: Monotonic) {
        if std::mem::replace(&mut self.has_session, is_up) == is_up {
            return;
        }
        if is_up {
            self.absent.clear();
            self.has_searched = false;
            self.start_round(now);
            self.watch(now);
        } else {
            self.stop();
            self.fall_back(now);
            self.close_sockets();
        }
        self.update_handshake();
        self.update_reason(now);
        self.send_asked(now);
    }

    /// The peer uses a session that it began, and its first packet came from `from`; `rtt` is how long after our answer, if
    /// that went to the same place. Such an answer is a question that only the peer could take up, so that `from` is proven.
    ///
    /// A peer that does not send by the path in use may have started anew, and then what goes there is lost.
    pub fn confirmed(&mut self, from: Endpoint, rtt: Option<Duration>, now: Monotonic) {
        let is_proven = rtt.is_some_and(|rtt| self.prove(from, rtt, now));
        let current = self
            .current
            .filter(|current| *current != from && current.is_direct());
        match current {
            Some(current) if is_proven => {
                self.table.doubt(current);
                self.choose_best(now);
            }
            Some(current) if from.is_direct() => self.doubt_in_use(current, now),
            Some(_) => {
                self.table.doubt_all();
                self.fall_back(now);
                self.start_round(now);
            }
            None if is_proven => self.choose_best(now),
            None => {}
        }
        self.update_reason(now);
    }

    /// The peer goes by another key from now on, also at the relays, and is where it was.
    pub fn renamed(&mut self, peer: NodePublicKey, now: Monotonic) {
        self.peer = peer;
        // Whether the new key is at a relay is not known yet.
        self.absent.clear();
        let current = self.current.map(|current| current.renamed(peer));
        if current != self.current {
            self.current = current;
            self.actions.push_back(PathAction::Use(current));
        }
        self.update_handshake();
        self.update_reason(now);
    }

    /// Tells whether the path in use is not watched, since nothing is sent, or nobody looks for a peer without a session:
    /// then [`wanted`](PeerPaths::wanted) comes before the next packet.
    #[must_use]
    pub fn is_resting(&self) -> bool {
        if self.has_session {
            self.speaks_probes && !self.is_watched
        } else {
            self.is_unsought()
        }
    }

    /// Somebody wants to send to a peer whose paths [rest](PeerPaths::is_resting). After a long rest NATs may have
    /// forgotten, so that the relay carries until a path answers.
    pub fn wanted(&mut self, now: Monotonic) {
        if !self.has_session {
            return self.seek_wanted(now);
        }
        let waits = [self.liveness_due, self.retry_due, self.round_end];
        if waits.iter().all(Option::is_none) {
            self.table.doubt_all();
            self.fall_back(now);
            self.start_round(now);
            self.update_reason(now);
        }
        self.watch(now);
    }

    /// Takes what we say of ourselves, when that changed; the peer is told.
    pub fn own_changed(&mut self, own: &Arc<OwnCandidates>, now: Monotonic) {
        self.own = own.clone();
        if self.has_session && !self.is_direct() {
            self.start_round(now);
        }
        self.update_reason(now);
    }

    /// We are in another network: nothing that was proven counts, and the relay carries.
    pub fn network_changed(&mut self, own: &Arc<OwnCandidates>, now: Monotonic) {
        self.own = own.clone();
        self.has_searched = false;
        self.table.doubt_all();
        self.calling.begin_anew();
        self.fall_back(now);
        self.close_sockets();
        self.guesses.forget();
        if self.has_session {
            self.start_round(now);
        }
        self.update_reason(now);
    }

    /// A relay says that the peer is not there: another one is used, if there is one.
    pub fn not_here(&mut self, relay: RelayId, now: Monotonic) {
        if self.absent.contains(&relay) || !self.relays.contains(&relay) {
            return;
        }
        self.absent.push(relay);
        if matches!(self.current, Some(Endpoint::Relayed { relay: current, .. }) if current == relay) {
            self.fall_back(now);
        }
        self.calling.begin_anew();
        self.seek(now);
        self.update_handshake();
        self.update_reason(now);
    }

    /// A relay stops soon: another one is used, if there is one.
    pub fn relay_leaves(&mut self, relay: RelayId, now: Monotonic) {
        let is_used =
            matches!(self.current, Some(Endpoint::Relayed { relay: current, .. }) if current == relay);
        if is_used && self.relayed() != self.current {
            self.fall_back(now);
            self.update_reason(now);
        }
    }

    /// An authentic datagram came from another endpoint than the one before. A peer that answers no probes cannot prove a
    /// path: it is followed as WireGuard would.
    pub fn heard(&mut self, from: Endpoint, now: Monotonic) {
        if !self.speaks_probes && self.current != Some(from) {
            self.current = Some(from);
            self.actions.push_back(PathAction::Use(Some(from)));
            self.update_reason(now);
        }
    }

    /// Takes a probe of the peer that came from `source`.
    pub fn handle_probe(&mut self, source: Endpoint, probe: Probe, now: Monotonic) {
        if !std::mem::replace(&mut self.speaks_probes, true) {
            self.watch(now);
        }
        if let Endpoint::Relayed { relay, .. } = source {
            self.absent.retain(|absent| *absent != relay);
        }
        match probe {
            Probe::Ping(transaction) => {
                let pong = Probe::Pong(transaction, source.remote());
                self.actions.push_back(PathAction::Probe(source, pong));
                if source.is_direct() {
                    let max = self.endpoints_max(source);
                    self.table.add_below(max, source, self.current, now);
                    self.table.trigger(source, now);
                    self.ping_due(now);
                }
            }
            Probe::Pong(transaction, seen) => self.on_pong(source, transaction, seen, now),
            Probe::Candidates(mapping, candidates) => {
                self.on_candidates(source, (mapping, &candidates), now);
                self.doubt_after_news(source, now);
            }
            Probe::GuessOffer => self.on_guess_offer(source, now),
            Probe::GuessLater(seconds) => self.on_guess_later(seconds, now),
        }
        self.update_reason(now);
    }

    /// Returns the next thing to do.
    pub fn poll_action(&mut self) -> Option<PathAction> {
        self.actions.pop_front()
    }

    /// Returns when [`PeerPaths::handle_timeout`] must be called next, and for which timer.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Monotonic, PathTimer)> {
        let ping = self.table.next_due().filter(|_| self.has_session);
        [
            (ping, PathTimer::Ping),
            (self.round_end, PathTimer::RoundEnd),
            (self.liveness_due, PathTimer::Liveness),
            (self.retry_due, PathTimer::Retry),
            (self.guess.due(), PathTimer::Guess),
            (self.calling.due(), PathTimer::Call),
        ]
        .into_iter()
        .filter_map(|(due, timer)| due.map(|due| (due, timer)))
        .min()
    }

    /// Acts on every timer that is due.
    pub fn handle_timeout(&mut self, liveness: Liveness, now: Monotonic) {
        let liveness = self.with_asked(liveness);
        let is_due = |due: Option<Monotonic>| due.is_some_and(|due| due <= now);
        self.ping_due(now);
        if is_due(self.round_end) {
            self.round_end = None;
            self.has_searched = true;
            self.table.end_round();
            self.schedule_retry(now);
            self.consider_guess(liveness, now);
        }
        if is_due(self.guess.due()) {
            self.guess_on(liveness, now);
        }
        if is_due(self.calling.due()) {
            self.call(liveness, now);
        }
        if is_due(self.liveness_due) {
            self.liveness_due = None;
            self.look(liveness, now);
        }
        if is_due(self.retry_due) {
            self.retry_due = None;
            self.retry(liveness, now);
        }
        self.update_reason(now);
    }

    /// Tells whether the peer answers probes, as far as we know: whoever is at a relay does, though the first ones of both ends
    /// may have been lost.
    fn may_speak_probes(&self) -> bool {
        self.speaks_probes || matches!(self.current, Some(Endpoint::Relayed { .. }))
    }

    fn is_direct(&self) -> bool {
        self.current.is_some_and(|current| current.is_direct())
    }

    fn relayed(&self) -> Option<Endpoint> {
        let is_there = |relay: &&RelayId| !self.absent.contains(relay);
        let relay = self.relays.iter().find(is_there).or(self.relays.first())?;
        Some(Endpoint::Relayed {
            relay: *relay,
            peer: self.peer,
        })
    }

    /// Tells whether every relay said that the peer is not there.
    fn is_absent(&self) -> bool {
        !self.relays.is_empty() && self.relays.iter().all(|relay| self.absent.contains(relay))
    }

    fn stop(&mut self) {
        self.table.end_round();
        self.round_end = None;
        self.retry_due = None;
        self.liveness_due = None;
        self.is_watched = false;
        self.unanswered = 0;
        self.relay_ping = None;
    }

    /// Sends data to a proven endpoint.
    fn choose(&mut self, endpoint: Endpoint, now: Monotonic) {
        if self.current == Some(endpoint) {
            return;
        }
        self.current = Some(endpoint);
        self.unanswered = 0;
        self.retry_due = None;
        self.retry_wait = RETRY_MIN;
        self.calling.begin_anew();
        self.watch(now);
        self.actions.push_back(PathAction::Use(Some(endpoint)));
        self.guess_met(now);
    }

    /// Sends data through the relay, or where the peer may be when there is none.
    fn fall_back(&mut self, now: Monotonic) {
        let direct = || {
            self.table
                .best(None, now)
                .or(self.current)
                .or_else(|| self.table.endpoints().next())
        };
        let next = self.relayed().or_else(direct);
        self.liveness_due = None;
        self.unanswered = 0;
        if next != self.current {
            self.current = next;
            self.actions.push_back(PathAction::Use(next));
        }
        if self.has_session {
            self.watch(now);
        }
        self.seek(now);
    }

    fn update_handshake(&mut self) {
        let mut endpoints: Vec<_> = self
            .relays
            .iter()
            .map(|relay| Endpoint::Relayed {
                relay: *relay,
                peer: self.peer,
            })
            .collect();
        endpoints.extend(self.table.endpoints().take(HANDSHAKE_ENDPOINTS_MAX));
        self.actions.push_back(PathAction::Handshake(endpoints));
    }

    fn draw(&mut self) -> Transaction {
        let mut transaction = [0; 12];
        self.rng.fill_bytes(&mut transaction);
        transaction
    }
}

impl std::fmt::Debug for PeerPaths {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PeerPaths")
            .field("peer", &self.peer)
            .field("view", &self.view())
            .finish_non_exhaustive()
    }
}
