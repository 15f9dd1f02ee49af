//! What entries called `.wh.` become, and what gives way to what.

use std::rc::Rc;

use nix::{
    errno::Errno,
    sys::stat::{Mode, SFlag, mknodat},
    unistd::{UnlinkatFlags, unlinkat},
};

use super::{Files, inode::file_type};
use crate::unpack::{
    LayerKind, attributes,
    dirs::{Dir, Missing, io, stat_in},
    error::{Fault, Refusal},
    tar::Entry,
};

impl Files {
    /// What `.wh..wh..opq` in a directory means. In a base layer there is nothing to hide, but for
    /// directories without an entry: containerd takes those away, and whoever made the layer did
    /// not want that.
    pub(super) fn make_opaque(&mut self, parent: &[u8]) -> Result<(), Fault> {
        let dir = self.dirs.get(parent, Missing::Made)?;
        match self.kind {
            LayerKind::Base if self.dirs.has_implied_below(&dir.path) => {
                Err(Refusal::HidesImplied.into())
            }
            LayerKind::Base => Ok(()),
            LayerKind::Upper => attributes::make_opaque(&dir.file, self.rights),
        }
    }

    /// What `.wh.<name>` in a directory means.
    pub(super) fn hide(&mut self, parent: &[u8], name: &[u8], entry: &Entry) -> Result<(), Fault> {
        let dir = self.dirs.get(parent, Missing::Made)?;
        match self.kind {
            LayerKind::Base => self.remove(&dir, name),
            LayerKind::Upper => {
                dir.touch();
                let made = mknodat(&dir.file, name, SFlag::S_IFCHR, Mode::empty(), 0);
                made.map_err(|errno| match errno {
                    Errno::EEXIST => Refusal::HidesOwn.into(),
                    errno => io("make a whiteout")(errno),
                })?;
                if self.has_owner(&dir, entry) {
                    return Ok(());
                }
                self.set_owner(&dir, name, entry)
            }
        }
    }

    /// Takes away what the layer itself brought before.
    pub(super) fn remove(&mut self, dir: &Rc<Dir>, name: &[u8]) -> Result<(), Fault> {
        let stat = match stat_in(dir, name) {
            Err(Errno::ENOENT) => return Ok(()),
            stat => stat.map_err(io("look at a file"))?,
        };
        self.dirs.forget_below(dir, name)?;
        dir.touch();
        if file_type(&stat) != SFlag::S_IFDIR {
            let removed = unlinkat(&dir.file, name, UnlinkatFlags::NoRemoveDir);
            return removed.map_err(io("remove a file"));
        }
        // Through the descriptor, and without following what `name` is.
        std::fs::remove_dir_all(attributes::path_in(dir, name)).map_err(|error| Fault::Io {
            what: "remove a directory",
            error,
        })
    }

    /// Whatever is in the way must be a whiteout, and goes.
    pub(super) fn clear_whiteout(&self, dir: &Dir, name: &[u8]) -> Result<(), Fault> {
        let stat = stat_in(dir, name).map_err(io("look at a file"))?;
        let is_whiteout = file_type(&stat) == SFlag::S_IFCHR && stat.st_rdev == 0;
        if self.kind != LayerKind::Upper || !is_whiteout {
            return Err(Refusal::Duplicate.into());
        }
        let removed = unlinkat(&dir.file, name, UnlinkatFlags::NoRemoveDir);
        removed.map_err(io("remove a whiteout"))
    }
}
