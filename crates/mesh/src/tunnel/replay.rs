//! The replay window of a session: which counters were seen (RFC 6479's ring of words).

/// How far behind the greatest counter a datagram may come; batches reorder by hundreds.
pub(crate) const WINDOW: u64 = 8192;

const WORD_BITS: u64 = 64;
/// One word more than the window needs: the newest word is only partly in use.
const WORDS: u64 = WINDOW / WORD_BITS + 1;

/// Which counters of a session were accepted.
#[derive(Debug)]
pub(crate) struct ReplayWindow {
    /// One more than the greatest counter accepted.
    next: u64,
    words: [u64; WORDS as usize],
}

impl Default for ReplayWindow {
    fn default() -> Self {
        Self {
            next: 0,
            words: [0; WORDS as usize],
        }
    }
}

impl ReplayWindow {
    /// Tells whether `counter` may still be accepted.
    pub(crate) fn is_fresh(&self, counter: u64) -> bool {
        if counter >= self.next {
            return true;
        }
        self.next - counter <= WINDOW && self.words[slot(counter)] & bit(counter) == 0
    }

    /// Accepts `counter`, whose datagram was authentic; tells whether it was fresh.
    pub(crate) fn accept(&mut self, counter: u64) -> bool {
        if !self.is_fresh(counter) {
            return false;
        }
        if counter >= self.next {
            self.clear_up_to(counter);
            self.next = counter + 1;
        }
        self.words[slot(counter)] |= bit(counter);
        true
    }

    /// Empties the words between the greatest counter so far and `counter`.
    fn clear_up_to(&mut self, counter: u64) {
        let newest = self.next.checked_sub(1).map_or(0, |last| last / WORD_BITS);
        let word = counter / WORD_BITS;
        let steps = (word - newest).min(WORDS);
        for step in 0..steps {
            self.words[((word - step) % WORDS) as usize] = 0;
        }
    }
}

fn slot(counter: u64) -> usize {
    (counter / WORD_BITS % WORDS) as usize
}

fn bit(counter: u64) -> u64 {
    1 << (counter % WORD_BITS)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_counter_is_accepted_once() {
        let mut window = ReplayWindow::default();
        assert!(window.accept(0));
        assert!(!window.accept(0));
        assert!(window.accept(WINDOW));
        assert!(window.accept(1));
        assert!(!window.accept(1));
    }

    #[test]
    fn the_window_is_as_wide_as_it_says() {
        let mut window = ReplayWindow::default();
        assert!(window.accept(20_000));
        assert!(window.accept(20_001 - WINDOW));
        assert!(!window.accept(20_000 - WINDOW));
    }

    #[test]
    fn a_leap_forgets_everything_before() {
        let mut window = ReplayWindow::default();
        for counter in 0..100 {
            assert!(window.accept(counter));
        }
        let far = u64::MAX - 2;
        assert!(window.accept(far));
        assert!(!window.accept(99));
        assert!(window.accept(far - 100));
        assert!(!window.accept(far - 100));
    }

    proptest! {
        #[test]
        fn the_window_agrees_with_a_set_of_all_counters(steps in prop::collection::vec((0_u64..4, 0_u64..9000), 1..400)) {
            let mut window = ReplayWindow::default();
            let mut seen = BTreeSet::new();
            let mut greatest = 0_u64;
            for (kind, distance) in steps {
                let counter = match kind {
                    0 => greatest + distance,
                    1 => greatest + distance % 70,
                    2 => greatest.saturating_sub(distance),
                    _ => greatest.saturating_sub(distance % 70),
                };
                let behind = !seen.is_empty() && counter + WINDOW <= greatest;
                let expected = !behind && !seen.contains(&counter);
                prop_assert_eq!(window.is_fresh(counter), expected);
                prop_assert_eq!(window.accept(counter), expected);
                if expected {
                    seen.insert(counter);
                    greatest = greatest.max(counter);
                }
            }
        }
    }
}
