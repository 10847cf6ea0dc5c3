//! Who is shut out: what the control plane has signed, for as long as it can matter.

use std::collections::{BTreeMap, BTreeSet};

use types::relay::{RELAY_CLOCK_SKEW_MAX, RelayExpulsion, RelayExpulsionClaim};
use types::{Monotonic, NodePublicKey, Realm, RelayTicket, Timestamp};

use super::allowance::Allowance;

/// How many nodes of one realm are remembered; beyond it the one whose tickets end first is forgotten.
pub const EXPULSIONS_PER_REALM_MAX: usize = 1024;

/// How many nodes are remembered in all; beyond it the one whose tickets end first is forgotten.
pub const EXPULSIONS_MAX: usize = 16_384;

/// How many signatures are checked at once of what nodes bring, and how many a second: about a fiftieth of a core.
const CHECKS: Allowance = Allowance::full(400, 200);

/// How many of them for one node, however often it begins anew.
const CHECKS_PER_NODE: Allowance = Allowance::full(64, 4);

/// How many nodes are remembered for what was checked for them. More than 3,600 cannot have used any of theirs: that is all
/// that is checked until a node has the whole of it again.
const CHECKED_MAX: usize = 4096;

/// The nodes that are shut out, each until no ticket that is void could be taken anyway.
pub(super) struct Expulsions {
    realms: BTreeMap<Realm, BTreeMap<NodePublicKey, Timestamp>>,
    by_end: BTreeSet<(Timestamp, Realm, NodePublicKey)>,
    checks: Allowance,
    checked: BTreeMap<NodePublicKey, Allowance>,
}

impl Default for Expulsions {
    fn default() -> Self {
        Self {
            realms: BTreeMap::new(),
            by_end: BTreeSet::new(),
            checks: CHECKS,
            checked: BTreeMap::new(),
        }
    }
}

impl Expulsions {
    /// Returns how many nodes are remembered.
    pub(super) fn len(&self) -> usize {
        self.by_end.len()
    }

    /// Takes one of the signature checks that there are for what nodes bring, and one of this node's; tells whether there was
    /// one of both.
    pub(super) fn may_check(&mut self, by: &NodePublicKey, now: Monotonic) -> bool {
        let own = self.checked.get_mut(by);
        if own.is_some_and(|own| own.is_used_up(now)) || self.checks.take(1, 1, now) == 0 {
            return false;
        }
        if self.checked.len() >= CHECKED_MAX {
            self.checked.retain(|_, own| !own.is_full(now));
        }
        let own = self.checked.entry(*by).or_insert(CHECKS_PER_NODE);
        own.take(1, 1, now) == 1
    }

    /// Tells whether an expulsion is known, or over: then its signature does not matter.
    pub(super) fn is_old(&self, claim: &RelayExpulsionClaim, now: Timestamp) -> bool {
        let known = self
            .realms
            .get(&claim.realm)
            .and_then(|nodes| nodes.get(&claim.node));
        claim.ends_at() < now || known.is_some_and(|known| claim.void_until <= *known)
    }

    /// Takes an expulsion that is not old, and that the control plane has signed.
    pub(super) fn add(&mut self, expulsion: &RelayExpulsion, now: Timestamp) {
        let RelayExpulsion {
            node,
            realm,
            void_until,
        } = *expulsion;
        while let Some((until, ..)) = self.by_end.first().copied()
            && until + RELAY_CLOCK_SKEW_MAX < now
        {
            self.forget_first();
        }
        let nodes = self.realms.entry(realm).or_default();
        if let Some(before) = nodes.insert(node, void_until) {
            self.by_end.remove(&(before, realm, node));
        }
        self.by_end.insert((void_until, realm, node));
        if nodes.len() > EXPULSIONS_PER_REALM_MAX {
            let first = nodes.iter().map(|(node, until)| (*until, realm, *node)).min();
            first.into_iter().for_each(|first| self.forget(first));
        }
        if self.len() > EXPULSIONS_MAX {
            self.forget_first();
        }
    }

    /// Tells whether a ticket is void.
    pub(super) fn void(&self, ticket: &RelayTicket) -> bool {
        let nodes = self.realms.get(&ticket.realm);
        let until = nodes.and_then(|nodes| nodes.get(&ticket.node));
        until.is_some_and(|until| ticket.expires_at <= *until)
    }

    fn forget_first(&mut self) {
        if let Some(first) = self.by_end.first().copied() {
            self.forget(first);
        }
    }

    fn forget(&mut self, (until, realm, node): (Timestamp, Realm, NodePublicKey)) {
        self.by_end.remove(&(until, realm, node));
        if let Some(nodes) = self.realms.get_mut(&realm) {
            nodes.remove(&node);
            if nodes.is_empty() {
                self.realms.remove(&realm);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use types::NodePrivateKey;

    use super::*;

    fn start() -> Timestamp {
        Timestamp::from_unix_ms(1_800_000_000_000)
    }

    /// Made without a private key, which would cost an exchange each.
    fn node(number: usize) -> NodePublicKey {
        let mut bytes = [9; 32];
        bytes[..8].copy_from_slice(&(number as u64).to_le_bytes());
        NodePublicKey::from_bytes(bytes).expect("not of low order")
    }

    fn expulsion(number: usize, realm: u8, after_ms: usize) -> RelayExpulsion {
        let signed_at = start() + Duration::from_millis(after_ms as u64);
        RelayExpulsion::of_tickets_until(signed_at, node(number), Realm([realm; 16]))
    }

    fn ticket(of: &RelayExpulsion) -> RelayTicket {
        RelayTicket {
            node: of.node,
            realm: of.realm,
            expires_at: of.void_until,
        }
    }

    #[test]
    fn of_too_many_in_one_realm_the_first_to_end_goes_and_other_realms_keep_theirs() {
        let mut table = Expulsions::default();
        table.add(&expulsion(0, 2, 0), start());
        for number in 0..=EXPULSIONS_PER_REALM_MAX {
            table.add(&expulsion(number, 1, 5000 - number), start());
        }
        assert_eq!(table.len(), EXPULSIONS_PER_REALM_MAX + 1);
        let last = EXPULSIONS_PER_REALM_MAX;
        assert!(!table.void(&ticket(&expulsion(last, 1, 5000 - last))));
        assert!(table.void(&ticket(&expulsion(0, 1, 5000))));
        assert!(table.void(&ticket(&expulsion(0, 2, 0))));
    }

    #[test]
    fn of_too_many_in_all_realms_the_first_to_end_goes() {
        let mut table = Expulsions::default();
        for number in 0..=EXPULSIONS_MAX {
            let realm = u8::try_from(number / 1000).expect("few realms");
            table.add(&expulsion(number, realm, number), start());
        }
        assert_eq!(table.len(), EXPULSIONS_MAX);
        assert!(!table.void(&ticket(&expulsion(0, 0, 0))));
        assert!(table.void(&ticket(&expulsion(1, 0, 1))));
    }

    #[test]
    fn what_is_over_is_forgotten_and_what_is_known_is_old() {
        let mut table = Expulsions::default();
        let first = expulsion(1, 1, 0);
        let key = types::SigningPrivateKey::from_random([3; 32]);
        assert!(!table.is_old(&first.sign(&key).claim(), start()));
        table.add(&first, start());
        assert!(table.is_old(&first.sign(&key).claim(), start()));
        assert!(!table.is_old(&expulsion(1, 1, 1).sign(&key).claim(), start()));
        let later = start() + Duration::from_secs(361);
        assert!(table.is_old(&expulsion(2, 1, 0).sign(&key).claim(), later));
        table.add(&expulsion(3, 2, 361_000), later);
        assert_eq!((table.len(), table.realms.len()), (1, 1));
    }

    #[test]
    fn one_more_recent_replaces_the_one_before() {
        let mut table = Expulsions::default();
        table.add(&expulsion(1, 1, 0), start());
        table.add(&expulsion(1, 1, 7), start());
        assert_eq!(table.len(), 1);
        assert!(table.void(&ticket(&expulsion(1, 1, 7))));
        assert!(!table.void(&ticket(&expulsion(1, 1, 8))));
        let other = NodePrivateKey::from_random([1; 32]).public();
        let of_another = RelayTicket {
            node: other,
            ..ticket(&expulsion(1, 1, 0))
        };
        assert!(!table.void(&of_another));
    }

    #[test]
    fn checks_are_limited_and_come_back() {
        let mut table = Expulsions::default();
        let now = Monotonic::from_start(Duration::from_secs(1));
        let mut checked = |nodes: usize, now| {
            (0..1000)
                .filter(|turn| table.may_check(&node(turn % nodes), now))
                .count()
        };
        assert_eq!(checked(1, now), 64);
        assert_eq!(checked(100, now), 400 - 64);
        let later = now + Duration::from_secs(1);
        assert_eq!(checked(1, later), 4);
        assert_eq!(checked(100, later), 200 - 4);
    }

    #[test]
    fn whoever_has_all_checks_again_is_forgotten() {
        let mut table = Expulsions::default();
        for second in 1..100 {
            let now = Monotonic::from_start(Duration::from_secs(second));
            for turn in 0..200 {
                assert!(table.may_check(&node(second as usize * 1000 + turn), now));
            }
            assert!(table.checked.len() <= CHECKED_MAX);
        }
    }
}
