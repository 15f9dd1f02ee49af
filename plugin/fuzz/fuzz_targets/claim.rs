//! Any bytes as a source that another host names.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hawker_plugin::fuzzing::claim(bytes));
