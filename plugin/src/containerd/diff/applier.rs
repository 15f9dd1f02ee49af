//! Fills a directory with a layer's files.
//!
//! The stager makes them, for this layer and those above it at once, and what is there is moved to
//! its place. Where moving is not possible, the layer is unpacked on the spot, one after the other.

use std::{
    io,
    sync::{Arc, atomic::AtomicBool},
};

use hawker_model::Digest;
use hawker_snapshotter::{
    DiffId, Fault, FillError, SnapshotError, Snapshots, Target, UnpackError, UnpackOptions,
};
use tokio::sync::Semaphore;

use super::{
    media_type::Form,
    metrics::{DiffMetrics, How},
    order::Order,
};
use crate::containerd::{
    labels::ImageLayers,
    stager::{CancelOnDrop, StageError, Staged, Stager},
    supply::{LayerSupply, OpenLayer},
};

/// One layer's files are for one place: so often they are made again when another was quicker.
const TRIES: usize = 3;

/// Fills directories. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Applier {
    pub(super) snapshots: Snapshots,
    pub(super) supply: Arc<dyn LayerSupply>,
    pub(super) stager: Stager,
    /// Layers that are unpacked on the spot at a time.
    pub(super) spots: Arc<Semaphore>,
    pub(super) metrics: DiffMetrics,
}

/// Why a layer was not applied.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApplyError {
    /// The next differ may do better, and finds the place as it was.
    #[error(transparent)]
    Left(#[from] Left),
    /// No differ can do better now.
    #[error("layer {layer} cannot be had: {cause}")]
    NotHad { layer: Digest, cause: String },
    #[error("what was made of layer {layer} could not be taken away: {cause}")]
    NotCleared { layer: Digest, cause: String },
    #[error("hawkerd is stopping")]
    Stopping,
}

/// Why containerd's own differ has to do it.
#[derive(Debug, thiserror::Error)]
pub(super) enum Left {
    #[error("hawkerd does not see {0}")]
    Unseen(String),
    #[error("there is something at its place already")]
    NotEmpty,
    #[error("its content is not in hawkerd's store")]
    NotOurs,
    #[error("its media type says that it is not compressed, but it is")]
    Compressed,
    #[error("{0}")]
    Failed(String),
}

impl Applier {
    /// Fills the directory, and tells what the layer's tar was.
    pub(super) async fn apply(&self, order: &Order) -> Result<Staged, ApplyError> {
        let mut wanted = self.supply.content(order.layer).ok_or(Left::NotOurs)?;
        if !order.place.is_of_stack {
            wanted.above.clear();
        }
        let applied = match self.look_at(&order.place.target).await? {
            true => match self.take_over(order, &wanted).await? {
                Some(staged) => (staged, How::Moved),
                None => (self.unpack(order, &wanted).await?, How::Unpacked),
            },
            false => (self.unpack(order, &wanted).await?, How::Unpacked),
        };
        let (staged, how) = applied;
        if order.sync {
            self.sync(order).await?;
        }
        self.metrics.applied(how);
        Ok(staged)
    }

    /// Whether what is staged can be moved to the place, which must be empty.
    async fn look_at(&self, target: &Target) -> Result<bool, ApplyError> {
        let (target, snapshots) = (target.clone(), self.snapshots.clone());
        let looked = blocking(move || match target.is_empty() {
            Ok(false) => Err(Left::NotEmpty),
            // Made in another mount namespace.
            Err(SnapshotError::Io { path, cause, .. })
                if cause.kind() == io::ErrorKind::NotFound =>
            {
                Err(Left::Unseen(path.display().to_string()))
            }
            Err(error) => Err(Left::Failed(error.to_string())),
            Ok(true) => {
                let takes = target.takes_from(&snapshots);
                takes.map_err(|error| Left::Failed(error.to_string()))
            }
        });
        Ok(looked.await??)
    }

    /// Moves the files that the stager made; `None`: it has no room, or others are always quicker.
    async fn take_over(
        &self,
        order: &Order,
        wanted: &ImageLayers,
    ) -> Result<Option<Staged>, ApplyError> {
        let failed = |error: &StageError| order.failed(error);
        for _ in 0..TRIES {
            let tickets = match self.stager.ask(wanted, order.place.kind) {
                Err(StageError::Full) => return Ok(None),
                asked => asked.map_err(|error| failed(&error))?,
            };
            let staged = match tickets.first.staged().await {
                Ok(staged) => staged,
                Err(error) if matches!(*error, StageError::OfAnother(_)) => continue,
                Err(error) if matches!(*error, StageError::Full) => return Ok(None),
                Err(error) => return Err(failed(&error)),
            };
            order.check(staged.diff_id)?;
            match tickets.first.give(order.place.target.clone()).await {
                Ok(true) => return Ok(Some(staged)),
                Ok(false) => {}
                Err(error) => {
                    self.clear(order).await?;
                    return Err(failed(&error));
                }
            }
        }
        Ok(None)
    }

    /// Makes the files where they are to be.
    async fn unpack(&self, order: &Order, wanted: &ImageLayers) -> Result<Staged, ApplyError> {
        let spot = Arc::clone(&self.spots).acquire_owned().await;
        let _spot = spot.map_err(|_| ApplyError::Stopping)?;
        let opened = self.supply.open(&wanted.claimant, order.layer).await;
        let OpenLayer {
            mut source,
            stopper,
        } = opened.map_err(|error| order.not_had(&error))?;
        let cancelled = Arc::new(AtomicBool::new(false));
        let guard = CancelOnDrop::new(&cancelled, stopper);
        let mut options = UnpackOptions::new(order.layer, order.place.kind);
        options.limits = self.stager.limits();
        let target = order.place.target.clone();
        let unpacking = blocking(move || target.unpack(source.as_mut(), &options, &cancelled));
        let unpacked = unpacking.await?.map_err(|error| match error {
            FillError::Unpack(error) => order.refused(&error),
            FillError::Snapshot(error) => left(&error),
        });
        drop(guard);
        let checked = unpacked.and_then(|unpacked| {
            order.check(unpacked.diff_id)?;
            Ok(Staged {
                diff_id: unpacked.diff_id,
                size: unpacked.size,
            })
        });
        if checked.is_err() {
            self.clear(order).await?;
        }
        checked
    }

    async fn sync(&self, order: &Order) -> Result<(), ApplyError> {
        let target = order.place.target.clone();
        let Err(error) = blocking(move || target.sync()).await? else {
            return Ok(());
        };
        self.clear(order).await?;
        Err(left(&error))
    }

    /// Whoever tries next must find nothing.
    async fn clear(&self, order: &Order) -> Result<(), ApplyError> {
        let target = order.place.target.clone();
        let cleared = blocking(move || target.clear()).await?;
        cleared.map_err(|error| ApplyError::NotCleared {
            layer: order.layer,
            cause: error.to_string(),
        })
    }
}

impl Order {
    /// A layer that is not to be decompressed must have been none that is.
    fn check(&self, diff_id: DiffId) -> Result<(), ApplyError> {
        match self.form {
            Form::Plain if *diff_id.digest() != self.layer => Err(Left::Compressed.into()),
            _ => Ok(()),
        }
    }

    fn failed(&self, error: &StageError) -> ApplyError {
        match error {
            StageError::Open(error) => self.not_had(error),
            StageError::Unpack(error) => self.refused(error),
            StageError::Stopping => ApplyError::Stopping,
            error => left(error),
        }
    }

    fn refused(&self, error: &UnpackError) -> ApplyError {
        match &error.fault {
            Fault::Source(error) => self.not_had(error),
            Fault::Cancelled => ApplyError::Stopping,
            _ => left(error),
        }
    }

    fn not_had(&self, error: &dyn std::error::Error) -> ApplyError {
        ApplyError::NotHad {
            layer: self.layer,
            cause: error.to_string(),
        }
    }
}

fn left(error: &dyn std::error::Error) -> ApplyError {
    Left::Failed(error.to_string()).into()
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApplyError> {
    let worked = tokio::task::spawn_blocking(work).await;
    worked.map_err(|_| ApplyError::Stopping)
}
