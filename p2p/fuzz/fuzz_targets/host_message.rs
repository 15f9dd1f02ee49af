//! Any bytes as what a host tells its scheduler.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hawker_p2p::fuzzing::host_message(bytes));
