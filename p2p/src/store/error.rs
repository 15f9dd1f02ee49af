//! Why an operation of the store fails: one enum per family of operations.
//!
//! Messages hold their cause, so none of these has a `source()`: nothing is printed twice.

use std::{io, path::PathBuf};

use hawker_model::{Digest, Geometry, GeometryError, ListError, PieceIndex, PieceMismatch, TaskId};

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenStoreError {
    #[error("blob store {}: {cause}", dir.display())]
    Directory { dir: PathBuf, cause: io::Error },
    #[error(
        "blob store {} is in use by another process{}: two daemons cannot share one",
        dir.display(),
        pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
    )]
    InUse { dir: PathBuf, pid: Option<u32> },
    #[error(
        "blob store {} has format {found}, this version of Hawker knows up to {known}: \
         run the newer version, or give this one another directory",
        dir.display()
    )]
    Newer {
        dir: PathBuf,
        found: u32,
        known: u32,
    },
    #[error("blob store {}: {cause}", dir.display())]
    State { dir: PathBuf, cause: StateError },
}

/// Why the state database did not take or give something.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("state database of the blob store failed: {0}")]
    Database(Box<redb::Error>),
    #[error("the blob store is closed")]
    Closed,
}

impl<E: Into<redb::Error>> From<E> for StateError {
    fn from(error: E) -> Self {
        Self::Database(Box::new(error.into()))
    }
}

/// Why a blob's file cannot be created.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    #[error("{task} is stored as {stored:?}, not as {wanted:?}")]
    OtherGeometry {
        task: TaskId,
        stored: Geometry,
        wanted: Geometry,
    },
    #[error("{task} has no bytes, but its digest is not that of nothing")]
    NotEmpty { task: TaskId },
    #[error("{task} of {length} bytes is larger than the store's quota of {quota} bytes")]
    LargerThanQuota {
        task: TaskId,
        length: u64,
        quota: u64,
    },
    #[error(
        "{task} of {length} bytes does not fit the store's quota of {quota} bytes: \
         {held} bytes are pinned or in use"
    )]
    QuotaHeld {
        task: TaskId,
        length: u64,
        quota: u64,
        held: u64,
    },
    #[error(
        "no space in {} for {task}: {length} bytes are needed, {free} are free and \
         nothing more can be evicted",
        dir.display()
    )]
    NoSpace {
        dir: PathBuf,
        task: TaskId,
        length: u64,
        free: u64,
    },
    #[error("blob file {}: {cause}", path.display())]
    Io { path: PathBuf, cause: io::Error },
    #[error(transparent)]
    Blob(#[from] BlobError),
    #[error(transparent)]
    State(#[from] StateError),
}

/// Why a piece was not written.
#[derive(Debug, thiserror::Error)]
pub enum WritePieceError {
    #[error("{task} has no piece {piece}")]
    OutOfRange { task: TaskId, piece: PieceIndex },
    #[error("piece {piece} of {task} has {wanted} bytes, not {found}")]
    Length {
        task: TaskId,
        piece: PieceIndex,
        wanted: u32,
        found: usize,
    },
    #[error("piece {piece} of {task} cannot be checked: its chain values are not known")]
    UnknownState { task: TaskId, piece: PieceIndex },
    #[error(transparent)]
    List(AddBatchError),
    #[error("{task}: {cause}")]
    Mismatch { task: TaskId, cause: PieceMismatch },
    #[error("{0} was removed from the store")]
    Removed(TaskId),
    #[error("no space in {} for a piece of {task}", path.display())]
    NoSpace { path: PathBuf, task: TaskId },
    #[error("blob file {}: {cause}", path.display())]
    Io { path: PathBuf, cause: io::Error },
    #[error(transparent)]
    State(#[from] StateError),
}

impl WritePieceError {
    /// Whether the bytes are to blame, and so who sent them; everything else is our own trouble.
    pub fn is_rejection(&self) -> bool {
        matches!(
            self,
            Self::OutOfRange { .. }
                | Self::Length { .. }
                | Self::List(AddBatchError::List { .. })
                | Self::Mismatch { .. }
        )
    }
}

/// Why a batch of chain values was not taken.
#[derive(Debug, thiserror::Error)]
pub enum AddBatchError {
    #[error("{task}: {cause}")]
    List { task: TaskId, cause: ListError },
    #[error("{0} was removed from the store")]
    Removed(TaskId),
    #[error(transparent)]
    State(#[from] StateError),
}

/// Why bytes were not read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("piece {piece} of {task} is not stored")]
    Missing { task: TaskId, piece: PieceIndex },
    #[error("{task} has {length} bytes: {len} from {offset} on are beyond its end")]
    OutOfRange {
        task: TaskId,
        offset: u64,
        len: usize,
        length: u64,
    },
    /// The piece no longer counts as stored.
    #[error("piece {piece} in blob file {} is lost: {cause}", path.display())]
    Lost {
        path: PathBuf,
        piece: PieceIndex,
        cause: io::Error,
    },
}

/// Why a blob cannot be opened, pinned or removed.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    #[error("{0} is not in the store")]
    Unknown(TaskId),
    #[error("blob file {}: {cause}", path.display())]
    Io { path: PathBuf, cause: io::Error },
    #[error(transparent)]
    State(#[from] StateError),
}

/// Why a file was not taken into the store.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    #[error("file {}: {cause}", path.display())]
    Io { path: PathBuf, cause: io::Error },
    #[error("{} is not a regular file", path.display())]
    NotAFile { path: PathBuf },
    #[error("file {} has the digest {found}, not {wanted}", path.display())]
    Digest {
        path: PathBuf,
        wanted: Digest,
        found: Digest,
    },
    #[error("file {} changed while it was taken into the blob store", path.display())]
    Changed { path: PathBuf },
    #[error(
        "file {} cannot be shared with the blob store in {}: they are on different file systems or \
         mounts, or theirs has neither shared extents nor hard links",
        path.display(), dir.display()
    )]
    Apart { path: PathBuf, dir: PathBuf },
    #[error("file {}: {cause}", path.display())]
    TooLong { path: PathBuf, cause: GeometryError },
    #[error(transparent)]
    Room(CreateError),
    #[error(transparent)]
    Blob(#[from] BlobError),
    #[error(transparent)]
    State(#[from] StateError),
}

impl AdoptError {
    /// Whether the same file may be taken another time.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::NotAFile { .. }
            | Self::Digest { .. }
            | Self::Apart { .. }
            | Self::TooLong { .. }
            | Self::State(StateError::Closed) => false,
            Self::Io { .. }
            | Self::Changed { .. }
            | Self::Room(_)
            | Self::Blob(_)
            | Self::State(_) => true,
        }
    }
}
