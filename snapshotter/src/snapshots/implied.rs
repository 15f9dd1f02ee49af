//! Directories that a layer has files in but no entry for: they look as in the layers below, as
//! containerd makes them.
//!
//! The nearest lower layer that has the path decides; what is no directory there was replaced, and
//! gives nothing. Links in the lower layer are followed within it. Times are copied as well, which
//! containerd does too, but before it writes the files.

use std::{
    ffi::OsStr,
    fs::{File, FileTimes, Permissions},
    io,
    os::unix::fs::{MetadataExt, PermissionsExt, fchown},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2},
    sys::stat::{Mode, SFlag, fstatat},
};
use xattr::FileExt;

use super::{SnapshotError, directories::io_error};

const DIRECTORY: OFlag = OFlag::O_RDONLY
    .union(OFlag::O_DIRECTORY)
    .union(OFlag::O_CLOEXEC);

/// Gives `implied` directories below `root` what they have in `lowers`, nearest first. The root
/// itself (an empty path) gets the owner only.
pub(super) fn dress(
    root: &Path,
    implied: &[PathBuf],
    lowers: &[PathBuf],
) -> Result<(), SnapshotError> {
    if implied.is_empty() || lowers.is_empty() {
        return Ok(());
    }
    let open = |path: &Path| File::open(path).map_err(|cause| io_error("open", path, cause));
    let layer = open(root)?;
    let lowers = lowers
        .iter()
        .map(|lower| open(lower))
        .collect::<Result<Vec<_>, _>>()?;
    for path in implied {
        let failed = |cause| io_error("give attributes to", &root.join(path), cause);
        match is_root(path) {
            true => copy_owner(&lowers[0], &layer).map_err(failed)?,
            false => dress_one(&layer, path, &lowers).map_err(failed)?,
        }
    }
    Ok(())
}

fn is_root(path: &Path) -> bool {
    path.as_os_str().is_empty() || path == Path::new(".")
}

fn dress_one(layer: &File, path: &Path, lowers: &[File]) -> io::Result<()> {
    let confined = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS;
    // A later entry of the same layer may have replaced it.
    let Some(Some(directory)) = open_directory(layer, path, confined)? else {
        return Ok(());
    };
    for lower in lowers {
        match open_directory(lower, path, ResolveFlag::RESOLVE_IN_ROOT)? {
            None => {}
            Some(None) => return Ok(()),
            Some(Some(model)) => return copy(&model, &directory),
        }
    }
    Ok(())
}

/// `None`: there is no such path; `Some(None)`: it is no directory.
fn open_directory(
    root: &File,
    path: &Path,
    resolve: ResolveFlag,
) -> io::Result<Option<Option<File>>> {
    let how = OpenHow::new().flags(DIRECTORY).resolve(resolve);
    let opened = match openat2(root, path, how) {
        // Before Linux 5.6, or where a sandbox does not know it.
        Err(Errno::ENOSYS | Errno::EPERM) => open_by_parts(root, path, resolve),
        opened => opened.map(File::from),
    };
    match opened {
        Ok(directory) => Ok(Some(Some(directory))),
        Err(Errno::ENOENT) => Ok(None),
        Err(Errno::ENOTDIR | Errno::ELOOP) => Ok(Some(None)),
        Err(error) => Err(error.into()),
    }
}

/// The same, one part after the other. Links are not followed: where they should be, it is an error
/// (`ENOSYS`), and the layer is containerd's.
fn open_by_parts(root: &File, path: &Path, resolve: ResolveFlag) -> nix::Result<File> {
    let follows = !resolve.contains(ResolveFlag::RESOLVE_NO_SYMLINKS);
    let mut dir = root.try_clone().map_err(|error| {
        let number = error.raw_os_error().unwrap_or(nix::libc::EMFILE);
        Errno::from_raw(number)
    })?;
    for part in path.components() {
        let part = part.as_os_str();
        let opened = openat(&dir, part, DIRECTORY | OFlag::O_NOFOLLOW, Mode::empty());
        dir = match opened {
            Err(Errno::ENOTDIR | Errno::ELOOP) if follows && is_link(&dir, part)? => {
                return Err(Errno::ENOSYS);
            }
            opened => File::from(opened?),
        };
    }
    Ok(dir)
}

fn is_link(dir: &File, name: &OsStr) -> nix::Result<bool> {
    let found = fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    let kind = SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT;
    Ok(kind == SFlag::S_IFLNK)
}

fn copy(from: &File, to: &File) -> io::Result<()> {
    copy_owner(from, to)?;
    copy_attributes(from, to)?;
    let found = from.metadata()?;
    // After the owner, whose change may take bits away.
    to.set_permissions(Permissions::from_mode(found.mode() & 0o7777))?;
    let times = FileTimes::new()
        .set_accessed(found.accessed()?)
        .set_modified(found.modified()?);
    to.set_times(times)
}

fn copy_owner(from: &File, to: &File) -> io::Result<()> {
    let (wanted, found) = (from.metadata()?, to.metadata()?);
    if (wanted.uid(), wanted.gid()) == (found.uid(), found.gid()) {
        return Ok(());
    }
    fchown(to, Some(wanted.uid()), Some(wanted.gid()))
}

/// All but `trusted.*`: those are overlayfs' own.
fn copy_attributes(from: &File, to: &File) -> io::Result<()> {
    let names = match from.list_xattr() {
        Ok(names) => names,
        Err(error) if is_unsupported(&error) => return Ok(()),
        Err(error) => return Err(error),
    };
    for name in names {
        if name.as_encoded_bytes().starts_with(b"trusted.") {
            continue;
        }
        match from.get_xattr(&name) {
            Ok(Some(value)) => to.set_xattr(&name, &value)?,
            Ok(None) => {}
            Err(error) if is_unsupported(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn is_unsupported(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::ENOTSUP as i32)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn kernels_without_openat2_find_the_same_but_follow_no_link() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::create_dir_all(path("a/b")).unwrap();
        std::fs::write(path("a/file"), "").unwrap();
        symlink("a", path("link")).unwrap();
        let root = File::open(dir.path()).unwrap();
        let inside = ResolveFlag::RESOLVE_IN_ROOT;
        let plain = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS;
        let open = |name: &str, resolve| open_by_parts(&root, Path::new(name), resolve);
        for resolve in [inside, plain] {
            let found = open("a/b", resolve).unwrap().metadata().unwrap();
            let wanted = std::fs::metadata(path("a/b")).unwrap();
            assert_eq!(found.ino(), wanted.ino());
            assert_eq!(open("a/none/b", resolve).unwrap_err(), Errno::ENOENT);
            assert_eq!(open("a/file/b", resolve).unwrap_err(), Errno::ENOTDIR);
        }
        assert_eq!(open("link/b", inside).unwrap_err(), Errno::ENOSYS);
        let refused = open("link/b", plain).unwrap_err();
        assert!(
            matches!(refused, Errno::ENOTDIR | Errno::ELOOP),
            "{refused}"
        );
    }
}
