//! What all handles of one store share: its records, and how files and rows come and go.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use hawker_model::{Geometry, SignedStates, TaskId};

use super::{
    BlobError, BlobFile, CreateError, StateError, StoreConfig,
    database::StateDatabase,
    kin::{Found, Kin},
    layout::{Layout, LockFile, Opened},
    record::{Record, Snapshot, lock},
    room::Room,
};

/// Why a blob went whose file is another program's too.
pub(super) const CHANGED: &str = "another program has changed the file that it shares with us";

/// What clones and handles share. Locks are taken in this order: `checkpointing`, `structure`, a
/// record's handle, a blob's list, the database's, `records`, a record's state.
pub(super) struct Inner {
    pub(super) records: Mutex<BTreeMap<TaskId, Arc<Record>>>,
    pub(super) database: StateDatabase,
    pub(super) layout: Layout,
    pub(super) config: StoreConfig,
    pub(super) room: Room,
    pub(super) checkpointing: Mutex<()>,
    /// Held while files come and go.
    pub(super) structure: Mutex<()>,
    pub(super) evicted: Mutex<Vec<TaskId>>,
    /// Blobs that are made whatever the quota says, and how many need each.
    pub(super) needed: Mutex<BTreeMap<TaskId, usize>>,
    /// Of blobs that are no more: files that could not be deleted.
    left: Mutex<BTreeSet<TaskId>>,
    /// The last time given out, in microseconds since 1970.
    clock: AtomicU64,
    _lock_file: LockFile,
}

impl Inner {
    pub(super) fn new(
        layout: Layout,
        lock_file: LockFile,
        database: StateDatabase,
        records: BTreeMap<TaskId, Arc<Record>>,
        config: StoreConfig,
    ) -> Self {
        let clock = records.values().map(|record| record.last_used()).max();
        Self {
            records: Mutex::new(records),
            database,
            layout,
            config,
            room: Room::default(),
            checkpointing: Mutex::new(()),
            structure: Mutex::new(()),
            evicted: Mutex::new(Vec::new()),
            needed: Mutex::default(),
            left: Mutex::default(),
            clock: AtomicU64::new(clock.unwrap_or(0)),
            _lock_file: lock_file,
        }
    }

    pub(super) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Microseconds since 1970, later than any time given out before.
    pub(super) fn now(&self) -> u64 {
        let now = self.time();
        let later = |last: u64| Some(now.max(last.saturating_add(1)));
        let order = Ordering::Relaxed;
        let last = self.clock.fetch_update(order, order, later);
        last.map_or(now, |last| now.max(last.saturating_add(1)))
    }

    /// Microseconds since 1970.
    pub(super) fn time(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        since.map_or(0, |since| since.as_micros() as u64)
    }

    pub(super) fn record(&self, task: &TaskId) -> Option<Arc<Record>> {
        lock(&self.records).get(task).cloned()
    }

    pub(super) fn all(&self) -> Vec<Arc<Record>> {
        lock(&self.records).values().cloned().collect()
    }

    pub(super) fn batches(&self, task: &TaskId) -> Result<Vec<SignedStates>, StateError> {
        self.database.batches(task)
    }

    /// The blob's handle: the one that is out, or a new one.
    pub(super) fn handle(
        self: &Arc<Self>,
        record: &Arc<Record>,
    ) -> Result<Arc<BlobFile>, BlobError> {
        let (task, path) = (record.task, self.layout.blob(&record.task));
        let mut handle = lock(&record.handle);
        if record.state().removed {
            return Err(BlobError::Unknown(task));
        }
        if let Some(blob) = handle.upgrade() {
            return Ok(blob);
        }
        let linked = record.state().kin().and_then(Kin::linked);
        let opened = match linked {
            None => self.layout.open(&task),
            Some(_) => self.layout.open_to_read(&task).map(Opened::ToRead),
        };
        let opened = match opened {
            Ok(opened) => opened,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                drop(handle);
                self.drop_out(record, "blob file is gone")?;
                return Err(BlobError::Unknown(task));
            }
            Err(cause) => return Err(BlobError::Io { path, cause }),
        };
        let length = record.geometry.length();
        let disk = &self.layout.disk;
        let file = opened.file();
        let found = disk.metadata(file);
        if let (Some(stamp), Ok(found)) = (linked, &found) {
            let found = Found::of(found);
            if (found.stamp, found.length) != (stamp, length) {
                drop(handle);
                self.drop_out(record, CHANGED)?;
                return Err(BlobError::Unknown(task));
            }
        }
        let found = found.map(|found| found.len());
        if found.as_ref().is_ok_and(|found| *found != length) {
            // Saved first: with its length the file would look whole after a crash.
            record.state().doubt();
            self.save(std::slice::from_ref(record))?;
        }
        let mended = found.and_then(|found| match found == length {
            true => Ok(()),
            false => disk
                .preallocate(file, length)
                .and_then(|()| disk.set_len(file, length)),
        });
        mended.map_err(|cause| BlobError::Io { path, cause })?;
        let blob = Arc::new(BlobFile::new(self.clone(), record.clone(), opened)?);
        *handle = Arc::downgrade(&blob);
        Ok(blob)
    }

    /// Someone deleted the blob's file, or changed it: it is no longer ours to serve.
    pub(super) fn drop_out(&self, record: &Arc<Record>, why: &str) -> Result<(), StateError> {
        let _structure = lock(&self.structure);
        self.database.check_open()?;
        if std::mem::replace(&mut record.state().removed, true) {
            return Ok(());
        }
        tracing::warn!(task = %record.task, why, "dropped a blob");
        self.discard(std::slice::from_ref(record))?;
        lock(&self.evicted).push(record.task);
        Ok(())
    }

    /// Creates a blob that is not there. The caller holds `structure`.
    pub(super) fn create(
        self: &Arc<Self>,
        task: TaskId,
        geometry: Geometry,
    ) -> Result<Arc<BlobFile>, CreateError> {
        self.database.check_open()?;
        let file = self.allocate(task, geometry.length())?;
        let record = Arc::new(Record::new(task, geometry, self.now()));
        // Its row is saved later: until then a crash leaves a file without a row, which is removed.
        let opened = Opened::ToWrite(file);
        let blob = Arc::new(BlobFile::new(self.clone(), record.clone(), opened)?);
        *lock(&record.handle) = Arc::downgrade(&blob);
        lock(&self.records).insert(task, record);
        Ok(blob)
    }

    /// Saves what changed of `records`.
    pub(super) fn save(&self, records: &[Arc<Record>]) -> Result<(), StateError> {
        if !records.iter().any(|record| record.is_changed()) {
            return Ok(());
        }
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

    /// Makes those of `records` that are whole durable, and marks them so in one go.
    pub(super) fn finish(&self, records: &[Arc<Record>]) -> Result<(), StateError> {
        let whole = records.iter().filter_map(|record| {
            let losses = record.state().begin_finish()?;
            match self.sync(record) {
                Ok(()) => Some((record, losses)),
                Err(error) => {
                    // The kernel reports it once, and may have thrown any of the pages away.
                    tracing::error!(task = %record.task, %error, "blob file cannot be saved");
                    record.state().lose_all();
                    None
                }
            }
        });
        let whole: Vec<_> = whole.collect();
        if whole.is_empty() {
            return Ok(());
        }
        self.database.change(
            |tables| {
                let still = whole.iter().filter_map(|(record, losses)| {
                    let mut snapshot = record.snapshot_of_whole(*losses)?;
                    snapshot.saved.row.complete = true;
                    Some((*record, snapshot))
                });
                let still: Vec<(&Arc<Record>, Snapshot)> = still.collect();
                still
                    .iter()
                    .try_for_each(|(_, snapshot)| snapshot.save(tables))?;
                Ok(still)
            },
            |marked| {
                for (record, snapshot) in marked {
                    record.note_saved(snapshot);
                }
            },
        )?;
        Ok(())
    }

    /// A file of `task` may lie about that no blob has: it goes, if not now, then at a checkpoint.
    /// Says whether it has gone.
    pub(super) fn leave(&self, task: TaskId) -> bool {
        let path = self.layout.blob(&task);
        let path = path.display();
        match self.layout.delete(&task) {
            Ok(()) => {
                if lock(&self.left).remove(&task) {
                    tracing::info!(%path, "a blob file that could not be deleted has gone");
                }
                true
            }
            // Told once: it is tried every few seconds.
            Err(error) if lock(&self.left).insert(task) => {
                tracing::warn!(%path, %error, "blob file cannot be deleted, and is tried again");
                false
            }
            Err(error) => {
                tracing::debug!(%path, %error, "blob file still cannot be deleted");
                false
            }
        }
    }

    /// Deletes what could not be deleted before.
    pub(super) fn clear_left(&self) {
        if lock(&self.left).is_empty() {
            return;
        }
        let _structure = lock(&self.structure);
        let left = lock(&self.left).clone();
        for task in left {
            if self.record(&task).is_none() {
                self.leave(task);
            } else {
                lock(&self.left).remove(&task);
            }
        }
    }

    /// Takes blobs out that are marked removed. Files first: on a full disk the database needs
    /// their space. They leave `records` last, since a row may never speak of a file that came
    /// after. The caller holds `structure`.
    pub(super) fn discard(&self, records: &[Arc<Record>]) -> Result<(), StateError> {
        let gone: Vec<bool> = records.iter().map(|it| self.leave(it.task)).collect();
        let deleted = self.database.change(
            |tables| {
                let mut tasks = records.iter().map(|record| record.task);
                tasks.try_for_each(|task| tables.delete(&task))
            },
            |()| {},
        );
        for (record, gone) in records.iter().zip(gone) {
            match deleted {
                Ok(()) => drop(lock(&self.records).remove(&record.task)),
                Err(_) => {
                    let mut state = record.state();
                    state.removed = false;
                    // The next to look for the blob finds no file, and tries again. A file that
                    // could not be deleted is as whole as before.
                    if gone {
                        state.lose_all();
                    }
                }
            }
        }
        deleted
    }

    pub(super) fn close(&self) -> Result<(), StateError> {
        let records = self.all();
        self.finish(&records)?;
        self.database.close(|tables| {
            for record in &records {
                // The snapshot first: what is written from now on is not in it.
                let snapshot = record.last_snapshot();
                let unsynced = std::mem::take(&mut record.state().unsynced);
                let synced = if unsynced { self.sync(record) } else { Ok(()) };
                let snapshot = match synced {
                    Ok(()) => snapshot,
                    Err(error) => {
                        tracing::error!(task = %record.task, %error, "blob file cannot be saved");
                        record.state().lose_all();
                        record.full_snapshot()
                    }
                };
                if let Some(snapshot) = snapshot {
                    snapshot.save(tables)?;
                }
            }
            Ok(())
        })
    }

    /// Makes what was written to a blob durable, and its file's name.
    pub(super) fn sync(&self, record: &Record) -> io::Result<()> {
        // A descriptor for reading does as well.
        let file = self.layout.open_to_read(&record.task)?;
        self.layout.disk.sync(&file)?;
        self.layout.sync_name(&record.task)
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("dir", &self.layout.root())
            .finish_non_exhaustive()
    }
}
