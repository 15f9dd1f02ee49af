//! Any bytes as the tar of a layer.
#![no_main]

#[path = "../harness.rs"]
#[allow(dead_code, reason = "each target takes its half")]
mod harness;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| harness::tar(bytes));
