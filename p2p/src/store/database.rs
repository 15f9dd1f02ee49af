//! The state database: which blobs there are, what of them is claimed, their chain values.
//!
//! Knows tables and transactions, not what the rows mean to the store. Every call blocks.

use std::{
    fs::OpenOptions,
    io,
    os::unix::fs::OpenOptionsExt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

use hawker_model::{PieceSet, SignedStates, TaskId};
use redb::{Database, ReadableDatabase, ReadableTable, StorageError, Table, TableDefinition};

use super::{
    StateError,
    disk::DatabaseFile,
    layout::{FILE_MODE, Layout},
    provenance::Provenance,
    record::lock,
    row::{self, BatchKey, Row, TaskKey},
};

/// Of the tables and the directory (`docs/store.md`).
pub(super) const FORMAT: u32 = 3;
/// The oldest whose rows can be read: of its blobs some need new lists (`upgrade.rs`).
const OLDEST: u32 = 2;
/// Redb's own default is 1 GiB.
const CACHE_LEN: usize = 16 << 20;

const META: TableDefinition<'_, &str, u32> = TableDefinition::new("meta");
const BLOBS: TableDefinition<'_, &TaskKey, &[u8]> = TableDefinition::new("blobs");
const PIECES: TableDefinition<'_, &TaskKey, &[u8]> = TableDefinition::new("pieces");
const LISTS: TableDefinition<'_, &BatchKey, &[u8]> = TableDefinition::new("lists");
const ORIGINS: TableDefinition<'_, &TaskKey, &[u8]> = TableDefinition::new("origins");
const VERSION: &str = "version";
/// 1 from [`StateDatabase::close`] to the next open: every claimed byte is on the disk.
const CLEAN: &str = "clean";

/// The open database.
#[derive(Debug)]
pub(super) struct StateDatabase {
    layout: Layout,
    /// `None` after a failed write, after which redb refuses everything: opened anew when it is
    /// next needed, so that a disk that was full for a while does no lasting harm.
    database: RwLock<Option<Database>>,
    /// Held over every change and what follows from it in memory.
    changing: Mutex<()>,
    closed: AtomicBool,
}

/// One blob as the database tells it.
#[derive(Clone, Debug)]
pub(super) struct Saved {
    pub(super) task: TaskId,
    pub(super) row: Row,
    /// Empty where the row says complete.
    pub(super) pieces: PieceSet,
    /// Nothing where there is no row.
    pub(super) provenance: Arc<Provenance>,
}

/// What the database held when it was opened.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) blobs: Vec<Saved>,
    /// Rows that cannot be read.
    pub(super) damaged: Vec<TaskId>,
    pub(super) clean: bool,
}

/// Why it cannot be opened.
#[derive(Debug)]
pub(super) enum OpenDatabaseError {
    Busy,
    Newer(u32),
    /// What is in the file is no database of ours.
    Corrupt(String),
    Failed(StateError),
}

impl StateDatabase {
    /// Opens or creates it, and reads everything but the lists.
    pub(super) fn open(layout: &Layout) -> Result<(Self, Loaded), OpenDatabaseError> {
        // A page whose bytes rotted may trip an assertion of redb.
        match catch_unwind(AssertUnwindSafe(|| open_and_load(layout))) {
            Ok(outcome) => outcome,
            Err(_) => Err(OpenDatabaseError::Corrupt("redb panicked".to_owned())),
        }
    }

    /// Fails once the database is closed.
    pub(super) fn check_open(&self) -> Result<(), StateError> {
        match self.closed.load(Ordering::Acquire) {
            true => Err(StateError::Closed),
            false => Ok(()),
        }
    }

    /// The batches of a task's list, in order, up to the first that cannot be read.
    pub(super) fn batches(&self, task: &TaskId) -> Result<Vec<SignedStates>, StateError> {
        let (first, last) = (row::batch_key(task, 0), row::batch_key(task, u32::MAX));
        self.with(|database| {
            let table = database.begin_read()?.open_table(LISTS)?;
            let mut batches = Vec::new();
            for entry in table.range::<&BatchKey>(&first..=&last)? {
                let (key, value) = entry?;
                match row::decode_batch(key.value(), value.value()) {
                    Some(batch) => batches.push(batch),
                    None => break,
                }
            }
            Ok(batches)
        })
    }

    /// Changes tables in one durable transaction. `prepare` runs in it, once earlier changes are
    /// done; `commit` runs after it, before later ones.
    pub(super) fn change<T>(
        &self,
        prepare: impl FnOnce(&mut Tables<'_>) -> Result<T, StateError>,
        committed: impl FnOnce(&T),
    ) -> Result<T, StateError> {
        let _turn = lock(&self.changing);
        self.check_open()?;
        let value = self.with(|database| {
            let transaction = database.begin_write()?;
            let value = prepare(&mut Tables::open(&transaction)?)?;
            transaction.commit()?;
            Ok(value)
        })?;
        committed(&value);
        Ok(value)
    }

    /// The last change: also marks that all claims are true. A second call does nothing.
    pub(super) fn close(
        &self,
        prepare: impl FnOnce(&mut Tables<'_>) -> Result<(), StateError>,
    ) -> Result<(), StateError> {
        let _turn = lock(&self.changing);
        if self.closed.load(Ordering::Acquire) {
            return Ok(());
        }
        self.with(|database| {
            let transaction = database.begin_write()?;
            prepare(&mut Tables::open(&transaction)?)?;
            transaction.open_table(META)?.insert(CLEAN, 1)?;
            transaction.commit()?;
            Ok(())
        })?;
        self.closed.store(true, Ordering::Release);
        Ok(())
    }

    fn with<T>(
        &self,
        use_database: impl FnOnce(&Database) -> Result<T, StateError>,
    ) -> Result<T, StateError> {
        self.reopen()?;
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let open = database.as_ref().ok_or(redb::Error::PreviousIo)?;
        let result = use_database(open);
        drop(database);
        if result.as_ref().is_err_and(is_lasting) {
            *self
                .database
                .write()
                .unwrap_or_else(PoisonError::into_inner) = None;
        }
        result
    }

    /// Opens the database again if it failed. What was saved is as true as after a crash.
    fn reopen(&self) -> Result<(), StateError> {
        if self
            .database
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .is_some()
        {
            return Ok(());
        }
        let mut database = self
            .database
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if database.is_none() {
            *database = Some(open_file(&self.layout, false)?);
            tracing::info!(
                path = %self.layout.state().display(),
                "state database opened again"
            );
        }
        Ok(())
    }
}

/// The tables within one transaction.
pub(super) struct Tables<'t> {
    blobs: Table<'t, &'static TaskKey, &'static [u8]>,
    pieces: Table<'t, &'static TaskKey, &'static [u8]>,
    lists: Table<'t, &'static BatchKey, &'static [u8]>,
    origins: Table<'t, &'static TaskKey, &'static [u8]>,
}

impl<'t> Tables<'t> {
    fn open(transaction: &'t redb::WriteTransaction) -> Result<Self, StateError> {
        Ok(Self {
            blobs: transaction.open_table(BLOBS)?,
            pieces: transaction.open_table(PIECES)?,
            lists: transaction.open_table(LISTS)?,
            origins: transaction.open_table(ORIGINS)?,
        })
    }

    /// Writes a blob's rows; `batches` are added to the list.
    pub(super) fn save(
        &mut self,
        saved: &Saved,
        batches: &[SignedStates],
    ) -> Result<(), StateError> {
        let key = saved.task.to_bytes();
        self.blobs.insert(&key, saved.row.encode(&key).as_slice())?;
        match saved.row.complete || saved.pieces.is_empty() {
            true => drop(self.pieces.remove(&key)?),
            false => {
                let bytes = row::encode_pieces(&key, &saved.pieces);
                self.pieces.insert(&key, bytes.as_slice())?;
            }
        }
        match saved.provenance.is_empty() {
            true => drop(self.origins.remove(&key)?),
            false => {
                let bytes = row::encode_provenance(&key, &saved.provenance);
                self.origins.insert(&key, bytes.as_slice())?;
            }
        }
        for batch in batches {
            let key = row::batch_key(&saved.task, batch.first.0);
            let bytes = row::encode_batch(&key, batch);
            self.lists.insert(&key, bytes.as_slice())?;
        }
        Ok(())
    }

    /// Deletes all rows of a blob.
    pub(super) fn delete(&mut self, task: &TaskId) -> Result<(), StateError> {
        let key = task.to_bytes();
        self.blobs.remove(&key)?;
        self.pieces.remove(&key)?;
        self.origins.remove(&key)?;
        let (first, last) = (row::batch_key(task, 0), row::batch_key(task, u32::MAX));
        self.lists
            .retain_in::<&BatchKey, _>(&first..=&last, |_, _| false)?;
        Ok(())
    }
}

/// Opens the database's file. A new one gets its name once it is a database, and durably, before
/// anything is in it.
fn open_file(layout: &Layout, may_create: bool) -> Result<Database, redb::Error> {
    let (path, disk) = (layout.state(), &layout.disk);
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_LEN);
    let on = |file| builder.create_with_backend(DatabaseFile::new(disk.clone(), file));
    match disk.open_to_write(&path) {
        Err(error) if may_create && error.kind() == io::ErrorKind::NotFound => {
            let begun = layout.begun_state();
            match disk.remove(&begun) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
            let mut options = OpenOptions::new();
            options.read(true).write(true);
            options.create_new(true).mode(FILE_MODE);
            let database = on(disk.create(&begun, &options)?)?;
            disk.rename(&begun, &path)?;
            disk.sync_dir(layout.root())?;
            Ok(database)
        }
        opened => Ok(on(opened?)?),
    }
}

fn open_and_load(layout: &Layout) -> Result<(StateDatabase, Loaded), OpenDatabaseError> {
    let mut database = open_file(layout, true)?;
    // Reads all of it. A repair may go back to an older commit, whose rows may speak of files
    // that were replaced since; and rot that is found later would fail every later change.
    if !database.check_integrity()? {
        let reason = "pages do not have their check sums";
        return Err(OpenDatabaseError::Corrupt(reason.to_owned()));
    }
    let transaction = database.begin_write()?;
    let mut meta = transaction.open_table(META)?;
    let found = meta.get(VERSION)?.map(|version| version.value());
    match found {
        Some(OLDEST..=FORMAT) | None => {}
        Some(0) => return Err(OpenDatabaseError::Corrupt("format 0".to_owned())),
        Some(older) if older < OLDEST => discard(&transaction, older)?,
        Some(newer) => return Err(OpenDatabaseError::Newer(newer)),
    }
    let clean = meta.get(CLEAN)?.is_some_and(|clean| clean.value() == 1);
    meta.insert(VERSION, FORMAT)?;
    meta.insert(CLEAN, 0)?;
    drop(meta);
    let mut loaded = Loaded {
        blobs: Vec::new(),
        damaged: Vec::new(),
        clean,
    };
    load_blobs(&transaction, &mut loaded)?;
    // From here on a crash is one.
    transaction.commit()?;
    let state = StateDatabase {
        layout: layout.clone(),
        database: RwLock::new(Some(database)),
        changing: Mutex::new(()),
        closed: AtomicBool::new(false),
    };
    Ok((state, loaded))
}

/// Forgets what an older format holds: its lists are signed in a way that no host takes any more.
fn discard(transaction: &redb::WriteTransaction, format: u32) -> Result<(), OpenDatabaseError> {
    tracing::warn!(
        format,
        "the blob store is of a format that is too old: it starts empty"
    );
    transaction.delete_table(BLOBS)?;
    transaction.delete_table(PIECES)?;
    transaction.delete_table(LISTS)?;
    Ok(())
}

fn load_blobs(
    transaction: &redb::WriteTransaction,
    loaded: &mut Loaded,
) -> Result<(), OpenDatabaseError> {
    let blobs = transaction.open_table(BLOBS)?;
    let claims = transaction.open_table(PIECES)?;
    let origins = transaction.open_table(ORIGINS)?;
    transaction.open_table(LISTS)?;
    for entry in blobs.iter()? {
        let (key, value) = entry?;
        let key = key.value();
        let Ok(task) = TaskId::from_bytes(key) else {
            return Err(OpenDatabaseError::Corrupt(format!("key {key:x?}")));
        };
        let Some(row) = Row::decode(key, value.value()) else {
            loaded.damaged.push(task);
            continue;
        };
        let capacity = row.geometry.piece_count();
        let pieces = claims
            .get(key)?
            .and_then(|bytes| row::decode_pieces(key, capacity, bytes.value()))
            .unwrap_or_else(|| PieceSet::empty(capacity));
        let provenance = origins
            .get(key)?
            .and_then(|bytes| row::decode_provenance(key, bytes.value()))
            .filter(|provenance| provenance.end() <= capacity)
            .unwrap_or_default();
        loaded.blobs.push(Saved {
            task,
            row,
            pieces,
            provenance: Arc::new(provenance),
        });
    }
    Ok(())
}

impl<E: Into<redb::Error>> From<E> for OpenDatabaseError {
    fn from(error: E) -> Self {
        match error.into() {
            redb::Error::DatabaseAlreadyOpen => Self::Busy,
            redb::Error::Io(error) if !is_content(&error) => {
                Self::Failed(StateError::from(StorageError::Io(error)))
            }
            other => Self::Corrupt(other.to_string()),
        }
    }
}

/// Whether redb refuses further use after this.
fn is_lasting(error: &StateError) -> bool {
    let StateError::Database(error) = error else {
        return false;
    };
    matches!(**error, redb::Error::Io(_) | redb::Error::PreviousIo)
}

/// Whether the file was read, but what it holds is wrong.
fn is_content(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
    )
}
