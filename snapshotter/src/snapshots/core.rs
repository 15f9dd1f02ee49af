//! What operations and background threads share: rows on the disk and in memory, directories.

use std::{
    collections::BTreeSet,
    fs::File,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use nix::fcntl::Flock;

use super::{
    OpenSnapshotsError, SnapshotError,
    directories::{Directories, io_error},
    graph::{Graph, Loss},
    info::{Kind, Row, Usage},
    mount::MountOptions,
    rows::{Change, Rows, Save},
    signal::lock,
    tree,
};

#[derive(Debug)]
pub(super) struct Core {
    pub(super) dirs: Directories,
    pub(super) options: MountOptions,
    /// In which boot of the machine this is.
    pub(super) boot: String,
    /// Held over every change, from the check whether it is allowed to its end in memory.
    rows: Mutex<Rows>,
    graph: RwLock<Graph>,
    _lock: Flock<File>,
}

/// The right to change. There is one at a time.
#[derive(Debug)]
pub(super) struct Writer<'a> {
    core: &'a Core,
    rows: MutexGuard<'a, Rows>,
}

impl Core {
    pub(super) fn new(
        dirs: Directories,
        options: MountOptions,
        boot: String,
        rows: Rows,
        graph: Graph,
        lock: Flock<File>,
    ) -> Self {
        Self {
            dirs,
            options,
            boot,
            rows: Mutex::new(rows),
            graph: RwLock::new(graph),
            _lock: lock,
        }
    }

    pub(super) fn graph(&self) -> RwLockReadGuard<'_, Graph> {
        self.graph.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn graph_mut(&self) -> RwLockWriteGuard<'_, Graph> {
        self.graph.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for its turn. After a write that failed, the rows are read from the disk again.
    pub(super) fn writer(&self) -> Result<Writer<'_>, SnapshotError> {
        let mut rows = lock(&self.rows);
        if let Some(saved) = rows.reopen().map_err(reopen_error)? {
            let mut graph = Graph::new(saved);
            mark_lost(&mut graph, &self.dirs, &self.boot)
                .map_err(|cause| io_error("read", &self.dirs.snapshots(), cause))?;
            *self.graph_mut() = graph;
            tracing::info!("database of the snapshots opened again");
        }
        Ok(Writer { core: self, rows })
    }

    pub(super) fn kind_of(&self, id: u64) -> Option<Kind> {
        self.graph().by_id(id).map(|(_, row)| row.kind)
    }

    /// Walks over a snapshot's files; saves the figure of a committed one. `None`: there is
    /// nothing to measure, or `is_over`.
    pub(super) fn measure(
        &self,
        id: u64,
        is_over: &dyn Fn() -> bool,
    ) -> Result<Option<(Kind, Usage)>, SnapshotError> {
        let Some(kind) = self.kind_of(id) else {
            return Ok(None);
        };
        let path = self.dirs.fs(id);
        let measured = match tree::measure(&path, is_over) {
            // Removed meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            measured => measured.map_err(|cause| io_error("measure", &path, cause))?,
        };
        let Some(usage) = measured else {
            return Ok(None);
        };
        if kind == Kind::Committed {
            self.save_usage(id, usage)?;
        }
        Ok(Some((kind, usage)))
    }

    fn save_usage(&self, id: u64, usage: Usage) -> Result<(), SnapshotError> {
        let mut writer = self.writer()?;
        let found = self
            .graph()
            .by_id(id)
            .map(|(name, row)| (name.to_owned(), row.clone()));
        let Some((name, row)) = found else {
            return Ok(());
        };
        let row = Row {
            usage: Some(usage),
            ..(*row).clone()
        };
        // Measured again if this is lost.
        writer.put(&name, row, Save::Sometime)
    }
}

impl Core {
    /// Waits until the files of all committed snapshots are on the disk, and saves that they are.
    pub(super) fn sync(&self) -> Result<(), SnapshotError> {
        let unsynced = self.unsynced();
        if unsynced.is_empty() {
            return Ok(());
        }
        let path = self.dirs.snapshots();
        let failed = |cause| io_error("sync", &path, cause);
        let dir = File::open(&path).map_err(failed)?;
        nix::unistd::syncfs(dir).map_err(|error| failed(error.into()))?;

        let mut writer = self.writer()?;
        let synced: Vec<_> = {
            let graph = self.graph();
            let rows = unsynced.iter().filter_map(|id| graph.by_id(*id));
            rows.map(|(name, row)| {
                let unsynced = None;
                let row = Row {
                    unsynced,
                    ..(**row).clone()
                };
                (name.to_owned(), row)
            })
            .collect()
        };
        writer.put_all(synced)
    }

    /// The snapshots whose files may not be on the disk yet, but are whole.
    fn unsynced(&self) -> Vec<u64> {
        let graph = self.graph();
        let rows = graph.iter().map(|(_, row)| row);
        rows.filter(|row| row.unsynced.is_some() && !graph.is_lost(row.id))
            .map(|row| row.id)
            .collect()
    }
}

impl Writer<'_> {
    /// An id for a new snapshot.
    pub(super) fn next_id(&self) -> u64 {
        self.rows.next_id()
    }

    pub(super) fn skip_id(&mut self) {
        self.rows.skip_id();
    }

    /// Saves a new row, or a changed one.
    pub(super) fn put(&mut self, name: &str, row: Row, save: Save) -> Result<(), SnapshotError> {
        self.write(&[Change::Put(name, &row)], save)?;
        self.core.graph_mut().put(name, Arc::new(row));
        Ok(())
    }

    /// Saves changed rows, in one step.
    pub(super) fn put_all(&mut self, rows: Vec<(String, Row)>) -> Result<(), SnapshotError> {
        let changes: Vec<_> = rows
            .iter()
            .map(|(name, row)| Change::Put(name, row))
            .collect();
        self.write(&changes, Save::Durably)?;
        let mut graph = self.core.graph_mut();
        for (name, row) in rows {
            graph.put(&name, Arc::new(row));
        }
        Ok(())
    }

    /// Replaces the row `old` by another.
    pub(super) fn rename(&mut self, old: &str, new: &str, row: Row) -> Result<(), SnapshotError> {
        self.write(
            &[Change::Delete(old), Change::Put(new, &row)],
            Save::Durably,
        )?;
        let mut graph = self.core.graph_mut();
        graph.take(old);
        graph.put(new, Arc::new(row));
        Ok(())
    }

    pub(super) fn delete(&mut self, name: &str) -> Result<(), SnapshotError> {
        self.write(&[Change::Delete(name)], Save::Durably)?;
        self.core.graph_mut().take(name);
        Ok(())
    }

    fn write(&mut self, changes: &[Change<'_>], save: Save) -> Result<(), SnapshotError> {
        self.core.dirs.step(&self.core.dirs.metadata())?;
        self.rows.write(changes, save)
    }
}

/// Finds the rows whose files are not there, or were not written in time.
pub(super) fn mark_lost(graph: &mut Graph, dirs: &Directories, boot: &str) -> io::Result<()> {
    let present: BTreeSet<_> = dirs.ids()?.into_iter().collect();
    let is_there = |id| present.contains(&id) && dirs.fs(id).is_dir();
    let mut lost = Vec::new();
    for (name, row) in graph.iter() {
        let loss = match &row.unsynced {
            _ if !is_there(row.id) => Loss::Gone,
            // Where the kernel does not tell, nobody knows.
            Some(other) if other != boot && !boot.is_empty() => Loss::Unsynced,
            _ => continue,
        };
        tracing::error!(
            snapshot = name,
            kind = %row.kind,
            path = %dirs.fs(row.id).display(),
            "the files of a snapshot {loss}: nothing is mounted on it any more"
        );
        lost.push((row.id, loss));
    }
    for (id, loss) in lost {
        graph.lose(id, loss);
    }
    Ok(())
}

fn reopen_error(error: OpenSnapshotsError) -> SnapshotError {
    match error {
        OpenSnapshotsError::Metadata { cause, .. } => SnapshotError::Metadata(cause),
        other => SnapshotError::Metadata(Box::new(redb::Error::Corrupted(other.to_string()))),
    }
}
