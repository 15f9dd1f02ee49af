//! All records in memory: what containerd asks for inside its transaction.
//!
//! The lock is held for a look-up or a page, never over I/O or a caller's code.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use hawker_model::Digest;
use serde::{Deserialize, Serialize};

use super::record::{ContentState, Record};

#[derive(Debug, Default)]
pub(super) struct Records(Mutex<BTreeMap<Digest, Arc<Record>>>);

/// How much there is of one state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ContentTotal {
    pub(crate) blobs: u64,
    pub(crate) bytes: u64,
}

impl Records {
    pub(super) fn new(records: BTreeMap<Digest, Arc<Record>>) -> Self {
        Self(Mutex::new(records))
    }

    pub(super) fn get(&self, digest: &Digest) -> Option<Arc<Record>> {
        self.lock().get(digest).cloned()
    }

    /// The record, which containerd is told of, and whether that is news.
    pub(super) fn tell(&self, digest: &Digest) -> Option<(Arc<Record>, bool)> {
        let all = self.lock();
        let record = all.get(digest)?;
        // Under the lock: an untold promise that ends is taken out under it as well.
        let is_news = record.tell();
        Some((Arc::clone(record), is_news))
    }

    /// The record of what containerd has committed, and whether that is news.
    pub(super) fn list(&self, digest: &Digest) -> Option<(Arc<Record>, bool)> {
        let all = self.lock();
        let record = all.get(digest)?;
        let is_news = record.list();
        Some((Arc::clone(record), is_news))
    }

    pub(super) fn put(&self, digest: Digest, record: Arc<Record>) {
        self.lock().insert(digest, record);
    }

    pub(super) fn remove(&self, digest: &Digest) -> Option<Arc<Record>> {
        self.lock().remove(digest)
    }

    /// Takes a record out if nobody was told of it and no pull may still ask.
    pub(super) fn remove_forgotten(&self, digest: &Digest, now: Instant, keep: Duration) -> bool {
        let mut all = self.lock();
        let is_forgotten = all
            .get(digest)
            .is_some_and(|record| !record.is_told() && !record.is_awaited(now, keep));
        is_forgotten && all.remove(digest).is_some()
    }

    /// Takes a promise out of which nobody was told.
    pub(super) fn remove_untold(&self, digest: &Digest) -> bool {
        let mut all = self.lock();
        let is_untold = all
            .get(digest)
            .is_some_and(|record| record.row.state == ContentState::Promised && !record.is_told());
        is_untold && all.remove(digest).is_some()
    }

    /// Up to `most` records after `after`, in order.
    pub(super) fn page(&self, after: Option<&Digest>, most: usize) -> Vec<(Digest, Arc<Record>)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let all = self.lock();
        let page = all.range((from, Bound::Unbounded)).take(most);
        page.map(|(digest, record)| (*digest, Arc::clone(record)))
            .collect()
    }

    /// The digests of all records that are as `is_wanted` says, which is called under the lock.
    pub(super) fn digests(&self, is_wanted: impl Fn(&Record) -> bool) -> Vec<Digest> {
        let all = self.lock();
        let found = all.iter().filter(|(_, record)| is_wanted(record));
        found.map(|(digest, _)| *digest).collect()
    }

    pub(super) fn total(&self, state: ContentState) -> ContentTotal {
        let mut total = ContentTotal::default();
        for record in self.lock().values() {
            if record.row.state == state {
                total.blobs += 1;
                total.bytes = total.bytes.saturating_add(record.row.size);
            }
        }
        total
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Digest, Arc<Record>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
