//! When ports are guessed, by which end, and what becomes of the sockets.
//!
//! Only after a round in vain, only while something is said, and only when the NAT of exactly one end maps by destination:
//! with two of them there would be a port to guess at either end, and a billion pairs to try.

use std::net::SocketAddr;
use std::time::Duration;

use rand_core::Rng as _;
use types::{Monotonic, PathReason};

use super::super::guess::{Guess, Opening, Side, Trying, Turn};
use super::super::own::is_private;
use super::super::{ENDPOINTS_MAX, GUESS_DEMAND, GUESS_SETTLE, GUESS_SOCKETS, GUESSED_MAX};
use super::{Liveness, PathAction, PeerPaths};
use crate::endpoint::{Endpoint, SocketNumber};
use crate::probe::{Candidate, CandidateKind, Mapping, Probe};

impl PeerPaths {
    /// Takes the answer to [`PathAction::Guess`]: the sockets, or that there is no room for an attempt for so long.
    pub fn guess_answered(&mut self, sockets: Result<Vec<SocketNumber>, Duration>, now: Monotonic) {
        let asked = match self.guess {
            Guess::Asking(side) => Some(side),
            _ => None,
        };
        let attempt = match (&sockets, asked, self.peer_outer.first()) {
            (Ok(sockets), Some(Side::Opens), Some(remote)) => {
                Some(Guess::Opening(Opening::new(*remote, sockets.clone(), now)))
            }
            (Ok(_), Some(Side::Tries), Some(remote)) => {
                let start = self.rng.next_u32();
                let trying = Trying::new(remote.ip(), &self.peer_outer, start, now);
                Some(Guess::Trying(trying))
            }
            _ => None,
        };
        if asked.is_some() {
            self.guess = Guess::Idle;
        }
        match (attempt, sockets) {
            (Some(attempt), _) => {
                self.guess = attempt;
                self.guesses.start(now);
            }
            (None, Ok(sockets)) => {
                self.give_back(sockets);
                self.actions.push_back(PathAction::GuessOver);
            }
            (None, Err(wait)) => {
                self.guesses.put_off(wait, now);
                if asked == Some(Side::Tries) {
                    self.say_later(now);
                }
            }
        }
        self.update_reason(now);
    }

    /// A socket could not be opened, or is broken.
    pub fn socket_closed(&mut self, socket: SocketNumber, now: Monotonic) {
        match &mut self.guess {
            Guess::Opening(opening) => opening.sockets.retain(|open| *open != socket),
            Guess::Kept(sockets, _) => sockets.retain(|open| *open != socket),
            Guess::Idle | Guess::Asking(_) | Guess::Trying(_) => return,
        }
        self.table.remove_socket(socket);
        if self.current.and_then(|current| current.socket()) == Some(socket) {
            self.leave_socket();
            self.fall_back(now);
            self.reason = PathReason::PathLost;
            if self.has_session {
                self.start_round(now);
            }
        }
        self.update_reason(now);
    }

    /// How many endpoints there may be for this one to be added: what is met by guessing must not find the table full.
    pub(super) fn endpoints_max(&self, source: Endpoint) -> usize {
        let is_guessed = match &self.guess {
            Guess::Trying(_) => {
                let ip = self.peer_outer.first().map(SocketAddr::ip);
                ip == source.remote().map(|remote| remote.ip())
            }
            guess => source
                .socket()
                .is_some_and(|socket| guess.sockets().contains(&socket)),
        };
        if is_guessed {
            ENDPOINTS_MAX + GUESSED_MAX
        } else {
            ENDPOINTS_MAX
        }
    }

    /// Notes where relays see the peer. Private addresses are not guessed at: the peer could have our own network searched.
    pub(super) fn note_peer_outer(&mut self, candidates: &[Candidate]) {
        let outer = candidates
            .iter()
            .filter(|candidate| candidate.kind == CandidateKind::Reflexive)
            .map(|candidate| candidate.address)
            .filter(|address| address.is_ipv4() && !is_private(address.ip()));
        let outer: Vec<_> = outer.collect();
        let ip = |outer: &[SocketAddr]| outer.first().map(SocketAddr::ip);
        let has_moved = ip(&outer) != ip(&self.peer_outer) && !outer.is_empty();
        if has_moved && !self.peer_outer.is_empty() {
            self.guesses.forget();
        }
        if !outer.is_empty() {
            self.peer_outer = outer;
        }
    }

    /// A round is over: perhaps guessing helps.
    pub(super) fn consider_guess(&mut self, liveness: Liveness, now: Monotonic) {
        if self.is_direct() || matches!(self.guess, Guess::Opening(_) | Guess::Trying(_)) {
            return;
        }
        self.close_sockets();
        let last = liveness.sent.max(liveness.received);
        let is_wanted = last.is_some_and(|last| now.since(last) <= GUESS_DEMAND);
        let may = self.may_guess(Side::Opens) && self.guesses.wait(now).is_zero();
        if is_wanted && may {
            self.guess = Guess::Asking(Side::Opens);
            self.actions.push_back(PathAction::Guess(GUESS_SOCKETS));
        }
    }

    /// The peer's sockets are open. Only what it says through a relay counts: it is said while no other way is there.
    pub(super) fn on_guess_offer(&mut self, source: Endpoint, now: Monotonic) {
        let is_idle = matches!(self.guess, Guess::Idle);
        if source.is_direct() || self.is_direct() || !is_idle || !self.may_guess(Side::Tries) {
            return;
        }
        if self.guesses.wait(now).is_zero() {
            self.guess = Guess::Asking(Side::Tries);
            self.actions.push_back(PathAction::Guess(0));
        } else {
            self.say_later(now);
        }
    }

    pub(super) fn on_guess_later(&mut self, seconds: u16, now: Monotonic) {
        if matches!(self.guess, Guess::Opening(_)) {
            self.guesses.put_off(Duration::from_secs(seconds.into()), now);
            self.close_sockets();
        }
    }

    /// Does what is due of an attempt.
    pub(super) fn guess_on(&mut self, liveness: Liveness, now: Monotonic) {
        let turn = match &mut self.guess {
            Guess::Opening(opening) => opening.turn(now),
            Guess::Trying(trying) => trying.turn(now),
            Guess::Kept(..) => return self.settle(liveness),
            Guess::Idle | Guess::Asking(_) => return,
        };
        let Turn {
            pings,
            is_offer,
            is_over,
        } = turn;
        for endpoint in pings {
            let transaction = self.draw();
            self.actions
                .push_back(PathAction::Probe(endpoint, Probe::Ping(transaction)));
        }
        if let Some(relayed) = self.relayed().filter(|_| is_offer) {
            self.actions
                .push_back(PathAction::Probe(relayed, Probe::GuessOffer));
        }
        if is_over {
            self.guesses.failed(now);
            self.close_sockets();
        }
    }

    /// A direct path was chosen: the search ends, and what was heard on an extra socket stays open for now.
    pub(super) fn guess_met(&mut self, now: Monotonic) {
        if self.guess.is_under_way() {
            self.guesses.forget();
            self.actions.push_back(PathAction::GuessOver);
        }
        let (heard, silent): (Vec<_>, Vec<_>) = std::mem::take(&mut self.guess)
            .into_sockets()
            .into_iter()
            .partition(|socket| self.table.has_socket(*socket));
        self.give_back(silent);
        if !heard.is_empty() {
            self.guess = Guess::Kept(heard, Some(now + GUESS_SETTLE));
        }
    }

    /// Both ends have settled: what neither uses is closed.
    fn settle(&mut self, liveness: Liveness) {
        let heard = liveness.heard.and_then(|(from, _)| from.socket());
        let used = [self.current.and_then(|current| current.socket()), heard];
        let (kept, gone): (Vec<_>, Vec<_>) = std::mem::take(&mut self.guess)
            .into_sockets()
            .into_iter()
            .partition(|socket| used.contains(&Some(*socket)));
        self.give_back(gone);
        if !kept.is_empty() {
            self.guess = Guess::Kept(kept, None);
        }
    }

    /// Ends whatever is under way and closes every extra socket.
    pub(super) fn close_sockets(&mut self) {
        if self.guess.is_under_way() {
            self.actions.push_back(PathAction::GuessOver);
        }
        let sockets = std::mem::take(&mut self.guess).into_sockets();
        let current = self.current.and_then(|current| current.socket());
        if current.is_some_and(|current| sockets.contains(&current)) {
            self.leave_socket();
        }
        self.give_back(sockets);
    }

    /// The socket in use goes: without a relay the main one is as good a try as any.
    fn leave_socket(&mut self) {
        self.current = self
            .current
            .and_then(|current| current.remote())
            .map(Endpoint::from);
        self.actions.push_back(PathAction::Use(self.current));
    }

    fn give_back(&mut self, sockets: Vec<SocketNumber>) {
        for socket in &sockets {
            self.table.remove_socket(*socket);
        }
        if !sockets.is_empty() {
            self.actions.push_back(PathAction::CloseSockets(sockets));
        }
    }

    /// Tells whether this end has that side of an attempt.
    fn may_guess(&self, side: Side) -> bool {
        let (opens, tries) = match side {
            Side::Opens => (self.own.mapping(), self.peer_mapping),
            Side::Tries => (self.peer_mapping, self.own.mapping()),
        };
        let is_reachable = !self.peer_outer.is_empty();
        let can_answer = matches!(tries, Mapping::EndpointIndependent | Mapping::Unknown);
        self.has_session && is_reachable && opens == Mapping::EndpointDependent && can_answer
    }

    fn say_later(&mut self, now: Monotonic) {
        let wait = self.guesses.wait(now).as_secs() + 1;
        let seconds = u16::try_from(wait).unwrap_or(u16::MAX);
        if let Some(relayed) = self.relayed() {
            self.actions
                .push_back(PathAction::Probe(relayed, Probe::GuessLater(seconds)));
        }
    }
}
