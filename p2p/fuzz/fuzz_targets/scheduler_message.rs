//! Any bytes as what a scheduler tells a host.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hawker_p2p::fuzzing::scheduler_message(bytes));
