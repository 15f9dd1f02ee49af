//! Any bytes as what an origin says of a part.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hawker_p2p::fuzzing::content_range(bytes));
