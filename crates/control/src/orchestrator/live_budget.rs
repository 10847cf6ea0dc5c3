//! How many live frames one session may show in a second. They are never stored, so what comes on top is dropped.

use std::time::Duration;

use types::Monotonic;

const SECOND: Duration = Duration::from_secs(1);

/// The most frames in one second; a sidecar joins deltas to about thirty per run.
const FRAMES_MAX: u32 = 400;

/// The most bytes in one second.
const BYTES_MAX: usize = 2 * 1024 * 1024;

#[derive(Debug, Default)]
pub(super) struct LiveBudget {
    since: Option<Monotonic>,
    frames: u32,
    bytes: usize,
}

impl LiveBudget {
    /// Tells whether a frame may be shown, and counts it.
    pub(super) fn take(&mut self, bytes: usize, now: Monotonic) -> bool {
        if self.since.is_none_or(|since| now.since(since) >= SECOND) {
            *self = Self {
                since: Some(now),
                ..Self::default()
            };
        }
        self.frames += 1;
        self.bytes += bytes;
        self.frames <= FRAMES_MAX && self.bytes <= BYTES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_and_the_next_second_is_free_again() {
        let mut budget = LiveBudget::default();
        let now = Monotonic::default();
        let shown = (0..10_000).filter(|_| budget.take(10, now)).count();
        assert_eq!(shown, FRAMES_MAX as usize);
        assert!(budget.take(10, now + SECOND));
        assert!(!budget.take(BYTES_MAX, now + SECOND));
    }
}
