//! Compiles the scheduler's protocol without `protoc`.
fn main() {}
