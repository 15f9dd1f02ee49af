//! Blobs whose bytes are another program's as well.

use std::{fs::Metadata, os::unix::fs::MetadataExt};

/// How a blob's file came from a file of another program that is still there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kin {
    /// They are one file: under two names, or ours only leads to it (a symbolic link). It is never
    /// written to, and counts only as long as its stamp is this one.
    Linked(Stamp),
    /// They share extents until one of them is written to. The stamp is the other's.
    Cloned(Stamp),
}

impl Kin {
    pub(super) fn stamp(self) -> Stamp {
        match self {
            Self::Linked(stamp) | Self::Cloned(stamp) => stamp,
        }
    }

    /// The stamp that the blob's own file must have.
    pub(super) fn linked(self) -> Option<Stamp> {
        match self {
            Self::Linked(stamp) => Some(stamp),
            Self::Cloned(_) => None,
        }
    }
}

/// What tells whether a file is still the one that was hashed: writing to it or cutting it changes
/// the time, replacing it the number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) inode: u64,
    /// Of the last change of content.
    seconds: i64,
    nanos: u32,
}

impl Stamp {
    pub(super) const ENCODED_LEN: usize = 20;

    pub(super) fn of(metadata: &Metadata) -> Self {
        Self {
            inode: metadata.ino(),
            seconds: metadata.mtime(),
            // Below a billion.
            nanos: metadata.mtime_nsec() as u32,
        }
    }

    pub(super) fn to_bytes(self) -> [u8; Self::ENCODED_LEN] {
        let mut bytes = [0; Self::ENCODED_LEN];
        bytes[..8].copy_from_slice(&self.inode.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.seconds.to_le_bytes());
        bytes[16..].copy_from_slice(&self.nanos.to_le_bytes());
        bytes
    }

    pub(super) fn from_parts(inode: u64, seconds: u64, nanos: u32) -> Self {
        let seconds = seconds as i64;
        Self {
            inode,
            seconds,
            nanos,
        }
    }
}

/// What a blob's file looks like on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) length: u64,
    /// How many names it has; two if ours only leads to it.
    pub(super) links: u64,
    pub(super) stamp: Stamp,
}

impl Found {
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self {
            length: metadata.len(),
            links: metadata.nlink(),
            stamp: Stamp::of(metadata),
        }
    }

    /// Of a name that leads to `target`, or nowhere.
    pub(super) fn led_to(target: Option<&Metadata>) -> Self {
        let nowhere = Self {
            length: u64::MAX,
            links: 2,
            stamp: Stamp::from_parts(0, 0, 0),
        };
        let led = target.filter(|target| target.is_file());
        led.map_or(nowhere, |target| Self {
            links: 2,
            ..Self::of(target)
        })
    }
}
