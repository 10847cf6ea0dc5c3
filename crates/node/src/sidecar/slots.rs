//! Runs that are being decided on: they count against the policy's limit before they are under way, so that offers that
//! come together cannot all take the last free place.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use types::RunId;

/// The places that are taken; one run may hold several while its offer is repeated.
#[derive(Debug, Default)]
pub(super) struct Slots {
    taken: Mutex<BTreeMap<RunId, usize>>,
}

/// A place; given back when dropped.
#[derive(Debug)]
pub(super) struct Slot<'a> {
    slots: &'a Slots,
    run_id: RunId,
}

impl Slots {
    pub(super) fn take(&self, run_id: RunId) -> Slot<'_> {
        *self.lock().entry(run_id).or_default() += 1;
        Slot { slots: self, run_id }
    }

    pub(super) fn taken(&self) -> BTreeSet<RunId> {
        self.lock().keys().copied().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<RunId, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        let mut taken = self.slots.lock();
        if let Some(count) = taken.get_mut(&self.run_id) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.run_id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_free_again_when_its_last_holder_is_gone() {
        let slots = Slots::default();
        let (one, two) = (RunId::from_random([1; 16]), RunId::from_random([2; 16]));
        let held = slots.take(one);
        let again = slots.take(one);
        drop(slots.take(two));
        drop(held);
        assert_eq!(slots.taken(), BTreeSet::from([one]));
        drop(again);
        assert!(slots.taken().is_empty());
    }
}
