//! Any bytes as the blob of a layer: what decompresses comes first.
#![no_main]

#[path = "../harness.rs"]
#[allow(dead_code, reason = "each target takes its half")]
mod harness;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| drop(harness::blob(bytes)));
