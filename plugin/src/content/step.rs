//! Where a test may end the process: between any two steps that change the disk.

/// A step is done.
#[cfg(not(test))]
pub(super) fn step() {}

/// A step is done: the process ends here if this is the one that `HAWKER_TEST_CONTENT_KILL_AT` counts
/// to.
#[cfg(test)]
pub(super) fn step() {
    use std::sync::{
        LazyLock,
        atomic::{AtomicI64, Ordering::Relaxed},
    };
    static LEFT: LazyLock<AtomicI64> = LazyLock::new(|| {
        let at = std::env::var("HAWKER_TEST_CONTENT_KILL_AT").ok();
        AtomicI64::new(at.and_then(|at| at.parse().ok()).unwrap_or(i64::MAX))
    });
    if LEFT.fetch_sub(1, Relaxed) == 0 {
        // No destructor runs.
        std::process::exit(77);
    }
}
