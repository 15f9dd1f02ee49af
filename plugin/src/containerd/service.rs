//! containerd's snapshots service: one short method for each call.
//!
//! Who calls: containerd's metadata layer. `Commit`, `Update` and `Remove` are called inside its
//! one write transaction, `Usage` for every snapshot every ten seconds: none of them waits for
//! anything but the local database. Only `Prepare` of a layer may wait, see [`Preparer`].
//!
//! The name in a request's field `snapshotter` is whatever the operator called us in
//! `[proxy_plugins]`; there is one snapshotter here.

use std::{collections::BTreeMap, future::Future};

use containerd_client::services::v1::snapshots::{
    CleanupRequest, CommitSnapshotRequest, ListSnapshotsRequest, ListSnapshotsResponse,
    MountsRequest, MountsResponse, PrepareSnapshotRequest, PrepareSnapshotResponse,
    RemoveSnapshotRequest, StatSnapshotRequest, StatSnapshotResponse, UpdateSnapshotRequest,
    UpdateSnapshotResponse, UsageRequest, UsageResponse, ViewSnapshotRequest, ViewSnapshotResponse,
};
use futures::{StreamExt as _, stream, stream::BoxStream};
use hawker_snapshotter::{Filter, SnapshotError, Snapshots};
use tonic::{Code, Request, Response, Status, async_trait};
use tracing::{debug, warn};

use super::{
    api::SnapshotsApi,
    message,
    metrics::SnapshotMetrics,
    prepare::{Preparer, Wish},
};

/// So many snapshots in one message of `List`, as containerd's own service does.
const PAGE_LEN: usize = 100;

/// Answers containerd.
#[derive(Clone, Debug)]
pub(super) struct SnapshotService {
    snapshots: Snapshots,
    preparer: Preparer,
    metrics: SnapshotMetrics,
}

impl SnapshotService {
    pub(super) fn new(snapshots: Snapshots, preparer: Preparer, metrics: SnapshotMetrics) -> Self {
        Self {
            snapshots,
            preparer,
            metrics,
        }
    }

    /// Work that changes something, and so waits for the disk: on the blocking pool.
    async fn change<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Snapshots) -> Result<T, SnapshotError> + Send + 'static,
    ) -> Result<T, Status> {
        let snapshots = self.snapshots.clone();
        let worked = tokio::task::spawn_blocking(move || work(&snapshots)).await;
        let worked = worked.map_err(|_| Status::unavailable("hawkerd is stopping"))?;
        worked.map_err(|error| message::status(&error))
    }

    /// Counts and logs one answer.
    async fn answer<T>(
        &self,
        method: &'static str,
        key: &str,
        answer: impl Future<Output = Result<T, Status>>,
    ) -> Result<Response<T>, Status> {
        let answered = answer.await;
        let code = answered.as_ref().map_or_else(Status::code, |_| Code::Ok);
        self.metrics.answered(method, code);
        match &answered {
            Err(status) if code == Code::Internal => {
                warn!(
                    method,
                    key,
                    error = status.message(),
                    "a snapshot call failed"
                );
            }
            Err(status) => debug!(method, key, ?code, why = status.message(), "answered"),
            Ok(_) => debug!(method, key, "answered"),
        }
        answered.map(Response::new)
    }
}

#[async_trait]
impl SnapshotsApi for SnapshotService {
    type ListStream = BoxStream<'static, Result<ListSnapshotsResponse, Status>>;

    async fn prepare(
        &self,
        request: Request<PrepareSnapshotRequest>,
    ) -> Result<Response<PrepareSnapshotResponse>, Status> {
        let request = request.into_inner();
        let key = request.key.clone();
        let wish = Wish {
            snapshotter: request.snapshotter,
            key: request.key,
            parent: request.parent,
            labels: BTreeMap::from_iter(request.labels),
        };
        let prepared = async {
            let mounts = self.preparer.prepare(wish).await?;
            let mounts = message::mounts(mounts);
            Ok(PrepareSnapshotResponse { mounts })
        };
        self.answer("Prepare", &key, prepared).await
    }

    async fn view(
        &self,
        request: Request<ViewSnapshotRequest>,
    ) -> Result<Response<ViewSnapshotResponse>, Status> {
        let ViewSnapshotRequest {
            key,
            parent,
            labels,
            ..
        } = request.into_inner();
        let (named, labels) = (key.clone(), BTreeMap::from_iter(labels));
        let viewed = async {
            let mounts = self
                .change(move |snapshots| snapshots.view(&key, &parent, labels))
                .await?;
            let mounts = message::mounts(mounts);
            Ok(ViewSnapshotResponse { mounts })
        };
        self.answer("View", &named, viewed).await
    }

    async fn mounts(
        &self,
        request: Request<MountsRequest>,
    ) -> Result<Response<MountsResponse>, Status> {
        let key = request.into_inner().key;
        let mounts = self.snapshots.mounts(&key);
        let mounts = mounts
            .map(|mounts| MountsResponse {
                mounts: message::mounts(mounts),
            })
            .map_err(|error| message::status(&error));
        self.answer("Mounts", &key, async { mounts }).await
    }

    async fn commit(
        &self,
        request: Request<CommitSnapshotRequest>,
    ) -> Result<Response<()>, Status> {
        let CommitSnapshotRequest {
            name, key, labels, ..
        } = request.into_inner();
        let (named, labels) = (key.clone(), BTreeMap::from_iter(labels));
        let committed = self.change(move |snapshots| snapshots.commit(&name, &key, labels));
        self.answer("Commit", &named, committed).await
    }

    async fn remove(
        &self,
        request: Request<RemoveSnapshotRequest>,
    ) -> Result<Response<()>, Status> {
        let key = request.into_inner().key;
        let named = key.clone();
        let removed = self.change(move |snapshots| snapshots.remove(&key));
        self.answer("Remove", &named, removed).await
    }

    async fn stat(
        &self,
        request: Request<StatSnapshotRequest>,
    ) -> Result<Response<StatSnapshotResponse>, Status> {
        let key = request.into_inner().key;
        let info = self.snapshots.stat(&key);
        let info = info
            .map(|info| StatSnapshotResponse {
                info: Some(message::info(info)),
            })
            .map_err(|error| message::status(&error));
        self.answer("Stat", &key, async { info }).await
    }

    async fn update(
        &self,
        request: Request<UpdateSnapshotRequest>,
    ) -> Result<Response<UpdateSnapshotResponse>, Status> {
        let UpdateSnapshotRequest {
            info, update_mask, ..
        } = request.into_inner();
        let info = info.unwrap_or_default();
        let mask = update_mask.unwrap_or_default().paths;
        let (name, labels) = (info.name.clone(), BTreeMap::from_iter(info.labels));
        let updated = async {
            let info = self
                .change(move |snapshots| snapshots.update(&name, labels, &mask))
                .await?;
            let info = Some(message::info(info));
            Ok(UpdateSnapshotResponse { info })
        };
        self.answer("Update", &info.name, updated).await
    }

    async fn list(
        &self,
        request: Request<ListSnapshotsRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        let texts = request.into_inner().filters;
        let listed = async {
            let filters = texts.iter().map(|text| Filter::parse(text));
            let filters: Vec<Filter> = filters
                .collect::<Result<_, _>>()
                .map_err(|error| Status::invalid_argument(error.to_string()))?;
            let found = self
                .change(move |snapshots| snapshots.list(&filters))
                .await?;
            let infos = found.into_iter().map(message::info);
            let pages = stream::iter(infos).chunks(PAGE_LEN);
            Ok(pages.map(|info| Ok(ListSnapshotsResponse { info })).boxed())
        };
        self.answer("List", &texts.join(" or "), listed).await
    }

    async fn usage(
        &self,
        request: Request<UsageRequest>,
    ) -> Result<Response<UsageResponse>, Status> {
        let key = request.into_inner().key;
        let named = key.clone();
        let usage = async {
            let usage = self.change(move |snapshots| snapshots.usage(&key)).await?;
            Ok(message::usage(usage))
        };
        self.answer("Usage", &named, usage).await
    }

    async fn cleanup(&self, _request: Request<CleanupRequest>) -> Result<Response<()>, Status> {
        let cleaned = self.change(Snapshots::cleanup);
        self.answer("Cleanup", "", cleaned).await
    }
}
