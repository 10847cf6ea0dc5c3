//! What a client has to tell its relay of who is shut out: a few at a time, each until the relay says that it knows.

use std::collections::VecDeque;
use std::time::Duration;

use types::{Monotonic, SignedRelayExpulsion};

use super::super::sealed::{ExpulsionEcho, Message};

/// How many are on their way at once.
const AT_ONCE: usize = 8;

/// How many wait; beyond it the oldest is given up.
const WAITING_MAX: usize = 1024;

/// How long a client waits for the relay to say that it knows; doubled each time.
const TIMEOUT: Duration = Duration::from_millis(500);

/// How often that is doubled: up to 32 s.
const DOUBLINGS_MAX: u32 = 6;

/// How often they are sent without any answer, which takes some six minutes: then no ticket is good any more that they
/// void. A relay of an earlier version never answers; one that others keep busy does not now.
const ATTEMPTS_MAX: u32 = 16;

/// The expulsions of one session that the relay has not confirmed.
#[derive(Default)]
pub(super) struct Handover {
    /// Those on their way first.
    waiting: VecDeque<SignedRelayExpulsion>,
    sent_count: usize,
    sent_at: Monotonic,
    attempts: u32,
}

impl Handover {
    /// Takes one more, and returns what is to be sent now.
    pub(super) fn add(&mut self, expulsion: SignedRelayExpulsion, now: Monotonic) -> Vec<Message> {
        if self.waiting.contains(&expulsion) {
            return Vec::new();
        }
        if self.waiting.len() >= WAITING_MAX {
            self.waiting.pop_front();
            self.sent_count = self.sent_count.saturating_sub(1);
        }
        self.waiting.push_back(expulsion);
        self.send_more(now)
    }

    /// The relay knows of one; returns what is to be sent now.
    pub(super) fn confirmed(&mut self, echo: ExpulsionEcho, now: Monotonic) -> Vec<Message> {
        let sent = self.waiting.iter().take(self.sent_count);
        let Some(index) = sent.map(ExpulsionEcho::of).position(|sent| sent == echo) else {
            return Vec::new();
        };
        self.waiting.remove(index);
        self.sent_count -= 1;
        self.attempts = 0;
        self.send_more(now)
    }

    /// Returns when those on their way are sent again, or given up.
    pub(super) fn due(&self) -> Option<Monotonic> {
        let wait = TIMEOUT * 2_u32.pow(self.attempts.min(DOUBLINGS_MAX));
        (self.sent_count > 0).then(|| self.sent_at + wait)
    }

    /// Nothing came in time; returns what is to be sent again.
    pub(super) fn handle_timeout(&mut self, now: Monotonic) -> Vec<Message> {
        self.attempts += 1;
        if self.attempts >= ATTEMPTS_MAX {
            *self = Self::default();
        }
        self.sent_count = 0;
        self.send_more(now)
    }

    fn send_more(&mut self, now: Monotonic) -> Vec<Message> {
        let until = AT_ONCE.min(self.waiting.len());
        let more = self.waiting.range(self.sent_count.min(until)..until);
        let more: Vec<_> = more.copied().map(Message::Expel).collect();
        if !more.is_empty() {
            self.sent_at = now;
        }
        self.sent_count = until;
        more
    }
}

#[cfg(test)]
mod tests {
    use types::relay::RELAY_EXPULSION_LEN;

    use super::*;

    fn expulsion(number: u16) -> SignedRelayExpulsion {
        let mut bytes = [0; RELAY_EXPULSION_LEN];
        bytes[56..58].copy_from_slice(&number.to_le_bytes());
        SignedRelayExpulsion::from_bytes(bytes)
    }

    fn at(ms: u64) -> Monotonic {
        Monotonic::from_start(Duration::from_millis(ms))
    }

    #[test]
    fn a_few_are_on_their_way_and_each_answer_makes_room_for_the_next() {
        let mut handover = Handover::default();
        let sent: usize = (0..20)
            .map(|number| handover.add(expulsion(number), at(0)).len())
            .sum();
        assert_eq!(sent, AT_ONCE);
        assert!(
            handover.add(expulsion(3), at(0)).is_empty(),
            "it is waiting already"
        );
        let echo = ExpulsionEcho::of(&expulsion(3));
        assert_eq!(handover.confirmed(echo, at(1)), [Message::Expel(expulsion(8))]);
        assert!(handover.confirmed(echo, at(1)).is_empty());
        let not_sent = ExpulsionEcho::of(&expulsion(15));
        assert!(handover.confirmed(not_sent, at(1)).is_empty());
        for number in (0..20).filter(|number| *number != 3) {
            handover.confirmed(ExpulsionEcho::of(&expulsion(number)), at(2));
        }
        assert_eq!(handover.due(), None);
    }

    #[test]
    fn without_an_answer_they_are_sent_for_six_minutes_and_given_up() {
        let mut handover = Handover::default();
        handover.add(expulsion(1), at(0));
        let mut due = Vec::new();
        while let Some(next) = handover.due() {
            due.push(next.since_start().as_millis());
            let again = handover.handle_timeout(next);
            assert_eq!(again.len(), usize::from(due.len() < 16));
        }
        assert_eq!(due[..6], [500, 1500, 3500, 7500, 15_500, 31_500]);
        assert_eq!(due[15], 351_500);
    }

    #[test]
    fn the_oldest_of_too_many_are_given_up() {
        let mut handover = Handover::default();
        for number in 0..2000 {
            handover.add(expulsion(number), at(0));
        }
        assert_eq!(handover.waiting.len(), WAITING_MAX);
        assert_eq!(handover.waiting.back(), Some(&expulsion(1999)));
        assert!(handover.due().is_some());
    }
}
