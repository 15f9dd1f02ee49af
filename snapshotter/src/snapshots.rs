//! The snapshots: which there are, what stands on what, where their files lie, how they are
//! mounted.
//!
//! [`Snapshots`] answers containerd's snapshot service as its overlayfs snapshotter would, and
//! takes whole layers besides ([`Snapshots::stage`], [`Snapshots::commit_layer`]). Rows are held
//! in memory and written through to a database, one durable transaction per change
//! (`docs/snapshots.md` says what is saved and what a crash leaves). Reading never touches the
//! disk; changes take their turn.

mod core;
mod directories;
mod error;
mod filter;
mod graph;
mod idmap;
mod implied;
mod info;
mod lock;
mod measure;
mod mount;
mod probe;
mod rows;
mod signal;
mod stage;
mod sync;
mod target;
mod trash;
mod tree;

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, io, path::Path, sync::Arc, time::Duration};

use self::{
    core::{Core, Writer, mark_lost},
    directories::{Directories, io_error},
    graph::Graph,
    idmap::IdMapping,
    info::{REFERENCE_LABEL, Row},
    measure::Measurer,
    mount::MountOptions,
    rows::{Rows, Save},
    sync::Syncer,
    trash::Reaper,
};
pub use self::{
    error::{OpenSnapshotsError, SnapshotError},
    filter::{Filter, FilterError},
    info::{Info, Kind, Usage},
    mount::Mount,
    stage::{Stage, StagedLayer},
    target::{FillError, Target},
};
use crate::ChainId;

/// How long a call waits for the first figure of an active snapshot's usage.
const ACTIVE_USAGE_WAIT: Duration = Duration::from_secs(1);
/// And of a committed one's, which is saved once it is known.
const COMMITTED_USAGE_WAIT: Duration = Duration::from_secs(60);

/// How a store of snapshots behaves. The default is right for a node.
#[derive(Clone, Debug)]
pub struct SnapshotsConfig {
    /// Options of every overlay mount, before those that the kernel needs.
    pub mount_options: Vec<String>,
    /// An active snapshot's usage is measured again when it is asked for and older than this.
    pub usage_age: Duration,
    /// The files of committed snapshots are written to the disk this long after the last one.
    /// Those for which the machine went down before are refused afterwards. `None`: left to the
    /// kernel, as containerd does; nobody notices then that a layer is incomplete.
    pub sync_after: Option<Duration>,
}

impl Default for SnapshotsConfig {
    fn default() -> Self {
        Self {
            mount_options: Vec::new(),
            usage_age: Duration::from_secs(10),
            sync_after: Some(Duration::from_secs(5)),
        }
    }
}

/// All snapshots of a directory. Cheap to clone; every method may block for a disk write.
#[derive(Clone, Debug)]
pub struct Snapshots {
    inner: Arc<Inner>,
}

/// Threads end before `core` is released, and with it the lock.
#[derive(Debug)]
struct Inner {
    syncer: Option<Syncer>,
    measurer: Measurer,
    reaper: Reaper,
    usage_age: Duration,
    core: Arc<Core>,
}

impl Snapshots {
    /// Opens the snapshots in `dir`, which is made if it does not exist. What a crash left over
    /// goes to the trash at once, and is deleted in the background.
    pub fn open(dir: &Path, config: SnapshotsConfig) -> Result<Self, OpenSnapshotsError> {
        Self::open_with(dir, config, |_| {})
    }

    fn open_with(
        dir: &Path,
        config: SnapshotsConfig,
        prepare: impl FnOnce(&Directories),
    ) -> Result<Self, OpenSnapshotsError> {
        let failed = |cause| OpenSnapshotsError::Directory {
            dir: dir.to_owned(),
            cause,
        };
        let lock = lock::acquire(dir)?;
        let dir = probe::check(dir)?;
        let dirs = Directories::open(&dir).map_err(failed)?;
        prepare(&dirs);
        let (rows, saved) = Rows::open(&dirs.metadata())?;
        let mut graph = Graph::new(saved);
        sweep(&dirs, &graph).map_err(|error| failed(io::Error::other(error.to_string())))?;
        let boot = probe::boot();
        mark_lost(&mut graph, &dirs, &boot).map_err(failed)?;
        let options = MountOptions {
            overlay: probe::overlay_options(&dir, &config.mount_options),
            maps_ids: probe::maps_ids(),
        };
        let core = Arc::new(Core::new(dirs, options, boot, rows, graph, lock));
        let syncer = config.sync_after.filter(|_| !core.boot.is_empty());
        let syncer = syncer.map(|after| Syncer::start(core.clone(), after));
        let inner = Inner {
            syncer: syncer.transpose().map_err(failed)?,
            reaper: Reaper::start(core.dirs.clone()).map_err(failed)?,
            measurer: Measurer::start(core.clone()).map_err(failed)?,
            usage_age: config.usage_age,
            core,
        };
        inner.order_missing_usage();
        inner.sync_killed().map_err(failed)?;
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Whether mounts map ids for containers with a user namespace of their own; without it their
    /// labels only decide who owns a snapshot's root.
    pub fn maps_ids(&self) -> bool {
        self.inner.core.options.maps_ids
    }

    /// What is known of a snapshot.
    pub fn stat(&self, key: &str) -> Result<Info, SnapshotError> {
        Ok(self.inner.core.graph().row(key)?.info(key))
    }

    /// All snapshots that one of the filters matches, in the order of their names, but those whose
    /// files cannot be used last: containerd takes the first that holds a layer. No filter: all.
    pub fn list(&self, filters: &[Filter]) -> Result<Vec<Info>, SnapshotError> {
        let graph = self.inner.core.graph();
        let is_wanted = |name: &str, row: &Row| {
            filters.is_empty() || filters.iter().any(|filter| filter.matches_row(name, row))
        };
        let wanted = graph.iter().filter(|(name, row)| is_wanted(name, row));
        let (lost, whole): (Vec<_>, Vec<_>) = wanted.partition(|(_, row)| graph.is_lost(row.id));
        let in_order = whole.into_iter().chain(lost);
        Ok(in_order.map(|(name, row)| row.info(name)).collect())
    }

    /// Replaces labels. `mask` names what of `labels` counts: `labels` (or an empty mask) all,
    /// `labels.<name>` one. A label without a value goes. Nothing else can be changed.
    pub fn update(
        &self,
        name: &str,
        labels: BTreeMap<String, String>,
        mask: &[String],
    ) -> Result<Info, SnapshotError> {
        let mut writer = self.inner.core.writer()?;
        let row = self.inner.core.graph().row(name)?.clone();
        let labels = masked(name, &row.labels, labels, mask)?;
        let row = row.relabelled(labels);
        let info = row.info(name);
        writer.put(name, row, Save::Durably)?;
        Ok(info)
    }

    /// What a snapshot takes on the disk, without its parents: of an active one as it was at most
    /// some seconds ago. Does not walk over files.
    pub fn usage(&self, key: &str) -> Result<Usage, SnapshotError> {
        let core = &self.inner.core;
        let (row, is_lost) = {
            let graph = core.graph();
            let row = graph.row(key)?.clone();
            let is_lost = graph.is_lost(row.id);
            (row, is_lost)
        };
        let (age, wait) = match row.kind {
            // Nothing is ever written into a view.
            Kind::View => return Ok(Usage::default()),
            _ if is_lost => return Ok(Usage::default()),
            _ if row.usage.is_some() => return Ok(row.usage.unwrap_or_default()),
            Kind::Active => (self.inner.usage_age, ACTIVE_USAGE_WAIT),
            Kind::Committed => (Duration::MAX, COMMITTED_USAGE_WAIT),
        };
        match self.inner.measurer.usage(row.id, age, wait) {
            Some(usage) => Ok(usage),
            None if row.kind == Kind::Active => self.root_usage(row.id),
            None => {
                let cause = io::Error::from(io::ErrorKind::TimedOut);
                Err(io_error("measure", &core.dirs.fs(row.id), cause))
            }
        }
    }

    fn root_usage(&self, id: u64) -> Result<Usage, SnapshotError> {
        let path = self.inner.core.dirs.fs(id);
        tree::measure_root(&path).map_err(|cause| io_error("measure", &path, cause))
    }

    /// The mounts of an active snapshot or a view.
    pub fn mounts(&self, key: &str) -> Result<Vec<Mount>, SnapshotError> {
        let core = &self.inner.core;
        let graph = core.graph();
        let (row, lowers) = graph.mountable(key)?;
        Ok(core.options.mounts(&core.dirs, row, &lowers))
    }

    /// A snapshot to be written, on a committed one or (empty `parent`) on nothing.
    pub fn prepare(
        &self,
        key: &str,
        parent: &str,
        labels: BTreeMap<String, String>,
    ) -> Result<Vec<Mount>, SnapshotError> {
        self.create(key, Kind::Active, parent, labels)
    }

    /// A snapshot to be read, on a committed one or (empty `parent`) on nothing.
    pub fn view(
        &self,
        key: &str,
        parent: &str,
        labels: BTreeMap<String, String>,
    ) -> Result<Vec<Mount>, SnapshotError> {
        self.create(key, Kind::View, parent, labels)
    }

    fn create(
        &self,
        key: &str,
        kind: Kind,
        parent: &str,
        labels: BTreeMap<String, String>,
    ) -> Result<Vec<Mount>, SnapshotError> {
        let core = &self.inner.core;
        let mut writer = core.writer()?;
        let lowers = {
            let graph = core.graph();
            let lowers = graph.lowers(parent)?;
            graph.check_free(key)?;
            lowers
        };
        let mut row = Row::new(writer.next_id(), kind, parent, labels);
        let below = match lowers.first() {
            Some(parent) => Some(core.dirs.owner(*parent)?),
            None => None,
        };
        let root = IdMapping::of(&row.labels).map(|mapping| mapping.root());
        let root = root.transpose()?;
        row.is_shifted = root.is_some_and(|root| !root.is_hosts() && below == Some(root));
        let owner = root.or(below);
        let id = row.id;
        let mounts = core.options.mounts(&core.dirs, &row, &lowers);
        if let Err(error) = core.dirs.create(id, kind, owner) {
            self.discard(id);
            writer.skip_id();
            return Err(error);
        }
        // If this fails, nobody knows what is saved: `cleanup` finds a directory without a row.
        writer.put(key, row, Save::Durably)?;
        drop(writer);
        if kind == Kind::Active
            && let Ok(usage) = self.root_usage(id)
        {
            self.inner.measurer.knows(id, usage);
        }
        Ok(mounts)
    }

    /// The active snapshot `key` is done: it is called `name` from now on, and has these labels
    /// and no others.
    pub fn commit(
        &self,
        name: &str,
        key: &str,
        labels: BTreeMap<String, String>,
    ) -> Result<(), SnapshotError> {
        let mut writer = self.inner.core.writer()?;
        let active = self.inner.core.graph().check_commit(name, key)?.clone();
        let row = self.inner.committed(active.id, &active.parent, labels);
        writer.rename(key, name, row)?;
        drop(writer);
        self.inner.order_sync();
        self.inner.measurer.forget(active.id);
        self.inner.measurer.order(active.id, false);
        Ok(())
    }

    /// The snapshot is no more; its files are deleted in the background. Refused while others
    /// stand on it.
    pub fn remove(&self, key: &str) -> Result<(), SnapshotError> {
        let mut writer = self.inner.core.writer()?;
        let id = self.inner.core.graph().check_remove(key)?.id;
        writer.delete(key)?;
        self.discard(id);
        drop(writer);
        self.inner.measurer.forget(id);
        Ok(())
    }

    /// Has everything deleted that belongs to no snapshot. Returns before that is done: containerd
    /// lets nobody prepare a snapshot meanwhile.
    pub fn cleanup(&self) -> Result<(), SnapshotError> {
        let core = &self.inner.core;
        let writer = core.writer()?;
        core.dirs.sweep(|id| core.graph().has_id(id))?;
        drop(writer);
        self.inner.reaper.wake();
        Ok(())
    }

    /// A directory for a layer that is about to be unpacked.
    pub fn stage(&self) -> Result<Stage, SnapshotError> {
        let (number, path) = self.inner.core.dirs.stage()?;
        if let Some(syncer) = &self.inner.syncer {
            syncer.defer();
        }
        Ok(Stage::new(self.clone(), number, path))
    }

    /// The committed snapshot that holds this chain on this parent.
    pub fn find_layer(&self, reference: &ChainId, parent: &str) -> Option<String> {
        let graph = self.inner.core.graph();
        graph.layer(reference, parent).map(str::to_owned)
    }

    /// A layer becomes a committed snapshot on `parent`; the name is returned. `labels` are
    /// completed by the reference. AlreadyExists: there is one for that chain and parent.
    pub fn commit_layer(
        &self,
        layer: StagedLayer,
        reference: &ChainId,
        parent: &str,
        mut labels: BTreeMap<String, String>,
    ) -> Result<String, SnapshotError> {
        let core = &self.inner.core;
        let lowers = core.graph().lowers(parent)?;
        let lowers: Vec<_> = lowers.iter().map(|id| core.dirs.fs(*id)).collect();
        implied::dress(layer.stage.path(), &layer.implied, &lowers)?;
        labels.insert(REFERENCE_LABEL.to_owned(), reference.to_string());

        let mut writer = core.writer()?;
        core.graph().lowers(parent)?;
        if let Some(name) = self.find_layer(reference, parent) {
            return Err(SnapshotError::exists(&name));
        }
        let name = self.layer_name(&mut writer, reference);
        let id = writer.next_id();
        let row = self.inner.committed(id, parent, labels);
        core.dirs.publish(layer.stage.number(), id)?;
        layer.stage.published();
        writer.put(&name, row, Save::Durably)?;
        drop(writer);
        self.inner.order_sync();
        self.inner.measurer.order(id, false);
        Ok(name)
    }

    /// A name that nothing has: containerd's own begin with a namespace, which may be called as
    /// we are.
    fn layer_name(&self, writer: &mut Writer<'_>, reference: &ChainId) -> String {
        loop {
            let name = format!("hawker/{}/{reference}", writer.next_id());
            if self.inner.core.graph().check_free(&name).is_ok() {
                return name;
            }
            writer.skip_id();
        }
    }

    /// Which chain of layers a committed snapshot holds, as its labels or its name say.
    pub fn chain_of(&self, key: &str) -> Option<ChainId> {
        let graph = self.inner.core.graph();
        let row = graph.row(key).ok()?;
        if row.kind != Kind::Committed {
            return None;
        }
        let labelled = row.labels.get(REFERENCE_LABEL);
        labelled
            .and_then(|reference| reference.parse().ok())
            .or_else(|| key.get(key.rfind("sha256:")?..)?.parse().ok())
    }

    /// The directory of a snapshot that has no row.
    fn discard(&self, id: u64) {
        let path = self.inner.core.dirs.snapshot(id);
        match self.inner.core.dirs.discard(id) {
            Ok(()) => self.inner.reaper.wake(),
            Err(_) if !path.exists() => {}
            Err(error) => tracing::warn!(%error, "cleaned up later"),
        }
    }

    fn discard_stage(&self, number: u64) {
        match self.inner.core.dirs.discard_stage(number) {
            Ok(()) => self.inner.reaper.wake(),
            Err(error) => tracing::warn!(%error, "cleaned up after the next start"),
        }
    }
}

impl Inner {
    /// A new committed row, whose files are not on the disk yet.
    fn committed(&self, id: u64, parent: &str, labels: BTreeMap<String, String>) -> Row {
        let boot = || self.core.boot.clone();
        Row {
            unsynced: self.syncer.as_ref().map(|_| boot()),
            ..Row::new(id, Kind::Committed, parent, labels)
        }
    }

    fn order_sync(&self) {
        if let Some(syncer) = &self.syncer {
            syncer.order();
        }
    }

    /// What a run that was killed committed is in the kernel still.
    fn sync_killed(&self) -> io::Result<()> {
        match &self.syncer {
            Some(syncer) => syncer.order(),
            None => {
                let synced = self.core.sync();
                synced.map_err(|error| io::Error::other(error.to_string()))?;
            }
        }
        Ok(())
    }

    fn order_missing_usage(&self) {
        let graph = self.core.graph();
        let (committed, active): (Vec<_>, Vec<_>) = graph
            .iter()
            .filter(|(_, row)| row.usage.is_none() && row.kind != Kind::View)
            .filter(|(_, row)| !graph.is_lost(row.id))
            .map(|(_, row)| (row.kind, row.id))
            .partition(|(kind, _)| *kind == Kind::Committed);
        for (_, id) in active.into_iter().chain(committed) {
            self.measurer.order(id, false);
        }
    }
}

/// Moves to the trash what belongs to no snapshot.
fn sweep(dirs: &Directories, graph: &Graph) -> Result<(), SnapshotError> {
    let orphans = dirs.sweep(|id| graph.has_id(id))?;
    let staged = dirs.sweep_staging()?;
    if orphans + staged > 0 {
        tracing::info!(orphans, staged, "deleting what an earlier run left over");
    }
    Ok(())
}

/// The labels of a snapshot after an update.
fn masked(
    name: &str,
    old: &BTreeMap<String, String>,
    new: BTreeMap<String, String>,
    mask: &[String],
) -> Result<BTreeMap<String, String>, SnapshotError> {
    if mask.is_empty() {
        return Ok(new);
    }
    let mut labels = old.clone();
    for path in mask {
        match path.strip_prefix("labels") {
            Some("") => labels.clone_from(&new),
            Some(rest) if rest.starts_with('.') => {
                let label = &rest[1..];
                let value = new.get(label).cloned().unwrap_or_default();
                labels.insert(label.to_owned(), value);
            }
            _ => {
                let what = format!("cannot update {path:?} of snapshot {name:?}: only its labels");
                return Err(SnapshotError::invalid(what));
            }
        }
    }
    Ok(labels)
}
