//! Any bytes as a credential that a client shows, a proxy's first answer, a `Retry-After`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hawker_p2p::fuzzing::heads(bytes));
