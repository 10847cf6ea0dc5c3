//! Random worlds, held against the reference model. `cargo xtask sim` runs many more.

use std::path::Path;

use sim::{Dice, for_each_seed, scenario};

#[test]
fn after_all_faults_everything_is_as_the_model_says() {
    for_each_seed(20, |seed| {
        let _ = scenario::run(seed, Dice::new(seed, 3));
    });
}

#[test]
fn every_world_of_the_fuzzers_corpus_comes_right() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/world");
    let mut replayed = 0;
    for entry in std::fs::read_dir(&folder).expect("the corpus is committed") {
        let path = entry.expect("a readable folder").path();
        println!("{}", path.display());
        let bytes = std::fs::read(&path).expect("a readable file");
        let _ = scenario::run(0, Dice::from_bytes(&bytes));
        replayed += 1;
    }
    assert!(replayed >= 20, "only {replayed} files");
}

#[test]
fn a_seed_makes_the_same_world_again() {
    let outcomes = [0; 2].map(|_| scenario::run(11, Dice::new(11, 3)));
    assert_eq!(outcomes[0], outcomes[1]);
}
