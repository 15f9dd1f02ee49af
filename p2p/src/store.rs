//! The blob store: every byte a node has, once, on its disk.
//!
//! One preallocated file per blob, in which pieces are written in place, and a small database that
//! says which pieces count. Invariant: **a piece counts only if its bytes are there and checked**,
//! whatever crashed in between; `docs/store.md` has the reasoning and the bytes.
//!
//! The driver calls it, in blocking threads: everything here blocks on the disk unless it says
//! otherwise. Handles are cheap to clone and shared between threads; no lock is held over hashing,
//! reading or writing a piece.

mod adopt;
mod blob;
mod bring;
mod database;
mod disk;
mod error;
mod give;
mod inner;
mod kin;
mod layout;
mod opening;
mod provenance;
mod record;
mod room;
mod row;
mod step;
#[cfg(test)]
mod tests;
mod upgrade;

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use hawker_model::{Digest, Geometry, TaskId};

use crate::status::RoomStatus;

pub use self::{
    adopt::Shared,
    blob::{BlobFile, Written},
    bring::{Otherwise, Pace, Share},
    error::{
        AddBatchError, AdoptError, BlobError, CreateError, OpenStoreError, ReadError, StateError,
        WritePieceError,
    },
};
use self::{
    disk::Disk,
    inner::Inner,
    kin::Kin,
    layout::{Layout, LockError, LockFile},
    record::{Record, lock, try_lock},
};

/// What the operator decides.
#[derive(Clone, Debug, Default)]
pub struct StoreConfig {
    /// Most bytes of blobs; `None`: as much as the disk holds.
    pub quota_bytes: Option<u64>,
    /// How full the file system may get, whoever fills it.
    pub water: Option<Water>,
    /// A blob that nobody has used for so long goes.
    pub ttl: Option<Duration>,
    pub at_start: AtStart,
}

/// Used bytes of the file system: above `high` blobs are evicted, until it is at `low`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Water {
    pub high: u64,
    pub low: u64,
}

/// What becomes of the blobs of an earlier process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AtStart {
    #[default]
    Keep,
    /// All go that are not pinned.
    Wipe,
}

/// A directory of blobs. Clones are the same store; its directory is free for another process
/// once all of them and all [`BlobFile`]s are dropped.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
}

/// One blob as the store knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobSummary {
    pub task: TaskId,
    pub geometry: Geometry,
    /// How many pieces are stored. After a crash some may turn out lost at the first
    /// [`Store::find`].
    pub pieces: u32,
    /// Every piece is stored, and no crash has put one in doubt.
    pub complete: bool,
    /// All bytes are on the disk and marked so: it outlives a crash.
    pub durable: bool,
    /// Kept by [`Store::set_pinned`].
    pub pinned: bool,
    /// Whose the bytes are.
    pub owner: Owner,
    pub created: SystemTime,
    pub last_used: SystemTime,
}

/// Whose a blob's bytes on the disk are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    Us,
    /// Another program's too, until it or we change them.
    Both,
    /// It is another program's file.
    Other,
}

impl Owner {
    fn of(kin: Option<Kin>) -> Self {
        match kin {
            None => Self::Us,
            Some(Kin::Cloned(_)) => Self::Both,
            Some(Kin::Linked(_)) => Self::Other,
        }
    }
}

/// Keeps a blob from being evicted while it lives.
#[derive(Clone, Debug)]
pub struct Pin {
    blob: Arc<BlobFile>,
}

impl Pin {
    /// The pinned blob.
    pub fn blob(&self) -> &Arc<BlobFile> {
        &self.blob
    }
}

/// While it lives, a blob is made whatever the quota says ([`Store::need`]).
#[derive(Debug)]
pub struct Need {
    inner: Arc<Inner>,
    task: TaskId,
}

impl Drop for Need {
    fn drop(&mut self) {
        let mut needed = lock(&self.inner.needed);
        if let Some(count) = needed.get_mut(&self.task) {
            *count -= 1;
            if *count == 0 {
                needed.remove(&self.task);
            }
        }
    }
}

impl Store {
    /// Opens the store in `dir`, which is created if need be. What a crash left half done is put
    /// right; pieces that it left in doubt are checked at the first [`Self::find`] of their blob.
    /// Blobs that an older version has cut into other pieces are read, which may take long.
    pub fn open(dir: &Path, config: StoreConfig) -> Result<Self, OpenStoreError> {
        Self::open_on(Disk::default(), dir, config)
    }

    fn open_on(disk: Disk, dir: &Path, config: StoreConfig) -> Result<Self, OpenStoreError> {
        let in_dir = |cause| OpenStoreError::Directory {
            dir: dir.to_owned(),
            cause,
        };
        let layout = Layout::create(disk, dir).map_err(in_dir)?;
        let lock_file = LockFile::acquire(&layout).map_err(|error| match error {
            LockError::Held { pid } => OpenStoreError::InUse {
                dir: dir.to_owned(),
                pid,
            },
            LockError::Io(cause) => in_dir(cause),
        })?;
        let (database, records) = opening::open(&layout)?;
        let at_start = config.at_start;
        let inner = Inner::new(layout, lock_file, database, records, config);
        if at_start == AtStart::Wipe {
            inner.wipe().map_err(|cause| OpenStoreError::State {
                dir: dir.to_owned(),
                cause,
            })?;
        }
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// All blobs, ordered by task. Does not block.
    pub fn blobs(&self) -> Vec<BlobSummary> {
        let records = self.inner.all();
        records.iter().map(|record| summarise(record)).collect()
    }

    /// How the store has the blob of `task`. Does not block.
    pub fn look_up(&self, task: &TaskId) -> Option<BlobSummary> {
        let record = self.inner.record(task)?;
        Some(summarise(&record))
    }

    /// The blob of `task`, if the store has it. After a crash, the first call for an incomplete
    /// blob reads and checks all of its pieces. A blob that cannot be opened is logged and not
    /// found.
    pub fn find(&self, task: &TaskId) -> Option<Arc<BlobFile>> {
        let record = self.inner.record(task)?;
        match self.inner.handle(&record) {
            Ok(blob) => Some(blob),
            Err(BlobError::Unknown(_)) => None,
            Err(error) => {
                tracing::warn!(%task, %error, "stored blob cannot be opened");
                None
            }
        }
    }

    /// Makes place for the blob of `task`: least recently used blobs go, as far as quota and disk
    /// require it. The blob that is there already is returned as it is.
    pub fn create(&self, task: TaskId, geometry: Geometry) -> Result<Arc<BlobFile>, CreateError> {
        let nothing = Digest::of(b"");
        if geometry.length() == 0 && task.digest().is_some_and(|digest| digest != nothing) {
            return Err(CreateError::NotEmpty { task });
        }
        loop {
            if let Some(record) = self.inner.record(&task) {
                match self.existing(&record, geometry) {
                    // On its way out: afterwards there is none.
                    Err(CreateError::Blob(BlobError::Unknown(_))) => {}
                    other => return other,
                }
            }
            let structure = lock(&self.inner.structure);
            if self.inner.record(&task).is_none() {
                return self.inner.create(task, geometry);
            }
            drop(structure);
        }
    }

    fn existing(
        &self,
        record: &Arc<Record>,
        wanted: Geometry,
    ) -> Result<Arc<BlobFile>, CreateError> {
        let (task, stored) = (record.task, record.geometry);
        if stored != wanted {
            return Err(CreateError::OtherGeometry {
                task,
                stored,
                wanted,
            });
        }
        Ok(self.inner.handle(record)?)
    }

    /// Deletes the blob of `task`. Who uses it can still read, but no longer write.
    pub fn remove(&self, task: &TaskId) -> Result<(), BlobError> {
        self.remove_unless(task, |_| false).map(|_| ())
    }

    /// As [`Self::remove`], but a blob that is kept by [`Self::set_pinned`] stays; says whether it
    /// went.
    pub fn remove_unpinned(&self, task: &TaskId) -> Result<bool, BlobError> {
        self.remove_unless(task, |record| record.state().is_pinned())
    }

    /// As [`Self::remove`], but what its own digest proves stays, whatever was thought of its list.
    pub fn remove_unproven(&self, task: &TaskId) -> Result<bool, BlobError> {
        self.remove_unless(task, |record| {
            record.task.digest().is_some() && record.state().is_whole()
        })
    }

    fn remove_unless(
        &self,
        task: &TaskId,
        stays: impl FnOnce(&Record) -> bool,
    ) -> Result<bool, BlobError> {
        let _structure = lock(&self.inner.structure);
        let record = self.inner.record(task).ok_or(BlobError::Unknown(*task))?;
        self.inner.database.check_open()?;
        if stays(&record) {
            return Ok(false);
        }
        record.state().removed = true;
        self.inner.discard(&[record])?;
        Ok(true)
    }

    /// While what is returned lives, the quota does not keep [`Self::create`] from making the blob
    /// of `task`: for what somebody relies on, who can have it nowhere else. Others go as far as
    /// that helps; what the disk does not hold is refused as ever. Does not block.
    pub fn need(&self, task: TaskId) -> Need {
        *lock(&self.inner.needed).entry(task).or_default() += 1;
        Need {
            inner: Arc::clone(&self.inner),
            task,
        }
    }

    /// Bytes that [`Self::set_pinned`] keeps, but for those of other programs. Does not block.
    pub fn pinned_bytes(&self) -> u64 {
        let mut records = self.inner.all();
        records.retain(|record| record.state().is_pinned());
        let lengths = records.iter().map(|record| record.own_bytes());
        lengths.fold(0, u64::saturating_add)
    }

    /// Keeps the blob of `task` from being evicted while the pin lives.
    pub fn pin(&self, task: &TaskId) -> Option<Pin> {
        self.find(task).map(|blob| Pin { blob })
    }

    /// Keeps the blob of `task` from being evicted, also by later processes, until it is unpinned.
    pub fn set_pinned(&self, task: &TaskId, pinned: bool) -> Result<(), BlobError> {
        let record = self.inner.record(task).ok_or(BlobError::Unknown(*task))?;
        {
            let mut state = record.state();
            if state.removed {
                return Err(BlobError::Unknown(*task));
            }
            state.set_pinned(pinned);
        }
        Ok(self.inner.save(&[record])?)
    }

    /// Lets go of blobs, by one change. Those that are not here are none.
    pub fn unpin(&self, tasks: &[TaskId]) -> Result<(), StateError> {
        let records = tasks.iter().filter_map(|task| self.inner.record(task));
        let records: Vec<_> = records.collect();
        for record in &records {
            let mut state = record.state();
            if !state.removed {
                state.set_pinned(false);
            }
        }
        self.inner.save(&records)
    }

    /// Evicts what is too old, or what a full file system needs to be rid of. Then saves what changed
    /// since the last time: pieces, lists, last use; then makes whole blobs durable and marks them
    /// so, which may take a while. Does nothing while another call runs. After a crash, what was not
    /// saved is fetched again.
    pub fn checkpoint(&self) -> Result<(), StateError> {
        let Some(_turn) = try_lock(&self.inner.checkpointing) else {
            return Ok(());
        };
        self.inner.database.check_open()?;
        self.inner.clear_left();
        // The database may need the room.
        let tidied = self.inner.tidy();
        let records = self.inner.all();
        self.inner.save(&records)?;
        self.inner.finish(&records)?;
        tidied
    }

    /// Saves everything with a mark that it is true, so that the next [`Self::open`] has nothing
    /// to check. The store takes no further change. For a daemon's stop; a second call does
    /// nothing.
    pub fn close(&self) -> Result<(), StateError> {
        let _structure = lock(&self.inner.structure);
        self.inner.close()
    }

    /// The limits, and how full the file system was when it was last looked at. Does not block.
    pub fn room(&self) -> RoomStatus {
        self.inner.room.status(&self.inner.config)
    }

    /// The blobs that were evicted, or whose files were found gone, since the last call: they are
    /// no longer served. Does not block.
    pub fn take_evicted(&self) -> Vec<TaskId> {
        std::mem::take(&mut lock(&self.inner.evicted))
    }
}

fn summarise(record: &Record) -> BlobSummary {
    let time = |micros| UNIX_EPOCH + Duration::from_micros(micros);
    let state = record.state();
    BlobSummary {
        task: record.task,
        geometry: record.geometry,
        pieces: state.pieces.len(),
        complete: state.pieces.is_full() && !state.is_unchecked(),
        durable: state.complete,
        pinned: state.is_pinned(),
        owner: Owner::of(state.kin()),
        created: time(record.created()),
        last_used: time(record.last_used()),
    }
}
