//! Where a store's files lie, and every change of them.
//!
//! ```text
//! <dir>/lock               held while the store is open
//! <dir>/metadata.redb      the rows
//! <dir>/snapshots/<id>/    fs: the files; work: overlayfs' own, of what was once active
//! <dir>/staging/<n>/fs     layers that are being unpacked
//! <dir>/trash/<n>          what is being deleted
//! ```

use std::{
    fs::{self, DirBuilder, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, lchown},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{SnapshotError, idmap::Owner, info::Kind};

/// Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Directories {
    root: Arc<Path>,
    /// The next name in `staging` and `trash`.
    next: Arc<AtomicU64>,
    #[cfg(test)]
    pub(super) fuse: Arc<super::tests::Fuse>,
}

impl Directories {
    /// Makes what is missing. Nobody else may use `root`.
    pub(super) fn open(root: &Path) -> io::Result<Self> {
        let dirs = Self {
            root: root.into(),
            next: Arc::default(),
            #[cfg(test)]
            fuse: Arc::default(),
        };
        for dir in [dirs.snapshots(), dirs.staging(), dirs.trash()] {
            DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        }
        let mut next = 0;
        for dir in [dirs.staging(), dirs.trash()] {
            let used = numbers_in(&dir)?
                .into_iter()
                .filter_map(|(_, number)| number);
            next = used.fold(next, |next, used| next.max(used.saturating_add(1)));
        }
        dirs.next.store(next, Ordering::Relaxed);
        Ok(dirs)
    }

    pub(super) fn metadata(&self) -> PathBuf {
        self.root.join("metadata.redb")
    }

    pub(super) fn snapshots(&self) -> PathBuf {
        self.root.join("snapshots")
    }

    pub(super) fn staging(&self) -> PathBuf {
        self.root.join("staging")
    }

    pub(super) fn trash(&self) -> PathBuf {
        self.root.join("trash")
    }

    pub(super) fn snapshot(&self, id: u64) -> PathBuf {
        self.snapshots().join(id.to_string())
    }

    pub(super) fn fs(&self, id: u64) -> PathBuf {
        self.snapshot(id).join("fs")
    }

    pub(super) fn work(&self, id: u64) -> PathBuf {
        self.snapshot(id).join("work")
    }

    /// Who owns the root of that snapshot.
    pub(super) fn owner(&self, id: u64) -> Result<Owner, SnapshotError> {
        let path = self.fs(id);
        let found =
            fs::symlink_metadata(&path).map_err(|cause| io_error("look at", &path, cause))?;
        Ok(Owner {
            uid: found.uid(),
            gid: found.gid(),
        })
    }

    /// The directories of a new snapshot.
    pub(super) fn create(
        &self,
        id: u64,
        kind: Kind,
        owner: Option<Owner>,
    ) -> Result<(), SnapshotError> {
        self.make(&self.snapshot(id), 0o700)?;
        self.make(&self.fs(id), 0o755)?;
        if let Some(owner) = owner {
            self.give(&self.fs(id), owner)?;
        }
        if kind == Kind::Active {
            self.make(&self.work(id), 0o711)?;
        }
        Ok(())
    }

    /// A new directory for a layer: its number and where its files go.
    pub(super) fn stage(&self) -> Result<(u64, PathBuf), SnapshotError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let dir = self.staged(number);
        self.make(&dir, 0o700)?;
        self.make(&dir.join("fs"), 0o755)?;
        Ok((number, dir.join("fs")))
    }

    /// A staged layer becomes the directory of a snapshot.
    pub(super) fn publish(&self, number: u64, id: u64) -> Result<(), SnapshotError> {
        self.rename(&self.staged(number), &self.snapshot(id))
    }

    pub(super) fn give(&self, path: &Path, owner: Owner) -> Result<(), SnapshotError> {
        self.step(path)?;
        lchown(path, Some(owner.uid), Some(owner.gid))
            .map_err(|cause| io_error("change the owner of", path, cause))
    }

    /// The snapshot's directory goes.
    pub(super) fn discard(&self, id: u64) -> Result<(), SnapshotError> {
        self.throw(&self.snapshot(id))
    }

    pub(super) fn discard_stage(&self, number: u64) -> Result<(), SnapshotError> {
        self.throw(&self.staged(number))
    }

    /// The ids that have a directory.
    pub(super) fn ids(&self) -> io::Result<Vec<u64>> {
        let found = numbers_in(&self.snapshots())?;
        Ok(found.into_iter().filter_map(|(_, number)| number).collect())
    }

    /// Moves everything to the trash that is no snapshot's directory; says how many there were.
    /// Nothing may be created meanwhile.
    pub(super) fn sweep(&self, is_snapshot: impl Fn(u64) -> bool) -> Result<usize, SnapshotError> {
        let is_orphan = |number: Option<u64>| !number.is_some_and(&is_snapshot);
        self.throw_where(&self.snapshots(), is_orphan)
    }

    /// Moves all staged layers to the trash. Nobody may be staging.
    pub(super) fn sweep_staging(&self) -> Result<usize, SnapshotError> {
        self.throw_where(&self.staging(), |_| true)
    }

    fn throw_where(
        &self,
        dir: &Path,
        is_orphan: impl Fn(Option<u64>) -> bool,
    ) -> Result<usize, SnapshotError> {
        let found = numbers_in(dir).map_err(|cause| io_error("read", dir, cause))?;
        let orphans = found.into_iter().filter(|(_, number)| is_orphan(*number));
        let mut count = 0;
        for (path, _) in orphans {
            self.throw(&path)?;
            count += 1;
        }
        Ok(count)
    }

    fn throw(&self, path: &Path) -> Result<(), SnapshotError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.rename(path, &self.trash().join(number.to_string()))
    }

    /// A name in the trash that nothing has.
    pub(super) fn free_in_trash(&self) -> String {
        self.next.fetch_add(1, Ordering::Relaxed).to_string()
    }

    fn staged(&self, number: u64) -> PathBuf {
        self.staging().join(number.to_string())
    }

    fn make(&self, path: &Path, mode: u32) -> Result<(), SnapshotError> {
        self.step(path)?;
        fs::create_dir(path).map_err(|cause| io_error("make", path, cause))?;
        // Whatever the umask.
        fs::set_permissions(path, Permissions::from_mode(mode))
            .map_err(|cause| io_error("change the mode of", path, cause))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), SnapshotError> {
        self.step(from)?;
        fs::rename(from, to).map_err(|cause| io_error("move", from, cause))
    }

    /// Passed before every change. In tests the machine may have stopped.
    #[cfg(not(test))]
    #[expect(
        clippy::unused_self,
        clippy::unnecessary_wraps,
        reason = "not in tests"
    )]
    pub(super) fn step(&self, _path: &Path) -> Result<(), SnapshotError> {
        Ok(())
    }

    /// Whether nothing is changed any more. Never, but in tests.
    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "not in tests")]
    pub(super) fn is_dead(&self) -> bool {
        false
    }

    #[cfg(test)]
    pub(super) fn step(&self, path: &Path) -> Result<(), SnapshotError> {
        self.fuse
            .burn()
            .map_err(|cause| io_error("change", path, cause))
    }

    #[cfg(test)]
    pub(super) fn is_dead(&self) -> bool {
        self.fuse.is_out()
    }
}

/// An error that names operation and path.
pub(super) fn io_error(what: &'static str, path: &Path, cause: io::Error) -> SnapshotError {
    SnapshotError::Io {
        what,
        path: path.to_owned(),
        cause,
    }
}

/// Every entry of a directory; those named by a plain number with it.
fn numbers_in(dir: &Path) -> io::Result<Vec<(PathBuf, Option<u64>)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let number = name.to_str().and_then(parse_number);
        found.push((entry.path(), number));
    }
    Ok(found)
}

/// `007` and `+7` are no names of ours.
fn parse_number(name: &str) -> Option<u64> {
    let number: u64 = name.parse().ok()?;
    (number.to_string() == name).then_some(number)
}
