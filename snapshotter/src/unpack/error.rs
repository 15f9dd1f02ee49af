//! Why a layer could not be unpacked.

use std::{fmt, io};

use hawker_model::Digest;

use crate::source::SourceError;

/// A layer that could not be unpacked, with the entry where that was found out.
#[derive(Debug)]
pub struct UnpackError {
    /// The blob.
    pub layer: Digest,
    /// The entry's path as the tar names it, when it was at an entry.
    pub entry: Option<Box<[u8]>>,
    /// What happened.
    pub fault: Fault,
}

/// What can go wrong while a layer is unpacked.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The blob could not be had, or is not the one that was asked for.
    #[error("{0}")]
    Source(#[source] Box<SourceError>),
    /// The blob is no gzip or zstd as it should be: damaged, cut or with something behind its end.
    #[error("cannot decompress: {0}")]
    Decode(#[source] io::Error),
    /// The tar is damaged or cut.
    #[error("not a valid tar: {0}")]
    Tar(#[from] TarFault),
    /// The tar is valid, and asks for what no layer may do.
    #[error("refused: {0}")]
    Refused(#[from] Refusal),
    /// The filesystem did not do its part.
    #[error("cannot {what}: {error}")]
    Io {
        what: &'static str,
        #[source]
        error: io::Error,
    },
    /// The caller gave up.
    #[error("cancelled")]
    Cancelled,
}

/// What is wrong with a tar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TarFault {
    #[error("it ends within an entry")]
    Truncated,
    #[error("it ends without the two zero blocks of an end")]
    NoEnd,
    #[error("a single zero block is followed by something else")]
    LoneZeroBlock,
    #[error("the checksum of a header is wrong")]
    Checksum,
    #[error("{0} is not a number, or out of range")]
    Number(&'static str),
    #[error("the PAX records are malformed")]
    Records,
    #[error("there is a NUL within {0}")]
    Nul(&'static str),
    #[error("two {0} for one entry")]
    Twice(&'static str),
    #[error("{0} without an entry behind it")]
    Dangling(&'static str),
    #[error("the map of its holes is malformed or overlaps")]
    SparseMap,
    #[error("a map of holes for something that is no file")]
    SparseKind,
}

/// What no layer may do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the entry has no name")]
    NoName,
    #[error("the path climbs above the root")]
    Climbs,
    #[error("a symbolic link on the way climbs above the root")]
    LinkClimbs,
    #[error("too many symbolic links on the way")]
    Loop,
    #[error("it lies below something that is no directory")]
    NotDirectory,
    #[error("the entry is there twice")]
    Duplicate,
    #[error("the whiteout hides what the layer itself brings")]
    HidesOwn,
    #[error("the opaque mark hides a directory that the layer itself brings without an entry")]
    HidesImplied,
    #[error("the whiteout names nothing")]
    WhiteoutName,
    #[error("the hard link's target is not in the layer")]
    LinkToNothing,
    #[error("the hard link's target is a directory")]
    LinkToDirectory,
    #[error("the link has no target")]
    LinkWithoutTarget,
    #[error("a device with numbers that do not exist")]
    Device,
    #[error("an owner that does not exist")]
    Owner,
    #[error("entries of type {0:?} are not known")]
    Kind(char),
    #[error("the path is longer than {0} bytes, or a name in it longer than 255")]
    PathTooLong(usize),
    #[error("more than {0} directories lie above it")]
    TooDeep(usize),
    #[error("an extended header of more than {0} bytes")]
    RecordTooLong(usize),
    #[error("more than {0} entries")]
    TooManyEntries(u64),
    #[error("more than {0} bytes of paths of directories without an entry")]
    TooManyImplied(usize),
    #[error("more than {0} bytes")]
    TooLarge(u64),
    #[error("more than {0} times as large as its blob")]
    Ratio(u64),
}

impl From<SourceError> for Fault {
    fn from(error: SourceError) -> Self {
        Self::Source(Box::new(error))
    }
}

impl UnpackError {
    /// Whether the layer itself is at fault, so that another try would fail as this one did.
    pub fn is_hostile(&self) -> bool {
        match self.fault {
            Fault::Decode(_) | Fault::Tar(_) | Fault::Refused(_) => true,
            Fault::Source(_) | Fault::Io { .. } | Fault::Cancelled => false,
        }
    }
}

impl std::error::Error for UnpackError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.fault)
    }
}

/// How much of an entry's path an error shows.
const SHOWN: usize = 200;

impl fmt::Display for UnpackError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "layer {}", self.layer)?;
        if let Some(entry) = &self.entry {
            let shown = &entry[..entry.len().min(SHOWN)];
            let cut = if shown.len() < entry.len() { "…" } else { "" };
            write!(f, ", entry \"{}{cut}\"", shown.escape_ascii())?;
        }
        write!(f, ": {}", self.fault)
    }
}
