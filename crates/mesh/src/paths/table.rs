//! The direct endpoints of one peer: which were asked, which answered, and which is best.

use std::collections::BTreeMap;
use std::time::Duration;

use types::Monotonic;

use super::own::is_private;
use super::{ENDPOINTS_MAX, PING_DELAYS, PROOF_LIFETIME};
use crate::endpoint::{Endpoint, SocketNumber};
use crate::probe::Transaction;

/// How many of an endpoint's last pings may still be answered.
const PINGS_REMEMBERED: usize = 4;

/// How soon after a ping or an answer an endpoint is not asked again because of the peer's own ping.
const TRIGGER_GAP: Duration = Duration::from_millis(150);

/// How long an endpoint that is neither named nor heard keeps its place when others need it: whoever names ever more is
/// followed to [`ENDPOINTS_MAX`] of them in this time.
const STALE_AFTER: Duration = Duration::from_secs(20);

/// By how much another path must be faster to be worth a change: a fifth and a millisecond.
fn is_much_faster(rtt: Duration, than: Duration) -> bool {
    rtt + Duration::from_millis(1) < than.mul_f64(0.8)
}

/// An endpoint that answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Proof {
    pub(super) at: Monotonic,
    pub(super) rtt: Duration,
}

struct Entry {
    pings: [Option<(Transaction, Monotonic)>; PINGS_REMEMBERED],
    /// How many pings of this round went out.
    sent: usize,
    last_ping: Option<Monotonic>,
    /// When the next ping of this round is due.
    due: Option<Monotonic>,
    proof: Option<Proof>,
    /// Whether the peer still names it, or it proved itself.
    is_named: bool,
    /// When it was named or heard last.
    news: Monotonic,
}

#[derive(Default)]
pub(super) struct Table(BTreeMap<Endpoint, Entry>);

impl Table {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn endpoints(&self) -> impl Iterator<Item = Endpoint> + '_ {
        self.0.keys().copied()
    }

    /// Takes what the peer names now; what it does not name any more goes, but for what is in use or proved itself lately.
    /// Tells whether there is anything new.
    pub(super) fn set_named(&mut self, named: &[Endpoint], used: Option<Endpoint>, now: Monotonic) -> bool {
        for entry in self.0.values_mut() {
            entry.is_named = false;
        }
        let mut has_new = false;
        for endpoint in named {
            has_new |= self.add(*endpoint, used, now);
        }
        self.0
            .retain(|endpoint, entry| entry.is_named || entry.is_proven(now) || used == Some(*endpoint));
        has_new
    }

    /// Adds an endpoint; tells whether it is new. Beyond the limit it takes the place of a stale one, if there is one.
    pub(super) fn add(&mut self, endpoint: Endpoint, used: Option<Endpoint>, now: Monotonic) -> bool {
        self.add_below(ENDPOINTS_MAX, endpoint, used, now)
    }

    /// Adds an endpoint while there are fewer than `max`.
    pub(super) fn add_below(
        &mut self,
        max: usize,
        endpoint: Endpoint,
        used: Option<Endpoint>,
        now: Monotonic,
    ) -> bool {
        if let Some(entry) = self.0.get_mut(&endpoint) {
            entry.is_named = true;
            entry.news = now;
            return false;
        }
        if self.0.len() >= max && !self.remove_stale(used, now) {
            return false;
        }
        self.0.insert(endpoint, Entry::new(now));
        true
    }

    /// Makes room: a peer that often moves leaves behind what it was. Tells whether there was anything to remove.
    fn remove_stale(&mut self, used: Option<Endpoint>, now: Monotonic) -> bool {
        let is_stale = |(endpoint, entry): &(&Endpoint, &Entry)| {
            now.since(entry.news) >= STALE_AFTER && !entry.is_proven(now) && used != Some(**endpoint)
        };
        let oldest = self.0.iter().filter(is_stale).min_by_key(|(_, entry)| entry.news);
        let oldest = oldest.map(|(endpoint, _)| *endpoint);
        oldest.is_some_and(|oldest| self.0.remove(&oldest).is_some())
    }

    /// Forgets every endpoint of a socket.
    pub(super) fn remove_socket(&mut self, gone: SocketNumber) {
        self.0.retain(|endpoint, _| endpoint.socket() != Some(gone));
    }

    /// Tells whether anything was heard on a socket: nothing else brings one of the extra ones in here.
    pub(super) fn has_socket(&self, socket: SocketNumber) -> bool {
        self.0.keys().any(|endpoint| endpoint.socket() == Some(socket))
    }

    /// Asks every endpoint anew, from now on.
    pub(super) fn start_round(&mut self, now: Monotonic) {
        for entry in self.0.values_mut() {
            entry.restart(now);
        }
    }

    pub(super) fn end_round(&mut self) {
        for entry in self.0.values_mut() {
            entry.due = None;
        }
    }

    /// Asks one endpoint at once, unless it answered or was asked just before: a Ping that answers a Ping must not go on
    /// for ever.
    pub(super) fn trigger(&mut self, endpoint: Endpoint, now: Monotonic) {
        if let Some(entry) = self.0.get_mut(&endpoint)
            && entry.proof.is_none_or(|proof| now.since(proof.at) > TRIGGER_GAP)
            && entry.last_ping.is_none_or(|last| now.since(last) > TRIGGER_GAP)
        {
            entry.restart(now);
        }
    }

    pub(super) fn next_due(&self) -> Option<Monotonic> {
        self.0.values().filter_map(|entry| entry.due).min()
    }

    /// Returns an endpoint whose ping is due, and has it wait for the next.
    pub(super) fn take_due(&mut self, now: Monotonic) -> Option<Endpoint> {
        let due = |entry: &Entry| entry.due.is_some_and(|due| due <= now);
        let (endpoint, entry) = self.0.iter_mut().find(|(_, entry)| due(entry))?;
        let delay = PING_DELAYS.get(entry.sent + 1);
        entry.due = delay.map(|delay| now + *delay);
        Some(*endpoint)
    }

    /// Notes a ping that goes out.
    pub(super) fn pinged(&mut self, endpoint: Endpoint, transaction: Transaction, now: Monotonic) {
        if let Some(entry) = self.0.get_mut(&endpoint) {
            entry.pings.rotate_right(1);
            entry.pings[0] = Some((transaction, now));
            entry.last_ping = Some(now);
            entry.sent += 1;
        }
    }

    /// Takes an answer; only one that came from where the question went is a proof.
    pub(super) fn answered(
        &mut self,
        endpoint: Endpoint,
        transaction: &Transaction,
        now: Monotonic,
    ) -> Option<Proof> {
        let entry = self.0.get_mut(&endpoint)?;
        let mut pings = entry.pings.iter_mut();
        let ping = pings.find(|ping| matches!(ping, Some((id, _)) if id == transaction))?;
        let (_, sent) = ping.take()?;
        let proof = Proof {
            at: now,
            rtt: now.since(sent),
        };
        entry.due = None;
        entry.proof = Some(proof);
        Some(proof)
    }

    /// Takes an answer to a question that was no ping; `false` when the endpoint found no room.
    pub(super) fn prove(&mut self, endpoint: Endpoint, proof: Proof) -> bool {
        let entry = self.0.get_mut(&endpoint);
        entry.map(|entry| entry.proof = Some(proof)).is_some()
    }

    /// Counts what was heard from an endpoint that had answered before as another answer.
    pub(super) fn refresh(&mut self, endpoint: Endpoint, heard: Monotonic) {
        if let Some(proof) = self.0.get_mut(&endpoint).and_then(|entry| entry.proof.as_mut()) {
            proof.at = proof.at.max(heard);
        }
    }

    /// Forgets that an endpoint answered.
    pub(super) fn doubt(&mut self, endpoint: Endpoint) {
        if let Some(entry) = self.0.get_mut(&endpoint) {
            entry.proof = None;
        }
    }

    pub(super) fn doubt_all(&mut self) {
        for entry in self.0.values_mut() {
            entry.proof = None;
        }
    }

    pub(super) fn proof(&self, endpoint: &Endpoint) -> Option<Proof> {
        self.0.get(endpoint)?.proof
    }

    /// Tells whether another endpoint answered lately, and after this one was heard last.
    pub(super) fn is_outlived(&self, endpoint: Endpoint, now: Monotonic) -> bool {
        let heard = self.proof(&endpoint).map(|proof| proof.at);
        let others = self.0.iter().filter(|(other, _)| **other != endpoint);
        let mut proven = others.filter(|(_, entry)| entry.is_proven(now));
        proven.any(|(_, entry)| entry.proof.map(|proof| proof.at) > heard)
    }

    /// Returns the best endpoint that proved itself lately: a private address before others, then the fastest; what is in
    /// use stays unless another is much better.
    pub(super) fn best(&self, current: Option<Endpoint>, now: Monotonic) -> Option<Endpoint> {
        let proven = self.0.iter().filter(|(_, entry)| entry.is_proven(now));
        let ranked = proven.filter_map(|(endpoint, entry)| {
            let is_far = !endpoint.remote().is_some_and(|remote| is_private(remote.ip()));
            Some(((is_far, entry.proof?.rtt), *endpoint))
        });
        let (rank, best) = ranked.min()?;
        let current = current.and_then(|current| {
            let entry = self.0.get(&current).filter(|entry| entry.is_proven(now))?;
            let is_far = !current.remote().is_some_and(|remote| is_private(remote.ip()));
            Some((current, (is_far, entry.proof?.rtt)))
        });
        match current {
            Some((current, (is_far, rtt))) if rank.0 == is_far && !is_much_faster(rank.1, rtt) => {
                Some(current)
            }
            _ => Some(best),
        }
    }
}

impl Entry {
    fn new(now: Monotonic) -> Self {
        Self {
            news: now,
            pings: [None; PINGS_REMEMBERED],
            sent: 0,
            last_ping: None,
            due: None,
            proof: None,
            is_named: true,
        }
    }

    fn restart(&mut self, now: Monotonic) {
        self.sent = 0;
        self.due = Some(now);
    }

    fn is_proven(&self, now: Monotonic) -> bool {
        self.proof
            .is_some_and(|proof| now.since(proof.at) <= PROOF_LIFETIME)
    }
}
