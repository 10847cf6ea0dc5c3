//! The fuzz target `messages`. A test of `runs` replays its corpus.

#![no_main]

#[path = "../src/messages.rs"]
mod messages;

libfuzzer_sys::fuzz_target!(|input: &[u8]| messages::messages(input));
