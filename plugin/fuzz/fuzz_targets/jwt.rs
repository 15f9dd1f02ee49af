//! Any bytes as a credential that may say how long it is good for.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hawker_plugin::fuzzing::jwt(bytes));
