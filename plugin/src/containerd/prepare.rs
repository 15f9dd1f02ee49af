//! `Prepare`: ordinary snapshots, and layers that are there before containerd fetches them.
//!
//! A `Prepare` with the label `containerd.io/snapshot.ref` asks for a layer of an image. When that
//! layer (and with it all below: a parent must be there) is or becomes a committed snapshot here,
//! the answer is AlreadyExists, and containerd neither fetches nor unpacks it. Whatever goes wrong,
//! the answer is an ordinary snapshot, and containerd does both itself: a pull never fails because
//! of us, and never waits longer than it may.
//!
//! Waiting is harmless only as long as nobody in containerd waits for us: see [`super::gc_probe`].

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use hawker_snapshotter::{ChainId, DiffId, LayerKind, Mount, Snapshots};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tracing::{debug, info, warn};

use super::{
    gc_probe::GcProbe,
    labels::{self, ImageLayers},
    message,
    metrics::{Release, SnapshotMetrics},
    registrar::Registrar,
    stager::{StageError, Stager},
    supply::LayerSupply,
};

/// One layer may lie several times in an image, and its files are for one snapshot: so often they
/// are made again.
const TRIES: usize = 3;

/// One `Prepare` call.
#[derive(Clone, Debug)]
pub(super) struct Wish {
    /// What containerd calls us.
    pub(super) snapshotter: String,
    pub(super) key: String,
    pub(super) parent: String,
    pub(super) labels: BTreeMap<String, String>,
}

impl Wish {
    /// The namespace that containerd's metadata puts before a key: `<namespace>/<number>/<key>`.
    fn namespace(&self) -> Option<&str> {
        let (namespace, rest) = self.key.split_once('/')?;
        let (number, _) = rest.split_once('/')?;
        let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        (is_number && !namespace.is_empty()).then_some(namespace)
    }
}

/// Answers `Prepare`. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Preparer {
    pub(super) snapshots: Snapshots,
    pub(super) supply: Arc<dyn LayerSupply>,
    pub(super) stager: Stager,
    pub(super) probe: GcProbe,
    /// How long one call may wait; zero leaves all layers to containerd.
    pub(super) patience: Duration,
    pub(super) metrics: SnapshotMetrics,
    /// `None`: containerd's content is not ours to speak of.
    pub(super) registrar: Option<Registrar>,
    pub(super) stop: CancellationToken,
}

/// Why a layer is left to containerd.
#[derive(Debug, thiserror::Error)]
enum Left {
    #[error("the parent snapshot does not say which layers it holds")]
    UnknownParent,
    #[error("neither the labels nor a manifest that passed the mirror name the layer")]
    UnknownLayer,
    #[error(transparent)]
    Failed(#[from] Arc<StageError>),
    #[error("the layer's tar is {found}, which does not make {reference}")]
    OtherContent { found: DiffId, reference: ChainId },
    #[error("the layer's files went to other snapshots")]
    Taken,
    #[error("it waited for {0:?} ({why})", why = .1.as_str())]
    Released(Duration, Release),
}

impl Preparer {
    /// Makes the snapshot, or says that the layer is there already.
    pub(super) async fn prepare(&self, wish: Wish) -> Result<Vec<Mount>, Status> {
        if let Some(reference) = labels::reference(&wish.labels)
            && self.has_or_gets(&wish, reference).await
        {
            // containerd does not fetch its layer.
            if let (Some(registrar), Some(namespace)) = (&self.registrar, wish.namespace()) {
                registrar.note(namespace);
            }
            return Err(Status::already_exists(format!(
                "snapshot {reference} on {:?} exists already: {:?} is not made",
                wish.parent, wish.key
            )));
        }
        let snapshots = self.snapshots.clone();
        let work = move || snapshots.prepare(&wish.key, &wish.parent, wish.labels);
        let worked = tokio::task::spawn_blocking(work).await;
        let worked = worked.map_err(|_| Status::unavailable("hawkerd is stopping"))?;
        worked.map_err(|error| message::status(&error))
    }

    /// Whether the layer is a committed snapshot here, now or after a wait.
    async fn has_or_gets(&self, wish: &Wish, reference: ChainId) -> bool {
        if self.has(wish, &reference) {
            return true;
        }
        if self.patience.is_zero() {
            return false;
        }
        match self.layer(wish, reference).await {
            Ok(()) => true,
            Err(left) => {
                report(wish, &reference, &left);
                false
            }
        }
    }

    fn has(&self, wish: &Wish, reference: &ChainId) -> bool {
        let found = self.snapshots.find_layer(reference, &wish.parent);
        found.is_some()
    }

    async fn layer(&self, wish: &Wish, reference: ChainId) -> Result<(), Left> {
        let below = self.below(&wish.parent)?;
        let began = Instant::now();
        let released = self.released(&wish.snapshotter, began + self.patience);
        let mut wait = Wait {
            began,
            released: Box::pin(released),
        };
        let got = self.layer_on(wish, reference, below, &mut wait).await;
        self.metrics.waited.observe(began.elapsed().as_secs_f64());
        if let Err(Left::Released(_, release)) = &got {
            self.metrics.released(*release);
        }
        got
    }

    /// Tries what may be the layer, one after the other.
    async fn layer_on(
        &self,
        wish: &Wish,
        reference: ChainId,
        below: Option<ChainId>,
        wait: &mut Wait<'_>,
    ) -> Result<(), Left> {
        let mut left = Left::UnknownLayer;
        for wanted in wait.until(self.wanted(wish, &reference)).await? {
            match self.layer_of(wish, reference, below, &wanted, wait).await {
                Err(released @ Left::Released(..)) => return Err(released),
                // What the first one was told says most.
                Err(error) if matches!(left, Left::UnknownLayer) => left = error,
                Err(error) => debug!(layer = %wanted.layer, %error, "not this one either"),
                Ok(()) => return Ok(()),
            }
        }
        Err(left)
    }

    async fn layer_of(
        &self,
        wish: &Wish,
        reference: ChainId,
        below: Option<ChainId>,
        wanted: &ImageLayers,
        wait: &mut Wait<'_>,
    ) -> Result<(), Left> {
        let kind = match below {
            None => LayerKind::Base,
            Some(_) => LayerKind::Upper,
        };
        for left in (0..TRIES).rev() {
            // To find out what is wanted takes time in which others may have had it.
            if self.has(wish, &reference) {
                return Ok(());
            }
            let tickets = self.stager.ask(wanted, kind).map_err(Arc::new)?;
            let found = match wait.until(tickets.first.staged()).await? {
                // A refusal is somebody's, and not the layer's.
                Err(error) if left > 0 && matches!(*error, StageError::OfAnother(_)) => continue,
                found => found?,
            };
            check(found.diff_id, below, reference)?;
            // Not given up any more: it is a matter of milliseconds.
            let (parent, labels) = (wish.parent.clone(), wish.labels.clone());
            let committed = tickets.first.commit(reference, parent, labels).await;
            if committed.map_err(Arc::new)? {
                return Ok(());
            }
        }
        match self.has(wish, &reference) {
            true => Ok(()),
            false => Err(Left::Taken),
        }
    }

    /// The stack that the new layer lies on; `None` for the lowest one.
    fn below(&self, parent: &str) -> Result<Option<ChainId>, Left> {
        if parent.is_empty() {
            return Ok(None);
        }
        let below = self.snapshots.chain_of(parent);
        below.ok_or(Left::UnknownParent).map(Some)
    }

    /// What may be the layer, the likeliest first.
    async fn wanted(&self, wish: &Wish, reference: &ChainId) -> Vec<ImageLayers> {
        match labels::image_layers(&wish.labels) {
            Some(named) => vec![named],
            None => self.supply.find(reference, wish.namespace()).await,
        }
    }

    async fn released(&self, snapshotter: &str, deadline: Instant) -> Release {
        tokio::select! {
            release = self.probe.released(snapshotter) => release,
            () = sleep_until(deadline) => Release::Timeout,
            () = self.stop.cancelled() => Release::Stopping,
        }
    }
}

/// A `Prepare` that waits.
struct Wait<'a> {
    began: Instant,
    released: BoxFuture<'a, Release>,
}

impl Wait<'_> {
    /// The work's result, unless it must be waited for no longer.
    async fn until<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Left> {
        tokio::select! {
            biased;
            done = work => Ok(done),
            release = &mut self.released => Err(Left::Released(self.began.elapsed(), release)),
        }
    }
}

/// Whether the files are those of the wanted stack: its name follows from the layers' tars.
fn check(found: DiffId, below: Option<ChainId>, reference: ChainId) -> Result<(), Left> {
    let made = match below {
        None => ChainId::base(found),
        Some(below) => below.on_top(found),
    };
    match made == reference {
        true => Ok(()),
        false => Err(Left::OtherContent { found, reference }),
    }
}

/// Says once why containerd has to fetch a layer itself.
fn report(wish: &Wish, reference: &ChainId, left: &Left) {
    let (parent, layer) = (&wish.parent, labels::image_layers(&wish.labels));
    let image = layer.as_ref().map(|layer| layer.claimant.to_string());
    let layer = layer.map(|layer| layer.layer.to_string());
    match left {
        Left::UnknownLayer | Left::UnknownParent => {
            debug!(%reference, parent, why = %left, "the layer is left to containerd");
        }
        Left::Released(_, Release::Gc | Release::Stopping) => {
            info!(image, layer, %reference, why = %left, "the layer is left to containerd");
        }
        _ => warn!(image, layer, %reference, why = %left, "the layer is left to containerd"),
    }
}
