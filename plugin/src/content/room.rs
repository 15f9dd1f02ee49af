//! How much may be promised: containerd never fetches what it was promised, so there must be room for
//! it before (`docs/content.md`).

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use hawker_p2p::{Node, RoomStatus};

use super::{ContentError, ContentStore};

/// Promises that nobody was told of, at most: some MiB of memory.
const MOST_UNTOLD: usize = 4096;
/// For so long the sum of what is pinned counts: all blobs are looked at for it, and a manifest has
/// many promised at once.
const KEEP_SUM: Duration = Duration::from_millis(100);

/// What is about to be promised.
#[derive(Debug, Default)]
pub(super) struct Room(Mutex<Reserved>);

#[derive(Clone, Copy, Debug, Default)]
struct Reserved {
    blobs: usize,
    bytes: u64,
    /// What is pinned, and when that was.
    pinned: Option<(Instant, u64)>,
}

impl Reserved {
    fn pinned(&mut self, node: &Node, now: Instant) -> u64 {
        let fresh = |(at, _): &(Instant, u64)| now.saturating_duration_since(*at) < KEEP_SUM;
        let known = self.pinned.filter(fresh);
        let (at, bytes) = known.unwrap_or_else(|| (now, node.pinned_bytes()));
        self.pinned = Some((at, bytes));
        bytes
    }
}

/// Room for one promise, until it is dropped: by then there is a record that counts.
#[derive(Debug)]
pub(super) struct Place {
    room: Arc<Room>,
    bytes: u64,
}

impl ContentStore {
    /// Room for one more promise of so many bytes: beside all that is pinned and promised; and what
    /// nobody was told of takes half of the quota at most, so that no one who only fetches manifests
    /// fills it.
    ///
    /// # Errors
    /// Where there is none: the client fetches it through the mirror, as without promises.
    pub(super) fn reserve(&self, size: u64) -> Result<Place, ContentError> {
        let inner = &*self.0;
        let limit = limit(&inner.node.room());
        let mut reserved = inner.room.lock();
        let pinned = reserved.pinned(&inner.node, Instant::now());
        let promised = inner.records.outstanding();
        let untold_bytes = [reserved.bytes, size]
            .into_iter()
            .fold(promised.untold_bytes, u64::saturating_add);
        let held = pinned.saturating_add(promised.told_bytes);
        let fits = promised.untold + reserved.blobs < MOST_UNTOLD
            && untold_bytes <= limit / 2
            && held.saturating_add(untold_bytes) <= limit;
        if !fits {
            return Err(ContentError::Unavailable {
                what: format!("no room to promise {size} bytes: {held} of {limit} are held"),
            });
        }
        reserved.blobs += 1;
        reserved.bytes = reserved.bytes.saturating_add(size);
        Ok(Place {
            room: Arc::clone(&inner.room),
            bytes: size,
        })
    }
}

/// Most bytes of blobs.
fn limit(room: &RoomStatus) -> u64 {
    // A disk that was not looked at yet has no size.
    let disk = Some(room.total).filter(|total| *total > 0);
    room.quota.or(disk).unwrap_or(u64::MAX)
}

impl Room {
    fn lock(&self) -> MutexGuard<'_, Reserved> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut reserved = self.room.lock();
        reserved.blobs -= 1;
        reserved.bytes = reserved.bytes.saturating_sub(self.bytes);
    }
}
