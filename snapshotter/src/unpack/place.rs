//! Entries become files.
//!
//! The order in which a file gets what it has is containerd's, and matters: owner, then attributes
//! (a change of owner takes capabilities away), then mode (it takes set-id bits away as well), then
//! times. Calls whose result is there already are left out: a file of ours with an ordinary mode
//! costs open, write, times and close.
//!
//! Nothing is ever replaced: what an entry finds in its place makes it a duplicate, but for a
//! directory that meets a directory, and for a whiteout, which stands for what lies below.

mod content;
mod inode;
mod link;
mod whiteout;

use std::{
    fs::File,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{AtFlags, OFlag, openat},
    sched::{CloneFlags, unshare},
    sys::stat::{
        FchmodatFlags, Mode, SFlag, UtimensatFlags, fchmod, fchmodat, futimens, mkdirat, mknodat,
        umask, utimensat,
    },
    unistd::{fchown, fchownat, getegid, geteuid, symlinkat},
};

use self::{
    content::{copy, copy_extents},
    inode::{device, file_type, is_set_id, mode, owner, times},
};
use super::{
    LayerKind, Rights, UnpackOptions,
    attributes::{self, Node},
    dirs::{self, Dir, Dirs, Missing, io, stat_in},
    error::{Fault, Refusal},
    limits::Limits,
    name::{self, Meaning},
    pipe::Input,
    tar::{Entry, Kind, Tar},
};

/// The files of one layer while they are made. Lives on a thread of its own, whose umask it sets.
pub(super) struct Files {
    dirs: Dirs,
    kind: LayerKind,
    rights: Rights,
    limits: Limits,
    /// Whom new files belong to.
    uid: u32,
    gid: u32,
    /// Whether a file's mode comes out as it was asked for: no umask, no inherited lists.
    exact_modes: bool,
    /// Whether some file got capabilities, which a change of owner takes away.
    capabilities: bool,
    entries: u64,
    bytes: u64,
    path: Vec<u8>,
}

impl Files {
    /// Files below `dir`. Takes the umask away from the calling thread, for good.
    pub(super) fn new(dir: &Path, options: &UnpackOptions) -> Result<Self, Fault> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
        let root = File::options()
            .read(true)
            .custom_flags(flags.bits())
            .open(dir)
            .map_err(|error| Fault::Io {
                what: "open the directory of the layer",
                error,
            })?;
        let own_umask = unshare(CloneFlags::CLONE_FS).is_ok();
        if own_umask {
            umask(Mode::empty());
        }
        let exact_modes = own_umask && !attributes::are_inherited(&root);
        Ok(Self {
            dirs: Dirs::new(root, options.limits, exact_modes),
            kind: options.kind,
            rights: options.rights,
            limits: options.limits,
            uid: geteuid().as_raw(),
            gid: getegid().as_raw(),
            exact_modes,
            capabilities: false,
            entries: 0,
            bytes: 0,
            path: Vec::new(),
        })
    }

    /// Entries so far.
    pub(super) fn entries(&self) -> u64 {
        self.entries
    }

    /// Puts all times right.
    pub(super) fn finish(self) -> Result<Vec<PathBuf>, Fault> {
        self.dirs.finish()
    }

    /// Makes what one entry says.
    pub(super) fn place<I: Input>(&mut self, entry: &Entry, tar: &mut Tar<I>) -> Result<(), Fault> {
        self.count(entry)?;
        let mut path = std::mem::take(&mut self.path);
        let placed = name::clean(&entry.path, &self.limits, &mut path)
            .map_err(Fault::from)
            .and_then(|()| self.place_at(&path, entry, tar));
        self.path = path;
        placed
    }

    fn count(&mut self, entry: &Entry) -> Result<(), Refusal> {
        self.entries += 1;
        if self.entries + self.dirs.implied_len() > self.limits.entries {
            return Err(Refusal::TooManyEntries(self.limits.entries));
        }
        self.bytes = self.bytes.saturating_add(entry.size);
        match self.bytes > self.limits.size {
            true => Err(Refusal::TooLarge(self.limits.size)),
            false => Ok(()),
        }
    }

    fn place_at<I: Input>(
        &mut self,
        path: &[u8],
        entry: &Entry,
        tar: &mut Tar<I>,
    ) -> Result<(), Fault> {
        // The root belongs to the snapshot; and devices cannot be made in a user namespace.
        let is_device = matches!(entry.kind, Kind::Char | Kind::Block);
        if path.is_empty() || (is_device && self.rights == Rights::UserNamespace) {
            return Ok(());
        }
        let (parent, name) = name::split(path);
        match name::meaning(name)? {
            Meaning::Opaque => self.make_opaque(parent),
            Meaning::Hides(hidden) => self.hide(parent, hidden, entry),
            Meaning::Name if entry.kind == Kind::HardLink => self.link(parent, name, entry),
            Meaning::Name => {
                let dir = self.dirs.get(parent, Missing::Made)?;
                dir.touch();
                match entry.kind {
                    Kind::Directory => self.make_directory(&dir, name, entry),
                    Kind::Symlink => self.make_symlink(&dir, name, entry),
                    Kind::Char | Kind::Block | Kind::Fifo => self.make_node(&dir, name, entry),
                    Kind::File | Kind::HardLink => self.make_file(&dir, name, entry, tar),
                }
            }
        }
    }

    fn make_file<I: Input>(
        &mut self,
        dir: &Dir,
        name: &[u8],
        entry: &Entry,
        tar: &mut Tar<I>,
    ) -> Result<(), Fault> {
        let flags =
            OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mode = mode(entry);
        let mut file = self.make(dir, name, "create a file", || {
            openat(&dir.file, name, flags, mode).map(File::from)
        })?;
        match entry.extents() {
            None => copy(tar, &mut file)?,
            Some(extents) => copy_extents(tar, &file, extents, entry.size)?,
        }
        if !self.has_owner(dir, entry) {
            let (uid, gid) = owner(entry);
            fchown(&file, Some(uid), Some(gid)).map_err(io("set an owner"))?;
        }
        self.set_attributes(&Node::File(&file), entry)?;
        if !self.exact_modes || is_set_id(entry) || entry.has_attributes() {
            fchmod(&file, mode).map_err(io("set a mode"))?;
        }
        let (accessed, modified) = times(entry);
        futimens(&file, &accessed, &modified).map_err(io("set times"))
    }

    fn make_directory(&mut self, dir: &Dir, name: &[u8], entry: &Entry) -> Result<(), Fault> {
        let mut path = dir.path.clone();
        name::push(&mut path, name, &self.limits)?;
        let made = mkdirat(&dir.file, name, mode(entry));
        let is_new = match made {
            Ok(()) => true,
            Err(Errno::EEXIST) => !self.is_directory(dir, name, entry)?,
            Err(errno) => return Err(io("make a directory")(errno)),
        };
        let file = dirs::open_in(dir, name).map_err(io("open a directory"))?;
        let right_owner = is_new && self.has_owner(dir, entry);
        if !right_owner {
            let (uid, gid) = owner(entry);
            fchown(&file, Some(uid), Some(gid)).map_err(io("set an owner"))?;
        }
        self.set_attributes(&Node::File(&file), entry)?;
        let exact = self.exact_modes && !is_set_id(entry) && !dir.set_gid;
        if !is_new || !exact || entry.has_attributes() {
            fchmod(&file, mode(entry)).map_err(io("set a mode"))?;
        }
        self.dirs.is_explicit(&path);
        self.dirs.adopt(Dir::described(
            path,
            file,
            entry.gid,
            entry.mode,
            times(entry),
        ))
    }

    /// Whether a directory is there already, which its entry then describes. Makes it in the place
    /// of a whiteout.
    fn is_directory(&self, dir: &Dir, name: &[u8], entry: &Entry) -> Result<bool, Fault> {
        let stat = stat_in(dir, name).map_err(io("look at a file"))?;
        if file_type(&stat) == SFlag::S_IFDIR {
            return Ok(true);
        }
        self.clear_whiteout(dir, name)?;
        mkdirat(&dir.file, name, mode(entry)).map_err(io("make a directory"))?;
        Ok(false)
    }

    fn make_symlink(&mut self, dir: &Dir, name: &[u8], entry: &Entry) -> Result<(), Fault> {
        if entry.link.is_empty() {
            return Err(Refusal::LinkWithoutTarget.into());
        }
        if entry.link.len() > self.limits.path {
            return Err(Refusal::PathTooLong(self.limits.path).into());
        }
        self.make(dir, name, "make a symbolic link", || {
            symlinkat(&entry.link[..], &dir.file, name)
        })?;
        self.describe(dir, name, entry, !self.has_owner(dir, entry), false)
    }

    fn make_node(&mut self, dir: &Dir, name: &[u8], entry: &Entry) -> Result<(), Fault> {
        let (kind, device) = match entry.kind {
            Kind::Char => (SFlag::S_IFCHR, device(entry)?),
            Kind::Block => (SFlag::S_IFBLK, device(entry)?),
            _ => (SFlag::S_IFIFO, 0),
        };
        self.make(dir, name, "make a node", || {
            mknodat(&dir.file, name, kind, mode(entry), device)
        })?;
        let set_mode = !self.exact_modes || is_set_id(entry) || entry.has_attributes();
        self.describe(dir, name, entry, !self.has_owner(dir, entry), set_mode)
    }

    /// Makes something new. A whiteout in its place gives way.
    fn make<T>(
        &self,
        dir: &Dir,
        name: &[u8],
        what: &'static str,
        make: impl Fn() -> Result<T, Errno>,
    ) -> Result<T, Fault> {
        match make() {
            Err(Errno::EEXIST) => {
                self.clear_whiteout(dir, name)?;
                make().map_err(io(what))
            }
            made => made.map_err(io(what)),
        }
    }

    /// Gives something that is not open what its entry says.
    fn describe(
        &mut self,
        dir: &Dir,
        name: &[u8],
        entry: &Entry,
        set_owner: bool,
        set_mode: bool,
    ) -> Result<(), Fault> {
        if set_owner {
            self.set_owner(dir, name, entry)?;
        }
        self.set_attributes(&Node::Name(dir, name), entry)?;
        if set_mode {
            let follow = FchmodatFlags::FollowSymlink;
            fchmodat(&dir.file, name, mode(entry), follow).map_err(io("set a mode"))?;
        }
        let (accessed, modified) = times(entry);
        let no_follow = UtimensatFlags::NoFollowSymlink;
        utimensat(&dir.file, name, &accessed, &modified, no_follow).map_err(io("set times"))
    }

    fn set_owner(&self, dir: &Dir, name: &[u8], entry: &Entry) -> Result<(), Fault> {
        let (uid, gid) = owner(entry);
        let no_follow = AtFlags::AT_SYMLINK_NOFOLLOW;
        fchownat(&dir.file, name, Some(uid), Some(gid), no_follow).map_err(io("set an owner"))
    }

    fn set_attributes(&mut self, node: &Node<'_>, entry: &Entry) -> Result<(), Fault> {
        for (name, value) in entry.attributes() {
            attributes::set(node, name, value, self.rights)?;
            self.capabilities |= name == attributes::CAPABILITY;
            if name == attributes::INHERITED_LIST {
                self.exact_modes = false;
                self.dirs.rights_are_inherited();
            }
        }
        Ok(())
    }

    /// Whether what is made in `dir` belongs to whom the entry says. In a directory of another
    /// group, new files may get that one.
    fn has_owner(&self, dir: &Dir, entry: &Entry) -> bool {
        (entry.uid, entry.gid) == (self.uid, self.gid) && dir.gid == self.gid
    }
}
