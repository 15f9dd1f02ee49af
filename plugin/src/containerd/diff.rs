//! containerd's diff service: layers into the directories that containerd names.
//!
//! `Apply` is called outside of containerd's transactions and may wait. What can be done here
//! ([`order`]) is done by the [`Applier`], with the layers of hawkerd's own content store; so no
//! layer is read through gRPC in steps of 32 KiB. The files are the same as from containerd's own
//! differ. Whatever cannot be done here, that one does: it is asked for it through containerd's own
//! diff service ([`elsewhere`]), because some of its callers (the transfer service) know one differ
//! only. Nothing is left at a layer's place when it is handed on.
//!
//! `Diff` is `Unimplemented`: containerd's own differ makes diffs.

mod applier;
mod elsewhere;
#[cfg(any(test, feature = "fuzzing"))]
pub(in crate::containerd) mod fuzzing;
mod media_type;
mod metrics;
mod order;
#[cfg(test)]
mod tests;

use std::{collections::HashMap, sync::Arc, time::Duration};

use containerd_client::{
    services::v1::{ApplyRequest, ApplyResponse, DiffRequest, DiffResponse},
    types::Descriptor,
};
use hawker_snapshotter::Snapshots;
use tokio::{sync::Semaphore, time::Instant};
use tonic::{Code, Request, Response, Status, async_trait};
use tracing::{debug, info, warn};

pub(crate) use self::metrics::DiffMetrics;
use self::{
    applier::{Applier, ApplyError, Left},
    elsewhere::Elsewhere,
    metrics::How,
    order::Order,
};
use super::{
    api::DiffApi,
    client::ContainerdClient,
    stager::{Staged, Stager},
    supply::LayerSupply,
};

/// The media type of what was applied.
const TAR: &str = "application/vnd.oci.image.layer.v1.tar";
/// Layers that are unpacked on the spot at a time, where nothing can be moved. containerd asks for
/// one of each image, and one that waits for its bytes must not hold up other images.
const MOST_SPOTS: usize = 64;

/// Answers containerd.
#[derive(Clone, Debug)]
pub(super) struct DiffService {
    applier: Applier,
    elsewhere: Elsewhere,
    metrics: DiffMetrics,
}

impl DiffService {
    pub(super) fn new(
        snapshots: Snapshots,
        supply: Arc<dyn LayerSupply>,
        stager: Stager,
        client: ContainerdClient,
        metrics: DiffMetrics,
    ) -> Self {
        let applier = Applier {
            snapshots,
            supply,
            stager,
            spots: Arc::new(Semaphore::new(MOST_SPOTS)),
            metrics: metrics.clone(),
        };
        Self {
            applier,
            elsewhere: Elsewhere::new(client),
            metrics,
        }
    }

    async fn apply_here(&self, request: &ApplyRequest) -> Result<Staged, ApplyError> {
        let order = Order::parse(request);
        let order = order.map_err(|error| Left::Failed(error.to_string()))?;
        self.applier.apply(&order).await
    }

    async fn answer(&self, request: Request<ApplyRequest>) -> Result<ApplyResponse, Status> {
        let began = Instant::now();
        let layer = layer_of(request.get_ref());
        if self.elsewhere.is_asked_for(request.get_ref()) {
            return Err(Status::unimplemented("another differ has to do this one"));
        }
        match self.apply_here(request.get_ref()).await {
            Ok(staged) => {
                info!(layer, elapsed = ?began.elapsed(), "layer applied");
                Ok(response(&staged))
            }
            Err(ApplyError::Left(left)) => {
                self.metrics.applied(How::Left);
                let applied = self.elsewhere.apply(request, &left).await;
                report_left(&layer, &left, began.elapsed(), &applied);
                applied
            }
            Err(error @ ApplyError::NotCleared { .. }) => Err(Status::internal(error.to_string())),
            Err(error) => Err(Status::unavailable(error.to_string())),
        }
    }
}

#[async_trait]
impl DiffApi for DiffService {
    async fn apply(
        &self,
        request: Request<ApplyRequest>,
    ) -> Result<Response<ApplyResponse>, Status> {
        let layer = layer_of(request.get_ref());
        let answered = self.answer(request).await;
        let code = answered.as_ref().map_or_else(Status::code, |_| Code::Ok);
        self.metrics.answered("Apply", code);
        if let Err(status) = &answered {
            debug!(layer, ?code, why = status.message(), "not applied");
        }
        answered.map(Response::new)
    }

    async fn diff(&self, _request: Request<DiffRequest>) -> Result<Response<DiffResponse>, Status> {
        self.metrics.answered("Diff", Code::Unimplemented);
        Err(Status::unimplemented("hawkerd makes no diffs"))
    }
}

fn layer_of(request: &ApplyRequest) -> String {
    let layer = request.diff.as_ref();
    layer.map_or_else(String::new, |layer| layer.digest.clone())
}

fn response(staged: &Staged) -> ApplyResponse {
    ApplyResponse {
        applied: Some(Descriptor {
            media_type: TAR.to_owned(),
            digest: staged.diff_id.to_string(),
            size: i64::try_from(staged.size).unwrap_or(i64::MAX),
            annotations: HashMap::new(),
        }),
    }
}

/// Says once why containerd's own differ had to do it.
fn report_left(
    layer: &str,
    left: &Left,
    elapsed: Duration,
    applied: &Result<ApplyResponse, Status>,
) {
    match applied {
        Ok(_) => info!(layer, why = %left, ?elapsed, "containerd's own differ applied the layer"),
        Err(status) => warn!(
            layer,
            why = %left,
            error = status.message(),
            "the layer is left to containerd's own differ"
        ),
    }
}
