//! Content that was deleted, until the disk knows it too.
//!
//! containerd's garbage collection deletes one after the other, under a lock for which all its
//! writers wait. So a deletion is answered as soon as memory knows it, and those of a burst are
//! saved together: first that their records end, then that their pins do. A crash before brings
//! the content back as it was, pinned and whole: containerd's next collection finds it in the list
//! and deletes it again. Never the other way round: a record without a pin would tell containerd of
//! what may be gone.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use hawker_model::Digest;
use tokio::sync::Notify;
use tracing::warn;

use super::{ContentError, ContentStore, rows::Change, step::step, turns::Turn};

/// How long a burst is waited for.
const LINGER: Duration = Duration::from_millis(100);
/// Saved at once at most: whoever wants one of these digests again waits meanwhile.
const MOST: usize = 1000;
/// Before those are tried again that somebody changes just now.
const SOON: Duration = Duration::from_millis(20);
/// Before what could not be saved is tried again.
const PAUSE: Duration = Duration::from_secs(10);

/// The digests whose end is not saved.
#[derive(Debug, Default)]
pub(super) struct Releases {
    waiting: Mutex<BTreeSet<Digest>>,
    is_new: Notify,
    /// Held while some are saved: whoever takes it after that finds the rest waiting.
    saving: tokio::sync::Mutex<()>,
}

impl Releases {
    fn add(&self, digest: Digest) {
        self.lock().insert(digest);
        self.is_new.notify_one();
    }

    fn first(&self) -> Vec<Digest> {
        self.lock().iter().take(MOST).copied().collect()
    }

    fn remove(&self, digests: &[Digest]) {
        let mut waiting = self.lock();
        for digest in digests {
            waiting.remove(digest);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<Digest>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ContentStore {
    /// The digest has no record any more. The caller has its turn.
    pub(super) fn release(&self, digest: Digest) {
        self.0.holds.release(&digest);
        self.0.releases.add(digest);
    }

    /// Saves what was released until the store is closed.
    pub(super) fn keep_releasing(&self) {
        let (stop, store) = (self.0.stop.clone(), Arc::downgrade(&self.0));
        let releases = Arc::clone(&self.0.releases);
        self.0.tasks.spawn(async move {
            let saving = async {
                loop {
                    releases.is_new.notified().await;
                    tokio::time::sleep(LINGER).await;
                    let Some(store) = store.upgrade().map(Self) else {
                        return;
                    };
                    if let Err(error) = store.save_releases().await {
                        warn!(%error, "deleted content stays pinned");
                        drop(store);
                        tokio::time::sleep(PAUSE).await;
                        releases.is_new.notify_one();
                    }
                }
            };
            stop.run_until_cancelled(saving).await;
        });
    }

    /// Saves all that was released. Returns when it is on the disk.
    pub(super) async fn save_releases(&self) -> Result<(), ContentError> {
        let _saving = self.0.releases.saving.lock().await;
        loop {
            let digests = self.0.releases.first();
            if digests.is_empty() {
                return Ok(());
            }
            // Only whose turn is free: else all would wait for the one that is being committed.
            let turns = self.0.turns.take_free(&digests);
            match turns.is_empty() {
                true => tokio::time::sleep(SOON).await,
                false => self.save_some(&turns).await?,
            }
        }
    }

    async fn save_some(&self, turns: &[Turn<'_>]) -> Result<(), ContentError> {
        let inner = &*self.0;
        let digests: Vec<Digest> = turns.iter().map(|turn| *turn.digest()).collect();
        // What has come back meanwhile has been saved as it is now.
        let is_gone = |digest: &&Digest| inner.records.get(digest).is_none();
        let gone: Vec<Digest> = digests.iter().filter(is_gone).copied().collect();
        if gone.is_empty() {
            inner.releases.remove(&digests);
            return Ok(());
        }
        let changes = gone.iter().copied().map(Change::Delete).collect();
        inner.journal.save_all(changes).await?;
        step();
        let unpinned = inner.node.unpin(gone).await;
        unpinned.map_err(|error| ContentError::Unavailable {
            what: format!("deleted content cannot be unpinned: {error}"),
        })?;
        step();
        inner.releases.remove(&digests);
        Ok(())
    }
}
