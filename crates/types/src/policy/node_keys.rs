//! What a policy says of the keys of the org's nodes.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::PolicyError;
use crate::keys::NodePublicKey;
use crate::span::Span;
use crate::time::Timestamp;

/// How long a key is taken after another one took its place, when the policy does not say: longer than a device that
/// crashed takes to come back, and no longer than somebody should profit who has stolen it.
pub const OVERLAP: Duration = Duration::from_secs(10 * 60);

/// The shortest life of a key that a policy may ask for, and the longest.
const LIFE_MIN: Duration = Duration::from_secs(60);
const LIFE_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// The longest overlap that a policy may ask for.
const OVERLAP_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// What a policy says of the keys of the org's nodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct NodeKeyRules {
    /// How long a key lives; for ever when absent. From a minute to ten years.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expire_after: Option<Span>,
    /// How long a key is taken after another one took its place; ten minutes when absent. At most a day, and a third of a
    /// key's life.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlap: Option<Span>,
}

impl NodeKeyRules {
    /// Returns how long a key is taken after another one took its place.
    #[must_use]
    pub fn overlap(&self) -> Duration {
        let most = self.last_third().unwrap_or(OVERLAP_MAX);
        self.overlap.map_or(OVERLAP.min(most), Span::duration)
    }

    /// Returns when a key expires that is made now; `None` when it does not.
    #[must_use]
    pub fn expiry_of_new(&self, now: Timestamp) -> Option<Timestamp> {
        self.expire_after.map(|life| now + life.duration())
    }

    /// Returns the earliest time at which a key may expire that was made earlier: when the rules change, and when somebody
    /// has approved a device anew, there is a third of a life left to change it.
    #[must_use]
    pub fn earliest_expiry(&self, now: Timestamp) -> Option<Timestamp> {
        self.last_third().map(|third| now + third)
    }

    /// Returns when a node should change the key that expires at `expires_at`: when two thirds of its life are over, and up to
    /// a twelfth later, so that nodes that were linked together do not change theirs together.
    #[must_use]
    pub fn rotate_at(&self, expires_at: Timestamp, key: &NodePublicKey) -> Timestamp {
        let third = self.last_third().unwrap_or_default();
        // A public key is as good as random, and the same at every look.
        let drawn = u16::from_le_bytes([key.as_bytes()[0], key.as_bytes()[1]]);
        expires_at - third + third / 4 * u32::from(drawn) / u32::from(u16::MAX)
    }

    /// A third of a key's life: the last one, in which it is changed.
    fn last_third(&self) -> Option<Duration> {
        self.expire_after.map(|life| life.duration() / 3)
    }

    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn check(&self) -> Result<(), PolicyError> {
        let life = self.expire_after.map(Span::duration);
        if life.is_some_and(|life| !(LIFE_MIN..=LIFE_MAX).contains(&life)) {
            return Err(PolicyError::new(
                "nodeKeys.expireAfter",
                "must be from 1m to 3650d",
            ));
        }
        let most = self
            .last_third()
            .map_or(OVERLAP_MAX, |third| third.min(OVERLAP_MAX));
        if self.overlap() > most {
            let reason = "must be at most 24h, and at most a third of expireAfter";
            return Err(PolicyError::new("nodeKeys.overlap", reason));
        }
        Ok(())
    }
}

/// What a node is told of the life of its key.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyLife {
    /// When the key expires.
    pub expires_at: Timestamp,
    /// When the node should change it.
    pub rotate_at: Timestamp,
}

/// How long a node waits after a refusal before it offers a key again by itself.
const RETRY: Duration = Duration::from_secs(5 * 60);

/// How long before its end a key counts as about to expire.
const WARN_BEFORE: Duration = Duration::from_secs(7 * 24 * 60 * 60);

impl KeyLife {
    /// Returns when the node changes its key by itself, `refused_at` being when that was refused last.
    #[must_use]
    pub fn attempt_at(&self, refused_at: Option<Timestamp>) -> Timestamp {
        let again = refused_at.map(|at| at + RETRY);
        again.map_or(self.rotate_at, |again| again.max(self.rotate_at))
    }

    /// Tells whether the key is about to expire although it should have been changed long ago: a week before its end, or
    /// when half of the time to change it is over.
    #[must_use]
    pub fn is_in_danger(&self, now: Timestamp) -> bool {
        let half = self.expires_at.since(self.rotate_at) / 2;
        now >= self.expires_at - half.min(WARN_BEFORE)
    }
}

/// Tells whether a key is over that expires at `expires_at`: from that very millisecond on.
#[must_use]
pub fn is_over(expires_at: Option<Timestamp>, now: Timestamp) -> bool {
    expires_at.is_some_and(|expires_at| expires_at <= now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::NodePrivateKey;

    const DAY: Duration = Duration::from_secs(86_400);

    fn rules(expire_after: Option<&str>, overlap: Option<&str>) -> NodeKeyRules {
        let span = |text: &str| text.parse().expect("a span");
        NodeKeyRules {
            expire_after: expire_after.map(span),
            overlap: overlap.map(span),
        }
    }

    fn now() -> Timestamp {
        Timestamp::from_unix_ms(1_800_000_000_000)
    }

    #[test]
    fn without_rules_a_key_lives_for_ever_and_the_old_one_ten_minutes() {
        let rules = rules(None, None);
        assert_eq!(
            (rules.expiry_of_new(now()), rules.earliest_expiry(now())),
            (None, None)
        );
        assert_eq!(rules.overlap(), OVERLAP);
        assert!(!is_over(None, now()));
    }

    #[test]
    fn a_key_is_changed_in_the_first_quarter_of_its_last_third_and_not_by_all_at_once() {
        let rules = rules(Some("90d"), None);
        let expires_at = rules.expiry_of_new(now()).expect("it expires");
        assert_eq!(expires_at, now() + 90 * DAY);
        let mut times = Vec::new();
        for seed in 0..100 {
            let key = NodePrivateKey::from_random([seed; 32]).public();
            let at = rules.rotate_at(expires_at, &key);
            assert!(
                at >= now() + 60 * DAY && at <= now() + 60 * DAY + 30 * DAY / 4,
                "{at}"
            );
            assert_eq!(at, rules.rotate_at(expires_at, &key));
            times.push(at);
        }
        times.sort_unstable();
        assert!(times[99].since(times[0]) > 6 * DAY, "they are spread");
    }

    #[test]
    fn a_key_is_over_from_its_last_millisecond_on() {
        let ms = Duration::from_millis(1);
        assert!(!is_over(Some(now()), now() - ms));
        assert!(is_over(Some(now()), now()));
    }

    #[test]
    fn rules_that_cannot_be_kept_are_refused() {
        for (life, overlap, field) in [
            (Some("59s"), None, "nodeKeys.expireAfter"),
            (Some("3651d"), None, "nodeKeys.expireAfter"),
            (None, Some("25h"), "nodeKeys.overlap"),
            (Some("1m"), Some("21s"), "nodeKeys.overlap"),
            (Some("90d"), Some("2d"), "nodeKeys.overlap"),
        ] {
            let refused = rules(life, overlap).check().expect_err(field);
            assert_eq!(refused.path, field, "{life:?} {overlap:?}");
        }
        for (life, overlap) in [(Some("1m"), None), (Some("1m"), Some("20s")), (None, Some("24h"))] {
            rules(life, overlap).check().expect("rules");
        }
        assert_eq!(rules(Some("1m"), None).overlap(), Duration::from_secs(20));
    }

    #[test]
    fn a_refused_change_is_tried_again_later_and_a_key_that_nobody_changes_is_in_danger() {
        let life = KeyLife {
            expires_at: now() + 30 * DAY,
            rotate_at: now(),
        };
        assert_eq!(life.attempt_at(None), now());
        assert_eq!(life.attempt_at(Some(now() - DAY)), now());
        assert_eq!(life.attempt_at(Some(now())), now() + RETRY);
        assert!(!life.is_in_danger(now() + 22 * DAY));
        assert!(life.is_in_danger(now() + 23 * DAY));
        let short = KeyLife {
            expires_at: now() + 6 * DAY,
            rotate_at: now(),
        };
        assert!(!short.is_in_danger(now() + 2 * DAY));
        assert!(short.is_in_danger(now() + 3 * DAY));
    }
}
