//! The fuzz target `router_word`; what it does stands in `src/lib.rs`.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| runmesh_fuzz::router_word(input));
