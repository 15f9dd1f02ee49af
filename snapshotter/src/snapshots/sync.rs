//! Has the files of committed snapshots written to the disk, in one thread.
//!
//! The kernel writes them some time within half a minute; whoever loses power before has layers
//! with empty files that look whole. So a committed row says that its files may not be there yet,
//! until they are. Waiting for them in every commit would make pulls wait for the disk: one sync
//! follows when a pull is over.

use std::{
    io,
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{core::Core, signal::Watched};

/// The kernel writes by itself after this time.
const LIMIT: Duration = Duration::from_secs(30);

/// When it is dropped, it syncs what is left, and ends.
#[derive(Debug)]
pub(super) struct Syncer {
    after: Duration,
    work: Arc<Watched<Work>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Work {
    /// When something was committed that is not on the disk.
    since: Option<Instant>,
    /// Not before.
    due: Option<Instant>,
    is_over: bool,
}

impl Syncer {
    /// Syncs when nothing was committed or staged for the time `after`.
    pub(super) fn start(core: Arc<Core>, after: Duration) -> io::Result<Self> {
        let work = Arc::new(Watched::<Work>::default());
        let thread = thread::Builder::new().name("snapshot-sync".to_owned());
        let thread = thread.spawn({
            let work = work.clone();
            move || run(&core, &work)
        })?;
        Ok(Self {
            after,
            work,
            thread: Some(thread),
        })
    }

    /// There is something to be synced.
    pub(super) fn order(&self) {
        let now = Instant::now();
        self.work.change(|work| {
            work.since.get_or_insert(now);
            work.due = Some(now + self.after);
        });
    }

    /// Something goes on that should not be disturbed.
    pub(super) fn defer(&self) {
        let due = Instant::now() + self.after;
        self.work.change(|work| work.due = Some(due));
    }
}

impl Drop for Syncer {
    fn drop(&mut self) {
        self.work.change(|work| work.is_over = true);
        if let Some(thread) = self.thread.take() {
            // A panic was printed where it happened.
            drop(thread.join());
        }
    }
}

fn run(core: &Core, work: &Watched<Work>) {
    loop {
        let is_over = wait(work);
        if let Err(error) = core.sync() {
            tracing::warn!(%error, "layers may be lost if the machine goes down now");
            if !is_over {
                let again = Instant::now() + LIMIT;
                work.change(|work| {
                    work.since.get_or_insert(again);
                    work.due = work.due.max(Some(again));
                });
            }
        }
        if is_over {
            return;
        }
    }
}

/// Until a sync is due, or (true) it is the last.
fn wait(work: &Watched<Work>) -> bool {
    loop {
        let ends = work.wait_for(|work| match (work.is_over, work.since) {
            (true, _) => Some(None),
            (false, Some(since)) => Some(Some(work.due.unwrap_or(since).min(since + LIMIT))),
            (false, None) => None,
        });
        let Some(end) = ends else { return true };
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            work.lock().since = None;
            return false;
        }
        work.wait_at_most(left, |work| work.is_over.then_some(()));
    }
}
