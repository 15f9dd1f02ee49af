//! Where things lie in the store's directory (`docs/store.md`), and the system calls on them.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, ErrorKind, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use hawker_model::TaskId;
use nix::{
    errno::Errno,
    fcntl::{FallocateFlags, fallocate},
    sys::statvfs::fstatvfs,
};

use super::kin::Found;

/// Images may be private: only the daemon's user reads them.
const DIR_MODE: u32 = 0o700;
pub(super) const FILE_MODE: u32 = 0o600;

/// The paths under one store's directory.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    root: PathBuf,
}

impl Layout {
    /// Creates the directories that every store has.
    pub(super) fn create(root: &Path) -> io::Result<Self> {
        let layout = Self {
            root: root.to_owned(),
        };
        make_dir(root, true)?;
        make_dir(&layout.blobs(), false)?;
        make_dir(&layout.incoming(), false)?;
        for kind in Kind::ALL {
            make_dir(&layout.blobs().join(kind.name()), false)?;
        }
        Ok(layout)
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn state(&self) -> PathBuf {
        self.root.join("state.redb")
    }

    /// Where a state database goes that cannot be read.
    pub(super) fn corrupt_state(&self) -> PathBuf {
        self.root.join("state.redb.corrupt")
    }

    pub(super) fn blob(&self, task: &TaskId) -> PathBuf {
        self.shard(task).join(task.to_hex())
    }

    /// Where files are on their way in; what lies there when a store is opened is nobody's.
    pub(super) fn incoming(&self) -> PathBuf {
        self.root.join("incoming")
    }

    /// Deletes what a crash left on its way in.
    pub(super) fn clear_incoming(&self) -> io::Result<()> {
        for entry in fs::read_dir(self.incoming())? {
            fs::remove_file(entry?.path())?;
        }
        Ok(())
    }

    /// Makes the file at `incoming`, of the same file system, that of `task`: in place of another,
    /// if there is one. Durable when it returns.
    pub(super) fn install(&self, incoming: &Path, task: &TaskId) -> io::Result<()> {
        make_dir(&self.shard(task), false)?;
        fs::rename(incoming, self.blob(task))?;
        self.sync_name(task)
    }

    fn blobs(&self) -> PathBuf {
        self.root.join("blobs")
    }

    fn shard(&self, task: &TaskId) -> PathBuf {
        let hex = task.to_hex();
        let kind = Kind::of(task).name();
        self.blobs().join(kind).join(&hex[..2])
    }

    /// Creates the file of `task`, all of its bytes preallocated. A file that an earlier removal
    /// left behind is replaced. Nothing remains after a failure.
    pub(super) fn allocate(&self, task: &TaskId, length: u64) -> io::Result<File> {
        make_dir(&self.shard(task), false)?;
        let path = self.blob(task);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true);
        options.mode(FILE_MODE);
        let file = match options.open(&path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                fs::remove_file(&path)?;
                options.open(&path)?
            }
            other => other?,
        };
        if let Err(error) = preallocate(&file, length) {
            fs::remove_file(&path)?;
            return Err(error);
        }
        Ok(file)
    }

    /// Opens the file of `task` for reading and writing.
    pub(super) fn open(&self, task: &TaskId) -> io::Result<File> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .open(self.blob(task))
    }

    /// Opens the file of `task` for reading only.
    pub(super) fn open_to_read(&self, task: &TaskId) -> io::Result<File> {
        File::open(self.blob(task))
    }

    /// Whether the name of `task`'s file only leads to another program's.
    pub(super) fn leads_on(&self, task: &TaskId) -> bool {
        self.blob(task).is_symlink()
    }

    /// Deletes the file of `task`; no file is fine.
    pub(super) fn delete(&self, task: &TaskId) -> io::Result<()> {
        match fs::remove_file(self.blob(task)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Makes the name of `task`'s file as durable as its bytes.
    pub(super) fn sync_name(&self, task: &TaskId) -> io::Result<()> {
        File::open(self.shard(task))?.sync_all()
    }

    /// Bytes that can still be allocated.
    pub(super) fn free_bytes(&self) -> io::Result<u64> {
        let stat = fstatvfs(File::open(&self.root)?)?;
        // The types differ between platforms.
        #[allow(clippy::useless_conversion)]
        Ok(u64::from(stat.blocks_available()).saturating_mul(u64::from(stat.fragment_size())))
    }

    /// The blob files there are. What does not look like one is left alone.
    pub(super) fn scan(&self) -> io::Result<BTreeMap<TaskId, Found>> {
        let mut found = BTreeMap::new();
        for kind in Kind::ALL {
            for shard in fs::read_dir(self.blobs().join(kind.name()))? {
                let shard = shard?;
                if shard.file_type()?.is_dir() {
                    scan_shard(kind, &shard.path(), &mut found)?;
                }
            }
        }
        Ok(found)
    }
}

fn scan_shard(kind: Kind, dir: &Path, found: &mut BTreeMap<TaskId, Found>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let task = entry.file_name().to_str().and_then(|hex| kind.parse(hex));
        let Some(task) = task.filter(|task| dir.ends_with(&task.to_hex()[..2])) else {
            tracing::debug!(path = %entry.path().display(), "not a blob file");
            continue;
        };
        let metadata = entry.metadata()?;
        if metadata.is_symlink() {
            let target = fs::metadata(entry.path()).ok();
            found.insert(task, Found::led_to(target.as_ref()));
        } else if metadata.is_file() {
            found.insert(task, Found::of(&metadata));
        }
    }
    Ok(())
}

/// The directories below `blobs/`.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Sha256,
    Url,
}

impl Kind {
    const ALL: [Self; 2] = [Self::Sha256, Self::Url];

    fn of(task: &TaskId) -> Self {
        match task {
            TaskId::Blob(_) => Self::Sha256,
            TaskId::Url(_) => Self::Url,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Url => "url",
        }
    }

    fn parse(self, hex: &str) -> Option<TaskId> {
        format!("{}:{hex}", self.name()).parse().ok()
    }
}

fn make_dir(path: &Path, parents: bool) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let mut builder = fs::DirBuilder::new();
    builder.recursive(parents).mode(DIR_MODE);
    match builder.create(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    match path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
    {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

/// Gives `file` its length, with space on the disk where the filesystem can reserve it.
pub(super) fn preallocate(file: &File, length: u64) -> io::Result<()> {
    if length == 0 {
        return file.set_len(0);
    }
    let end = i64::try_from(length).map_err(|_| io::Error::from(ErrorKind::FileTooLarge))?;
    loop {
        match fallocate(file, FallocateFlags::empty(), 0, end) {
            Ok(()) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => return file.set_len(length),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Whether the disk, or the user's share of it, is full.
pub(super) fn is_no_space(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded
    )
}

/// Holds the store's directory for this process.
#[derive(Debug)]
pub(super) struct LockFile(File);

/// Why the directory is not ours.
pub(super) enum LockError {
    Held { pid: Option<u32> },
    Io(io::Error),
}

impl LockFile {
    pub(super) fn acquire(layout: &Layout) -> Result<Self, LockError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).mode(FILE_MODE);
        let mut file = options
            .open(layout.root.join("lock"))
            .map_err(LockError::Io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                // Only for the message: unreadable is unknown.
                let _ = file.take(32).read_to_string(&mut pid);
                let pid = pid.trim().parse().ok();
                return Err(LockError::Held { pid });
            }
            Err(TryLockError::Error(error)) => return Err(LockError::Io(error)),
        }
        file.set_len(0).map_err(LockError::Io)?;
        writeln!(file, "{}", std::process::id()).map_err(LockError::Io)?;
        Ok(Self(file))
    }
}

impl Drop for LockFile {
    fn drop(&mut self) {
        // Closing alone would leave the lock to a child that is between fork and exec.
        let _ = self.0.unlock();
    }
}
