//! Any bytes as a certificate, a request for one, a list of revoked ones.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hawker_p2p::fuzzing::certificates(bytes));
