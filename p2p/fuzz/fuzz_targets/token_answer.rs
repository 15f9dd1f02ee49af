//! Any bytes as the answer of a token server.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hawker_p2p::fuzzing::token_answer(bytes));
