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
use redb::{Database, Durability, ReadableTable, TableDefinition};
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
    /// Whether containerd uses the content service.
    Used(bool),
}

/// Whether a change is on the disk before anything else happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Save {
    Durably,
    /// With the next one that is.
    Sometime,
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

    /// Makes all changes or none.
    pub(super) fn write(&mut self, changes: &[Change], save: Save) -> Result<(), redb::Error> {
        let database = self.database.as_ref().ok_or(redb::Error::PreviousIo)?;
        let written = transact(database, changes, save);
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
        transact(&database, &changes, Save::Durably).map_err(|cause| {
            OpenContentError::Records {
                path: self.path.clone(),
                cause: Box::new(cause),
            }
        })?;
        self.database = Some(database);
        Ok(())
    }
}

fn transact(database: &Database, changes: &[Change], save: Save) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    if save == Save::Sometime {
        transaction.set_durability(Durability::None)?;
    }
    {
        let mut content = transaction.open_table(CONTENT)?;
        let mut meta = transaction.open_table(META)?;
        for change in changes {
            match change {
                Change::Delete(digest) => drop(content.remove(digest.as_bytes())?),
                Change::Put(digest, row) => {
                    let bytes = serde_json::to_vec(row).map_err(std::io::Error::from)?;
                    content.insert(digest.as_bytes(), bytes.as_slice())?;
                }
                Change::Used(is_used) => drop(meta.insert(USED, u64::from(*is_used))?),
            }
        }
    }
    transaction.commit()?;
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
