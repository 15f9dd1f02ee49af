//! Any bytes as a request to the mirror.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hawker_plugin::fuzzing::mirror_request(bytes));
