//! The few things that setup does to files, each all or nothing.

use std::{
    fmt,
    fs::{self, Metadata},
    io::{self, ErrorKind, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown},
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

/// A new file's mode.
const FILE_MODE: u32 = 0o644;

/// What could not be done, and where.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {source}{}", path.display(), remedy(source))]
pub(crate) struct DiskError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::PermissionDenied => "; run as root",
        ErrorKind::ReadOnlyFilesystem => {
            "; the file system is read-only: make the change where this file is made"
        }
        _ => "",
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DiskError {
    let path = path.to_owned();
    move |source| DiskError {
        action,
        path,
        source,
    }
}

/// Changes files. Between any two changes the process may be killed: `step` is told before each, so
/// that a test can do it.
pub(crate) struct Disk<'a> {
    step: &'a dyn Fn(&str, &Path),
}

impl fmt::Debug for Disk<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk").finish_non_exhaustive()
    }
}

impl Disk<'static> {
    pub(crate) fn new() -> Self {
        Self { step: &|_, _| () }
    }
}

impl<'a> Disk<'a> {
    /// A disk that tells `step` what it is about to do.
    #[cfg(test)]
    pub(crate) fn watched(step: &'a dyn Fn(&str, &Path)) -> Self {
        Self { step }
    }

    /// Puts `bytes` in the place of `path`, which keeps its mode and owner. What is read there is
    /// always the old or the new, also after a power loss.
    pub(crate) fn replace(&self, path: &Path, bytes: &[u8]) -> Result<(), DiskError> {
        match fs::metadata(path) {
            Ok(old) => self.put(path, bytes, Some(&old)),
            Err(error) if error.kind() == ErrorKind::NotFound => self.put(path, bytes, None),
            Err(error) => Err(failed("look at", path)(error)),
        }
    }

    /// Puts `bytes` at `path` with the mode and owner of another file, before anybody can read it.
    fn put(&self, path: &Path, bytes: &[u8], like: Option<&Metadata>) -> Result<(), DiskError> {
        let beside = beside(path);
        (self.step)("write", &beside);
        remove_if_there(&beside)?;
        if let Err(error) = write_new(&beside, bytes, like) {
            // What is left of it says nothing; the next run removes it too.
            let _ = fs::remove_file(&beside);
            return Err(failed("write", path)(error));
        }
        self.rename(&beside, path)
    }

    /// Makes `copy` hold what `path` holds now.
    pub(crate) fn back_up(&self, path: &Path, copy: &Path) -> Result<(), DiskError> {
        (self.step)("back up", copy);
        // The old file itself, with all its attributes: `replace` puts another in its place.
        if fs::hard_link(path, copy).is_ok() {
            return sync_parent(copy);
        }
        let bytes = fs::read(path).map_err(failed("read", path))?;
        let metadata = fs::metadata(path).map_err(failed("look at", path))?;
        self.put(copy, &bytes, Some(&metadata))
    }

    /// Moves a file, in the place of another if there is one.
    pub(crate) fn rename(&self, from: &Path, to: &Path) -> Result<(), DiskError> {
        (self.step)("rename to", to);
        fs::rename(from, to).map_err(failed("write", to))?;
        sync_parent(to)
    }

    /// Removes a file, if it is there.
    pub(crate) fn remove(&self, path: &Path) -> Result<(), DiskError> {
        (self.step)("remove", path);
        remove_if_there(path)?;
        match path.parent().is_some_and(Path::exists) {
            true => sync_parent(path),
            false => Ok(()),
        }
    }

    /// Makes one directory, unless it is there.
    pub(crate) fn make_dir(&self, path: &Path) -> Result<(), DiskError> {
        (self.step)("make directory", path);
        match fs::create_dir(path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            other => other.map_err(failed("make the directory", path)),
        }
    }

    /// Removes a directory that is empty; others stay.
    pub(crate) fn remove_empty_dir(&self, path: &Path) -> Result<(), DiskError> {
        (self.step)("remove directory", path);
        match fs::remove_dir(path) {
            Err(error)
                if !matches!(
                    error.kind(),
                    ErrorKind::NotFound | ErrorKind::DirectoryNotEmpty
                ) =>
            {
                Err(failed("remove the directory", path)(error))
            }
            _ => Ok(()),
        }
    }
}

/// Writes a file that is not there yet; root's alone until it is like the other.
fn write_new(path: &Path, bytes: &[u8], like: Option<&Metadata>) -> io::Result<()> {
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(bytes)?;
    if let Some(like) = like {
        let made = file.metadata()?;
        if (made.uid(), made.gid()) != (like.uid(), like.gid()) {
            fchown(&file, Some(like.uid()), Some(like.gid()))?;
        }
    }
    let mode = like.map_or(FILE_MODE, |like| like.mode() & 0o7777);
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.sync_all()
}

/// Reads a whole file; `None` where there is none.
pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>, DiskError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read", path)(error)),
    }
}

/// [`read`] of a text.
pub(crate) fn read_text(path: &Path) -> Result<Option<String>, DiskError> {
    let Some(bytes) = read(path)? else {
        return Ok(None);
    };
    let text = String::from_utf8(bytes);
    let text = text.map_err(|_| failed("read", path)(io::Error::other("it is no UTF-8 text")))?;
    Ok(Some(text))
}

/// The sha256 of a file in hex; `None` where there is none.
pub(crate) fn digest(path: &Path) -> Result<Option<String>, DiskError> {
    Ok(read(path)?.map(|bytes| digest_of(&bytes)))
}

/// The sha256 of bytes in hex.
pub(crate) fn digest_of(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Where a file is written before it gets its name.
pub(crate) fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.hawker-new"))
}

fn remove_if_there(path: &Path) -> Result<(), DiskError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

fn sync_parent(path: &Path) -> Result<(), DiskError> {
    let parent = path.parent().unwrap_or_else(|| Path::new("/"));
    let dir = fs::File::open(parent).map_err(failed("open", parent))?;
    dir.sync_all().map_err(failed("write", parent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backup_on_another_file_system_is_no_more_readable_than_the_file() {
        let (here, there) = (
            tempfile::tempdir_in("/var/tmp").unwrap(),
            tempfile::tempdir_in("/dev/shm").unwrap(),
        );
        let (file, copy) = (here.path().join("file"), there.path().join("copy"));
        fs::write(&file, "password").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let modes = std::cell::RefCell::new(Vec::new());
        let look = |_: &str, path: &Path| {
            let written = fs::metadata(beside(path));
            modes
                .borrow_mut()
                .extend(written.map(|found| found.mode() & 0o777));
        };
        Disk::watched(&look).back_up(&file, &copy).unwrap();
        assert_eq!(fs::read(&copy).unwrap(), b"password");
        assert_eq!(fs::metadata(&copy).unwrap().mode() & 0o777, 0o600);
        assert!(modes.borrow().iter().all(|mode| *mode == 0o600));
    }
}
