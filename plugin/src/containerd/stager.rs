//! Layers that are unpacked before containerd asks for them.
//!
//! The first `Prepare` of an image asks for its own layer and all above it; each becomes a [`Job`],
//! one for each layer and [`LayerKind`], whoever asks. A job gets its turn in the order of asking
//! (the bottom layer first), opens its layer, unpacks it into a stage of its own, and keeps the
//! files for whoever commits them. Who asks holds a [`Ticket`]. What nobody holds a ticket of for a
//! while ends: so a cancelled pull stops, and one that is tried again goes on where it was.
//!
//! Bounds: of each image so many layers are open at a time (their pieces come in meanwhile), of all
//! images half as many are unpacked; the others wait with a few hundred bytes each. Layers that
//! starve are not counted ([`slot`]), so that one registry's silence is no other's; and where half
//! of what may be open starves, what finds no place is left to containerd at once. Files on the
//! disk are bounded by the lingers.
//!
//! A job that failed is kept until somebody was told, so that each layer is tried once per pull.

mod job;
mod slot;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    fmt,
    num::NonZero,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::{FutureExt as _, future::BoxFuture};
use hawker_model::Digest;
use hawker_snapshotter::{LayerKind, Limits, SnapshotError, Snapshots, UnpackError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::job::Job;
pub(super) use self::job::{CancelOnDrop, Staged, Ticket};
use super::{
    labels::ImageLayers,
    metrics::SnapshotMetrics,
    supply::{Claimant, LayerSupply},
};
use crate::{control::LayerReport, layers::LayerError};

/// Jobs at a time. Layers above that are asked for by their own `Prepare`.
const MAX_JOBS: usize = 1024;
/// Layers that are open at a time, whatever images they are of.
const MAX_OPEN: usize = 64;
/// More threads than that only fight for the file system's journal.
const MAX_UNPACKS: usize = 16;

/// How the stager works.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StagerSettings {
    /// What a layer may not exceed.
    pub(crate) limits: Limits,
    /// Layers that are unpacked at a time; `None`: one for each core.
    pub(crate) unpacks: Option<NonZero<usize>>,
    /// Layers that are open at a time. Where half of them starve, no further one waits.
    pub(crate) open: usize,
    /// How long a job goes on that nobody holds a ticket of.
    pub(crate) linger_under_way: Duration,
    /// How long files are kept that nobody holds a ticket of.
    pub(crate) linger_done: Duration,
}

impl Default for StagerSettings {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            unpacks: None,
            open: MAX_OPEN,
            // Longer than the kubelet waits before it tries a pull again at first (10 s, 20 s). Later
            // it waits up to 5 min; what was fetched is in the store then, and is unpacked anew.
            linger_under_way: Duration::from_secs(30),
            // Longer than containerd takes to unpack a layer that it was left.
            linger_done: Duration::from_secs(120),
        }
    }
}

/// Unpacks layers. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Stager(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    snapshots: Snapshots,
    supply: Arc<dyn LayerSupply>,
    settings: StagerSettings,
    metrics: SnapshotMetrics,
    /// How many jobs there have been.
    asked: AtomicU64,
    jobs: Mutex<Jobs>,
    /// Layers of one image that are open.
    open_per_image: usize,
    /// Layers that are open.
    open: Arc<Semaphore>,
    /// Layers that are unpacked.
    unpacks: Arc<Semaphore>,
    /// How many of those that are open starve.
    starving: Arc<AtomicUsize>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

#[derive(Debug, Default)]
struct Jobs {
    by_layer: HashMap<LayerKey, Arc<Job>>,
    turns: HashMap<Claimant, Weak<Semaphore>>,
}

/// What a job makes: the same blob gives other files on top of others than at the bottom.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct LayerKey {
    layer: Digest,
    kind: LayerKind,
}

/// Why a layer cannot be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum StageError {
    #[error(transparent)]
    Open(#[from] LayerError),
    #[error(transparent)]
    Stage(#[from] SnapshotError),
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    #[error("so many layers are waited for that no more are taken")]
    Full,
    /// Asked for in our own name, it may be had.
    #[error("as another image asked for it: {0}")]
    OfAnother(Arc<Self>),
    #[error("hawkerd is stopping")]
    Stopping,
}

impl Stager {
    pub(super) fn new(
        snapshots: Snapshots,
        supply: Arc<dyn LayerSupply>,
        settings: StagerSettings,
        metrics: SnapshotMetrics,
        stop: CancellationToken,
    ) -> Self {
        let cores = || std::thread::available_parallelism().map_or(1, NonZero::get);
        let unpacks = settings.unpacks.map_or_else(cores, NonZero::get);
        let unpacks = unpacks.min(MAX_UNPACKS);
        Self(Arc::new(Inner {
            snapshots,
            supply,
            settings,
            metrics,
            asked: AtomicU64::new(0),
            jobs: Mutex::default(),
            // So that the network is busy while layers are unpacked.
            open_per_image: 2 * unpacks,
            open: Arc::new(Semaphore::new(settings.open)),
            unpacks: Arc::new(Semaphore::new(unpacks)),
            starving: Arc::default(),
            tasks: TaskTracker::new(),
            stop,
        }))
    }

    /// Asks for a layer of the given kind and those above it. The ticket of the first comes first;
    /// what lies above is left out where too much is asked for.
    pub(super) fn ask(&self, wanted: &ImageLayers, kind: LayerKind) -> Result<Tickets, StageError> {
        if self.0.stop.is_cancelled() {
            return Err(StageError::Stopping);
        }
        let mut jobs = self.0.lock();
        let first = LayerKey {
            layer: wanted.layer,
            kind,
        };
        let first = self.ticket(&mut jobs, &wanted.claimant, first);
        let first = first.ok_or(StageError::Full)?;
        let above = wanted.above.iter().map_while(|layer| {
            let key = LayerKey {
                layer: *layer,
                kind: LayerKind::Upper,
            };
            self.ticket(&mut jobs, &wanted.claimant, key)
        });
        let above = above.collect();
        Ok(Tickets {
            first,
            _above: above,
        })
    }

    /// What a layer may not exceed.
    pub(super) fn limits(&self) -> Limits {
        self.0.settings.limits
    }

    /// What is under way, for people.
    pub(super) fn report(&self) -> Vec<LayerReport> {
        let jobs = self.0.lock();
        let mut jobs: Vec<_> = jobs.by_layer.values().cloned().collect();
        jobs.sort_by_key(|job| job.number);
        jobs.iter().map(|job| job.report()).collect()
    }

    /// Waits until every job has ended, which the stop makes them do.
    pub(super) async fn ended(&self) {
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    fn ticket(&self, jobs: &mut Jobs, claimant: &Claimant, key: LayerKey) -> Option<Ticket> {
        if let Some(job) = jobs.by_layer.get(&key) {
            return Some(Ticket::new(&self.0, job, claimant));
        }
        if jobs.by_layer.len() >= MAX_JOBS {
            return None;
        }
        let number = self.0.asked.fetch_add(1, Ordering::Relaxed);
        let job = Arc::new(Job::new(number, key, claimant.clone()));
        let ticket = Ticket::new(&self.0, &job, claimant);
        let turn = in_line(&jobs.turns(claimant, self.0.open_per_image));
        let living = Arc::clone(&self.0).live(Arc::clone(&job), turn);
        self.0.tasks.spawn(living);
        jobs.by_layer.insert(key, job);
        Some(ticket)
    }
}

/// What one `Prepare` holds.
#[derive(Debug)]
pub(super) struct Tickets {
    /// Of the layer that it waits for.
    pub(super) first: Ticket,
    /// Of those above, so that they go on meanwhile.
    _above: Vec<Ticket>,
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Jobs> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on whoever asks for the layer gets a new job.
    fn forget(&self, job: &Arc<Job>) {
        self.lock().forget(job);
    }

    /// The same, unless somebody holds a ticket. Tickets are given out under the same lock.
    fn forget_if_idle(&self, job: &Arc<Job>) -> bool {
        let mut jobs = self.lock();
        let idle = job.is_idle();
        if idle {
            jobs.forget(job);
        }
        idle
    }
}

impl Jobs {
    fn forget(&mut self, job: &Arc<Job>) {
        let known = self.by_layer.get(&job.key);
        if known.is_some_and(|known| Arc::ptr_eq(known, job)) {
            self.by_layer.remove(&job.key);
        }
    }

    /// Where the image's layers wait for their turns.
    fn turns(&mut self, claimant: &Claimant, open_per_image: usize) -> Arc<Semaphore> {
        if let Some(turns) = self.turns.get(claimant).and_then(Weak::upgrade) {
            return turns;
        }
        self.turns.retain(|_, turns| turns.strong_count() > 0);
        let turns = Arc::new(Semaphore::new(open_per_image));
        self.turns.insert(claimant.clone(), Arc::downgrade(&turns));
        turns
    }
}

/// A permit of the semaphore, in the order of the calls of this function. The semaphore serves in
/// the order in which it was first polled; the tasks that wait begin in any order.
fn in_line(semaphore: &Arc<Semaphore>) -> BoxFuture<'static, Option<OwnedSemaphorePermit>> {
    let mut turn = Arc::clone(semaphore)
        .acquire_owned()
        .map(Result::ok)
        .boxed();
    match turn.as_mut().now_or_never() {
        Some(permit) => std::future::ready(permit).boxed(),
        None => turn,
    }
}

impl fmt::Display for LayerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.layer, f)
    }
}

impl fmt::Debug for LayerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:?})", self.layer, self.kind)
    }
}
