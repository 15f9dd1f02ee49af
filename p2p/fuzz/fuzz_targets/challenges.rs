//! Any bytes as what a registry wants before it answers.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hawker_p2p::fuzzing::challenges(bytes));
