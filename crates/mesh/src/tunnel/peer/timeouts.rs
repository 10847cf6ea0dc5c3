//! What a peer does when one of its timers fires.

use types::Now;

use super::Peer;
use crate::tunnel::counters::DropReason;
use crate::tunnel::shared::Shared;
use crate::tunnel::timers::{KEEPALIVE_TIMEOUT, REJECT_AFTER_TIME, REKEY_ATTEMPT_TIME, Timer};
use crate::tunnel::{DownReason, TunnelEvent};

impl Peer {
    /// Acts on every timer that is due.
    pub(crate) fn handle_timeout(&mut self, shared: &mut Shared, now: Now) {
        while let Some(timer) = self.timers.take_due(now.mono) {
            self.fire(timer, shared, now);
        }
    }

    /// Acts on one timer. Whatever is armed here is due later than now, so that the loop above ends.
    fn fire(&mut self, timer: Timer, shared: &mut Shared, now: Now) {
        match timer {
            Timer::RetransmitHandshake => self.retransmit(shared, now),
            Timer::PassiveKeepalive => {
                let owes_another = std::mem::take(&mut self.owes_another_keepalive);
                self.send_keepalive(shared, now);
                if owes_another {
                    self.timers
                        .arm(Timer::PassiveKeepalive, now.mono + KEEPALIVE_TIMEOUT);
                }
            }
            Timer::Unanswered => self.start_handshake(shared, now),
            Timer::PersistentKeepalive => {
                self.send_keepalive(shared, now);
                // Nothing is sent while a handshake is under way, and what the timer is for goes on after that.
                if let Some(span) = self.persistent_keepalive {
                    self.timers
                        .arm_if_idle(Timer::PersistentKeepalive, now.mono + span);
                }
            }
            Timer::SessionExpiry => self.expire(shared, now),
            Timer::EraseKeys => shared.free_indices(self.sessions.erase()),
        }
    }

    fn expire(&mut self, shared: &mut Shared, now: Now) {
        shared.free_indices(self.sessions.erase_expired(now.mono));
        match &self.sessions.current {
            Some(current) => self
                .timers
                .arm(Timer::SessionExpiry, current.created + REJECT_AFTER_TIME),
            None => self.set_down(DownReason::Expired, shared),
        }
    }

    fn retransmit(&mut self, shared: &mut Shared, now: Now) {
        let started = self.handshakes.started();
        if started.is_none_or(|started| now.mono.since(started) < REKEY_ATTEMPT_TIME) {
            // The peer may know us by the other one of our keys.
            let is_unanswered = started.is_some() && shared.has_other_key();
            self.handshakes.speaks_as_other ^= is_unanswered;
            self.send_initiation(shared, now);
            return;
        }
        shared.free_indices(self.handshakes.cancel());
        shared
            .counters
            .drop_many(DropReason::QueueAbandoned, self.queue.clear());
        shared.event(TunnelEvent::HandshakeFailed { peer: self.key });
    }
}
