//! Whether overlays can write in a directory, and with which options.

use std::{
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
};

use nix::{
    dir::Dir,
    errno::Errno,
    fcntl::OFlag,
    sys::{
        stat::Mode,
        statfs::{OVERLAYFS_SUPER_MAGIC, TMPFS_MAGIC, statfs},
    },
};

use super::OpenSnapshotsError;

/// The inode of the first user namespace, the host's own.
const HOST_NAMESPACE: u64 = 0xEFFF_FFFD;
/// Characters that overlayfs takes for separators.
const SEPARATORS: [char; 5] = [',', ':', '\\', '"', '\n'];

/// The directory with its true path, if its snapshots can be mounted. It must exist.
pub(super) fn check(dir: &Path) -> Result<PathBuf, OpenSnapshotsError> {
    let failed = |cause| OpenSnapshotsError::Directory {
        dir: dir.to_owned(),
        cause,
    };
    let unsupported = |why: String| OpenSnapshotsError::Unsupported {
        dir: dir.to_owned(),
        why,
    };
    let path = dir.canonicalize().map_err(failed)?;
    let is_plain = |text: &str| !text.contains(SEPARATORS);
    if !path.to_str().is_some_and(is_plain) {
        let why =
            "its path holds a character that overlayfs gives a meaning (, : \\ \") or no text";
        return Err(unsupported(why.to_owned()));
    }
    let found = statfs(&path).map_err(|error| failed(error.into()))?;
    if found.filesystem_type() == OVERLAYFS_SUPER_MAGIC {
        let why = "it lies on an overlay, which takes no overlays itself: choose a directory on \
                   the disk (in a container: a volume)";
        return Err(unsupported(why.to_owned()));
    }
    match find_fault(&path) {
        Ok(None) => Ok(path),
        Ok(Some(why)) => Err(unsupported(why)),
        Err(cause) => Err(failed(cause)),
    }
}

/// What overlayfs needs of the file system below it.
fn find_fault(dir: &Path) -> io::Result<Option<String>> {
    let probe = dir.join("probe");
    // Left by a killed process.
    match fs::remove_dir_all(&probe) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::create_dir_all(probe.join("entry"))?;
    let fault = match (tells_types(&probe)?, takes_attributes(&probe)) {
        (false, _) => Some(
            "its file system does not tell the types of directory entries (xfs: make it with \
             ftype=1)"
                .to_owned(),
        ),
        (true, Err(error)) if error.kind() == io::ErrorKind::PermissionDenied => Some(format!(
            "this process may not set the attributes of overlayfs ({}): run it as root",
            attribute()
        )),
        (true, Err(error)) => Some(format!(
            "its file system does not keep the attributes of overlayfs ({}): {error}",
            attribute()
        )),
        (true, Ok(())) => None,
    };
    fs::remove_dir_all(&probe)?;
    Ok(fault)
}

fn tells_types(dir: &Path) -> io::Result<bool> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut dir = Dir::open(dir, flags, Mode::empty())?;
    let mut types = dir.iter().map(|entry| Ok(entry?.file_type().is_some()));
    types.try_fold(true, |all, told: Result<bool, Errno>| Ok(all && told?))
}

fn takes_attributes(dir: &Path) -> io::Result<()> {
    xattr::set(dir, OsStr::new(attribute()), b"y")
}

fn attribute() -> &'static str {
    match in_user_namespace() {
        true => "user.overlay.opaque",
        false => "trusted.overlay.opaque",
    }
}

/// The options that this kernel wants for overlays in `dir`, as containerd's own snapshotter
/// chooses them. What `wanted` says itself stays as it is.
pub(super) fn overlay_options(dir: &Path, wanted: &[String]) -> Vec<String> {
    let has = |key: &str| {
        let mut keys = wanted.iter().map(|option| option.split('=').next());
        keys.any(|found| found == Some(key))
    };
    let mut options = wanted.to_vec();
    if !has("userxattr") && needs_user_attributes(dir) {
        options.push("userxattr".to_owned());
    }
    // One upper directory may be mounted twice for a moment when a container starts again.
    if !has("index") && Path::new("/sys/module/overlay/parameters/index").exists() {
        options.push("index=off".to_owned());
    }
    options
}

/// Only the host's root may use `trusted.*`; tmpfs has no `user.*`.
fn needs_user_attributes(dir: &Path) -> bool {
    let on_tmpfs = statfs(dir).is_ok_and(|found| found.filesystem_type() == TMPFS_MAGIC);
    in_user_namespace() && !on_tmpfs && kernel() >= (5, 11)
}

/// Whether the kernel maps ids of the layers of an overlay.
pub(super) fn maps_ids() -> bool {
    kernel() >= (5, 19)
}

fn in_user_namespace() -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self/ns/user").is_ok_and(|found| found.ino() != HOST_NAMESPACE)
}

/// Names the time since the machine was started. Empty where the kernel does not tell.
pub(super) fn boot() -> String {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id");
    boot.map_or_else(|_| String::new(), |boot| boot.trim().to_owned())
}

/// Major and minor version.
fn kernel() -> (u32, u32) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    parse_release(&release)
}

fn parse_release(release: &str) -> (u32, u32) {
    let mut numbers = release
        .split(|digit: char| !digit.is_ascii_digit())
        .map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_of_kernels_are_read() {
        assert_eq!(parse_release("6.18.44-fc-v669\n"), (6, 18));
        assert_eq!(parse_release("5.4"), (5, 4));
        assert_eq!(parse_release("odd"), (0, 0));
    }

    #[test]
    fn options_that_the_operator_chose_stay() {
        let dir = tempfile::tempdir().unwrap();
        let chosen = ["index=on".to_owned(), "userxattr".to_owned()];
        assert_eq!(overlay_options(dir.path(), &chosen), chosen);
    }

    #[test]
    fn a_plain_directory_passes_and_keeps_nothing_of_the_probe() {
        let dir = tempfile::tempdir().unwrap();
        check(dir.path()).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn paths_that_overlayfs_would_cut_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a:b", "a,b", "a\\b"] {
            let dir = dir.path().join(name);
            fs::create_dir(&dir).unwrap();
            let error = check(&dir).unwrap_err();
            assert!(matches!(error, OpenSnapshotsError::Unsupported { .. }));
            assert!(error.to_string().contains("overlayfs"), "{error}");
        }
    }
}
