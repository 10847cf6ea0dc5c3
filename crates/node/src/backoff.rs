//! How long to wait before the next attempt: exponential with full jitter. Pure: the seed decides everything.

use std::time::Duration;

/// The wait before the second attempt is at most this.
pub const FIRST: Duration = Duration::from_millis(250);

/// No wait is longer than this.
pub const LONGEST: Duration = Duration::from_secs(30);

/// A run of failed attempts.
#[derive(Clone, Debug)]
pub struct Backoff {
    failures: u32,
    state: u64,
}

impl Backoff {
    /// Starts without failures; equal seeds give equal waits.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            failures: 0,
            state: seed,
        }
    }

    /// Returns the wait after one more failure: between half of and the whole of the current step, so that thousands
    /// of nodes that lost one server do not come back in one instant.
    pub fn after_failure(&mut self) -> Duration {
        let step = FIRST.saturating_mul(1 << self.failures.min(16)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        let half = step / 2;
        let spread = u64::try_from(half.as_millis()).unwrap_or(u64::MAX).max(1);
        half + Duration::from_millis(self.draw() % (spread + 1))
    }

    /// Forgets the failures.
    pub fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// SplitMix64: small, well spread, and no secret is made of it.
    fn draw(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_stay_within_their_step() {
        for seed in 0..50 {
            let mut backoff = Backoff::new(seed);
            let mut step = FIRST;
            for _ in 0..40 {
                let wait = backoff.after_failure();
                assert!(wait >= step / 2 && wait <= step, "{wait:?} outside {step:?}");
                step = (step * 2).min(LONGEST);
            }
        }
    }

    #[test]
    fn the_seed_decides_and_seeds_differ() {
        let waits = |seed| {
            let mut backoff = Backoff::new(seed);
            (0..8).map(|_| backoff.after_failure()).collect::<Vec<_>>()
        };
        assert_eq!(waits(1), waits(1));
        assert_ne!(waits(1), waits(2));
    }

    #[test]
    fn success_starts_over() {
        let mut backoff = Backoff::new(7);
        for _ in 0..10 {
            backoff.after_failure();
        }
        backoff.succeeded();
        assert!(backoff.after_failure() <= FIRST);
    }
}
