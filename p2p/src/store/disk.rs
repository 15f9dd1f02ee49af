//! Every operation of the store on its file system, its database's too: the seam at which tests
//! have any one of them fail, or the power go (`tests/fate.rs`).

use std::{
    fs::{self, File, Metadata, OpenOptions},
    io::{self, Read},
    os::unix::fs::FileExt,
    path::Path,
};

use nix::{
    errno::Errno,
    fcntl::{FallocateFlags, fallocate},
    sys::statvfs::fstatvfs,
};
use redb::StorageBackend;

/// The disk as the store uses it.
#[derive(Clone, Debug, Default)]
pub(super) struct Disk {
    #[cfg(test)]
    pub(super) fate: Option<std::sync::Arc<super::tests::fate::Fate>>,
    /// What is said of the file system, where it is not the truth.
    #[cfg(test)]
    pub(super) space: Option<std::sync::Arc<std::sync::Mutex<Space>>>,
}

/// One operation, for whoever decides about its fate.
#[cfg_attr(not(test), allow(dead_code, reason = "only tests look at them"))]
#[derive(Clone, Copy, Debug)]
pub(super) enum Op<'a> {
    /// Tells something about files or the file system.
    Look,
    Open(&'a Path),
    OpenToWrite(&'a Path),
    Read,
    Create(&'a Path),
    MakeDir(&'a Path),
    Link(&'a Path, &'a Path),
    Rename(&'a Path, &'a Path),
    Remove(&'a Path),
    Resize(&'a File, u64),
    Write(&'a File, u64, &'a [u8]),
    Sync(&'a File),
    SyncDir(&'a Path),
}

/// How full the file system is, whoever fills it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Space {
    /// All of it, in bytes.
    pub(super) total: u64,
    /// What can still be allocated; what is kept for the superuser cannot.
    pub(super) free: u64,
}

impl Disk {
    #[cfg(not(test))]
    fn act<T>(&self, _: Op<'_>, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        work()
    }

    #[cfg(test)]
    fn act<T>(&self, op: Op<'_>, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        match &self.fate {
            Some(fate) => fate.act(op, work),
            None => work(),
        }
    }

    pub(super) fn open_to_read(&self, path: &Path) -> io::Result<File> {
        self.act(Op::Open(path), || File::open(path))
    }

    /// For reading, too. On a read-only file system there is no such file.
    pub(super) fn open_to_write(&self, path: &Path) -> io::Result<File> {
        let open = || OpenOptions::new().read(true).write(true).open(path);
        self.act(Op::OpenToWrite(path), open)
    }

    /// `options` want a new file.
    pub(super) fn create(&self, path: &Path, options: &OpenOptions) -> io::Result<File> {
        self.act(Op::Create(path), || options.open(path))
    }

    pub(super) fn make_dir(&self, path: &Path, builder: &fs::DirBuilder) -> io::Result<()> {
        self.act(Op::MakeDir(path), || builder.create(path))
    }

    pub(super) fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.act(Op::Link(from, to), || fs::hard_link(from, to))
    }

    pub(super) fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.act(Op::Rename(from, to), || fs::rename(from, to))
    }

    pub(super) fn remove(&self, path: &Path) -> io::Result<()> {
        self.act(Op::Remove(path), || fs::remove_file(path))
    }

    pub(super) fn metadata(&self, file: &File) -> io::Result<Metadata> {
        self.act(Op::Look, || file.metadata())
    }

    pub(super) fn read_dir(&self, path: &Path) -> io::Result<fs::ReadDir> {
        self.act(Op::Look, || fs::read_dir(path))
    }

    pub(super) fn read_at(&self, file: &File, data: &mut [u8], offset: u64) -> io::Result<()> {
        self.act(Op::Read, || file.read_exact_at(data, offset))
    }

    /// From where the file stands.
    pub(super) fn read(&self, mut file: &File, data: &mut [u8]) -> io::Result<usize> {
        self.act(Op::Read, || file.read(data))
    }

    pub(super) fn write_at(&self, file: &File, data: &[u8], offset: u64) -> io::Result<()> {
        self.act(Op::Write(file, offset, data), || {
            file.write_all_at(data, offset)
        })
    }

    pub(super) fn set_len(&self, file: &File, length: u64) -> io::Result<()> {
        self.act(Op::Resize(file, length), || file.set_len(length))
    }

    /// Gives `file` its length, with space on the disk where the filesystem can reserve it.
    pub(super) fn preallocate(&self, file: &File, length: u64) -> io::Result<()> {
        self.act(Op::Resize(file, length), || preallocate(file, length))
    }

    pub(super) fn sync(&self, file: &File) -> io::Result<()> {
        self.act(Op::Sync(file), || file.sync_data())
    }

    pub(super) fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.act(Op::SyncDir(path), || File::open(path)?.sync_all())
    }

    /// Of the file system that holds the directory.
    pub(super) fn space(&self, dir: &Path) -> io::Result<Space> {
        #[cfg(test)]
        if let Some(space) = &self.space {
            return Ok(*super::record::lock(space));
        }
        let stat = self.act(Op::Look, || Ok(fstatvfs(File::open(dir)?)?))?;
        // The types differ between platforms.
        #[allow(clippy::useless_conversion)]
        let bytes = |blocks| u64::from(blocks).saturating_mul(u64::from(stat.fragment_size()));
        Ok(Space {
            total: bytes(stat.blocks()),
            free: bytes(stat.blocks_available()),
        })
    }
}

fn preallocate(file: &File, length: u64) -> io::Result<()> {
    if length == 0 {
        return file.set_len(0);
    }
    let end = i64::try_from(length).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
    loop {
        match fallocate(file, FallocateFlags::empty(), 0, end) {
            Ok(()) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => return file.set_len(length),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// The database's file. Redb need not lock it: the store's directory is locked.
#[derive(Debug)]
pub(super) struct DatabaseFile {
    disk: Disk,
    file: File,
}

impl DatabaseFile {
    pub(super) fn new(disk: Disk, file: File) -> Self {
        Self { disk, file }
    }
}

impl StorageBackend for DatabaseFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.metadata(&self.file)?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.disk.read_at(&self.file, out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.set_len(&self.file, len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.sync(&self.file)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.disk.write_at(&self.file, data, offset)
    }
}
