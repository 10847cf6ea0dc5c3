//! Replays the fuzzer's committed corpus of messages, orders and tickets through the target's own code, on a stable compiler.

use std::path::Path;

// What the package needs, and the code of the target does not.
use proptest as _;
use thiserror as _;

#[expect(
    unreachable_pub,
    reason = "the file is also part of a program of its own, for the fuzzer"
)]
#[path = "../../../fuzz/src/messages.rs"]
mod target;

#[test]
fn every_message_of_the_corpus_is_handled() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/messages");
    let mut replayed = 0;
    for entry in std::fs::read_dir(&folder).expect("the corpus is committed") {
        let path = entry.expect("a readable folder").path();
        println!("{}", path.display());
        target::messages(&std::fs::read(&path).expect("a readable file"));
        replayed += 1;
    }
    assert!(replayed >= 9, "only {replayed} files");
}
