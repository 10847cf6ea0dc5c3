//! Token buckets per key, in a bounded table: who asks too often waits.
//!
//! A bucket starts full, loses one token per request and regains them evenly. It reads no clock.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use types::Monotonic;

use crate::app::RateLimit;

/// The most buckets of one table; the fullest ones are forgotten first, which costs their owners nothing.
const BUCKETS_MAX: usize = 16_384;

/// How many requests at once, and how long until one more is allowed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Quota {
    /// How many at once.
    pub(crate) burst: u32,
    /// How long one token takes to grow.
    pub(crate) every: Duration,
}

/// Buckets of one kind.
#[derive(Debug)]
pub(crate) struct Buckets {
    quota: Quota,
    /// When each bucket will be full again.
    full_at: Mutex<BTreeMap<String, Monotonic>>,
}

impl Buckets {
    /// No request yet.
    pub(crate) fn new(quota: Quota) -> Self {
        Self {
            quota,
            full_at: Mutex::default(),
        }
    }

    /// Takes a token; `Err` when none is left.
    pub(crate) fn take(&self, key: &str, now: Monotonic) -> Result<RateLimit, RateLimit> {
        let mut table = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        let missing = table.get(key).map_or(Duration::ZERO, |full| full.since(now));
        let after = missing + self.quota.every;
        if after > self.quota.every * self.quota.burst {
            return Err(self.standing(missing));
        }
        if table.len() >= BUCKETS_MAX && !table.contains_key(key) {
            make_room(&mut table, now);
        }
        table.insert(key.to_owned(), now + after);
        Ok(self.standing(after))
    }

    /// Tells how a bucket stands without taking a token; `Err` when none is left.
    pub(crate) fn look(&self, key: &str, now: Monotonic) -> Result<RateLimit, RateLimit> {
        let table = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        let missing = table.get(key).map_or(Duration::ZERO, |full| full.since(now));
        if missing + self.quota.every > self.quota.every * self.quota.burst {
            Err(self.standing(missing))
        } else {
            Ok(self.standing(missing))
        }
    }

    /// Tells how a bucket stands, whether a token is left or not.
    pub(crate) fn show(&self, key: &str, now: Monotonic) -> RateLimit {
        self.look(key, now).unwrap_or_else(|empty| empty)
    }

    fn standing(&self, missing: Duration) -> RateLimit {
        let every = self.quota.every.as_millis().max(1);
        let used = u32::try_from(missing.as_millis().div_ceil(every)).unwrap_or(u32::MAX);
        let remaining = self.quota.burst.saturating_sub(used);
        let whole = self.quota.every * (self.quota.burst - 1);
        RateLimit {
            limit: self.quota.burst,
            remaining,
            reset: if remaining == 0 {
                missing.saturating_sub(whole)
            } else {
                missing
            },
        }
    }
}

/// Forgets full buckets, and when there are none the half that is nearest to it.
fn make_room(table: &mut BTreeMap<String, Monotonic>, now: Monotonic) {
    table.retain(|_, full| *full > now);
    if table.len() < BUCKETS_MAX {
        return;
    }
    let mut times: Vec<Monotonic> = table.values().copied().collect();
    times.sort_unstable();
    let median = times[times.len() / 2];
    table.retain(|_, full| *full > median);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Monotonic {
        Monotonic::from_start(Duration::from_secs(seconds))
    }

    fn buckets() -> Buckets {
        Buckets::new(Quota {
            burst: 3,
            every: Duration::from_secs(2),
        })
    }

    #[test]
    fn a_burst_is_allowed_and_then_one_at_a_time() {
        let buckets = buckets();
        for left in [2, 1, 0] {
            assert_eq!(buckets.take("a", at(10)).expect("allowed").remaining, left);
        }
        let refused = buckets.take("a", at(10)).expect_err("empty");
        assert_eq!((refused.remaining, refused.reset), (0, Duration::from_secs(2)));
        assert!(buckets.look("a", at(11)).is_err());
        assert!(buckets.take("b", at(10)).is_ok());
        assert!(buckets.take("a", at(12)).is_ok());
        assert!(buckets.take("a", at(12)).is_err());
        assert_eq!(buckets.take("a", at(100)).expect("full again").remaining, 2);
    }

    #[test]
    fn the_table_is_bounded() {
        let buckets = buckets();
        for n in 0..BUCKETS_MAX + 100 {
            assert!(buckets.take(&n.to_string(), at(10)).is_ok());
        }
        let table = buckets.full_at.lock().expect("not poisoned");
        assert!(table.len() <= BUCKETS_MAX);
    }
}
