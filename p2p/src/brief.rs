//! Work on a few bytes of a blob: where it runs.

/// Up to so many bytes are hashed, read or written where the caller stands: it takes some 50 µs to
/// 200 µs, and to wake another thread and be woken by it costs as much (measured: `bench swarm`,
/// a sixth of a node's processor time). A read may wait for the disk when the page is not in
/// memory; other workers go on meanwhile.
const BRIEF_LEN: usize = 256 << 10;

/// The runtime is going down.
#[derive(Debug)]
pub(crate) struct Stopping;

impl From<Stopping> for std::io::Error {
    fn from(_: Stopping) -> Self {
        Self::other("the runtime is going down")
    }
}

/// Runs blocking `work` on `len` bytes: at once when they are few, otherwise on the blocking pool.
pub(crate) async fn brief<T: Send + 'static>(
    len: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Stopping> {
    if len <= BRIEF_LEN {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| Stopping)
}
