//! Extended attributes: which ones a layer may set, and on what.

use std::{
    ffi::OsStr,
    fs::File,
    io,
    os::{fd::AsRawFd, unix::ffi::OsStrExt},
    path::PathBuf,
};

use nix::{errno::Errno, sys::stat::SFlag};
use xattr::FileExt as _;

use super::{
    Rights,
    dirs::{Dir, stat_in},
    error::Fault,
};

/// What attributes are set on.
pub(super) enum Node<'a> {
    /// A regular file or a directory.
    File(&'a File),
    /// Anything, by its name in a directory.
    Name(&'a Dir, &'a [u8]),
}

/// What lets a program do more than its user may.
pub(super) const CAPABILITY: &[u8] = b"security.capability";

/// A directory's list that new files in it inherit, whatever their mode says.
pub(super) const INHERITED_LIST: &[u8] = b"system.posix_acl_default";

/// Sets one attribute, or leaves it out where containerd does.
pub(super) fn set(node: &Node<'_>, name: &[u8], value: &[u8], rights: Rights) -> Result<(), Fault> {
    if is_reserved(name, rights) {
        return Ok(());
    }
    let name_os = OsStr::from_bytes(name);
    let set = match node {
        Node::File(file) => file.set_xattr(name_os, value),
        Node::Name(dir, file) => xattr::set(path_in(dir, file), name_os, value),
    };
    match set {
        Err(error) if is_ignored(&error, node, name) => {
            tracing::debug!(name = %name.escape_ascii(), %error, "attribute left out");
            Ok(())
        }
        set => set.map_err(fault),
    }
}

/// Hides what lies below a directory.
pub(super) fn make_opaque(dir: &File, rights: Rights) -> Result<(), Fault> {
    let name = match rights {
        Rights::Full => "trusted.overlay.opaque",
        Rights::UserNamespace => "user.overlay.opaque",
    };
    dir.set_xattr(name, b"y").map_err(fault)
}

/// Whether new files in the directory get a list of rights from it.
pub(super) fn are_inherited(dir: &File) -> bool {
    let list = dir.get_xattr(OsStr::from_bytes(INHERITED_LIST));
    matches!(list, Ok(Some(_)))
}

/// A path to something in an open directory, which the kernel does not follow beyond that.
pub(super) fn path_in(dir: &Dir, name: &[u8]) -> PathBuf {
    let dir = format!("/proc/self/fd/{}", dir.file.as_raw_fd());
    PathBuf::from(dir).join(OsStr::from_bytes(name))
}

/// What means something to overlayfs is ours to set.
fn is_reserved(name: &[u8], rights: Rights) -> bool {
    name.starts_with(b"trusted.")
        || (rights == Rights::UserNamespace && name.starts_with(b"user.overlay."))
}

/// A filesystem without such attributes; or one that has them for files and directories only.
fn is_ignored(error: &io::Error, node: &Node<'_>, name: &[u8]) -> bool {
    match (error.raw_os_error().map(Errno::from_raw), node) {
        (Some(Errno::EOPNOTSUPP), _) => true,
        (Some(Errno::EPERM), Node::Name(dir, file)) if name.starts_with(b"user.") => {
            stat_in(dir, file).is_ok_and(|stat| {
                let kind = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
                !matches!(kind, SFlag::S_IFREG | SFlag::S_IFDIR)
            })
        }
        _ => false,
    }
}

fn fault(error: io::Error) -> Fault {
    Fault::Io {
        what: "set an extended attribute",
        error,
    }
}
