//! Any bytes as a call of containerd's differ.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hawker_plugin::fuzzing::apply_request(bytes));
