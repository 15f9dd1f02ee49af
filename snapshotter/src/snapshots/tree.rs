//! Walks over whole trees: measuring and deleting.
//!
//! A container may change its tree meanwhile and a layer may be as deep as it likes, so paths are
//! resolved by the kernel beneath the root, no symbolic link is followed, and no descriptor is kept
//! open per level.

use std::{
    cell::RefCell,
    collections::HashSet,
    ffi::{CStr, CString, OsStr},
    fs, io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use nix::{
    dir::{Dir, Type},
    errno::Errno,
    fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, open, openat, openat2, renameat},
    sys::stat::{FileStat, Mode, fstat, fstatat},
    unistd::{UnlinkatFlags, unlinkat},
};

use super::info::Usage;

const DIRECTORY: OFlag = OFlag::O_RDONLY
    .union(OFlag::O_DIRECTORY)
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_CLOEXEC);
/// How many levels one path may have before it is opened in two steps: the kernel takes no path of
/// more than 4,095 bytes.
const PATH_LEN: usize = 3_500;
/// Deeper directories are moved up before they are deleted.
const MAX_DEPTH: usize = 32;

/// What the tree takes. `None`: `is_stopped` became true.
pub(super) fn measure(root: &Path, is_stopped: &dyn Fn() -> bool) -> io::Result<Option<Usage>> {
    let root = open_root(root)?;
    let mut sum = Sum::default();
    sum.add(&fstat(&root)?);
    let mut waiting = vec![PathBuf::new()];
    while let Some(path) = waiting.pop() {
        let dir = match open_beneath(root.as_fd(), &path) {
            Ok(dir) => dir,
            // Gone, or something else since.
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::EXDEV) => continue,
            Err(error) => return Err(error.into()),
        };
        for (name, _) in entries(&dir)? {
            if is_stopped() {
                return Ok(None);
            }
            let Ok(found) = fstatat(&dir, name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW) else {
                continue;
            };
            sum.add(&found);
            if is_directory(&found) {
                waiting.push(path.join(OsStr::from_bytes(name.to_bytes())));
            }
        }
    }
    Ok(Some(sum.usage))
}

/// What an empty tree takes.
pub(super) fn measure_root(root: &Path) -> io::Result<Usage> {
    let mut sum = Sum::default();
    sum.add(&fstat(open_root(root)?)?);
    Ok(sum.usage)
}

/// Every inode counts once.
#[derive(Default)]
struct Sum {
    usage: Usage,
    /// Those with several names.
    seen: HashSet<(u64, u64)>,
}

impl Sum {
    fn add(&mut self, found: &FileStat) {
        let is_linked = found.st_nlink > 1 && !is_directory(found);
        if is_linked && !self.seen.insert((found.st_dev, found.st_ino)) {
            return;
        }
        self.usage.inodes += 1;
        self.usage.size += u64::try_from(found.st_blocks).unwrap_or(0) * 512;
    }
}

/// Deletes one entry of `trash`. `free_name` is a name in it that nothing has. False: stopped.
pub(super) fn delete(
    trash: &Path,
    name: &OsStr,
    free_name: &dyn Fn() -> String,
    is_stopped: &dyn Fn() -> bool,
) -> io::Result<bool> {
    let trash = open_root(trash)?;
    let deletion = Deletion {
        trash: trash.as_fd(),
        free_name,
        is_stopped,
        lifted: RefCell::new(vec![CString::new(name.as_bytes())?]),
    };
    loop {
        let Some(name) = deletion.lifted.borrow_mut().pop() else {
            return Ok(true);
        };
        if !deletion.entry(trash.as_fd(), &name, None, 0)? {
            return Ok(false);
        }
    }
}

struct Deletion<'a> {
    trash: BorrowedFd<'a>,
    free_name: &'a dyn Fn() -> String,
    is_stopped: &'a dyn Fn() -> bool,
    /// Entries of the trash that are still to be deleted.
    lifted: RefCell<Vec<CString>>,
}

impl Deletion<'_> {
    fn entry(
        &self,
        at: BorrowedFd<'_>,
        name: &CStr,
        kind: Option<Type>,
        depth: usize,
    ) -> nix::Result<bool> {
        if (self.is_stopped)() {
            return Ok(false);
        }
        if kind.is_some_and(|kind| kind != Type::Directory) {
            return gone(unlinkat(at, name, UnlinkatFlags::NoRemoveDir));
        }
        let dir = match openat(at, name, DIRECTORY, Mode::empty()) {
            Ok(dir) => dir,
            Err(Errno::ENOTDIR | Errno::ELOOP) => {
                return gone(unlinkat(at, name, UnlinkatFlags::NoRemoveDir));
            }
            Err(Errno::ENOENT) => return Ok(true),
            Err(error) => return Err(error),
        };
        let mut outcome = Ok(());
        for (child, kind) in entries(&dir)? {
            let is_deep = depth >= MAX_DEPTH && kind.is_none_or(|kind| kind == Type::Directory);
            let done = match is_deep {
                true => self.lift(dir.as_fd(), &child),
                false => self.entry(dir.as_fd(), &child, kind, depth + 1),
            };
            match done {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                // The rest can go.
                Err(error) => outcome = outcome.and(Err(error)),
            }
        }
        outcome?;
        gone(unlinkat(at, name, UnlinkatFlags::RemoveDir))
    }

    /// Makes a deep directory an entry of the trash itself, to be deleted later.
    fn lift(&self, at: BorrowedFd<'_>, name: &CStr) -> nix::Result<bool> {
        let free = CString::new((self.free_name)()).map_err(|_| Errno::EINVAL)?;
        renameat(at, name, self.trash, free.as_c_str())?;
        self.lifted.borrow_mut().push(free);
        Ok(true)
    }
}

fn gone(result: nix::Result<()>) -> nix::Result<bool> {
    match result {
        Ok(()) | Err(Errno::ENOENT) => Ok(true),
        Err(error) => Err(error),
    }
}

fn is_directory(found: &FileStat) -> bool {
    found.st_mode & nix::libc::S_IFMT == nix::libc::S_IFDIR
}

fn open_root(path: &Path) -> nix::Result<OwnedFd> {
    open(path, DIRECTORY, Mode::empty())
}

/// Opens a directory below `root`, however long its path is.
fn open_beneath(root: BorrowedFd<'_>, path: &Path) -> nix::Result<OwnedFd> {
    let mut at: Option<OwnedFd> = None;
    let mut step = PathBuf::from(".");
    for component in path.components() {
        if step.as_os_str().len() + component.as_os_str().len() > PATH_LEN {
            at = Some(open_step(at.as_ref().map_or(root, AsFd::as_fd), &step)?);
            step = PathBuf::from(".");
        }
        step.push(component);
    }
    open_step(at.as_ref().map_or(root, AsFd::as_fd), &step)
}

fn open_step(at: BorrowedFd<'_>, path: &Path) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(DIRECTORY)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    match openat2(at, path, how) {
        // Before Linux 5.6.
        Err(Errno::ENOSYS) => open_each(at, path),
        opened => opened,
    }
}

/// The same, one component after the other.
fn open_each(at: BorrowedFd<'_>, path: &Path) -> nix::Result<OwnedFd> {
    let mut dir = openat(at, ".", DIRECTORY, Mode::empty())?;
    for component in path.components() {
        dir = openat(&dir, component.as_os_str(), DIRECTORY, Mode::empty())?;
    }
    Ok(dir)
}

/// All names in a directory but `.` and `..`.
fn entries(dir: &OwnedFd) -> nix::Result<Vec<(CString, Option<Type>)>> {
    let mut dir =
        Dir::from_fd(dir.as_fd().try_clone_to_owned().map_err(|error| {
            Errno::from_raw(error.raw_os_error().unwrap_or(nix::libc::EMFILE))
        })?)?;
    let mut found = Vec::new();
    for entry in dir.iter() {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            found.push((entry.file_name().to_owned(), entry.file_type()));
        }
    }
    Ok(found)
}

/// The names in a directory.
pub(super) fn names(dir: &Path) -> io::Result<Vec<std::ffi::OsString>> {
    fs::read_dir(dir)?
        .map(|entry| Ok(entry?.file_name()))
        .collect()
}
