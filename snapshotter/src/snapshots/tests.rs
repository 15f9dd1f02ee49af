//! The store as its callers see it.

mod crash;
mod deep;
mod full;
mod implied;
mod killed;
mod model;
mod mounted;
mod opening;
mod rules;
mod synced;
mod usage;

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicI64, Ordering},
    thread,
    time::{Duration, Instant},
};

use hawker_model::Digest;

use super::*;

/// Stops every change of the disk after a number of them: the machine is dead from then on.
#[derive(Debug)]
pub(super) struct Fuse(AtomicI64);

impl Default for Fuse {
    fn default() -> Self {
        Self(AtomicI64::new(i64::MAX))
    }
}

impl Fuse {
    pub(super) fn burn(&self) -> io::Result<()> {
        match self.0.fetch_sub(1, Ordering::Relaxed) > 0 {
            true => Ok(()),
            false => Err(io::Error::other("the machine is dead")),
        }
    }

    /// How many changes are made yet.
    fn set(&self, left: i64) {
        self.0.store(left, Ordering::Relaxed);
    }

    pub(super) fn is_out(&self) -> bool {
        self.0.load(Ordering::Relaxed) <= 0
    }
}

/// A store in a directory of its own. It leaves writing to the kernel: other tests use the disk.
fn open(dir: &tempfile::TempDir) -> Snapshots {
    Snapshots::open(&store(dir), config()).unwrap()
}

fn config() -> SnapshotsConfig {
    SnapshotsConfig {
        sync_after: None,
        ..SnapshotsConfig::default()
    }
}

fn store(dir: &tempfile::TempDir) -> PathBuf {
    dir.path().join("store")
}

fn labels(labels: &[(&str, &str)]) -> BTreeMap<String, String> {
    labels
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

/// No labels.
fn plain() -> BTreeMap<String, String> {
    BTreeMap::new()
}

fn chain(name: &str) -> ChainId {
    ChainId::from(Digest::of(name.as_bytes()))
}

/// Where a snapshot's own files are.
fn files(snapshots: &Snapshots, key: &str) -> PathBuf {
    let core = &snapshots.inner.core;
    let id = core.graph().row(key).unwrap().id;
    core.dirs.fs(id)
}

/// A committed snapshot with one file, called as itself.
fn committed(snapshots: &Snapshots, name: &str, parent: &str) {
    let key = format!("{name}-active");
    snapshots.prepare(&key, parent, plain()).unwrap();
    fs::write(files(snapshots, &key).join(name), name).unwrap();
    snapshots.commit(name, &key, plain()).unwrap();
}

/// A layer with one file of that name.
fn staged(snapshots: &Snapshots, file: &str) -> StagedLayer {
    let stage = snapshots.stage().unwrap();
    fs::write(stage.path().join(file), file).unwrap();
    StagedLayer {
        stage,
        implied: Vec::new(),
    }
}

fn names(snapshots: &Snapshots) -> Vec<String> {
    let infos = snapshots.list(&[]).unwrap();
    infos.into_iter().map(|info| info.name).collect()
}

fn entries(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Waits for what happens in the background.
fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < end, "{what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// Every directory belongs to a row and every row has one; nothing else is left.
fn assert_tidy(snapshots: &Snapshots) {
    let core = &snapshots.inner.core;
    let mut ids: Vec<_> = core
        .graph()
        .iter()
        .map(|(_, row)| row.id.to_string())
        .collect();
    ids.sort();
    assert_eq!(entries(&core.dirs.snapshots()), ids);
    assert_eq!(entries(&core.dirs.staging()), Vec::<String>::new());
    eventually("the trash is emptied", || {
        entries(&core.dirs.trash()).is_empty()
    });
}
