//! Any bytes as what a peer sends.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hawker_p2p::fuzzing::wire(bytes));
