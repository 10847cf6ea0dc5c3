//! The fuzz target `world`: the input decides a simulated world and what befalls it. A test of `sim` replays its corpus.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let _ = sim::scenario::run(0, sim::Dice::from_bytes(input));
});
