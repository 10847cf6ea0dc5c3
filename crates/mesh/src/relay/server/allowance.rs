//! An allowance that is used up and fills again with time.

use types::Monotonic;

/// So many units at once, and so many a second.
#[derive(Clone, Copy)]
pub(super) struct Allowance {
    burst: u64,
    per_second: u64,
    left: u64,
    filled: Monotonic,
}

impl Allowance {
    /// Makes one of which nothing is used yet.
    pub(super) const fn full(burst: u64, per_second: u64) -> Self {
        Self {
            burst,
            per_second,
            left: burst,
            filled: Monotonic::ZERO,
        }
    }

    /// Takes as much of `units` as there is, in whole steps (the last may be shorter); returns how much.
    pub(super) fn take(&mut self, units: usize, step: usize, now: Monotonic) -> usize {
        self.fill(now);
        let left = usize::try_from(self.left).unwrap_or(usize::MAX);
        let taken = if units <= left {
            units
        } else {
            left - left % step.max(1)
        };
        self.left -= taken as u64;
        taken
    }

    /// Tells whether nothing is left of it.
    pub(super) fn is_used_up(&mut self, now: Monotonic) -> bool {
        self.fill(now);
        self.left == 0
    }

    /// Tells whether nothing of it is used.
    pub(super) fn is_full(&mut self, now: Monotonic) -> bool {
        self.fill(now);
        self.left == self.burst
    }

    fn fill(&mut self, now: Monotonic) {
        // All that came with one look at the clock.
        if now == self.filled {
            return;
        }
        let nanos = now.since(self.filled).as_nanos();
        let earned = nanos * u128::from(self.per_second) / 1_000_000_000;
        // Below one unit nothing is earned yet, and the time must not be forgotten.
        if earned > 0 {
            let earned = u64::try_from(earned).unwrap_or(u64::MAX);
            self.left = self.left.saturating_add(earned).min(self.burst);
            self.filled = now;
        }
    }
}
