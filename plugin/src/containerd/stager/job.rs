//! One layer on its way to files, and the tickets of those who want them.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::future::BoxFuture;
use hawker_snapshotter::{
    ChainId, DiffId, LayerSource, SnapshotError, Snapshots, StagedLayer, Target, UnpackOptions,
    unpack,
};
use tokio::{
    sync::{Mutex, OwnedSemaphorePermit, Semaphore, watch},
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::{
    Inner, LayerKey, StageError,
    slot::{LOOK_EVERY, Slot, Timed},
};
use crate::{
    containerd::{
        metrics::Outcome,
        supply::{Claimant, OpenLayer},
    },
    control::{LayerReport, LayerState},
    layers::LayerError,
};

/// How far a job is.
#[derive(Clone, Debug)]
enum Phase {
    /// Others are before it.
    Queued,
    /// The registry is asked for the right, the network for the blob.
    Opening,
    /// It is open, and others are unpacked before it.
    Waiting,
    /// Files are made.
    Unpacking,
    /// The files are all there.
    Staged(Staged),
    /// It could not be had.
    Failed(Arc<StageError>),
}

/// What is known of a layer whose files are all there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::containerd) struct Staged {
    /// The digest of its tar.
    pub(in crate::containerd) diff_id: DiffId,
    /// Bytes of its tar.
    pub(in crate::containerd) size: u64,
}

/// One layer on its way.
#[derive(Debug)]
pub(super) struct Job {
    /// Its place among all jobs.
    pub(super) number: u64,
    pub(super) key: LayerKey,
    /// In whose name it is opened.
    claimant: Claimant,
    tickets: watch::Sender<usize>,
    phase: watch::Sender<Phase>,
    /// Held while they are committed: whoever comes second finds the snapshot.
    files: Arc<Mutex<Option<StagedLayer>>>,
    /// Somebody has the files, or was told why there are none.
    over: CancellationToken,
}

impl Job {
    pub(super) fn new(number: u64, key: LayerKey, claimant: Claimant) -> Self {
        Self {
            number,
            key,
            claimant,
            tickets: watch::Sender::new(0),
            phase: watch::Sender::new(Phase::Queued),
            files: Arc::default(),
            over: CancellationToken::new(),
        }
    }

    pub(super) fn report(&self) -> LayerReport {
        let state = match *self.phase.borrow() {
            Phase::Queued => LayerState::Queued,
            Phase::Opening => LayerState::Opening,
            Phase::Waiting => LayerState::Waiting,
            Phase::Unpacking => LayerState::Unpacking,
            Phase::Staged(_) => LayerState::Staged,
            Phase::Failed(_) => LayerState::Failed,
        };
        LayerReport {
            digest: self.key.layer,
            image: self.claimant.to_string(),
            state,
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        *self.tickets.borrow() == 0
    }

    fn enter(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    /// Returns when nobody has held a ticket for so long.
    async fn abandoned(&self, linger: Duration) {
        let mut tickets = self.tickets.subscribe();
        loop {
            // The sender is `self`.
            let _ = tickets.wait_for(|held| *held == 0).await;
            if timeout(linger, tickets.wait_for(|held| *held > 0))
                .await
                .is_err()
            {
                return;
            }
        }
    }
}

/// Tells the thread that unpacks to end when whoever waits for it has gone.
pub(in crate::containerd) struct CancelOnDrop {
    cancelled: Arc<AtomicBool>,
    stopper: CancellationToken,
}

impl CancelOnDrop {
    pub(in crate::containerd) fn new(
        cancelled: &Arc<AtomicBool>,
        stopper: CancellationToken,
    ) -> Self {
        Self {
            cancelled: Arc::clone(cancelled),
            stopper,
        }
    }
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.cancelled.store(true, Ordering::Relaxed);
        self.stopper.cancel();
    }
}

impl Inner {
    /// A job's whole life: its turn, its work, and how long its files are kept.
    pub(super) async fn live(
        self: Arc<Self>,
        job: Arc<Job>,
        turn: BoxFuture<'static, Option<OwnedSemaphorePermit>>,
    ) {
        let ended = {
            let work = self.work(&job, turn);
            self.while_wanted(&job, self.settings.linger_under_way, work)
                .await
        };
        let outcome = match &ended {
            Some(Ok(_)) => Outcome::Staged,
            Some(Err(_)) => Outcome::Failed,
            None => Outcome::Cancelled,
        };
        self.metrics.staged(outcome);
        let ended = ended.unwrap_or(Err(StageError::Stopping));
        debug!(layer = %job.key, image = %job.claimant, ?outcome, error = ?ended.as_ref().err(), "ended");
        job.enter(match ended {
            Ok(staged) => Phase::Staged(staged),
            Err(error) => Phase::Failed(Arc::new(error)),
        });
        if outcome == Outcome::Cancelled {
            return;
        }
        let told = self.while_wanted(&job, self.settings.linger_done, job.over.cancelled());
        if told.await.is_none() && outcome == Outcome::Staged {
            debug!(layer = %job.key, "nobody came for the layer");
            self.metrics.staged(Outcome::Unclaimed);
        }
    }

    /// The work's result; `None` when nobody has wanted it for so long, or at the stop.
    async fn while_wanted<T>(
        &self,
        job: &Arc<Job>,
        linger: Duration,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                biased;
                done = work.as_mut() => return Some(done),
                () = self.stop.cancelled() => {
                    self.forget(job);
                    return None;
                }
                () = job.abandoned(linger) => if self.forget_if_idle(job) {
                    return None;
                },
            }
        }
    }

    /// The files have gone into a snapshot, or somebody was told why there are none.
    fn end(&self, job: &Arc<Job>) {
        self.forget(job);
        job.over.cancel();
    }

    async fn work(
        &self,
        job: &Job,
        turn: BoxFuture<'static, Option<OwnedSemaphorePermit>>,
    ) -> Result<Staged, StageError> {
        let _turn = turn.await.ok_or(StageError::Stopping)?;
        let _open = self.open_place().await?;
        job.enter(Phase::Opening);
        let layer = self.supply.open(&job.claimant, job.key.layer).await?;
        job.enter(Phase::Waiting);
        let slot = Slot::new(place(&self.unpacks).await?, &self.starving);
        job.enter(Phase::Unpacking);
        let mut options = UnpackOptions::new(job.key.layer, job.key.kind);
        options.limits = self.settings.limits;
        tokio::select! {
            unpacked = self.unpack(job, layer, options, &slot) => unpacked,
            never = slot.watch() => match never {},
        }
    }

    /// A place among the layers that are open. Those that starve may do so for minutes, and a pull
    /// that containerd could do by itself would wait for them.
    async fn open_place(&self) -> Result<OwnedSemaphorePermit, StageError> {
        let mut free = std::pin::pin!(place(&self.open));
        loop {
            let starving = || self.starving.load(Ordering::Relaxed);
            match timeout(LOOK_EVERY, free.as_mut()).await {
                Ok(permit) => return permit,
                Err(_) if 2 * starving() >= self.settings.open => {
                    return Err(StageError::Full);
                }
                Err(_) => {}
            }
        }
    }

    async fn unpack(
        &self,
        job: &Job,
        layer: OpenLayer,
        options: UnpackOptions,
        slot: &Arc<Slot>,
    ) -> Result<Staged, StageError> {
        let began = Instant::now();
        let cancelled = Arc::new(AtomicBool::new(false));
        let OpenLayer { source, stopper } = layer;
        let guard = CancelOnDrop::new(&cancelled, stopper);
        let snapshots = self.snapshots.clone();
        // Holds the place until the thread has ended, whoever waits for it.
        let slot = Arc::clone(slot);
        let mut source = Timed { source, slot };
        let worker = tokio::task::spawn_blocking(move || {
            unpack_into_stage(&snapshots, &mut source, &options, &cancelled)
        });
        let unpacked = worker.await.map_err(|_| StageError::Stopping)?;
        drop(guard);
        let (staged, files) = unpacked?;
        info!(
            layer = %job.key,
            image = %job.claimant,
            elapsed = ?began.elapsed(),
            "layer unpacked"
        );
        *job.files.lock().await = Some(files);
        Ok(staged)
    }
}

async fn place(semaphore: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, StageError> {
    let permit = Arc::clone(semaphore).acquire_owned().await;
    permit.map_err(|_| StageError::Stopping)
}

fn unpack_into_stage(
    snapshots: &Snapshots,
    source: &mut dyn LayerSource,
    options: &UnpackOptions,
    cancelled: &AtomicBool,
) -> Result<(Staged, StagedLayer), StageError> {
    let stage = snapshots.stage()?;
    let unpacked = unpack(stage.path(), source, options, cancelled)?;
    let staged = Staged {
        diff_id: unpacked.diff_id,
        size: unpacked.size,
    };
    let implied = unpacked.implied;
    Ok((staged, StagedLayer { stage, implied }))
}

/// Somebody's interest in a layer. The job goes on while there is one.
#[derive(Debug)]
pub(in crate::containerd) struct Ticket {
    stager: Arc<Inner>,
    job: Arc<Job>,
    /// In whose name it is wanted.
    claimant: Claimant,
}

impl Ticket {
    /// Called under the lock of the jobs.
    pub(super) fn new(stager: &Arc<Inner>, job: &Arc<Job>, claimant: &Claimant) -> Self {
        job.tickets.send_modify(|held| *held += 1);
        Self {
            stager: Arc::clone(stager),
            job: Arc::clone(job),
            claimant: claimant.clone(),
        }
    }

    /// Waits for the files, and for the right of whoever wants them. Cancel-safe.
    pub(in crate::containerd) async fn staged(&self) -> Result<Staged, Arc<StageError>> {
        let mut phase = self.job.phase.subscribe();
        let ended = phase.wait_for(|phase| matches!(phase, Phase::Staged(_) | Phase::Failed(_)));
        let ended = ended.await.map(|ended| ended.clone());
        match ended {
            Ok(Phase::Staged(staged)) => {
                let checked = self.check_right().await;
                checked.map_err(|error| Arc::new(error.into()))?;
                Ok(staged)
            }
            Ok(Phase::Failed(error)) => {
                self.stager.end(&self.job);
                match *error {
                    StageError::Open(_) if self.claimant != self.job.claimant => {
                        Err(Arc::new(StageError::OfAnother(error)))
                    }
                    _ => Err(error),
                }
            }
            _ => Err(Arc::new(StageError::Stopping)),
        }
    }

    /// Makes the files the snapshot of `reference` on `parent`. `false`: somebody else has had
    /// them, for this snapshot or for another.
    ///
    /// Once begun it goes on when the caller is gone. The snapshot is then one that no namespace of
    /// containerd refers to, and its next garbage collection removes it.
    pub(in crate::containerd) async fn commit(
        &self,
        reference: ChainId,
        parent: String,
        labels: BTreeMap<String, String>,
    ) -> Result<bool, StageError> {
        let mut files = Arc::clone(&self.job.files).lock_owned().await;
        let Some(layer) = files.take() else {
            return Ok(false);
        };
        let (stager, job) = (Arc::clone(&self.stager), Arc::clone(&self.job));
        let committing = tokio::task::spawn_blocking(move || {
            let snapshots = &stager.snapshots;
            let committed = snapshots.commit_layer(layer, &reference, &parent, labels);
            // Until here whoever asks for the layer gets this job and waits for the files; from
            // here on there is a snapshot, or else it is made anew.
            stager.end(&job);
            drop(files);
            committed
        });
        match committing.await {
            Ok(Ok(_) | Err(SnapshotError::AlreadyExists { .. })) => Ok(true),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(StageError::Stopping),
        }
    }

    /// Moves the files into `target`, which is empty. `false`: somebody else has had them. When it
    /// fails, some may be there.
    ///
    /// Once begun it goes on when the caller is gone.
    pub(in crate::containerd) async fn give(&self, target: Target) -> Result<bool, StageError> {
        let mut files = Arc::clone(&self.job.files).lock_owned().await;
        let Some(layer) = files.take() else {
            return Ok(false);
        };
        // Whoever asks from here on has it made anew.
        self.stager.end(&self.job);
        let giving = tokio::task::spawn_blocking(move || target.put(layer));
        let given = giving.await.map_err(|_| StageError::Stopping)?;
        Ok(given.map(|()| true)?)
    }

    /// A job is shared by all who want its layer; each of them must be granted it.
    async fn check_right(&self) -> Result<(), LayerError> {
        if self.claimant == self.job.claimant {
            return Ok(());
        }
        let opened = self.stager.supply.open(&self.claimant, self.job.key.layer);
        opened.await.map(drop)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.job.tickets.send_modify(|held| *held -= 1);
    }
}
