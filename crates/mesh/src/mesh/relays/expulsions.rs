//! Who is shut out, as the control plane has told us: kept for relays that do not know yet, as long as it can matter.

use std::collections::VecDeque;
use std::time::Duration;

use types::relay::{RELAY_CLOCK_SKEW_MAX, RELAY_TICKET_LIFETIME};
use types::{Monotonic, SignedRelayExpulsion};

/// How many are kept; the oldest of more goes.
const KEPT_MAX: usize = 1024;

/// For how long one can matter, whatever our wall clock says: the life of a ticket, and of two clocks that disagree.
const KEPT_FOR: Duration = RELAY_TICKET_LIFETIME.saturating_add(RELAY_CLOCK_SKEW_MAX.saturating_mul(2));

/// Expulsions with the time from which on they are of no use, oldest first.
#[derive(Default)]
pub(super) struct Expulsions(VecDeque<(Monotonic, SignedRelayExpulsion)>);

impl Expulsions {
    /// Takes one; tells whether it is new.
    pub(super) fn add(&mut self, expulsion: SignedRelayExpulsion, now: Monotonic) -> bool {
        self.0.retain(|(until, _)| *until > now);
        if self.0.iter().any(|(_, known)| *known == expulsion) {
            return false;
        }
        if self.0.len() >= KEPT_MAX {
            self.0.pop_front();
        }
        self.0.push_back((now + KEPT_FOR, expulsion));
        true
    }

    /// Returns those that may be of use still.
    pub(super) fn live(&self, now: Monotonic) -> impl Iterator<Item = SignedRelayExpulsion> + '_ {
        let live = self.0.iter().filter(move |(until, _)| *until > now);
        live.map(|(_, expulsion)| *expulsion)
    }
}

#[cfg(test)]
mod tests {
    use types::relay::RELAY_EXPULSION_LEN;

    use super::*;

    fn expulsion(number: u16) -> SignedRelayExpulsion {
        let mut bytes = [0; RELAY_EXPULSION_LEN];
        bytes[..2].copy_from_slice(&number.to_le_bytes());
        SignedRelayExpulsion::from_bytes(bytes)
    }

    #[test]
    fn each_is_taken_once_and_kept_for_seven_minutes() {
        let mut kept = Expulsions::default();
        assert!(kept.add(expulsion(0), Monotonic::ZERO));
        assert!(!kept.add(expulsion(0), Monotonic::ZERO));
        let end = Monotonic::from_start(Duration::from_secs(420));
        let just_before = Monotonic::from_start(Duration::from_millis(419_999));
        assert_eq!(kept.live(just_before).count(), 1);
        assert_eq!(kept.live(end).count(), 0);
        assert!(kept.add(expulsion(1), end));
        assert_eq!(kept.0.len(), 1);
    }

    #[test]
    fn the_oldest_of_too_many_goes() {
        let mut kept = Expulsions::default();
        for number in 0..=KEPT_MAX as u16 {
            assert!(kept.add(expulsion(number), Monotonic::ZERO));
        }
        let live: Vec<_> = kept.live(Monotonic::ZERO).collect();
        assert_eq!((live.len(), live[0]), (KEPT_MAX, expulsion(1)));
    }
}
