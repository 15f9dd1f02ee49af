//! Directories of another snapshotter's, which layers are to fill: containerd's diff service names
//! them.
//!
//! The files of a layer that is staged already are moved there, which costs a few renames; where
//! that cannot be done, the layer is unpacked on the spot. What the layer describes is what is
//! below the directory. The directory itself is its snapshotter's.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
};

use nix::errno::Errno;

use super::{SnapshotError, Snapshots, StagedLayer, directories::io_error, implied, tree};
use crate::{
    source::LayerSource,
    unpack::{UnpackError, UnpackOptions, Unpacked, unpack},
};

/// What a security module calls a file, which moves with it.
const LABEL: &str = "security.selinux";
/// What new files inherit from their directory.
const INHERITED: &str = "system.posix_acl_default";
const SET_GID: u32 = 0o2000;

/// A directory that a layer is to fill.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    path: PathBuf,
    lowers: Vec<PathBuf>,
}

/// Why a layer could not be unpacked into a directory of another snapshotter's.
#[derive(Debug, thiserror::Error)]
pub enum FillError {
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
}

impl Target {
    /// The directory at `path`, which will be mounted on `lowers`, the nearest first.
    pub fn new(path: impl Into<PathBuf>, lowers: Vec<PathBuf>) -> Self {
        Self {
            path: path.into(),
            lowers,
        }
    }

    /// Whether there is nothing in it.
    ///
    /// # Errors
    /// When it cannot be read; `NotFound` when this process does not see it.
    pub fn is_empty(&self) -> Result<bool, SnapshotError> {
        let mut entries = fs::read_dir(&self.path).map_err(|cause| self.failed("read", cause))?;
        Ok(entries.next().is_none())
    }

    /// Whether files that `snapshots` staged can be moved into it, and are there what they would
    /// be if they had been made there. Tried with a directory.
    ///
    /// # Errors
    /// When the trial failed for another reason.
    pub fn takes_from(&self, snapshots: &Snapshots) -> Result<bool, SnapshotError> {
        let stage = snapshots.stage()?;
        if self.changes_what_is_made()? || label(stage.path()) != label(&self.path) {
            return Ok(false);
        }
        let (from, to) = (stage.path().join("trial"), self.path.join(".hawker-trial"));
        fs::create_dir(&from).map_err(|cause| io_error("make", &from, cause))?;
        match fs::rename(&from, &to) {
            Err(error) if is_elsewhere(&error) => Ok(false),
            moved => moved
                .and_then(|()| fs::remove_dir(&to))
                .map(|()| true)
                .map_err(|cause| self.failed("move into", cause)),
        }
    }

    /// Moves a layer's files into it. It must be empty.
    ///
    /// # Errors
    /// When one cannot be moved; [`Target::clear`] takes away what was.
    pub fn put(&self, layer: StagedLayer) -> Result<(), SnapshotError> {
        let stage = layer.stage.path();
        implied::dress(stage, &below(layer.implied), &self.lowers)?;
        for name in self.names(stage)? {
            let from = stage.join(&name);
            fs::rename(&from, self.path.join(&name))
                .map_err(|cause| io_error("move", &from, cause))?;
        }
        Ok(())
    }

    /// Unpacks a layer right into it. It must be empty. Blocks, see [`unpack()`].
    ///
    /// # Errors
    /// As [`unpack()`]; [`Target::clear`] takes away what was made.
    pub fn unpack(
        &self,
        source: &mut dyn LayerSource,
        options: &UnpackOptions,
        cancelled: &AtomicBool,
    ) -> Result<Unpacked, FillError> {
        let unpacked = unpack(&self.path, source, options, cancelled)?;
        implied::dress(&self.path, &below(unpacked.implied.clone()), &self.lowers)?;
        Ok(unpacked)
    }

    /// Takes away everything that is in it.
    ///
    /// # Errors
    /// When something stays.
    pub fn clear(&self) -> Result<(), SnapshotError> {
        for name in self.names(&self.path)? {
            let path = self.path.join(name);
            let is_dir = fs::symlink_metadata(&path).is_ok_and(|found| found.is_dir());
            let removed = match is_dir {
                true => fs::remove_dir_all(&path),
                false => fs::remove_file(&path),
            };
            removed.map_err(|cause| io_error("remove", &path, cause))?;
        }
        Ok(())
    }

    /// Waits until its file system is on the disk.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn sync(&self) -> Result<(), SnapshotError> {
        let synced = File::open(&self.path)
            .and_then(|dir| nix::unistd::syncfs(dir).map_err(io::Error::from));
        synced.map_err(|cause| self.failed("sync", cause))
    }

    /// Whether what is made in it gets a group or rights from it.
    fn changes_what_is_made(&self) -> Result<bool, SnapshotError> {
        let found = fs::metadata(&self.path).map_err(|cause| self.failed("look at", cause))?;
        let has_list = matches!(xattr::get(&self.path, INHERITED), Ok(Some(_)));
        Ok(has_list || found.permissions().mode() & SET_GID != 0)
    }

    fn names(&self, dir: &Path) -> Result<Vec<std::ffi::OsString>, SnapshotError> {
        tree::names(dir).map_err(|cause| io_error("read", dir, cause))
    }

    fn failed(&self, what: &'static str, cause: io::Error) -> SnapshotError {
        io_error(what, &self.path, cause)
    }
}

/// Another file system, another mount of the same one, or another project's quota.
fn is_elsewhere(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::EXDEV as i32)
}

fn label(path: &Path) -> Option<Vec<u8>> {
    xattr::get(path, OsStr::new(LABEL)).ok().flatten()
}

/// Without the root, which is the other snapshotter's.
fn below(mut implied: Vec<PathBuf>) -> Vec<PathBuf> {
    implied.retain(|path| !path.as_os_str().is_empty());
    implied
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::SnapshotsConfig;

    /// Snapshots, and an empty directory beside them.
    fn beside() -> (tempfile::TempDir, Snapshots, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let config = SnapshotsConfig {
            sync_after: None,
            ..SnapshotsConfig::default()
        };
        let snapshots = Snapshots::open(&dir.path().join("own"), config).unwrap();
        let path = dir.path().join("other");
        fs::create_dir(&path).unwrap();
        (dir, snapshots, path)
    }

    #[test]
    fn staged_layer_is_moved_and_nothing_of_the_trial_stays() {
        let (_dir, snapshots, path) = beside();
        let target = Target::new(&path, Vec::new());
        assert!(target.is_empty().unwrap());
        assert!(target.takes_from(&snapshots).unwrap());
        assert!(target.is_empty().unwrap());
        let stage = snapshots.stage().unwrap();
        fs::create_dir(stage.path().join("d")).unwrap();
        fs::write(stage.path().join("d/f"), "f").unwrap();
        symlink("/nowhere", stage.path().join("l")).unwrap();
        let implied = vec![PathBuf::new()];
        target.put(StagedLayer { stage, implied }).unwrap();
        assert!(!target.is_empty().unwrap());
        assert_eq!(fs::read_to_string(path.join("d/f")).unwrap(), "f");
        target.clear().unwrap();
        assert!(target.is_empty().unwrap());
    }

    #[test]
    fn directory_that_changes_what_is_made_in_it_takes_nothing() {
        let (_dir, snapshots, path) = beside();
        let target = Target::new(&path, Vec::new());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o2755)).unwrap();
        assert!(!target.takes_from(&snapshots).unwrap());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        // What `setfacl -d -m u::rwx,g::rx,o::-` writes.
        let list = b"\x02\0\0\0\x01\0\x07\0\xff\xff\xff\xff\x04\0\x05\0\xff\xff\xff\xff\x20\0\0\0\xff\xff\xff\xff";
        if xattr::set(&path, INHERITED, list).is_ok() {
            assert!(!target.takes_from(&snapshots).unwrap());
        }
    }

    #[test]
    fn another_file_system_takes_nothing() {
        let (_dir, snapshots, _) = beside();
        let memory = tempfile::tempdir_in("/dev/shm").unwrap();
        let target = Target::new(memory.path(), Vec::new());
        assert!(!target.takes_from(&snapshots).unwrap());
        assert!(target.is_empty().unwrap());
    }

    #[test]
    fn directory_that_is_not_there_is_named() {
        let error = Target::new("/nowhere/fs", Vec::new()).is_empty();
        let error = error.unwrap_err().to_string();
        assert!(error.contains("/nowhere/fs"), "{error}");
    }
}
