//! One layer from its blob to files, in one pass and with bounded memory.
//!
//! Two threads share the work. The caller's decodes: blob → tar; it is also the one that waits for
//! the network. The other makes the diff id, reads the tar and makes the files. Between them goes a
//! ring of a few buffers (`pipe`).
//!
//! What comes out is the same as from containerd's differ, so that it can serve as an overlay's
//! upper or lower directory. What a layer may not do, and why, is in `docs/unpack.md`. A layer that
//! is refused leaves files in the directory, which its owner deletes, and nothing anywhere else.
//!
//! Called by the plugin's stager, for all layers of an image at once.

mod attributes;
mod decode;
mod dirs;
mod error;
mod limits;
mod name;
mod pipe;
mod place;
mod tar;

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
    thread,
};

use hawker_model::Digest;

pub use self::{
    error::{Fault, Refusal, TarFault, UnpackError},
    limits::Limits,
};
use self::{
    place::Files,
    tar::{Entry, Tar},
};
use crate::{chain::DiffId, source::LayerSource};

/// What a layer lies on, which decides what its whiteouts become.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LayerKind {
    /// On nothing: whiteouts remove what the layer itself brought before, and leave no trace.
    Base,
    /// On other layers: whiteouts become those of overlayfs.
    Upper,
}

/// What this process may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rights {
    /// Everything.
    Full,
    /// It is root of a user namespace: it can make no devices, and overlays know it by attributes
    /// of the user's.
    UserNamespace,
}

impl Rights {
    /// Those of the calling process.
    pub fn of_this_process() -> Self {
        let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        let everyone = ["0", "0", "4294967295"];
        match map.is_empty() || map.split_whitespace().eq(everyone) {
            true => Self::Full,
            false => Self::UserNamespace,
        }
    }
}

/// How a layer is unpacked.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct UnpackOptions {
    /// The blob's digest: errors name it.
    pub layer: Digest,
    /// What it lies on.
    pub kind: LayerKind,
    /// What it may not exceed.
    pub limits: Limits,
    /// What we may do.
    pub rights: Rights,
}

impl UnpackOptions {
    /// With the usual limits, and the rights of this process.
    pub fn new(layer: Digest, kind: LayerKind) -> Self {
        Self {
            layer,
            kind,
            limits: Limits::default(),
            rights: Rights::of_this_process(),
        }
    }
}

/// A layer that was unpacked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpacked {
    /// The digest of its tar. Whether that is the one wanted is the caller's to compare.
    pub diff_id: DiffId,
    /// Bytes of its tar.
    pub size: u64,
    /// How many entries it has.
    pub entries: u64,
    /// The directories without an entry of their own, relative to the root, parents first. They
    /// have the mode 0755 and belong to us: in an upper layer they should look like the same
    /// directories below. The first one is the root itself (an empty path), which no entry
    /// describes, as in containerd.
    pub implied: Vec<PathBuf>,
}

/// Unpacks the layer that `source` gives into `dir`, an empty directory of our own. Blocks until
/// the layer is there and proven, or given up; `cancelled` is looked at between bytes.
///
/// # Errors
/// When the layer cannot be had, is damaged or refused, or when the filesystem fails. `dir` holds
/// parts of it then.
pub fn unpack(
    dir: &Path,
    source: &mut dyn LayerSource,
    options: &UnpackOptions,
    cancelled: &AtomicBool,
) -> Result<Unpacked, UnpackError> {
    let (writer, reader) = pipe::ring(options.limits, cancelled);
    let failed = |error| UnpackError {
        layer: options.layer,
        entry: None,
        fault: Fault::Io {
            what: "run a thread",
            error,
        },
    };
    thread::scope(|scope| {
        let files = thread::Builder::new()
            .name("unpack".to_owned())
            .spawn_scoped(scope, || files(dir, reader, options))
            .map_err(failed)?;
        decode::decode(source, writer, cancelled);
        let panicked = |_| Err(failed(io::Error::other("it panicked")));
        files.join().unwrap_or_else(panicked)
    })
}

/// The thread that makes the files.
fn files(
    dir: &Path,
    tar: pipe::Reader<'_>,
    options: &UnpackOptions,
) -> Result<Unpacked, UnpackError> {
    let mut entry = Entry::default();
    make_files(dir, tar, options, &mut entry).map_err(|fault| UnpackError {
        layer: options.layer,
        entry: (!entry.path.is_empty()).then(|| entry.path.into()),
        fault,
    })
}

/// `entry` is where it stood when it failed.
fn make_files(
    dir: &Path,
    tar: pipe::Reader<'_>,
    options: &UnpackOptions,
    entry: &mut Entry,
) -> Result<Unpacked, Fault> {
    let mut tar = Tar::new(tar, options.limits);
    let mut files = Files::new(dir, options)?;
    while tar.next(entry)? {
        files.place(entry, &mut tar)?;
    }
    let whole = tar.into_input().into_whole()?;
    Ok(Unpacked {
        diff_id: whole.diff_id,
        size: whole.size,
        entries: files.entries(),
        implied: files.finish()?,
    })
}
