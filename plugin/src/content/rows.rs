//! The database of the records: one row per digest (`docs/content.md`).
//!
//! Knows tables and transactions, not what the rows mean. What it loses is not lost: what is
//! committed is pinned in the blob store as well.

use std::{
    collections::BTreeMap,
    fmt, fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use hawker_model::Digest;
use redb::{Database, ReadableTable, Table, TableDefinition};
use tracing::{error, warn};

use super::{error::OpenContentError, record::Row};

const FORMAT: u64 = 1;
/// Redb's own default is 1 GiB. All rows are in memory anyway.
const CACHE_LEN: usize = 1 << 20;

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const CONTENT: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("content");
const VERSION: &str = "version";
const USED: &str = "used";

/// The open database.
pub(super) struct Rows {
    path: PathBuf,
    /// `None` after a failed write, after which redb refuses everything.
    database: Option<Database>,
}

/// A change of the database.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Put(Digest, Row),
    Delete(Digest),
    /// containerd was told of it.
    Told(Digest),
    /// Whether containerd uses the content service.
    Used(bool),
}

/// All that was saved.
#[derive(Debug, Default)]
pub(super) struct Saved {
    pub(super) rows: BTreeMap<Digest, Row>,
    pub(super) is_used: bool,
}

impl Rows {
    /// Opens or creates it, and reads all of it. One that cannot be read is moved aside.
    pub(super) fn open(path: &Path) -> Result<(Self, Saved), OpenContentError> {
        let (database, saved) = match load(path) {
            Err(Fault::Damaged(why)) => {
                let aside = path.with_extension("redb.damaged");
                error!(
                    path = %path.display(), aside = %aside.display(), why,
                    "the records of the content are damaged: moved aside, what is pinned is taken \
                     for committed"
                );
                fs::rename(path, &aside).map_err(|cause| OpenContentError::Directory {
                    dir: path.to_owned(),
                    cause,
                })?;
                load(path)
            }
            other => other,
        }
        .map_err(|fault| fault.of(path))?;
        let rows = Self {
            path: path.to_owned(),
            database: Some(database),
        };
        Ok((rows, saved))
    }

    /// Makes all changes, durably, or none.
    pub(super) fn write(&mut self, changes: &[Change]) -> Result<(), redb::Error> {
        let database = self.database.as_ref().ok_or(redb::Error::PreviousIo)?;
        let written = transact(database, changes);
        if written.is_err() {
            self.database = None;
        }
        written
    }

    /// Whether a write has failed: nobody knows what is saved.
    pub(super) fn is_broken(&self) -> bool {
        self.database.is_none()
    }

    /// Opens the database again after a failed write, and saves all rows anew.
    pub(super) fn mend(&mut self, all: &[Change]) -> Result<(), OpenContentError> {
        let (database, saved) = load(&self.path).map_err(|fault| fault.of(&self.path))?;
        let stale = saved.rows.into_keys().map(Change::Delete);
        let changes: Vec<Change> = stale.chain(all.iter().cloned()).collect();
        transact(&database, &changes).map_err(|cause| OpenContentError::Records {
            path: self.path.clone(),
            cause: Box::new(cause),
        })?;
        self.database = Some(database);
        Ok(())
    }
}

type Content<'t> = Table<'t, &'static [u8; 32], &'static [u8]>;

fn transact(database: &Database, changes: &[Change]) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut content = transaction.open_table(CONTENT)?;
        let mut meta = transaction.open_table(META)?;
        for change in changes {
            match change {
                Change::Delete(digest) => drop(content.remove(digest.as_bytes())?),
                Change::Put(digest, row) => put(&mut content, digest, row)?,
                Change::Told(digest) => tell(&mut content, digest)?,
                Change::Used(is_used) => drop(meta.insert(USED, u64::from(*is_used))?),
            }
        }
    }
    transaction.commit()?;
    Ok(())
}

/// What containerd was told of stays told, whenever the row was made.
fn put(content: &mut Content<'_>, digest: &Digest, row: &Row) -> Result<(), redb::Error> {
    let is_told = row.untold && found(content, digest)?.is_some_and(|known| !known.untold);
    let row = match is_told {
        true => row.clone().told(),
        false => row.clone(),
    };
    insert(content, digest, &row)
}

fn tell(content: &mut Content<'_>, digest: &Digest) -> Result<(), redb::Error> {
    match found(content, digest)? {
        Some(row) if row.untold => insert(content, digest, &row.told()),
        // Deleted meanwhile, or told already.
        _ => Ok(()),
    }
}

fn found(content: &Content<'_>, digest: &Digest) -> Result<Option<Row>, redb::Error> {
    let row = content.get(digest.as_bytes())?;
    Ok(row.and_then(|row| serde_json::from_slice(row.value()).ok()))
}

fn insert(content: &mut Content<'_>, digest: &Digest, row: &Row) -> Result<(), redb::Error> {
    let bytes = serde_json::to_vec(row).map_err(std::io::Error::from)?;
    content.insert(digest.as_bytes(), bytes.as_slice())?;
    Ok(())
}

/// Why the database cannot be read.
enum Fault {
    Damaged(String),
    Newer(u64),
    Other(Box<redb::Error>),
}

impl Fault {
    fn of(self, path: &Path) -> OpenContentError {
        let path = path.to_owned();
        match self {
            Self::Damaged(why) => OpenContentError::Records {
                path,
                cause: Box::new(redb::Error::Corrupted(why)),
            },
            Self::Newer(found) => OpenContentError::Newer {
                path,
                found,
                known: FORMAT,
            },
            Self::Other(cause) => OpenContentError::Records { path, cause },
        }
    }
}

impl<E: Into<redb::Error>> From<E> for Fault {
    fn from(error: E) -> Self {
        use std::io::ErrorKind::{InvalidData, UnexpectedEof};
        match error.into() {
            redb::Error::Io(cause) if matches!(cause.kind(), InvalidData | UnexpectedEof) => {
                Self::Damaged(cause.to_string())
            }
            error @ (redb::Error::Io(_) | redb::Error::DatabaseAlreadyOpen) => {
                Self::Other(Box::new(error))
            }
            other => Self::Damaged(other.to_string()),
        }
    }
}

fn load(path: &Path) -> Result<(Database, Saved), Fault> {
    // A page whose bytes rotted may trip an assertion of redb.
    match catch_unwind(AssertUnwindSafe(|| read_all(path))) {
        Ok(outcome) => outcome,
        Err(_) => Err(Fault::Damaged("redb panicked".to_owned())),
    }
}

fn read_all(path: &Path) -> Result<(Database, Saved), Fault> {
    let mut database = Database::builder().set_cache_size(CACHE_LEN).create(path)?;
    // Rot that is found later would fail every later change.
    if !database.check_integrity()? {
        return Err(Fault::Damaged(
            "pages do not have their check sums".to_owned(),
        ));
    }
    let transaction = database.begin_write()?;
    let mut meta = transaction.open_table(META)?;
    let version = meta.get(VERSION)?.map(|version| version.value());
    match version {
        None => drop(meta.insert(VERSION, FORMAT)?),
        Some(FORMAT) => {}
        Some(newer) => return Err(Fault::Newer(newer)),
    }
    let is_used = meta.get(USED)?.is_some_and(|used| used.value() != 0);
    drop(meta);
    let mut rows = BTreeMap::new();
    for entry in transaction.open_table(CONTENT)?.iter()? {
        let (digest, row) = entry?;
        let digest = Digest::from_bytes(*digest.value());
        match serde_json::from_slice(row.value()) {
            Ok(row) => drop(rows.insert(digest, row)),
            Err(error) => warn!(%digest, %error, "a record of content says nothing: dropped"),
        }
    }
    transaction.commit()?;
    Ok((database, Saved { rows, is_used }))
}

impl fmt::Debug for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rows")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}
