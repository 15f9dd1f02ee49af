//! Getting a whole file to the store's doorstep: into `incoming/`, hashed, so that it only has to be
//! renamed to be a blob.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, ErrorKind},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use hawker_model::{Digest, Recorder, Recording, TaskId};
use nix::libc;

use super::{
    AdoptError,
    disk::Disk,
    kin::{Found, Kin, Stamp},
    layout::{FILE_MODE, Layout, Opened},
    step::step,
};
use crate::sys;

/// Bytes read at once.
const CHUNK_LEN: usize = 512 << 10;
/// What [`Pace::Idle`] reads in a second.
const IDLE_BYTES_PER_SECOND: u64 = 96 << 20;

/// How a file that stays where it is becomes a blob: by shared extents, else as a second name of the
/// same file, else as `otherwise` says. Mounts are a border even within one file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    pub otherwise: Otherwise,
    pub pace: Pace,
}

/// What to do with a file that cannot be shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Otherwise {
    Refuse,
    Copy,
    /// Read it where it lies.
    InPlace,
}

/// How eagerly a file is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    Full,
    /// When nobody else wants processor or disk, and never more than 96 MiB in a second.
    Idle,
}

/// A file in `incoming/`, whole and durable. Deleted again unless it is installed.
#[derive(Debug)]
pub(crate) struct Incoming {
    path: PathBuf,
    disk: Disk,
    pub(super) recording: Recording,
    pub(super) kin: Option<Kin>,
}

impl Incoming {
    pub(super) fn task(&self) -> TaskId {
        TaskId::Blob(self.recording.digest())
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it only leads to where another program has it.
    pub(super) fn leads_on(&self) -> bool {
        self.path.is_symlink()
    }

    /// For reading only where the file is another program's too.
    pub(super) fn open(&self) -> io::Result<Opened> {
        match self.kin {
            Some(Kin::Linked(_)) => self.disk.open_to_read(&self.path).map(Opened::ToRead),
            _ => self.disk.open_to_write(&self.path).map(Opened::ToWrite),
        }
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        // What stays, the next opening deletes.
        let _ = self.disk.remove(&self.path);
    }
}

/// Takes a file that `recording` saw being written and that nobody else uses. It keeps its own name
/// too until the caller deletes that, where the file system has hard links.
pub(super) fn bring_own(
    layout: &Layout,
    recording: &Recording,
    file: &Path,
) -> Result<Incoming, AdoptError> {
    let failed = |cause| AdoptError::Io {
        path: file.to_owned(),
        cause,
    };
    let opened = open_regular(file)?;
    if opened.metadata().map_err(failed)?.len() != recording.length() {
        let path = file.to_owned();
        return Err(AdoptError::Changed { path });
    }
    let disk = &layout.disk;
    let incoming = Incoming {
        path: place(layout, &recording.digest()),
        disk: disk.clone(),
        recording: recording.clone(),
        kin: None,
    };
    let moved = match disk.link(file, &incoming.path) {
        Err(error) if error.kind() == ErrorKind::CrossesDevices => {
            copy(disk, &opened, &incoming.path)
        }
        Err(_) => disk.rename(file, &incoming.path),
        Ok(()) => Ok(()),
    };
    moved.map_err(failed)?;
    step();
    let durable = File::open(&incoming.path).and_then(|file| {
        file.set_permissions(Permissions::from_mode(FILE_MODE))?;
        disk.sync(&file)
    });
    durable.map_err(failed)?;
    step();
    Ok(incoming)
}

/// Takes a file of another program, which keeps it. It is hashed after it was taken, so that what is
/// in `incoming/` is what the digest was told of.
pub(super) fn bring_shared(
    layout: &Layout,
    wanted: Digest,
    file: &Path,
    share: Share,
) -> Result<Incoming, AdoptError> {
    let failed = |cause| AdoptError::Io {
        path: file.to_owned(),
        cause,
    };
    let opened = open_regular(file)?;
    let before = Found::of(&opened.metadata().map_err(failed)?);
    let disk = &layout.disk;
    let path = Doorstep(place(layout, &wanted), disk);
    let kin = take(disk, &opened, file, &path.0, before.stamp, share.otherwise);
    let kin = kin.map_err(failed)?;
    step();
    let Some(kin) = kin else {
        let (path, dir) = (file.to_owned(), layout.root().to_owned());
        return Err(AdoptError::Apart { path, dir });
    };
    let taken = File::open(&path.0).map_err(failed)?;
    let recording = record(disk, &taken, share.pace).map_err(failed)?;
    let found = recording.digest();
    if found != wanted {
        let path = file.to_owned();
        return Err(AdoptError::Digest {
            path,
            wanted,
            found,
        });
    }
    disk.sync(&taken).map_err(failed)?;
    let after = Found::of(&taken.metadata().map_err(failed)?);
    let same = (after.stamp, after.length) == (before.stamp, recording.length());
    if kin.is_linked() && !same {
        let path = file.to_owned();
        return Err(AdoptError::Changed { path });
    }
    step();
    Ok(Incoming {
        path: path.keep(),
        disk: disk.clone(),
        recording,
        kin: kin.kin(),
    })
}

/// What was made of a file.
enum Taken {
    Kin(Kin),
    Copied,
}

impl Taken {
    fn kin(&self) -> Option<Kin> {
        match self {
            Self::Kin(kin) => Some(*kin),
            Self::Copied => None,
        }
    }

    fn is_linked(&self) -> bool {
        matches!(self, Self::Kin(Kin::Linked(_)))
    }
}

/// A name in `incoming/` that is deleted unless it is kept.
struct Doorstep<'d>(PathBuf, &'d Disk);

impl Doorstep<'_> {
    fn keep(mut self) -> PathBuf {
        std::mem::take(&mut self.0)
    }
}

impl Drop for Doorstep<'_> {
    fn drop(&mut self) {
        if !self.0.as_os_str().is_empty() {
            let _ = self.1.remove(&self.0);
        }
    }
}

/// `None`: it cannot be shared.
fn take(
    disk: &Disk,
    opened: &File,
    file: &Path,
    place: &Path,
    stamp: Stamp,
    otherwise: Otherwise,
) -> io::Result<Option<Taken>> {
    let own = create(disk, place)?;
    if sys::clone_file(opened, &own).is_ok() {
        return Ok(Some(Taken::Kin(Kin::Cloned(stamp))));
    }
    drop(own);
    disk.remove(place)?;
    if disk.link(file, place).is_ok() {
        let linked = fs::symlink_metadata(place)?;
        // Otherwise another file came to that name meanwhile.
        return match Stamp::of(&linked).inode == stamp.inode {
            true => Ok(Some(Taken::Kin(Kin::Linked(stamp)))),
            false => Err(ErrorKind::NotFound.into()),
        };
    }
    match otherwise {
        Otherwise::InPlace => {
            std::os::unix::fs::symlink(fs::canonicalize(file)?, place)?;
            Ok(Some(Taken::Kin(Kin::Linked(stamp))))
        }
        Otherwise::Refuse => Ok(None),
        Otherwise::Copy => {
            copy(disk, opened, place)?;
            Ok(Some(Taken::Copied))
        }
    }
}

fn copy(disk: &Disk, from: &File, place: &Path) -> io::Result<()> {
    let to = create(disk, place)?;
    let mut buffer = vec![0; CHUNK_LEN];
    let mut at = 0;
    loop {
        match disk.read(from, &mut buffer) {
            Ok(0) => return Ok(()),
            Ok(len) => {
                disk.write_at(&to, &buffer[..len], at)?;
                at += len as u64;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn create(disk: &Disk, place: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true);
    disk.create(place, options.mode(FILE_MODE))
}

/// A name that no other call uses.
fn place(layout: &Layout, digest: &Digest) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Relaxed);
    layout
        .incoming()
        .join(format!("{}.{number}", digest.to_hex()))
}

/// Opens a file that is none but a regular one, not through a link in its last place.
fn open_regular(path: &Path) -> Result<File, AdoptError> {
    let failed = |cause| AdoptError::Io {
        path: path.to_owned(),
        cause,
    };
    let mut options = OpenOptions::new();
    // Nonblocking: the opening of a pipe would wait for its writer.
    options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let file = options.read(true).open(path).map_err(failed)?;
    match file.metadata().map_err(failed)?.is_file() {
        true => Ok(file),
        false => Err(AdoptError::NotAFile {
            path: path.to_owned(),
        }),
    }
}

/// Reads all of `file`.
fn record(disk: &Disk, file: &File, pace: Pace) -> io::Result<Recording> {
    let mut recorder = Recorder::new();
    let mut buffer = vec![0; CHUNK_LEN];
    let started = Instant::now();
    loop {
        match disk.read(file, &mut buffer) {
            Ok(0) => return Ok(recorder.finish()),
            Ok(len) => recorder.update(&buffer[..len]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if pace == Pace::Idle {
            let micros = recorder.length().saturating_mul(1_000_000) / IDLE_BYTES_PER_SECOND;
            thread::sleep(Duration::from_micros(micros).saturating_sub(started.elapsed()));
        }
    }
}
