//! The directories that entries lie in, opened so that nothing can lead out of the root.
//!
//! * Every directory is opened below the root's descriptor with `openat2`, which follows no
//!   symbolic link and does not leave the root, whatever lies there. Paths that go through links
//!   are resolved here (`Dirs::walk`): an absolute target starts at the root, as it would in the
//!   container; a target that climbs above the root is refused. What was found is a path without
//!   links, and is opened as such.
//! * Entries of one directory come together, so that a few stay open, the latest used first.
//! * **A directory that is not open here has its right times.** What is made in one changes its
//!   times: they are remembered when it is opened and put back when it is closed. No list of
//!   directories grows with the layer.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
    ffi::OsStr,
    fs::File,
    os::{fd::AsFd, unix::ffi::OsStrExt},
    path::PathBuf,
    rc::Rc,
};

use nix::{
    errno::Errno,
    fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2, readlinkat},
    sys::{
        stat::{FileStat, Mode, SFlag, fchmod, fstat, fstatat, futimens, mkdirat},
        time::TimeSpec,
    },
};

use super::{
    error::{Fault, Refusal},
    limits::Limits,
    name,
};

/// How many directories stay open.
const OPEN: usize = 16;

/// How many links may lie on the way to one directory, as in containerd.
const LINKS: usize = 255;

/// How many names may lie there, those in the links' targets included: else a few links could make
/// each entry cost hundreds of thousands of them.
const NAMES: usize = 1024;

/// Mode of directories that have no entry of their own.
const IMPLIED: Mode = Mode::from_bits_truncate(0o755);

/// An open directory.
pub(super) struct Dir {
    /// Its path below the root, without links.
    pub(super) path: Vec<u8>,
    /// Another path that led here.
    alias: RefCell<Option<Vec<u8>>>,
    pub(super) file: File,
    times: Times,
    /// Whether something was made in it, so that its times must be put back.
    touched: Cell<bool>,
    /// The group that new files in it may get.
    pub(super) gid: u32,
    /// Whether new directories in it get its set-group-id bit.
    pub(super) set_gid: bool,
}

/// Access and modification.
pub(super) type Times = (TimeSpec, TimeSpec);

/// What becomes of a directory on the way that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    Made,
    Refused,
}

/// The open directories of one unpack.
pub(super) struct Dirs {
    root: File,
    limits: Limits,
    /// Whether modes come out as they were asked for.
    exact_modes: bool,
    /// The latest used first.
    open: Vec<Rc<Dir>>,
    implied: BTreeSet<Vec<u8>>,
    implied_bytes: usize,
}

/// What the kernel said about a directory.
pub(super) fn io(what: &'static str) -> impl Fn(Errno) -> Fault {
    move |errno| Fault::Io {
        what,
        error: errno.into(),
    }
}

const DIRECTORY: OFlag = OFlag::O_RDONLY
    .union(OFlag::O_DIRECTORY)
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_CLOEXEC);

impl Dirs {
    pub(super) fn new(root: File, limits: Limits, exact_modes: bool) -> Self {
        Self {
            root,
            limits,
            exact_modes,
            open: Vec::with_capacity(OPEN + 1),
            implied: BTreeSet::new(),
            implied_bytes: 0,
        }
    }

    /// The directory at a path, whose `..` are those of the tree and not of the text.
    pub(super) fn get(&mut self, path: &[u8], missing: Missing) -> Result<Rc<Dir>, Fault> {
        let known = |dir: &Rc<Dir>| dir.path == path || dir.alias.borrow().as_deref() == Some(path);
        if let Some(at) = self.open.iter().position(known) {
            return Ok(self.use_again(at));
        }
        match self.load(path) {
            Ok(dir) => Ok(dir),
            Err(Errno::ENOENT | Errno::ELOOP | Errno::ENOTDIR | Errno::EXDEV) => {
                let resolved = self.walk(path, missing)?;
                let dir = self.load_resolved(&resolved)?;
                dir.alias.replace(Some(path.to_vec()));
                Ok(dir)
            }
            Err(errno) => Err(io("open a directory")(errno)),
        }
    }

    /// Takes a directory that is already open, since its entry just came.
    pub(super) fn adopt(&mut self, dir: Dir) -> Result<(), Fault> {
        self.open.retain(|open| open.path != dir.path);
        let inserted = self.insert(dir);
        inserted.map_err(io("set the times of a directory"))?;
        Ok(())
    }

    /// A directory got an entry of its own after all.
    pub(super) fn is_explicit(&mut self, path: &[u8]) {
        if self.implied.remove(path) {
            self.implied_bytes -= path.len();
        }
    }

    /// Something below `dir` goes away: what lay there is not known any more.
    pub(super) fn forget_below(&mut self, dir: &Rc<Dir>, name: &[u8]) -> Result<(), Fault> {
        let mut gone = dir.path.clone();
        name::push(&mut gone, name, &self.limits)?;
        for dir in self.open.extract_if(.., |open| !Rc::ptr_eq(open, dir)) {
            dir.settle().map_err(io("set the times of a directory"))?;
        }
        // What led here may have been a link that goes.
        dir.alias.take();
        self.forget_implied(&gone);
        Ok(())
    }

    /// Costs as much as is forgotten, and not as much as there is.
    fn forget_implied(&mut self, gone: &[u8]) {
        self.is_explicit(gone);
        let below: Vec<_> = self.implied.range(below(gone)).cloned().collect();
        for path in below {
            self.is_explicit(&path);
        }
    }

    /// From now on, new directories may inherit a list of rights.
    pub(super) fn rights_are_inherited(&mut self) {
        self.exact_modes = false;
    }

    /// Whether one of those below `path` was made without an entry.
    pub(super) fn has_implied_below(&self, path: &[u8]) -> bool {
        match path {
            b"" => !self.implied.is_empty(),
            path => self.implied.range(below(path)).next().is_some(),
        }
    }

    /// How many directories were made without an entry.
    pub(super) fn implied_len(&self) -> u64 {
        self.implied.len() as u64
    }

    /// Puts all times right, and says which directories have no entry of their own: the root
    /// always, whatever an entry says of it.
    pub(super) fn finish(mut self) -> Result<Vec<PathBuf>, Fault> {
        for dir in self.open.drain(..) {
            dir.settle().map_err(io("set the times of a directory"))?;
        }
        let implied = self.implied.iter();
        let implied = implied.map(|path| OsStr::from_bytes(path).into());
        Ok(std::iter::once(PathBuf::new()).chain(implied).collect())
    }

    fn use_again(&mut self, at: usize) -> Rc<Dir> {
        self.open[..=at].rotate_right(1);
        self.open[0].clone()
    }

    /// The directory at a path without links.
    fn load_resolved(&mut self, path: &[u8]) -> Result<Rc<Dir>, Fault> {
        match self.open.iter().position(|dir| dir.path == path) {
            Some(at) => Ok(self.use_again(at)),
            None => self.load(path).map_err(io("open a directory")),
        }
    }

    fn load(&mut self, path: &[u8]) -> Result<Rc<Dir>, Errno> {
        // Only clean paths: others have more than one spelling.
        let is_special = |part: &[u8]| matches!(part, b"" | b"." | b"..");
        if !path.is_empty() && path.split(|byte| *byte == b'/').any(is_special) {
            return Err(Errno::ELOOP);
        }
        let file = open_below(&self.root, path)?;
        let stat = fstat(&file)?;
        self.insert(Dir::found(path.to_vec(), file, &stat))
    }

    fn insert(&mut self, dir: Dir) -> Result<Rc<Dir>, Errno> {
        if self.open.len() >= OPEN
            && let Some(oldest) = self.open.pop()
        {
            oldest.settle()?;
        }
        let dir = Rc::new(dir);
        self.open.insert(0, dir.clone());
        Ok(dir)
    }

    /// Follows a path as a process in the container would, and gives the one without links.
    fn walk(&mut self, path: &[u8], missing: Missing) -> Result<Vec<u8>, Fault> {
        let mut resolved = Vec::new();
        let mut depth = 0;
        let (mut links, mut names) = (0, 0);
        let mut to_go: Vec<Vec<u8>> = Vec::new();
        put_parts(&mut to_go, path);
        while let Some(part) = to_go.pop() {
            match &part[..] {
                b"" | b"." => continue,
                b".." if depth == 0 && links == 0 => return Err(Refusal::Climbs.into()),
                b".." if depth == 0 => return Err(Refusal::LinkClimbs.into()),
                b".." => {
                    depth -= 1;
                    resolved.truncate(name::parent(&resolved).len());
                    continue;
                }
                _ => {}
            }
            names += 1;
            if names > NAMES {
                return Err(Refusal::Loop.into());
            }
            let dir = self.load_resolved(&resolved)?;
            if let Some(target) = self.step(&dir, &part, missing)? {
                links += 1;
                if links > LINKS {
                    return Err(Refusal::Loop.into());
                }
                if target.starts_with(b"/") {
                    resolved.clear();
                    depth = 0;
                }
                put_parts(&mut to_go, &target);
                continue;
            }
            name::push(&mut resolved, &part, &self.limits)?;
            depth += 1;
            if depth > self.limits.depth {
                return Err(Refusal::TooDeep(self.limits.depth).into());
            }
        }
        Ok(resolved)
    }

    /// Makes sure that `name` in `dir` is a directory; the target when it is a link.
    fn step(&mut self, dir: &Dir, name: &[u8], missing: Missing) -> Result<Option<Vec<u8>>, Fault> {
        match stat_in(dir, name) {
            Ok(stat) => match SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT {
                SFlag::S_IFDIR => Ok(None),
                SFlag::S_IFLNK => {
                    let target = readlinkat(&dir.file, name).map_err(io("read a link"))?;
                    Ok(Some(target.as_bytes().to_vec()))
                }
                _ => Err(Refusal::NotDirectory.into()),
            },
            Err(Errno::ENOENT) if missing == Missing::Made => {
                self.make_implied(dir, name).map(|()| None)
            }
            Err(Errno::ENOENT) => Err(Refusal::LinkToNothing.into()),
            Err(Errno::ENAMETOOLONG) => Err(Refusal::PathTooLong(self.limits.path).into()),
            Err(errno) => Err(io("look at a directory")(errno)),
        }
    }

    fn make_implied(&mut self, dir: &Dir, name: &[u8]) -> Result<(), Fault> {
        let mut path = dir.path.clone();
        name::push(&mut path, name, &self.limits)?;
        self.implied_bytes += path.len();
        if self.implied_bytes > self.limits.implied {
            return Err(Refusal::TooManyImplied(self.limits.implied).into());
        }
        mkdirat(&dir.file, name, IMPLIED).map_err(io("make a directory"))?;
        dir.touch();
        if !self.exact_modes || dir.set_gid {
            let file = open_in(dir, name).map_err(io("open a directory"))?;
            fchmod(&file, IMPLIED).map_err(io("set a mode"))?;
        }
        self.implied.insert(path);
        Ok(())
    }
}

impl Dir {
    /// As its entry describes it: the times are still to be set.
    pub(super) fn described(path: Vec<u8>, file: File, gid: u32, mode: u32, times: Times) -> Self {
        Self {
            path,
            alias: RefCell::default(),
            file,
            times,
            touched: Cell::new(true),
            gid,
            set_gid: mode & Mode::S_ISGID.bits() != 0,
        }
    }

    /// As it was found.
    fn found(path: Vec<u8>, file: File, stat: &FileStat) -> Self {
        let times = (
            TimeSpec::new(stat.st_atime, stat.st_atime_nsec),
            TimeSpec::new(stat.st_mtime, stat.st_mtime_nsec),
        );
        let dir = Self::described(path, file, stat.st_gid, stat.st_mode, times);
        dir.touched.set(false);
        dir
    }

    /// Something is made in it, or taken away.
    pub(super) fn touch(&self) {
        self.touched.set(true);
    }

    fn settle(&self) -> Result<(), Errno> {
        let (accessed, modified) = self.times;
        match self.touched.take() {
            true => futimens(&self.file, &accessed, &modified),
            false => Ok(()),
        }
    }
}

/// What `name` in `dir` is, without following it.
pub(super) fn stat_in(dir: &Dir, name: &[u8]) -> Result<FileStat, Errno> {
    fstatat(&dir.file, name, AtFlags::AT_SYMLINK_NOFOLLOW)
}

/// Opens `name` in `dir`, which must be a directory itself.
pub(super) fn open_in(dir: &Dir, name: &[u8]) -> Result<File, Errno> {
    openat(&dir.file, name, DIRECTORY, Mode::empty()).map(File::from)
}

/// Opens a directory below another by a path without links. `ELOOP` when there is one.
fn open_below(root: &File, path: &[u8]) -> Result<File, Errno> {
    let path = if path.is_empty() { b"." } else { path };
    let how = OpenHow::new().flags(DIRECTORY).resolve(
        ResolveFlag::RESOLVE_BENEATH
            .union(ResolveFlag::RESOLVE_NO_SYMLINKS)
            .union(ResolveFlag::RESOLVE_NO_XDEV),
    );
    match openat2(root, path, how) {
        // Before Linux 5.6, or where a sandbox does not know it.
        Err(Errno::ENOSYS | Errno::EPERM) => open_by_parts(root, path),
        opened => opened.map(File::from),
    }
}

/// The same, one part after the other.
fn open_by_parts(root: &File, path: &[u8]) -> Result<File, Errno> {
    let mut dir = openat(root.as_fd(), ".", DIRECTORY, Mode::empty())?;
    for part in path.split(|byte| *byte == b'/') {
        dir = openat(&dir, part, DIRECTORY, Mode::empty())?;
    }
    Ok(dir.into())
}

/// All paths below one.
fn below(path: &[u8]) -> std::ops::Range<Vec<u8>> {
    // `0` is what follows the slash.
    [path, b"/"].concat()..[path, b"0"].concat()
}

/// Puts the parts of a path on top, the first one uppermost.
fn put_parts(to_go: &mut Vec<Vec<u8>>, path: &[u8]) {
    let parts = path.rsplit(|byte| *byte == b'/');
    to_go.extend(parts.map(<[u8]>::to_vec));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_open_by_parts_follow_no_link() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(temp.path().join("a/b")).unwrap();
        std::os::unix::fs::symlink("a", temp.path().join("link")).unwrap();
        let root = File::open(temp.path()).unwrap();
        for open in [open_below, open_by_parts] {
            assert!(open(&root, b"a/b").is_ok());
            assert!(open(&root, b".").is_ok());
            assert!(open(&root, b"link/b").is_err());
            assert_eq!(open(&root, b"a/c").unwrap_err(), Errno::ENOENT);
        }
        assert!(open_below(&root, b"..").is_err());
    }
}
