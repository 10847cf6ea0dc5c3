//! The fuzz target `netmap`; what it does stands in `src/lib.rs`.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| runmesh_fuzz::netmap(input));
