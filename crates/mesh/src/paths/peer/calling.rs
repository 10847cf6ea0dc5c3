//! Calling the peer on our links, when nobody knows where it is: no relay leads to it and no direct path answers.
//!
//! Only when a peer is due is decided here, by what somebody wants of it; how many a node calls in all is `mesh`'s.

use std::time::Duration;

use types::Monotonic;

use super::super::{CALL_DEMAND, CALL_PATIENCE, CALL_WAIT_MAX, CALL_WAIT_MIN};
use super::{Liveness, PathAction, PeerPaths};
use crate::endpoint::Endpoint;

/// When the peer was called and is called next.
pub(super) struct Calling {
    due: Option<Monotonic>,
    last: Option<Monotonic>,
    /// How long after the last call the next one may be.
    wait: Duration,
    /// Whether somebody wanted something of a peer without a session, when that was looked at last.
    is_wanted: bool,
}

impl Default for Calling {
    fn default() -> Self {
        Self {
            due: None,
            last: None,
            wait: CALL_WAIT_MIN,
            is_wanted: false,
        }
    }
}

impl Calling {
    pub(super) fn due(&self) -> Option<Monotonic> {
        self.due
    }

    fn wait_longer(&mut self, now: Monotonic) {
        self.due = Some(now + self.wait);
        self.wait = (self.wait * 2).min(CALL_WAIT_MAX);
    }

    /// The peer is reached, or other relays are up or other neighbours are there than those who did not answer.
    pub(super) fn begin_anew(&mut self) {
        self.due = None;
        self.wait = CALL_WAIT_MIN;
    }
}

impl PeerPaths {
    /// Takes whether a [`PathAction::Call`] was made. It was not where there is no link to call on, or too many peers were
    /// called just now; then it is tried again a little later.
    pub fn called(&mut self, is_made: bool, now: Monotonic) {
        let calling = &mut self.calling;
        if !is_made {
            calling.due = Some(now + CALL_WAIT_MIN);
            return;
        }
        calling.last = Some(now);
        calling.wait_longer(now);
    }

    /// We are on a link, or on another one than before: whoever is wanted there is called without waiting.
    pub fn link_changed(&mut self, now: Monotonic) {
        self.calling.begin_anew();
        self.seek(now);
    }

    /// The peer answered an initiation of ours from `from`: is that a way to it? The answer proves nothing to us that we
    /// could not ask again inside the session, and a ping does.
    pub fn answered(&mut self, from: Endpoint, now: Monotonic) {
        if !from.is_direct() || self.table.proof(&from).is_some() {
            return;
        }
        self.table.add(from, self.current, now);
        self.table.trigger(from, now);
        self.ping_due(now);
    }

    /// Tells whether nobody looks yet where a peer without a session is.
    pub(super) fn is_unsought(&self) -> bool {
        !self.has_session && self.calling.due.is_none()
    }

    /// Somebody wants something of a peer without a session.
    pub(super) fn seek_wanted(&mut self, now: Monotonic) {
        self.calling.is_wanted = true;
        self.seek(now);
    }

    /// Has the peer called soon, if nothing leads to it by then. Of those without a session only such as are wanted: there may
    /// be thousands.
    pub(super) fn seek(&mut self, now: Monotonic) {
        let is_sought = if self.has_session {
            self.is_out_of_reach()
        } else {
            self.calling.is_wanted
        };
        let calling = &mut self.calling;
        if is_sought && calling.due.is_none() {
            let earliest = calling.last.map(|last| last + calling.wait);
            calling.due = earliest.max(Some(now + CALL_PATIENCE));
        }
    }

    /// Calls the peer, if somebody wants something of it and nothing leads to it. Where a relay should and no session comes,
    /// it is asked whether it is still there.
    pub(super) fn call(&mut self, liveness: Liveness, now: Monotonic) {
        self.calling.due = None;
        let sent = liveness.sent.filter(|_| self.has_session);
        let is_wanted = liveness.is_handshaking || sent.is_some_and(|sent| now.since(sent) <= CALL_DEMAND);
        self.calling.is_wanted = is_wanted;
        if !is_wanted {
            return;
        }
        if self.is_out_of_reach() {
            self.actions.push_back(PathAction::Call);
        } else if !self.has_session {
            let relays = self.relays.iter().filter(|relay| !self.absent.contains(relay));
            self.actions
                .extend(relays.map(|relay| PathAction::CheckRelay(*relay)));
            self.calling.wait_longer(now);
        }
    }

    /// Tells whether no relay leads to the peer, as far as we know, and no direct path is proven.
    fn is_out_of_reach(&self) -> bool {
        let has_relay = !self.relays.is_empty() && !self.is_absent();
        let is_proven = self
            .current
            .is_some_and(|current| self.table.proof(&current).is_some());
        let is_met = self.has_session && is_proven;
        !has_relay && !is_met
    }
}
