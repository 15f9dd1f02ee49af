//! Any bytes as a token for joining, or a request with one.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hawker_plugin::fuzzing::join(bytes));
