//! Whether the path in use still works: asked only when something is sent and nothing comes back.

use std::time::Duration;

use types::{Monotonic, PathReason, RelayId};

use super::super::{
    ANSWER_TIMEOUT, KEEP_OPEN, KEEP_OPEN_FOR, RELAY_SILENCE_MAX, SILENCE_MAX, UNANSWERED_MAX,
};
use super::{Liveness, PathAction, PeerPaths};
use crate::endpoint::Endpoint;

impl PeerPaths {
    /// Looks at the path in use soon, and goes on while something is sent.
    pub(super) fn watch(&mut self, now: Monotonic) {
        let wait = if self.is_direct() {
            SILENCE_MAX
        } else {
            RELAY_SILENCE_MAX
        };
        self.is_watched = true;
        self.liveness_due = Some(now + wait);
    }

    /// Looks whether the path in use still works.
    pub(super) fn look(&mut self, liveness: Liveness, now: Monotonic) {
        self.is_watched = false;
        if !self.speaks_probes {
            return;
        }
        match self.current {
            Some(Endpoint::Relayed { relay, .. }) => self.look_at_relay(relay, liveness, now),
            Some(current) => self.look_at_direct(current, liveness, now),
            None => {}
        }
    }

    /// When we send through a relay and hear nothing, either the relay is gone or the peer: both are asked.
    pub(super) fn look_at_relay(&mut self, relay: RelayId, liveness: Liveness, now: Monotonic) {
        // What came another way says nothing of this one.
        let heard = liveness.heard.filter(|(from, _)| Some(*from) == self.current);
        let heard = heard.map(|(_, at)| at).max(self.relay_heard);
        let is_silent = heard.is_none_or(|heard| now.since(heard) >= RELAY_SILENCE_MAX);
        let is_sending = liveness
            .sent
            .is_some_and(|sent| now.since(sent) <= 2 * SILENCE_MAX);
        if is_sending && is_silent {
            self.actions.push_back(PathAction::CheckRelay(relay));
            if let Some(relayed) = self.relayed() {
                self.ping_relayed(relayed, now);
            }
        }
        if is_sending {
            self.watch(now);
        }
    }

    pub(super) fn look_at_direct(&mut self, current: Endpoint, liveness: Liveness, now: Monotonic) {
        let heard = liveness.heard.filter(|(from, _)| *from == current);
        if let Some((_, at)) = heard {
            self.table.refresh(current, at);
        }
        let proven = self.table.proof(&current).map(|proof| proof.at);
        let silence = proven.map_or(Duration::MAX, |at| now.since(at));
        let last = liveness.sent.max(liveness.received);
        let idle = last.map_or(Duration::MAX, |last| now.since(last));
        let is_sending = liveness
            .sent
            .is_some_and(|sent| now.since(sent) <= 2 * SILENCE_MAX);
        if is_sending && silence < SILENCE_MAX {
            self.unanswered = 0;
            self.watch(now);
        } else if is_sending || self.unanswered > 0 || (silence >= KEEP_OPEN && idle < KEEP_OPEN_FOR) {
            self.question(current, now);
        } else if idle < KEEP_OPEN_FOR {
            self.liveness_due = proven.map(|at| at + KEEP_OPEN);
        } else {
            // Whoever wants to send next starts again, by way of the relay.
            self.stop();
        }
    }

    /// Asks the path in use whether it works, or gives it up.
    pub(super) fn question(&mut self, current: Endpoint, now: Monotonic) {
        if self.unanswered < UNANSWERED_MAX {
            self.unanswered += 1;
            self.is_watched = true;
            self.liveness_due = Some(now + ANSWER_TIMEOUT);
            self.ping(current, now);
            return;
        }
        self.table.doubt(current);
        self.fall_back(now);
        self.reason = PathReason::PathLost;
        self.start_round(now);
        if !self.relays.is_empty() {
            return;
        }
        self.actions.push_back(PathAction::Renew);
    }
}
