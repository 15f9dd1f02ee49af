//! Any bytes as a digest and filters of content.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hawker_plugin::fuzzing::content_request(bytes));
