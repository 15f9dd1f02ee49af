//! Hard links.

use std::rc::Rc;

use nix::{errno::Errno, fcntl::AtFlags, sys::stat::SFlag, unistd::linkat};

use super::{
    Files,
    inode::{file_type, stat_times, times},
};
use crate::unpack::{
    dirs::{Dir, Missing, io, stat_in},
    error::{Fault, Refusal},
    name,
    tar::Entry,
};

impl Files {
    /// A hard link, and what its entry says about the file: containerd sets all of that again.
    pub(super) fn link(&mut self, parent: &[u8], name: &[u8], entry: &Entry) -> Result<(), Fault> {
        let (target, target_name) = self.link_target(&entry.link)?;
        let dir = self.dirs.get(parent, Missing::Made)?;
        dir.touch();
        self.make(&dir, name, "make a hard link", || {
            let none = AtFlags::empty();
            linkat(&target.file, target_name, &dir.file, name, none)
        })
        .map_err(|fault| link_fault(fault, &target, target_name))?;
        let stat = stat_in(&dir, name).map_err(io("look at a file"))?;
        let is_symlink = file_type(&stat) == SFlag::S_IFLNK;
        let set_owner = (stat.st_uid, stat.st_gid) != (entry.uid, entry.gid) || self.capabilities;
        let other_mode = stat.st_mode & 0o7777 != entry.mode;
        let set_mode = other_mode || set_owner || entry.has_attributes();
        if set_owner || (set_mode && !is_symlink) || stat_times(&stat) != times(entry) {
            self.describe(&dir, name, entry, set_owner, set_mode && !is_symlink)?;
        }
        Ok(())
    }

    /// The directory and the name of a hard link's target, which must be there.
    fn link_target<'e>(&mut self, link: &'e [u8]) -> Result<(Rc<Dir>, &'e [u8]), Fault> {
        if link.is_empty() {
            return Err(Refusal::LinkWithoutTarget.into());
        }
        if link.len() > self.limits.path {
            return Err(Refusal::PathTooLong(self.limits.path).into());
        }
        let (parent, name) = name::split(link);
        match name {
            b".." if parent.is_empty() => Err(Refusal::Climbs.into()),
            b"" | b"." | b".." => Err(Refusal::LinkToDirectory.into()),
            name => {
                let parent = parent.strip_prefix(b"./").unwrap_or(parent);
                Ok((self.dirs.get(parent, Missing::Refused)?, name))
            }
        }
    }
}

/// Why a link could not be made, from what its target is.
fn link_fault(fault: Fault, target: &Dir, name: &[u8]) -> Fault {
    match stat_in(target, name) {
        Err(Errno::ENOENT) => Refusal::LinkToNothing.into(),
        Err(Errno::ENAMETOOLONG) => Refusal::LinkToNothing.into(),
        Ok(stat) if file_type(&stat) == SFlag::S_IFDIR => Refusal::LinkToDirectory.into(),
        _ => fault,
    }
}
