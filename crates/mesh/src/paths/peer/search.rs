//! The search for a direct path: rounds of pings to everything the peer may be at, and what their answers prove.

use std::net::SocketAddr;
use std::time::Duration;

use types::Monotonic;

use super::super::table::Proof;
use super::super::{KEEP_OPEN_FOR, RETRY_MAX, RETRY_MIN, ROUND};
use super::{Liveness, PathAction, PeerPaths};
use crate::endpoint::{Endpoint, SocketNumber};
use crate::probe::{Candidate, Mapping, Probe, Transaction};

impl PeerPaths {
    pub(super) fn start_round(&mut self, now: Monotonic) {
        self.table.start_round(now);
        self.round_end = Some(now + ROUND);
        self.retry_due = None;
        self.announce(now);
        self.ping_due(now);
    }

    /// Tells the peer where we may be reached, on every way that may reach it.
    pub(super) fn announce(&mut self, now: Monotonic) {
        let say = Probe::Candidates(self.own.mapping(), self.own.candidates().to_vec());
        if let Some(current) = self.current {
            self.actions.push_back(PathAction::Probe(current, say));
        }
        if let Some(relayed) = self.relayed() {
            self.ping_relayed(relayed, now);
        }
    }

    pub(super) fn ping_relayed(&mut self, relayed: Endpoint, now: Monotonic) {
        let transaction = self.draw();
        self.relay_ping = Some((transaction, now));
        self.actions
            .push_back(PathAction::Probe(relayed, Probe::Ping(transaction)));
    }

    pub(super) fn ping_due(&mut self, now: Monotonic) {
        if !self.has_session {
            return;
        }
        while let Some(endpoint) = self.table.take_due(now) {
            self.ping(endpoint, now);
        }
    }

    pub(super) fn ping(&mut self, endpoint: Endpoint, now: Monotonic) {
        let transaction = self.draw();
        self.table.pinged(endpoint, transaction, now);
        self.actions
            .push_back(PathAction::Probe(endpoint, Probe::Ping(transaction)));
    }

    pub(super) fn on_pong(
        &mut self,
        source: Endpoint,
        transaction: Transaction,
        seen: Option<SocketAddr>,
        now: Monotonic,
    ) {
        self.take_asked(source, transaction, now);
        if let Endpoint::Relayed { relay, .. } = source {
            self.relay_heard = Some((relay, now));
            if let Some((_, sent)) = self.relay_ping.filter(|(id, _)| *id == transaction) {
                self.relay_ping = None;
                self.relay_rtt = Some(now.since(sent));
            }
            return;
        }
        if self.table.answered(source, &transaction, now).is_none() {
            return;
        }
        if let Some(seen) = seen.filter(|_| is_main(source)) {
            self.actions.push_back(PathAction::Observed(seen));
        }
        if self.current == Some(source) {
            self.unanswered = 0;
        }
        self.choose_best(now);
    }

    pub(super) fn choose_best(&mut self, now: Monotonic) {
        if let Some(best) = self.table.best(self.current.filter(Endpoint::is_direct), now) {
            self.choose(best, now);
        }
    }

    /// Takes an answer to a question that was no ping; tells whether it proves a direct endpoint.
    pub(super) fn prove(&mut self, from: Endpoint, rtt: Duration, now: Monotonic) -> bool {
        if !from.is_direct() {
            return false;
        }
        self.table.add(from, self.current, now);
        self.table.prove(from, Proof { at: now, rtt })
    }

    pub(super) fn on_candidates(
        &mut self,
        source: Endpoint,
        (mapping, candidates): (Mapping, &[Candidate]),
        now: Monotonic,
    ) {
        self.peer_mapping = mapping;
        self.note_peer_outer(candidates);
        let mut has_new = self.has_moved(source, candidates);
        if has_new {
            self.table.doubt_all();
            self.fall_back(now);
        }
        for candidate in candidates {
            // Nobody else can name what our loopback reaches.
            if !candidate.address.ip().is_loopback() {
                has_new |= self.table.add(candidate.address.into(), self.current, now);
            }
        }
        let is_searching = self.round_end.is_some();
        if !self.is_direct() && (has_new || !is_searching) {
            self.table.start_round(now);
            self.round_end = Some(now + ROUND);
            self.retry_due = None;
            if !is_searching {
                self.announce(now);
            }
            self.ping_due(now);
        }
    }

    /// Tells whether the peer says through the relay that it is not where we send to: it is in another network, and what
    /// goes there is lost.
    fn has_moved(&self, source: Endpoint, candidates: &[Candidate]) -> bool {
        // A NAT that maps by destination shows us another address than it can name.
        let names_all = self.peer_mapping != Mapping::EndpointDependent;
        let current = self.current.and_then(|current| current.remote());
        let is_named = |current| candidates.iter().any(|candidate| candidate.address == current);
        names_all && !source.is_direct() && current.is_some_and(|current| !is_named(current))
    }

    pub(super) fn schedule_retry(&mut self, now: Monotonic) {
        if self.has_session && self.may_speak_probes() && !self.is_direct() {
            self.retry_due = Some(now + self.retry_wait);
            self.retry_wait = (self.retry_wait * 2).min(RETRY_MAX);
        }
    }

    pub(super) fn retry(&mut self, liveness: Liveness, now: Monotonic) {
        let last = liveness.sent.max(liveness.received);
        // Two idle nodes need no direct path; `wanted` wakes this up.
        if last.is_some_and(|last| now.since(last) < KEEP_OPEN_FOR) {
            self.start_round(now);
        } else {
            self.retry_wait = RETRY_MIN;
        }
    }
}

fn is_main(endpoint: Endpoint) -> bool {
    matches!(
        endpoint,
        Endpoint::Direct {
            socket: SocketNumber::MAIN,
            ..
        }
    )
}
