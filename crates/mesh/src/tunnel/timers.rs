//! Every timer of a peer, by name, and when each is due.
//!
//! The constants are those of the WireGuard paper, section 6.1. Nothing here acts: `Tunnel` does, when a timer fires.

use std::time::Duration;

use types::Monotonic;

/// A session older than this is renewed by its initiator as soon as there is something to send.
pub const REKEY_AFTER_TIME: Duration = Duration::from_secs(120);
/// A session older than this neither seals nor opens anything.
pub const REJECT_AFTER_TIME: Duration = Duration::from_secs(180);
/// How long a peer tries to get an answer to its handshake before it gives up.
pub const REKEY_ATTEMPT_TIME: Duration = Duration::from_secs(90);
/// How long a peer waits for the answer to one handshake message.
pub const REKEY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a peer that receives data may stay silent.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest random addition to [`REKEY_TIMEOUT`], which keeps two ends from colliding for ever.
pub const JITTER_MAX: Duration = Duration::from_millis(333);
/// A session is renewed after this many messages one way.
pub const REKEY_AFTER_MESSAGES: u64 = 1 << 60;
/// A session ends after this many messages one way.
pub const REJECT_AFTER_MESSAGES: u64 = u64::MAX - (1 << 13);

/// What a peer waits for; `poll_timeout` names the one that is due first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Timer {
    /// A handshake message has had no answer for 5 s and up to 333 ms: send another, or give up after 90 s of trying.
    RetransmitHandshake,
    /// Data has been received for 10 s and nothing sent: send an empty packet, so that the peer knows that we are there.
    PassiveKeepalive,
    /// Data has been sent for 15 s and up to 333 ms and nothing received: the peer may be gone; start a handshake.
    Unanswered,
    /// The peer's `persistent_keepalive` has passed without traffic: send an empty packet, so that NATs remember us.
    PersistentKeepalive,
    /// The newest session is 180 s old and was not renewed: it is down.
    SessionExpiry,
    /// No new session for 540 s: erase every key of the peer's sessions.
    EraseKeys,
}

impl Timer {
    /// Every timer, in the order in which they fire when due together.
    pub const ALL: [Self; 6] = [
        Self::RetransmitHandshake,
        Self::PassiveKeepalive,
        Self::Unanswered,
        Self::PersistentKeepalive,
        Self::SessionExpiry,
        Self::EraseKeys,
    ];
}

/// When each timer of one peer is due.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    due: [Option<Monotonic>; Timer::ALL.len()],
}

impl Timers {
    /// Arms a timer, or moves it.
    pub(crate) fn arm(&mut self, timer: Timer, due: Monotonic) {
        self.due[timer as usize] = Some(due);
    }

    /// Arms a timer unless it is armed already.
    pub(crate) fn arm_if_idle(&mut self, timer: Timer, due: Monotonic) {
        self.due[timer as usize].get_or_insert(due);
    }

    /// Disarms a timer.
    pub(crate) fn disarm(&mut self, timer: Timer) {
        self.due[timer as usize] = None;
    }

    /// Tells whether a timer is armed.
    pub(crate) fn is_armed(&self, timer: Timer) -> bool {
        self.due[timer as usize].is_some()
    }

    /// Returns the timer that is due first.
    pub(crate) fn earliest(&self) -> Option<(Monotonic, Timer)> {
        let armed = Timer::ALL.into_iter().zip(self.due);
        armed.filter_map(|(timer, due)| due.map(|due| (due, timer))).min()
    }

    /// Disarms and returns the first timer that is due at `now`.
    pub(crate) fn take_due(&mut self, now: Monotonic) -> Option<Timer> {
        let (due, timer) = self.earliest()?;
        (due <= now).then(|| {
            self.disarm(timer);
            timer
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> Monotonic {
        Monotonic::from_start(Duration::from_secs(secs))
    }

    #[test]
    fn the_list_of_timers_is_in_the_order_of_the_enum() {
        for (index, timer) in Timer::ALL.into_iter().enumerate() {
            assert_eq!(timer as usize, index);
        }
    }

    #[test]
    fn the_earliest_timer_is_named() {
        let mut timers = Timers::default();
        assert_eq!(timers.earliest(), None);
        timers.arm(Timer::EraseKeys, at(540));
        timers.arm(Timer::PassiveKeepalive, at(10));
        assert_eq!(timers.earliest(), Some((at(10), Timer::PassiveKeepalive)));
        timers.arm_if_idle(Timer::PassiveKeepalive, at(5));
        assert_eq!(timers.earliest(), Some((at(10), Timer::PassiveKeepalive)));
        timers.arm(Timer::PassiveKeepalive, at(20));
        assert_eq!(timers.earliest(), Some((at(20), Timer::PassiveKeepalive)));
        timers.disarm(Timer::PassiveKeepalive);
        assert_eq!(timers.earliest(), Some((at(540), Timer::EraseKeys)));
    }

    #[test]
    fn a_due_timer_fires_once() {
        let mut timers = Timers::default();
        timers.arm(Timer::Unanswered, at(15));
        assert_eq!(timers.take_due(at(14)), None);
        assert!(timers.is_armed(Timer::Unanswered));
        assert_eq!(timers.take_due(at(15)), Some(Timer::Unanswered));
        assert_eq!(timers.take_due(at(99)), None);
    }
}
