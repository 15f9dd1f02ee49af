//! Any bytes as a manifest, an index, an image's config or name.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hawker_plugin::fuzzing::manifest(bytes));
