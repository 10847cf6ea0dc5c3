//! Whether the path in use still works: asked only when something is sent and nothing comes back.

use std::time::Duration;

use types::{Monotonic, PathReason, RelayId};

use super::super::{
    ANSWER_TIMEOUT, ANSWER_TIMEOUT_MAX, KEEP_OPEN, KEEP_OPEN_FOR, RELAY_SILENCE_MAX, SENDING_FOR,
    SILENCE_MAX, UNANSWERED_MAX,
};
use super::{Liveness, PathAction, PeerPaths};
use crate::endpoint::Endpoint;

impl PeerPaths {
    /// Looks at the path in use soon, and goes on while something is sent.
    pub(super) fn watch(&mut self, now: Monotonic) {
        let wait = if self.is_direct() {
            SILENCE_MAX
        } else {
            self.relay_silence_max()
        };
        self.is_watched = true;
        self.liveness_due = Some(now + wait);
    }

    /// How long the path in use has to answer a question.
    fn answer_timeout(&self) -> Duration {
        at_least_the_rtt(ANSWER_TIMEOUT, self.view().rtt)
    }

    /// How long nothing may come through a relay while we send.
    fn relay_silence_max(&self) -> Duration {
        at_least_the_rtt(RELAY_SILENCE_MAX, self.relay_rtt)
    }

    /// Looks whether the path in use still works.
    pub(super) fn look(&mut self, liveness: Liveness, now: Monotonic) {
        self.is_watched = false;
        if !self.may_speak_probes() {
            return;
        }
        match self.current {
            Some(Endpoint::Relayed { relay, .. }) => self.look_at_relay(relay, liveness, now),
            Some(current) => self.look_at_direct(current, liveness, now),
            None => {}
        }
    }

    /// When we send through a relay and hear nothing, either the relay is gone or the peer, or the relay still sends to where
    /// the peer is no more: both are asked, and when the peer does not answer through this relay, another one carries.
    pub(super) fn look_at_relay(&mut self, relay: RelayId, liveness: Liveness, now: Monotonic) {
        // What came another way says nothing of this one.
        let heard = liveness.heard.filter(|(from, _)| Some(*from) == self.current);
        let answered = self.relay_heard.filter(|(through, _)| *through == relay);
        let heard = heard.map(|(_, at)| at).max(answered.map(|(_, at)| at));
        let is_silent = heard.is_none_or(|heard| now.since(heard) >= self.relay_silence_max());
        let is_sending = liveness.sent.is_some_and(|sent| now.since(sent) <= SENDING_FOR);
        if is_sending {
            self.watch(now);
        }
        if !is_sending || !is_silent {
            self.unanswered = 0;
            return;
        }
        self.actions.push_back(match self.unanswered {
            1 => PathAction::CheckRelays,
            _ => PathAction::CheckRelay(relay),
        });
        if self.unanswered >= UNANSWERED_MAX {
            if self.relays.len() > 1 {
                self.pass_over(relay, now);
            }
            // A peer that started anew is there, has forgotten the session, and says nothing to what is sealed with it.
            self.actions.push_back(PathAction::Renew);
        }
        self.unanswered += 1;
        if let Some(current) = self.current {
            self.ping_relayed(current, now);
        }
    }

    /// The peer is not met at this relay: another one carries until it is.
    fn pass_over(&mut self, relay: RelayId, now: Monotonic) {
        if !self.absent.contains(&relay) {
            self.absent.push(relay);
        }
        if self.relays.iter().all(|relay| self.absent.contains(relay)) {
            // It may be at any of them again.
            self.absent.retain(|absent| *absent == relay);
        }
        self.fall_back(now);
        self.update_handshake();
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
        let is_sending = liveness.sent.is_some_and(|sent| now.since(sent) <= SENDING_FOR);
        // A question is answered by what is heard after it.
        let silence_max = if self.unanswered == 0 {
            SILENCE_MAX
        } else {
            self.answer_timeout()
        };
        if is_sending && silence < silence_max {
            self.unanswered = 0;
            self.watch(proven.unwrap_or(now));
        } else if is_sending || self.unanswered > 0 || (silence >= KEEP_OPEN && idle < KEEP_OPEN_FOR) {
            self.question(current, now);
        } else if idle < KEEP_OPEN_FOR {
            self.liveness_due = proven.map(|at| at + KEEP_OPEN);
        } else {
            // Whoever wants to send next starts again, by way of the relay.
            self.stop();
        }
    }

    /// A peer that tells through a relay where it is does not use the direct path any more: perhaps it has moved, and then
    /// waiting for silence would cost a second.
    pub(super) fn doubt_after_news(&mut self, source: Endpoint, now: Monotonic) {
        if let Some(current) = self
            .current
            .filter(|current| current.is_direct() && !source.is_direct())
        {
            self.doubt_in_use(current, now);
        }
    }

    /// Asks the path in use whether it works, unless it is being asked.
    pub(super) fn doubt_in_use(&mut self, current: Endpoint, now: Monotonic) {
        if self.unanswered == 0 {
            self.question(current, now);
        }
    }

    /// Asks the path in use whether it works, or gives it up; the sooner when another one works.
    pub(super) fn question(&mut self, current: Endpoint, now: Monotonic) {
        if self.unanswered > 0 && self.table.is_outlived(current, now) {
            self.table.doubt(current);
            self.choose_best(now);
            return;
        }
        if self.unanswered < UNANSWERED_MAX {
            // What silenced the path may have silenced UDP as a whole: then relays are to be reached another way by the time
            // at which they carry.
            if self.unanswered == 1 {
                self.actions.push_back(PathAction::CheckRelays);
            }
            self.unanswered += 1;
            self.is_watched = true;
            self.liveness_due = Some(now + self.answer_timeout());
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

/// Whoever is far away, behind a satellite say, cannot answer sooner than a round trip takes.
fn at_least_the_rtt(wait: Duration, rtt: Option<Duration>) -> Duration {
    rtt.map_or(wait, |rtt| rtt.clamp(wait, ANSWER_TIMEOUT_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_trip_is_waited_for_up_to_a_limit() {
        let ms = Duration::from_millis;
        assert_eq!(at_least_the_rtt(ANSWER_TIMEOUT, None), ANSWER_TIMEOUT);
        let cases = [(0, 300), (299, 300), (301, 301), (1500, 1500), (1501, 1500)];
        for (rtt, wait) in cases {
            assert_eq!(
                at_least_the_rtt(ANSWER_TIMEOUT, Some(ms(rtt))),
                ms(wait),
                "{rtt} ms"
            );
        }
    }
}
