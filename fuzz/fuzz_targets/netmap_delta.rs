//! The fuzz target `netmap_delta`; what it does stands in `src/lib.rs`.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| runmesh_fuzz::netmap_delta(input));
