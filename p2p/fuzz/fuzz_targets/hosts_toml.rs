//! Any bytes as a `hosts.toml` of containerd's.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hawker_p2p::fuzzing::hosts_toml(bytes));
