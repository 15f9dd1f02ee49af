//! Work on a few bytes of a blob: where it runs.
//!
//! On few bytes it runs where the caller stands, on a worker of the runtime, as long as that is
//! quick. A disk that makes such work wait, by a read that is not in memory or by a write that the
//! kernel throttles, has held up one worker once; from then on such work is left to the blocking
//! pool, until the disk has had a moment.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// Up to so many bytes are hashed, read or written where the caller stands: it takes some 50 µs to
/// 200 µs, and to wake another thread and be woken by it costs as much (measured: `bench swarm`,
/// a sixth of a node's processor time).
const BRIEF_LEN: usize = 256 << 10;
/// What takes longer has waited for the disk. Where all processors are busy it may wait for one of
/// them for 10 or 20 ms, and the pool would not help then.
const LONG: Duration = Duration::from_millis(50);
/// For so long after that nothing is done where the caller stands.
const WARY: Duration = Duration::from_secs(1);

static CAUTION: Caution = Caution::new();

/// The runtime is going down.
#[derive(Debug)]
pub(crate) struct Stopping;

impl From<Stopping> for std::io::Error {
    fn from(_: Stopping) -> Self {
        Self::other("the runtime is going down")
    }
}

/// Runs blocking `work` on `len` bytes: at once when they are few and the disk is quick, otherwise
/// on the blocking pool.
pub(crate) async fn brief<T: Send + 'static>(
    len: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Stopping> {
    if len <= BRIEF_LEN && is_quick() {
        return Ok(at_once(work));
    }
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| Stopping)
}

/// Whether brief work has not kept anybody waiting of late.
pub(crate) fn is_quick() -> bool {
    CAUTION.is_over(now())
}

/// Runs brief work where the caller stands, and notes how long that took.
pub(crate) fn at_once<T>(work: impl FnOnce() -> T) -> T {
    let begun = now();
    let done = work();
    CAUTION.note(begun, now());
    done
}

/// Since the first look at the clock.
fn now() -> Duration {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed()
}

/// Until when, in microseconds, brief work is left to the pool.
struct Caution(AtomicU64);

impl Caution {
    const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    fn is_over(&self, now: Duration) -> bool {
        now.as_micros() as u64 >= self.0.load(Relaxed)
    }

    fn note(&self, begun: Duration, ended: Duration) {
        if ended > begun + LONG {
            self.0.fetch_max((ended + WARY).as_micros() as u64, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_long_wait_brief_work_is_left_to_the_pool_for_a_moment() {
        let (caution, at) = (Caution::new(), Duration::from_secs(9));
        caution.note(at, at + LONG);
        assert!(caution.is_over(at + LONG));
        let ended = at + LONG * 2;
        caution.note(at, ended);
        assert!(!caution.is_over(ended) && caution.is_over(ended + WARY));
    }
}
