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

use super::record::{ContentState, Record, Row};

#[derive(Debug, Default)]
pub(super) struct Records(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    all: BTreeMap<Digest, Arc<Record>>,
    /// Those of them that are promised, as they are counted in `outstanding`: that is asked for
    /// before each further promise, and must hold up nobody who asks for a record.
    promised: BTreeMap<Digest, Counted>,
    outstanding: Outstanding,
}

/// A promise as it was counted.
#[derive(Clone, Copy, Debug)]
struct Counted {
    bytes: u64,
    is_told: bool,
}

impl Inner {
    fn put(&mut self, digest: Digest, record: Arc<Record>) {
        self.count(digest, &record);
        self.all.insert(digest, record);
    }

    fn remove(&mut self, digest: &Digest) -> Option<Arc<Record>> {
        self.uncount(digest);
        self.all.remove(digest)
    }

    /// After every change of a record, and of who was told of it.
    fn count(&mut self, digest: Digest, record: &Record) {
        self.uncount(&digest);
        if record.row.state == ContentState::Promised {
            let counted = Counted {
                bytes: record.row.size,
                is_told: record.is_told(),
            };
            self.outstanding.add(counted);
            self.promised.insert(digest, counted);
        }
    }

    fn uncount(&mut self, digest: &Digest) {
        if let Some(counted) = self.promised.remove(digest) {
            self.outstanding.subtract(counted);
        }
    }

    /// `tell` tells containerd of a record. Says whether that is news.
    fn tell(
        &mut self,
        digest: &Digest,
        tell: impl FnOnce(&Record) -> bool,
    ) -> Option<(Arc<Record>, bool)> {
        let record = Arc::clone(self.all.get(digest)?);
        let was_told = record.is_told();
        // Under the lock: an untold promise that ends is taken out under it as well.
        let is_news = tell(&record);
        if !was_told {
            self.count(*digest, &record);
        }
        Some((record, is_news))
    }
}

/// What is promised and has not become content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Outstanding {
    pub(super) told_bytes: u64,
    pub(super) untold: usize,
    pub(super) untold_bytes: u64,
}

impl Outstanding {
    fn add(&mut self, counted: Counted) {
        match counted.is_told {
            true => self.told_bytes = self.told_bytes.saturating_add(counted.bytes),
            false => {
                self.untold += 1;
                self.untold_bytes = self.untold_bytes.saturating_add(counted.bytes);
            }
        }
    }

    fn subtract(&mut self, counted: Counted) {
        match counted.is_told {
            true => self.told_bytes = self.told_bytes.saturating_sub(counted.bytes),
            false => {
                self.untold = self.untold.saturating_sub(1);
                self.untold_bytes = self.untold_bytes.saturating_sub(counted.bytes);
            }
        }
    }
}

/// What a deletion made of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deleted {
    /// There was none.
    Unknown,
    /// A pull is about to ask for it: containerd knows no more of it, and it stays.
    Untold,
    Gone,
}

/// How much there is of one state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ContentTotal {
    pub(crate) blobs: u64,
    pub(crate) bytes: u64,
}

impl Records {
    pub(super) fn new(records: BTreeMap<Digest, Arc<Record>>) -> Self {
        let mut inner = Inner::default();
        for (digest, record) in records {
            inner.put(digest, record);
        }
        Self(Mutex::new(inner))
    }

    pub(super) fn get(&self, digest: &Digest) -> Option<Arc<Record>> {
        self.lock().all.get(digest).cloned()
    }

    /// The record, which containerd is told of, and whether that is news.
    pub(super) fn tell(&self, digest: &Digest) -> Option<(Arc<Record>, bool)> {
        self.lock().tell(digest, Record::tell)
    }

    /// The record of what containerd has committed, and whether that is news.
    pub(super) fn list(&self, digest: &Digest) -> Option<(Arc<Record>, bool)> {
        self.lock().tell(digest, Record::list)
    }

    pub(super) fn put(&self, digest: Digest, record: Arc<Record>) {
        self.lock().put(digest, record);
    }

    pub(super) fn remove(&self, digest: &Digest) -> Option<Arc<Record>> {
        self.lock().remove(digest)
    }

    /// Takes a record out if nobody was told of it and no pull may still ask.
    pub(super) fn remove_forgotten(&self, digest: &Digest, now: Instant, keep: Duration) -> bool {
        let mut inner = self.lock();
        let known = inner.all.get(digest);
        let is_forgotten =
            known.is_some_and(|record| !record.is_told() && !record.is_awaited(now, keep));
        is_forgotten && inner.remove(digest).is_some()
    }

    /// Takes the promise out if it is still `begun`, and nobody was told of it.
    pub(super) fn remove_untold(&self, digest: &Digest, begun: &Record) -> bool {
        let mut inner = self.lock();
        let is_untold = inner.all.get(digest).is_some_and(|known| {
            known.row.state == ContentState::Promised
                && !known.is_told()
                && known.is_same_promise(begun)
        });
        is_untold && inner.remove(digest).is_some()
    }

    /// containerd deletes it. Who is told of it at the same time is told before or after.
    pub(super) fn delete(&self, digest: &Digest, now: Instant, keep: Duration) -> Deleted {
        let mut inner = self.lock();
        let Some(known) = inner.all.get(digest) else {
            return Deleted::Unknown;
        };
        if known.is_awaited(now, keep) {
            let untold = Arc::new(known.untold());
            inner.put(*digest, untold);
            return Deleted::Untold;
        }
        inner.remove(digest);
        Deleted::Gone
    }

    /// A manifest that names what is known passes again; its row is `row` from now on. Says whether
    /// it is still known.
    pub(super) fn promise_again(&self, digest: &Digest, row: Row, now: Instant) -> bool {
        let mut inner = self.lock();
        let Some(known) = inner.all.get(digest) else {
            return false;
        };
        let record = Arc::new(known.with_row(row).promised_again(now));
        inner.put(*digest, record);
        true
    }

    /// All bytes of a promise are here. Says whether containerd relies on them by now.
    pub(super) fn note_whole(&self, digest: &Digest) -> bool {
        let inner = self.lock();
        let Some(known) = inner.all.get(digest) else {
            return false;
        };
        // Under the lock: who is told later sees it.
        known.note_whole(true);
        known.is_told()
    }

    /// How much is promised.
    pub(super) fn outstanding(&self) -> Outstanding {
        self.lock().outstanding
    }

    /// Up to `most` records after `after`, in order.
    pub(super) fn page(&self, after: Option<&Digest>, most: usize) -> Vec<(Digest, Arc<Record>)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let inner = self.lock();
        let page = inner.all.range((from, Bound::Unbounded)).take(most);
        page.map(|(digest, record)| (*digest, Arc::clone(record)))
            .collect()
    }

    /// The digests of all records that are as `is_wanted` says, which is called under the lock.
    pub(super) fn digests(&self, is_wanted: impl Fn(&Record) -> bool) -> Vec<Digest> {
        let inner = self.lock();
        let found = inner.all.iter().filter(|(_, record)| is_wanted(record));
        found.map(|(digest, _)| *digest).collect()
    }

    pub(super) fn total(&self, state: ContentState) -> ContentTotal {
        let mut total = ContentTotal::default();
        for record in self.lock().all.values() {
            if record.row.state == state {
                total.blobs += 1;
                total.bytes = total.bytes.saturating_add(record.row.size);
            }
        }
        total
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
