//! Giving a whole blob to another program, as a file of its own.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use hawker_model::{Digest, Recorder, TaskId};

use super::{AdoptError, BlobError, Shared, Store};
use crate::sys;

/// Anybody may read it, as containerd has it; nobody writes to it.
const GIVEN_MODE: u32 = 0o444;
/// Bytes copied at once.
const CHUNK_LEN: usize = 1 << 20;

impl Store {
    /// Makes `target`, which is replaced if it is there, a file with the bytes of a whole blob: by
    /// shared extents, else as a second name of the same file, else as a copy, which is checked.
    /// Durable when it returns; until then `target` is as it was.
    pub(crate) fn give(&self, digest: Digest, target: &Path) -> Result<Shared, AdoptError> {
        let task = TaskId::Blob(digest);
        let blob = self.find(&task).filter(|blob| blob.is_complete());
        let blob = blob.ok_or(BlobError::Unknown(task))?;
        if !blob.finish()? {
            return Err(BlobError::Unknown(task).into());
        }
        let beside = beside(target);
        let failed = |cause| AdoptError::Io {
            path: beside.clone(),
            cause,
        };
        remove(&beside).map_err(failed)?;
        let source = self.inner.layout.blob(&task);
        let shared = match share(&source, &beside).map_err(failed)? {
            true => Shared::Shared,
            false => {
                copy(&source, &beside, digest)?;
                Shared::Copied
            }
        };
        let placed = File::open(&beside)
            .and_then(|file| file.sync_all())
            .and_then(|()| fs::rename(&beside, target))
            // Of two names of one file the rename removes none.
            .and_then(|()| remove(&beside))
            .and_then(|()| File::open(target.parent().unwrap_or(target))?.sync_all());
        placed.map_err(failed)?;
        Ok(shared)
    }
}

/// Where the file is made. What an earlier call left there is of no use.
fn beside(target: &Path) -> PathBuf {
    let mut name = target.file_name().unwrap_or_default().to_owned();
    name.push(".hawker");
    target.with_file_name(name)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Whether both are one file now, or have their extents in common.
fn share(source: &Path, target: &Path) -> io::Result<bool> {
    // The blob's own name may only lead to its file.
    let source = fs::canonicalize(source)?;
    let created = create(target)?;
    if sys::clone_file(&File::open(&source)?, &created).is_ok() {
        return Ok(true);
    }
    drop(created);
    remove(target)?;
    Ok(fs::hard_link(&source, target).is_ok())
}

fn copy(source: &Path, target: &Path, digest: Digest) -> Result<(), AdoptError> {
    let failed = |path: &Path, cause| AdoptError::Io {
        path: path.to_owned(),
        cause,
    };
    let mut from = File::open(source).map_err(|cause| failed(source, cause))?;
    let mut to = create(target).map_err(|cause| failed(target, cause))?;
    let mut recorder = Recorder::new();
    let mut buffer = vec![0; CHUNK_LEN];
    loop {
        let read = from.read(&mut buffer);
        let read = read.map_err(|cause| failed(source, cause))?;
        if read == 0 {
            break;
        }
        recorder.update(&buffer[..read]);
        let written = to.write_all(&buffer[..read]);
        written.map_err(|cause| failed(target, cause))?;
    }
    let found = recorder.digest();
    if found == digest {
        return Ok(());
    }
    remove(target).map_err(|cause| failed(target, cause))?;
    Err(AdoptError::Digest {
        path: source.to_owned(),
        wanted: digest,
        found,
    })
}

fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(GIVEN_MODE);
    options.open(path)
}
