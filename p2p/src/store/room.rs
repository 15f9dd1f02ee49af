//! Making room: which blobs go when quota or disk is full.

use std::{
    fs::File,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use hawker_model::TaskId;

use super::{
    Inner, StoreConfig,
    disk::Space,
    error::{CreateError, StateError},
    kin::Kin,
    layout::is_no_space,
    record::{Record, lock},
};
use crate::status::RoomStatus;

/// What was used so lately is what hosts share at the moment: it goes only for a new blob that needs
/// its very room.
const FRESH: Duration = Duration::from_secs(600);

/// What is known of the room on the disk.
#[derive(Debug, Default)]
pub(super) struct Room {
    /// As last seen.
    space: Mutex<Space>,
    /// The file system was above its high water, and is not yet at its low water.
    draining: AtomicBool,
    evicted: AtomicU64,
    evicted_bytes: AtomicU64,
    lost: AtomicU64,
}

/// Why a blob is evicted.
#[derive(Clone, Copy, Debug)]
enum Why {
    Quota,
    Disk,
    HighWater,
    Ttl,
    Start,
}

impl Room {
    pub(super) fn status(&self, config: &StoreConfig) -> RoomStatus {
        let space = *lock(&self.space);
        RoomStatus {
            quota: config.quota_bytes,
            total: space.total,
            free: space.free,
            high_water: config.water.map(|water| water.high),
            low_water: config.water.map(|water| water.low),
            ttl: config.ttl.map(|ttl| ttl.as_secs()),
            evicted: self.evicted.load(Relaxed),
            evicted_bytes: self.evicted_bytes.load(Relaxed),
            lost_pieces: self.lost.load(Relaxed),
        }
    }

    /// The disk has not kept so many pieces.
    pub(super) fn note_lost(&self, pieces: u32) {
        self.lost.fetch_add(pieces.into(), Relaxed);
    }
}

impl Inner {
    /// Allocates the file of a new blob, evicting others as far as needed. The caller holds
    /// `structure`.
    pub(super) fn allocate(&self, task: TaskId, length: u64) -> Result<File, CreateError> {
        match self.fit_quota(task, length) {
            Err(CreateError::LargerThanQuota { .. } | CreateError::QuotaHeld { .. })
                if lock(&self.needed).contains_key(&task) => {}
            fits => fits?,
        }
        self.fit_disk(task, length)?;
        loop {
            let error = match self.layout.allocate(&task, length) {
                Ok(file) => return Ok(file),
                Err(error) => error,
            };
            self.leave(task);
            // The disk needs more than what counts as free; each round frees some.
            if !is_no_space(&error) {
                let path = self.layout.blob(&task);
                return Err(CreateError::Io { path, cause: error });
            }
            if !self.evict(length.max(1), Why::Disk)? {
                return Err(self.no_space(task, length));
            }
        }
    }

    /// Evicts what nobody has used for too long, and as much as is needed to bring a file system
    /// that is too full to its low water.
    pub(super) fn tidy(&self) -> Result<(), StateError> {
        let _structure = lock(&self.structure);
        self.database.check_open()?;
        if let Some(ttl) = self.config.ttl {
            self.expire(ttl)?;
        }
        match self.layout.space() {
            Ok(space) => self.drain(space, 0),
            Err(error) => {
                let dir = self.layout.root().display();
                tracing::warn!(%dir, %error, "cannot tell how full the file system is");
                Ok(())
            }
        }
    }

    /// Evicts all that is not pinned.
    pub(super) fn wipe(&self) -> Result<(), StateError> {
        let _structure = lock(&self.structure);
        self.discard_retired(retired(self.all(), |_| true), Why::Start)
    }

    fn expire(&self, ttl: Duration) -> Result<(), StateError> {
        let old = self.unused_for(ttl);
        self.discard_retired(retired(old, |_| true), Why::Ttl)
    }

    fn unused_for(&self, time: Duration) -> Vec<Arc<Record>> {
        let time = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let since = self.time().saturating_sub(time);
        let mut idle = self.idle();
        idle.retain(|record| record.last_used() < since);
        idle
    }

    /// Evicts what is not fresh, if the file system is too full or will be with `coming` bytes more.
    /// What shares its extents with another program's file frees nothing.
    fn drain(&self, space: Space, coming: u64) -> Result<(), StateError> {
        *lock(&self.room.space) = space;
        let Some(water) = self.config.water else {
            return Ok(());
        };
        let used = space.total.saturating_sub(space.free);
        let used = used.saturating_add(coming);
        let drains = used > water.high || (used > water.low && self.room.draining.load(Relaxed));
        self.room.draining.store(drains, Relaxed);
        if !drains {
            return Ok(());
        }
        let mut candidates = self.unused_for(FRESH);
        candidates.retain(|record| record.state().kin().is_none());
        let wanted = used - water.low;
        self.discard_retired(retired(candidates, |freed| freed < wanted), Why::HighWater)
    }

    /// As much room as a blob needs whose bytes are on the disk already. One that is to be kept is
    /// taken in whatever the quota says: refusing it would free nothing. Another program's bytes
    /// need none, and what shares extents with them drives nothing out.
    pub(super) fn fit_adopted(
        &self,
        task: TaskId,
        length: u64,
        pinned: bool,
        kin: Option<Kin>,
    ) -> Result<(), CreateError> {
        let fits = match kin {
            Some(Kin::Linked(_)) => Ok(()),
            Some(Kin::Cloned(_)) if !pinned => self.fit_beside(task, length),
            _ => self.fit_quota(task, length),
        };
        match fits {
            Err(error @ CreateError::State(_)) => Err(error),
            Err(error) if !pinned => Err(error),
            _ => Ok(()),
        }
    }

    /// Whether the quota has room for one more blob.
    fn fit_beside(&self, task: TaskId, length: u64) -> Result<(), CreateError> {
        let held = bytes_of(&self.all());
        match self.config.quota_bytes {
            Some(quota) if held.saturating_add(length) > quota => Err(CreateError::QuotaHeld {
                task,
                length,
                quota,
                held,
            }),
            _ => Ok(()),
        }
    }

    fn fit_quota(&self, task: TaskId, length: u64) -> Result<(), CreateError> {
        let Some(quota) = self.config.quota_bytes else {
            return Ok(());
        };
        if length > quota {
            return Err(CreateError::LargerThanQuota {
                task,
                length,
                quota,
            });
        }
        let used = bytes_of(&self.all());
        if self.evict(
            used.saturating_add(length).saturating_sub(quota),
            Why::Quota,
        )? {
            return Ok(());
        }
        let held = used - bytes_of(&self.idle()).min(used);
        Err(CreateError::QuotaHeld {
            task,
            length,
            quota,
            held,
        })
    }

    fn fit_disk(&self, task: TaskId, length: u64) -> Result<(), CreateError> {
        let space = || {
            self.layout.space().map_err(|cause| CreateError::Io {
                path: self.layout.root().to_owned(),
                cause,
            })
        };
        // What cannot fit drives nothing out, not even down to the low water.
        let now = space()?;
        if length > now.free.saturating_add(bytes_of(&self.idle())) {
            return Err(self.no_space(task, length));
        }
        self.drain(now, length)?;
        match self.evict(length.saturating_sub(space()?.free), Why::Disk)? {
            true => Ok(()),
            false => Err(self.no_space(task, length)),
        }
    }

    fn no_space(&self, task: TaskId, length: u64) -> CreateError {
        CreateError::NoSpace {
            dir: self.layout.root().to_owned(),
            task,
            length,
            free: self.layout.space().map_or(0, |space| space.free),
        }
    }

    /// Evicts idle blobs, the least recently used first, until `wanted` bytes are free; none if
    /// that many cannot be freed. Says whether they were.
    fn evict(&self, wanted: u64, why: Why) -> Result<bool, StateError> {
        if wanted == 0 {
            return Ok(true);
        }
        let candidates = self.idle();
        if bytes_of(&candidates) < wanted {
            return Ok(false);
        }
        let retired = retired(candidates, |freed| freed < wanted);
        if bytes_of(&retired) < wanted {
            // Others came into use meanwhile.
            retired
                .iter()
                .for_each(|record| record.state().removed = false);
            return Ok(false);
        }
        self.discard_retired(retired, why)?;
        Ok(true)
    }

    fn discard_retired(&self, retired: Vec<Arc<Record>>, why: Why) -> Result<(), StateError> {
        if retired.is_empty() {
            return Ok(());
        }
        self.discard(&retired)?;
        for record in &retired {
            let bytes = record.geometry.length();
            tracing::info!(task = %record.task, bytes, ?why, "evicted");
            self.room.evicted.fetch_add(1, Relaxed);
            self.room.evicted_bytes.fetch_add(bytes, Relaxed);
            lock(&self.evicted).push(record.task);
        }
        Ok(())
    }

    /// What may be evicted with some gain: to drop another program's file frees nothing.
    fn idle(&self) -> Vec<Arc<Record>> {
        let mut records = self.all();
        records.retain(|record| record.is_idle() && !record.state().is_linked());
        records
    }
}

/// Takes the least recently used out of use, as long as `go_on` says so, being told what they free.
fn retired(mut candidates: Vec<Arc<Record>>, go_on: impl Fn(u64) -> bool) -> Vec<Arc<Record>> {
    candidates.sort_by_key(|record| record.last_used());
    let (mut retired, mut freed) = (Vec::new(), 0u64);
    for record in candidates {
        if !go_on(freed) {
            break;
        }
        if record.retire() {
            freed = freed.saturating_add(record.own_bytes());
            retired.push(record);
        }
    }
    retired
}

fn bytes_of(records: &[Arc<Record>]) -> u64 {
    let lengths = records.iter().map(|record| record.own_bytes());
    lengths.fold(0, u64::saturating_add)
}
