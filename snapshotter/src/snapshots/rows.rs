//! The database: one row per snapshot, each change one durable transaction.
//!
//! Knows tables and transactions, not what the rows mean.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use redb::{Database, Durability, ReadableTable, TableDefinition, WriteTransaction};

use super::{OpenSnapshotsError, SnapshotError, info::Row};

/// Of the tables and the directories (`docs/snapshots.md`).
const FORMAT: u64 = 1;
/// Redb's own default is 1 GiB. All rows are in memory anyway.
const CACHE_LEN: usize = 1 << 20;

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const SNAPSHOTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("snapshots");
const VERSION: &str = "version";
const NEXT_ID: &str = "next_id";

/// The open database.
pub(super) struct Rows {
    path: PathBuf,
    /// `None` after a failed write, after which redb refuses everything.
    database: Option<Database>,
    next_id: u64,
}

/// One row of a transaction.
#[derive(Clone, Copy, Debug)]
pub(super) enum Change<'a> {
    Put(&'a str, &'a Row),
    Delete(&'a str),
}

/// Whether a change is on the disk before anything else happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Save {
    Durably,
    /// With the next one that is.
    Sometime,
}

/// All rows by name.
pub(super) type Saved = Vec<(String, Row)>;

impl Rows {
    /// Opens or creates it, and reads all of it.
    pub(super) fn open(path: &Path) -> Result<(Self, Saved), OpenSnapshotsError> {
        let (database, next_id, saved) = load(path)?;
        let rows = Self {
            path: path.to_owned(),
            database: Some(database),
            next_id,
        };
        Ok((rows, saved))
    }

    /// After a failed write nobody knows what is saved: opens the database again, and returns its
    /// rows. `None`: it never failed.
    pub(super) fn reopen(&mut self) -> Result<Option<Saved>, OpenSnapshotsError> {
        if self.database.is_some() {
            return Ok(None);
        }
        let (database, next_id, saved) = load(&self.path)?;
        self.next_id = self.next_id.max(next_id);
        self.database = Some(database);
        Ok(Some(saved))
    }

    /// An id that no snapshot ever had. It is used up once a row with it was written.
    pub(super) fn next_id(&self) -> u64 {
        self.next_id
    }

    /// Leaves out an id that is of no use.
    pub(super) fn skip_id(&mut self) {
        self.next_id += 1;
    }

    /// Makes all changes or none.
    pub(super) fn write(
        &mut self,
        changes: &[Change<'_>],
        save: Save,
    ) -> Result<(), SnapshotError> {
        let next_id = changes
            .iter()
            .fold(self.next_id, |next, change| match change {
                Change::Put(_, row) => next.max(row.id + 1),
                Change::Delete(_) => next,
            });
        let moved = (next_id != self.next_id).then_some(next_id);
        let previous = || redb::Error::PreviousIo;
        let database = self.database.as_ref().ok_or_else(previous);
        let written = database.and_then(|database| transact(database, changes, moved, save));
        // Used up even if it failed: a directory may have this name.
        self.next_id = next_id;
        written.map_err(|error| {
            self.database = None;
            SnapshotError::Metadata(Box::new(error))
        })
    }
}

fn transact(
    database: &Database,
    changes: &[Change<'_>],
    next_id: Option<u64>,
    save: Save,
) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    if save == Save::Sometime {
        transaction.set_durability(Durability::None)?;
    }
    write_rows(&transaction, changes)?;
    if let Some(next_id) = next_id {
        transaction.open_table(META)?.insert(NEXT_ID, next_id)?;
    }
    transaction.commit()?;
    Ok(())
}

fn write_rows(transaction: &WriteTransaction, changes: &[Change<'_>]) -> Result<(), redb::Error> {
    let mut table = transaction.open_table(SNAPSHOTS)?;
    for change in changes {
        match change {
            Change::Delete(name) => drop(table.remove(name)?),
            Change::Put(name, row) => {
                let bytes = serde_json::to_vec(row).map_err(std::io::Error::from)?;
                table.insert(*name, bytes.as_slice())?;
            }
        }
    }
    Ok(())
}

fn load(path: &Path) -> Result<(Database, u64, Saved), OpenSnapshotsError> {
    // A page whose bytes rotted may trip an assertion of redb.
    match catch_unwind(AssertUnwindSafe(|| read_all(path))) {
        Ok(outcome) => outcome,
        Err(_) => Err(damaged(path, "redb panicked")),
    }
}

fn read_all(path: &Path) -> Result<(Database, u64, Saved), OpenSnapshotsError> {
    let failed = |error: redb::Error| open_error(path, error);
    let database = Database::builder().set_cache_size(CACHE_LEN).create(path);
    let mut database = database.map_err(|error| failed(error.into()))?;
    // Rot that is found later would fail every later change.
    if !database
        .check_integrity()
        .map_err(|error| failed(error.into()))?
    {
        return Err(damaged(path, "pages do not have their check sums"));
    }
    let (version, next_id, found) = read_tables(&database).map_err(failed)?;
    if version != FORMAT {
        return Err(OpenSnapshotsError::Newer {
            dir: path.parent().unwrap_or(path).to_owned(),
            found: version,
            known: FORMAT,
        });
    }
    let mut saved = Vec::with_capacity(found.len());
    for (name, bytes) in found {
        let row = serde_json::from_slice(&bytes)
            .map_err(|cause| damaged(path, &format!("snapshot {name:?}: {cause}")))?;
        saved.push((name, row));
    }
    let above = saved
        .iter()
        .map(|(_, row): &(String, Row)| row.id.saturating_add(1));
    let next_id = above.fold(next_id, u64::max);
    Ok((database, next_id, saved))
}

type Tables = (u64, u64, Vec<(String, Vec<u8>)>);

fn read_tables(database: &Database) -> Result<Tables, redb::Error> {
    let transaction = database.begin_write()?;
    let mut meta = transaction.open_table(META)?;
    let version = meta.get(VERSION)?.map(|version| version.value());
    if version.is_none() {
        meta.insert(VERSION, FORMAT)?;
    }
    let next_id = meta.get(NEXT_ID)?.map_or(1, |next| next.value());
    drop(meta);
    let table = transaction.open_table(SNAPSHOTS)?;
    let mut found = Vec::new();
    for entry in table.iter()? {
        let (name, row) = entry?;
        found.push((name.value().to_owned(), row.value().to_vec()));
    }
    drop(table);
    match version {
        None => transaction.commit()?,
        Some(_) => transaction.abort()?,
    }
    Ok((version.unwrap_or(FORMAT), next_id, found))
}

fn damaged(path: &Path, why: &str) -> OpenSnapshotsError {
    OpenSnapshotsError::Damaged {
        path: path.to_owned(),
        why: why.to_owned(),
    }
}

fn open_error(path: &Path, error: redb::Error) -> OpenSnapshotsError {
    use std::io::ErrorKind::{InvalidData, UnexpectedEof};
    match error {
        redb::Error::Io(cause) if matches!(cause.kind(), InvalidData | UnexpectedEof) => {
            damaged(path, &cause.to_string())
        }
        error @ (redb::Error::Io(_) | redb::Error::DatabaseAlreadyOpen) => {
            OpenSnapshotsError::Metadata {
                path: path.to_owned(),
                cause: Box::new(error),
            }
        }
        other => damaged(path, &other.to_string()),
    }
}

impl fmt::Debug for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rows")
            .field("path", &self.path)
            .field("next_id", &self.next_id)
            .finish_non_exhaustive()
    }
}
