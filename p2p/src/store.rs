//! The blob store: every byte a node has, once, on its disk.
//!
//! One preallocated file per blob, in which pieces are written in place, and a small database that
//! says which pieces count. Invariant: **a piece counts only if its bytes are there and checked**,
//! whatever crashed in between; `docs/store.md` has the reasoning and the bytes.
//!
//! The driver calls it, in blocking threads: everything here blocks on the disk unless it says
//! otherwise. Handles are cheap to clone and shared between threads; no lock is held over hashing,
//! reading or writing a piece.

mod blob;
mod database;
mod error;
mod layout;
mod record;
mod room;
mod row;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use hawker_model::{Digest, Geometry, SignedStates, TaskId};

pub use self::{
    blob::{BlobFile, Written},
    error::{
        AddBatchError, BlobError, CreateError, OpenStoreError, ReadError, StateError,
        WritePieceError,
    },
};
use self::{
    database::{FORMAT, Loaded, OpenDatabaseError, StateDatabase},
    layout::{Layout, LockError, LockFile},
    record::{Record, Snapshot, lock},
};

/// What the operator decides.
#[derive(Clone, Debug, Default)]
pub struct StoreConfig {
    /// Most bytes of blobs; `None`: as much as the disk holds.
    pub quota_bytes: Option<u64>,
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
    /// All bytes are on the disk and marked so.
    pub complete: bool,
    /// Kept by [`Store::set_pinned`].
    pub pinned: bool,
    pub created: SystemTime,
    pub last_used: SystemTime,
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

impl Store {
    /// Opens the store in `dir`, which is created if need be. What a crash left half done is put
    /// right; pieces that it left in doubt are checked at the first [`Self::find`] of their blob.
    pub fn open(dir: &Path, config: StoreConfig) -> Result<Self, OpenStoreError> {
        let in_dir = |cause| OpenStoreError::Directory {
            dir: dir.to_owned(),
            cause,
        };
        let layout = Layout::create(dir).map_err(in_dir)?;
        let lock_file = LockFile::acquire(&layout).map_err(|error| match error {
            LockError::Held { pid } => OpenStoreError::InUse {
                dir: dir.to_owned(),
                pid,
            },
            LockError::Io(cause) => in_dir(cause),
        })?;
        let (database, loaded) = open_database(&layout)?;
        let records = reconcile(&layout, loaded, &database).map_err(|error| match error {
            ReconcileError::Io(cause) => in_dir(cause),
            ReconcileError::State(cause) => OpenStoreError::State {
                dir: dir.to_owned(),
                cause,
            },
        })?;
        let clock = records.values().map(|record| record.last_used()).max();
        let inner = Inner {
            records: Mutex::new(records),
            database,
            layout,
            quota: config.quota_bytes,
            structure: Mutex::new(()),
            evicted: Mutex::new(Vec::new()),
            clock: AtomicU64::new(clock.unwrap_or(0)),
            _lock_file: lock_file,
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// All blobs, ordered by task. Does not block.
    pub fn blobs(&self) -> Vec<BlobSummary> {
        let records = self.inner.all();
        records.iter().map(|record| summarise(record)).collect()
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
        let nothing = geometry.length() == 0;
        if nothing
            && task
                .digest()
                .is_some_and(|digest| digest != Digest::of(b""))
        {
            return Err(CreateError::NotEmpty { task });
        }
        loop {
            if let Some(record) = self.inner.record(&task) {
                match self.existing(&record, geometry) {
                    // Its file is gone, and now its record is too.
                    Err(CreateError::Blob(BlobError::Unknown(_))) => continue,
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
        let _structure = lock(&self.inner.structure);
        let record = self.inner.record(task).ok_or(BlobError::Unknown(*task))?;
        record.state().removed = true;
        Ok(self.inner.discard(&[record])?)
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

    /// Saves what changed since the last time: pieces, lists, last use. After a crash, what was
    /// not saved is fetched again.
    pub fn checkpoint(&self) -> Result<(), StateError> {
        self.inner.save(&self.inner.all())
    }

    /// Saves everything with a mark that it is true, so that the next [`Self::open`] has nothing
    /// to check. The store takes no further change. For a daemon's stop; a second call does
    /// nothing.
    pub fn close(&self) -> Result<(), StateError> {
        let _structure = lock(&self.inner.structure);
        self.inner.close()
    }

    /// The blobs that were evicted, or whose files were found gone, since the last call: they are
    /// no longer served. Does not block.
    pub fn take_evicted(&self) -> Vec<TaskId> {
        std::mem::take(&mut lock(&self.inner.evicted))
    }
}

/// What clones and handles share. Locks are taken in this order: `structure`, a record's handle, a
/// blob's `finishing`, its list, the database's, `records`, a record's state.
pub(crate) struct Inner {
    records: Mutex<BTreeMap<TaskId, Arc<Record>>>,
    database: StateDatabase,
    layout: Layout,
    quota: Option<u64>,
    /// Held while files come and go.
    structure: Mutex<()>,
    evicted: Mutex<Vec<TaskId>>,
    /// The last time given out, in microseconds since 1970.
    clock: AtomicU64,
    _lock_file: LockFile,
}

impl Inner {
    fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Microseconds since 1970, later than any time given out before.
    fn now(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = since.map_or(0, |since| since.as_micros() as u64);
        let later = |last: u64| Some(now.max(last.saturating_add(1)));
        let order = Ordering::Relaxed;
        let last = self.clock.fetch_update(order, order, later);
        last.map_or(now, |last| now.max(last.saturating_add(1)))
    }

    fn record(&self, task: &TaskId) -> Option<Arc<Record>> {
        lock(&self.records).get(task).cloned()
    }

    fn all(&self) -> Vec<Arc<Record>> {
        lock(&self.records).values().cloned().collect()
    }

    fn batches(&self, task: &TaskId) -> Result<Vec<SignedStates>, StateError> {
        self.database.batches(task)
    }

    /// The blob's handle: the one that is out, or a new one.
    fn handle(self: &Arc<Self>, record: &Arc<Record>) -> Result<Arc<BlobFile>, BlobError> {
        let (task, path) = (record.task, self.layout.blob(&record.task));
        let mut handle = lock(&record.handle);
        if record.state().removed {
            return Err(BlobError::Unknown(task));
        }
        if let Some(blob) = handle.upgrade() {
            return Ok(blob);
        }
        let file = match self.layout.open(&task) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                drop(handle);
                self.vanished(record)?;
                return Err(BlobError::Unknown(task));
            }
            Err(cause) => return Err(BlobError::Io { path, cause }),
        };
        let length = record.geometry.length();
        let extended = file
            .metadata()
            .and_then(|found| match found.len() == length {
                true => Ok(()),
                false => layout::preallocate(&file, length).and_then(|()| file.set_len(length)),
            });
        extended.map_err(|cause| BlobError::Io { path, cause })?;
        let blob = Arc::new(BlobFile::new(self.clone(), record.clone(), file)?);
        *handle = Arc::downgrade(&blob);
        drop(handle);
        // A crash came between the last piece and the mark.
        if let Err(error) = blob.finish() {
            tracing::warn!(%task, %error, "whole blob cannot be marked complete");
        }
        Ok(blob)
    }

    /// Someone deleted the blob's file.
    fn vanished(&self, record: &Arc<Record>) -> Result<(), StateError> {
        let _structure = lock(&self.structure);
        if std::mem::replace(&mut record.state().removed, true) {
            return Ok(());
        }
        tracing::warn!(task = %record.task, "blob file is gone");
        self.discard(std::slice::from_ref(record))?;
        lock(&self.evicted).push(record.task);
        Ok(())
    }

    /// Creates a blob that is not there. The caller holds `structure`.
    fn create(
        self: &Arc<Self>,
        task: TaskId,
        geometry: Geometry,
    ) -> Result<Arc<BlobFile>, CreateError> {
        let file = self.allocate(task, geometry.length())?;
        let record = Arc::new(Record::new(task, geometry, self.now()));
        // Its row is saved later: until then a crash leaves a file without a row, which is removed.
        let blob = Arc::new(BlobFile::new(self.clone(), record.clone(), file)?);
        *lock(&record.handle) = Arc::downgrade(&blob);
        lock(&self.records).insert(task, record);
        if geometry.length() == 0 {
            blob.finish().map_err(|error| match error {
                WritePieceError::State(error) => CreateError::State(error),
                other => CreateError::Io {
                    path: self.layout.blob(&task),
                    cause: io::Error::other(other),
                },
            })?;
        }
        Ok(blob)
    }

    /// Saves what changed of `records`.
    fn save(&self, records: &[Arc<Record>]) -> Result<(), StateError> {
        self.database.change(
            |tables| {
                let changed = records
                    .iter()
                    .filter_map(|record| Some((record, record.snapshot()?)));
                let changed: Vec<(&Arc<Record>, Snapshot)> = changed.collect();
                changed
                    .iter()
                    .try_for_each(|(_, snapshot)| snapshot.save(tables))?;
                Ok(changed)
            },
            |changed| {
                for (record, snapshot) in changed {
                    record.note_saved(snapshot);
                }
            },
        )?;
        Ok(())
    }

    /// Marks a blob whose bytes were synchronised, if no piece was lost since `losses` were
    /// counted; says whether it was.
    fn mark_complete(&self, record: &Record, losses: u64) -> Result<bool, StateError> {
        let whole = |state: &record::State| state.losses == losses && !state.removed;
        let saved = self.database.change(
            |tables| {
                if !whole(&record.state()) {
                    return Ok(None);
                }
                let Some(mut snapshot) = record.full_snapshot() else {
                    return Ok(None);
                };
                snapshot.saved.row.complete = true;
                snapshot.save(tables)?;
                Ok(Some(snapshot))
            },
            |saved| {
                if let Some(snapshot) = saved {
                    record.note_saved(snapshot);
                    let mut state = record.state();
                    state.complete = whole(&state);
                }
            },
        )?;
        Ok(saved.is_some() && record.state().complete)
    }

    /// Takes blobs out that are marked removed: rows first, since a row may never speak of a file
    /// that came after. The caller holds `structure`.
    fn discard(&self, records: &[Arc<Record>]) -> Result<(), StateError> {
        let deleted = self.database.change(
            |tables| {
                records
                    .iter()
                    .try_for_each(|record| tables.delete(&record.task))
            },
            |()| {},
        );
        if let Err(error) = deleted {
            records
                .iter()
                .for_each(|record| record.state().removed = false);
            return Err(error);
        }
        for record in records {
            let task = record.task;
            lock(&self.records).remove(&task);
            // The next open removes what stays now.
            if let Err(error) = self.layout.delete(&task) {
                tracing::warn!(%task, %error, "blob file cannot be deleted");
            }
        }
        Ok(())
    }

    fn close(&self) -> Result<(), StateError> {
        self.database.close(|tables| {
            for record in self.all() {
                // The snapshot first: what is written after it is not in it.
                let Some(mut snapshot) = record.full_snapshot() else {
                    continue;
                };
                let unsynced = std::mem::take(&mut record.state().unsynced);
                let synced = match unsynced && !snapshot.saved.row.complete {
                    true => self
                        .layout
                        .open(&record.task)
                        .and_then(|file| file.sync_data()),
                    false => Ok(()),
                };
                if let Err(error) = synced {
                    tracing::warn!(task = %record.task, %error, "blob file cannot be saved");
                    let capacity = record.geometry.piece_count();
                    snapshot.saved.pieces = hawker_model::PieceSet::empty(capacity);
                }
                snapshot.save(tables)?;
            }
            Ok(())
        })
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("dir", &self.layout.root())
            .finish_non_exhaustive()
    }
}

fn summarise(record: &Record) -> BlobSummary {
    let time = |micros| UNIX_EPOCH + Duration::from_micros(micros);
    let state = record.state();
    BlobSummary {
        task: record.task,
        geometry: record.geometry,
        pieces: state.pieces.len(),
        complete: state.complete,
        pinned: state.is_pinned(),
        created: time(record.created()),
        last_used: time(record.last_used()),
    }
}

/// Opens the state database; one that cannot be read is moved aside.
fn open_database(layout: &Layout) -> Result<(StateDatabase, Loaded), OpenStoreError> {
    let dir = || layout.root().to_owned();
    let refused = |error| match error {
        OpenDatabaseError::Busy => OpenStoreError::InUse {
            dir: dir(),
            pid: None,
        },
        OpenDatabaseError::Newer(found) => OpenStoreError::Newer {
            dir: dir(),
            found,
            known: FORMAT,
        },
        OpenDatabaseError::Failed(cause) => OpenStoreError::State { dir: dir(), cause },
        OpenDatabaseError::Corrupt(reason) => OpenStoreError::Directory {
            dir: dir(),
            cause: io::Error::new(io::ErrorKind::InvalidData, reason),
        },
    };
    let path = layout.state();
    match StateDatabase::open(&path) {
        Err(OpenDatabaseError::Corrupt(reason)) => {
            let aside = layout.corrupt_state();
            tracing::warn!(
                path = %path.display(), aside = %aside.display(), reason,
                "state database is corrupt: moved aside, the store starts empty"
            );
            fs::rename(&path, &aside)
                .map_err(|cause| OpenStoreError::Directory { dir: dir(), cause })?;
            StateDatabase::open(&path).map_err(refused)
        }
        other => other.map_err(refused),
    }
}

enum ReconcileError {
    Io(io::Error),
    State(StateError),
}

/// Makes database and directory tell the same: a row without its file, or complete and of the
/// wrong length, goes, and so does a file without a row.
fn reconcile(
    layout: &Layout,
    loaded: Loaded,
    database: &StateDatabase,
) -> Result<BTreeMap<TaskId, Arc<Record>>, ReconcileError> {
    let mut files = layout.scan().map_err(ReconcileError::Io)?;
    let mut dropped = loaded.damaged;
    let mut records = BTreeMap::new();
    for saved in loaded.blobs {
        let (task, row) = (saved.task, saved.row);
        let found = files.get(&task).copied();
        let length = row.geometry.length();
        if found.is_none() || (row.complete && found != Some(length)) {
            tracing::warn!(%task, length, ?found, "blob file is gone or has the wrong length");
            dropped.push(task);
            continue;
        }
        files.remove(&task);
        let doubtful = !loaded.clean || found != Some(length);
        let record = Record::restore(saved);
        if doubtful && !row.complete {
            record.state().set_unchecked(true);
        }
        records.insert(task, Arc::new(record));
    }
    if !dropped.is_empty() {
        let delete = database.change(
            |tables| dropped.iter().try_for_each(|task| tables.delete(task)),
            |()| {},
        );
        delete.map_err(ReconcileError::State)?;
    }
    for task in files.into_keys() {
        tracing::debug!(%task, "removed a blob file without a row");
        layout.delete(&task).map_err(ReconcileError::Io)?;
    }
    Ok(records)
}
