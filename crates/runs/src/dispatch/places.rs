//! Which runs a device may be offered now: as many as it has places for, in the order of its queue.
//!
//! A device says how many runs it takes at a time (`protocol::ToOrchestrator::Hello`). Then nothing is offered that it
//! would refuse as busy, and the end of a run on it is what frees a place. It may still refuse: its owner lowered the
//! limit, its disk is full. Then the whole queue waits with the refused run, and that run alone is offered again.

use types::Timestamp;

use super::{OFFERS_OPEN_MAX, RunState};

/// The places of one device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Places {
    /// How many runs it takes at a time; `None` when it did not say.
    pub max: Option<u32>,
    /// How many it has taken that are not over.
    pub held: u64,
    /// How many it was offered and did not answer.
    pub offered: u64,
}

impl Places {
    /// Returns how many more runs the device may be offered at most, [`OFFERS_OPEN_MAX`] or fewer.
    #[must_use]
    pub fn free(&self) -> usize {
        let taken = self.held.saturating_add(self.offered);
        let places = self.max.map(|max| u64::from(max).saturating_sub(taken));
        let offers = (OFFERS_OPEN_MAX as u64).saturating_sub(self.offered);
        usize::try_from(places.map_or(offers, |places| places.min(offers))).unwrap_or(OFFERS_OPEN_MAX)
    }

    /// Returns how many runs from the head of the queue may be offered; `queue` is in order and without runs that wait for
    /// another of their thread.
    pub fn to_offer<'a>(&self, queue: impl IntoIterator<Item = &'a RunState>, now: Timestamp) -> usize {
        let mut queue = queue.into_iter().peekable();
        let after_refusal = queue.peek().is_some_and(|head| head.refusals > 0);
        let room = match after_refusal {
            // One answer tells whether the refusal still holds.
            true => self.free().min(usize::from(self.offered == 0)),
            false => self.free(),
        };
        queue.take(room).take_while(|run| run.offer_at <= now).count()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn now() -> Timestamp {
        Timestamp::from_unix_ms(1_000_000)
    }

    fn run(refusals: u32, wait_s: u64) -> RunState {
        let day = Duration::from_secs(86_400);
        RunState {
            refusals,
            offer_at: now() + Duration::from_secs(wait_s),
            ..RunState::queued(now(), now() + day)
        }
    }

    fn places(max: Option<u32>, held: u64, offered: u64) -> Places {
        Places { max, held, offered }
    }

    #[test]
    fn a_device_is_offered_what_it_has_places_for() {
        let queue = vec![run(0, 0); 20];
        for (max, held, offered, expected) in [
            (Some(1), 0, 0, 1),
            (Some(1), 1, 0, 0),
            (Some(1), 0, 1, 0),
            (Some(3), 1, 1, 1),
            (Some(2), 5, 0, 0),
            (Some(64), 0, 0, OFFERS_OPEN_MAX),
            (Some(64), 60, 0, 4),
            (None, 0, 0, OFFERS_OPEN_MAX),
            (None, 50, 3, OFFERS_OPEN_MAX - 3),
            (None, 0, 99, 0),
        ] {
            let places = places(max, held, offered);
            assert_eq!(places.to_offer(&queue, now()), expected, "{places:?}");
        }
        assert_eq!(places(None, 0, 0).to_offer(&queue[..2], now()), 2);
        assert_eq!(places(None, 0, 0).to_offer([], now()), 0);
    }

    #[test]
    fn nothing_passes_a_refused_run_and_it_is_offered_alone() {
        let free = places(None, 0, 0);
        let waiting = [run(1, 2), run(0, 0), run(0, 0)];
        assert_eq!(free.to_offer(&waiting, now()), 0, "the queue waits with its head");
        assert_eq!(free.to_offer(&waiting, now() + Duration::from_secs(2)), 1);
        let second = [run(0, 0), run(1, 2), run(0, 0)];
        assert_eq!(free.to_offer(&second, now()), 1, "nor past one further back");
        assert_eq!(places(None, 0, 1).to_offer(&[run(1, 0)], now()), 0);
    }
}
