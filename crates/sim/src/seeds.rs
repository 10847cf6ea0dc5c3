//! Running a test with many seeds, and naming the one that failed.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// The variable that runs one seed only: `RUNMESH_SIM_SEED=17 cargo test -p sim`.
pub const SEED_VARIABLE: &str = "RUNMESH_SIM_SEED";

/// The variable that makes every test run so many times as many seeds as by itself, for a night rather than for every
/// change: `RUNMESH_SIM_SEEDS=100 cargo test -p sim`.
pub const SEEDS_VARIABLE: &str = "RUNMESH_SIM_SEEDS";

/// Runs a test with seeds 0 up to `count` (times what [`SEEDS_VARIABLE`] says), or with the one that [`SEED_VARIABLE`]
/// names. Prints the seed that fails.
pub fn for_each_seed(count: u64, test: impl Fn(u64)) {
    let seeds = match number_in(SEED_VARIABLE) {
        Some(seed) => seed..seed.saturating_add(1),
        None => 0..count.saturating_mul(number_in(SEEDS_VARIABLE).unwrap_or(1)),
    };
    for seed in seeds {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| test(seed))) {
            eprintln!("failed with seed {seed}: run again with {SEED_VARIABLE}={seed}");
            resume_unwind(panic);
        }
    }
}

fn number_in(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().and_then(|text| text.parse().ok())
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn every_seed_runs_until_one_fails() {
        let ran = RefCell::new(Vec::new());
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            for_each_seed(10, |seed| {
                ran.borrow_mut().push(seed);
                assert!(seed < 3, "as planned");
            });
        }));
        assert!(outcome.is_err());
        if std::env::var_os(SEED_VARIABLE).is_none() {
            assert_eq!(*ran.borrow(), [0, 1, 2, 3]);
        }
    }
}
