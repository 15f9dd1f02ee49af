//! Any bytes as the labels of a snapshot.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hawker_plugin::fuzzing::labels(bytes));
