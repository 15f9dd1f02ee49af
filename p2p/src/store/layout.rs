//! Where things lie in the store's directory (`docs/store.md`), and the system calls on them.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, ErrorKind, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use hawker_model::TaskId;

use super::{
    disk::{Disk, Space},
    kin::Found,
};

/// Images may be private: only the daemon's user reads them.
const DIR_MODE: u32 = 0o700;
pub(super) const FILE_MODE: u32 = 0o600;

/// The paths under one store's directory.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    root: PathBuf,
    pub(super) disk: Disk,
}

/// A blob's file.
#[derive(Debug)]
pub(super) enum Opened {
    ToWrite(File),
    ToRead(File),
}

impl Opened {
    pub(super) fn file(&self) -> &File {
        match self {
            Self::ToWrite(file) | Self::ToRead(file) => file,
        }
    }
}

impl Layout {
    /// Creates the directories that every store has.
    pub(super) fn create(disk: Disk, root: &Path) -> io::Result<Self> {
        let layout = Self {
            root: root.to_owned(),
            disk,
        };
        layout.make_dir(root, true)?;
        layout.make_dir(&layout.blobs(), false)?;
        layout.make_dir(&layout.incoming(), false)?;
        for kind in Kind::ALL {
            layout.make_dir(&layout.blobs().join(kind.name()), false)?;
        }
        Ok(layout)
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn state(&self) -> PathBuf {
        self.root.join("state.redb")
    }

    /// Where a state database is made.
    pub(super) fn begun_state(&self) -> PathBuf {
        self.root.join("state.redb.new")
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
        for entry in self.disk.read_dir(&self.incoming())? {
            self.disk.remove(&entry?.path())?;
        }
        Ok(())
    }

    /// Makes the file at `incoming`, of the same file system, that of `task`: in place of another,
    /// if there is one. Durable when it returns.
    pub(super) fn install(&self, incoming: &Path, task: &TaskId) -> io::Result<()> {
        self.make_dir(&self.shard(task), false)?;
        self.disk.rename(incoming, &self.blob(task))?;
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
    /// left behind is replaced. After a failure the file may be there.
    pub(super) fn allocate(&self, task: &TaskId, length: u64) -> io::Result<File> {
        self.make_dir(&self.shard(task), false)?;
        let path = self.blob(task);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true);
        options.mode(FILE_MODE);
        let file = match self.disk.create(&path, &options) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                self.disk.remove(&path)?;
                self.disk.create(&path, &options)?
            }
            other => other?,
        };
        self.disk.preallocate(&file, length)?;
        Ok(file)
    }

    /// Opens the file of `task`; on a file system that has turned read-only, for reading: what is
    /// stored is still good.
    pub(super) fn open(&self, task: &TaskId) -> io::Result<Opened> {
        match self.open_to_write(task) {
            Err(error) if error.kind() == ErrorKind::ReadOnlyFilesystem => {
                self.open_to_read(task).map(Opened::ToRead)
            }
            opened => opened.map(Opened::ToWrite),
        }
    }

    /// Opens the file of `task` for reading and writing.
    pub(super) fn open_to_write(&self, task: &TaskId) -> io::Result<File> {
        self.disk.open_to_write(&self.blob(task))
    }

    /// Opens the file of `task` for reading only.
    pub(super) fn open_to_read(&self, task: &TaskId) -> io::Result<File> {
        self.disk.open_to_read(&self.blob(task))
    }

    /// Whether the name of `task`'s file only leads to another program's.
    pub(super) fn leads_on(&self, task: &TaskId) -> bool {
        self.blob(task).is_symlink()
    }

    /// Deletes the file of `task`; no file is fine.
    pub(super) fn delete(&self, task: &TaskId) -> io::Result<()> {
        match self.disk.remove(&self.blob(task)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Makes the name of `task`'s file as durable as its bytes.
    pub(super) fn sync_name(&self, task: &TaskId) -> io::Result<()> {
        self.disk.sync_dir(&self.shard(task))
    }

    /// How full the file system is.
    pub(super) fn space(&self) -> io::Result<Space> {
        self.disk.space(&self.root)
    }

    /// The blob files there are. What does not look like one is left alone.
    pub(super) fn scan(&self) -> io::Result<BTreeMap<TaskId, Found>> {
        let mut found = BTreeMap::new();
        for kind in Kind::ALL {
            for shard in self.disk.read_dir(&self.blobs().join(kind.name()))? {
                let shard = shard?;
                if shard.file_type()?.is_dir() {
                    let entries = self.disk.read_dir(&shard.path())?;
                    scan_shard(kind, &shard.path(), entries, &mut found)?;
                }
            }
        }
        Ok(found)
    }

    fn make_dir(&self, path: &Path, parents: bool) -> io::Result<()> {
        if path.is_dir() {
            return Ok(());
        }
        let mut builder = fs::DirBuilder::new();
        builder.recursive(parents).mode(DIR_MODE);
        match self.disk.make_dir(path, &builder) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        match path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
        {
            Some(parent) => self.disk.sync_dir(parent),
            None => Ok(()),
        }
    }
}

fn scan_shard(
    kind: Kind,
    dir: &Path,
    entries: fs::ReadDir,
    found: &mut BTreeMap<TaskId, Found>,
) -> io::Result<()> {
    for entry in entries {
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
        // Only for another's message: a full disk must not keep us from starting.
        let _ = file.set_len(0);
        let _ = writeln!(file, "{}", std::process::id());
        Ok(Self(file))
    }
}

impl Drop for LockFile {
    fn drop(&mut self) {
        // Closing alone would leave the lock to a child that is between fork and exec.
        let _ = self.0.unlock();
    }
}
