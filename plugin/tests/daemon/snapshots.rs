//! The snapshots service as containerd sees it: gRPC over the unix socket.

use std::{collections::HashMap, os::unix::fs::PermissionsExt as _};

use containerd_client::{
    services::v1::snapshots::{
        CleanupRequest, CommitSnapshotRequest, Info, Kind, ListSnapshotsRequest, MountsRequest,
        PrepareSnapshotRequest, RemoveSnapshotRequest, StatSnapshotRequest, UpdateSnapshotRequest,
        UsageRequest, ViewSnapshotRequest, snapshots_client::SnapshotsClient,
    },
    types::Mount,
};
use tonic::{Code, Status, transport::Channel};

use crate::{
    daemon::Daemon,
    origin::{Origin, Reply},
};

/// containerd's side, with what the operator called us.
pub(crate) struct Caller(SnapshotsClient<Channel>);

const NAME: &str = "whatever";

impl Caller {
    pub(crate) async fn connect(daemon: &Daemon) -> Self {
        let path = daemon.app.containerd_path().unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        Self(SnapshotsClient::new(
            containerd_client::connect(path).await.unwrap(),
        ))
    }

    pub(crate) async fn prepare(
        &mut self,
        key: &str,
        parent: &str,
        labels: &[(&str, &str)],
    ) -> Result<Vec<Mount>, Status> {
        let request = PrepareSnapshotRequest {
            snapshotter: NAME.to_owned(),
            key: key.to_owned(),
            parent: parent.to_owned(),
            labels: owned(labels),
        };
        let response = self.0.prepare(request).await?;
        Ok(response.into_inner().mounts)
    }

    pub(crate) async fn commit(&mut self, name: &str, key: &str) -> Result<(), Status> {
        let request = CommitSnapshotRequest {
            snapshotter: NAME.to_owned(),
            name: name.to_owned(),
            key: key.to_owned(),
            ..CommitSnapshotRequest::default()
        };
        self.0.commit(request).await.map(drop)
    }

    pub(crate) async fn stat(&mut self, key: &str) -> Result<Info, Status> {
        let request = StatSnapshotRequest {
            snapshotter: NAME.to_owned(),
            key: key.to_owned(),
        };
        Ok(self.0.stat(request).await?.into_inner().info.unwrap())
    }

    pub(crate) async fn remove(&mut self, key: &str) -> Result<(), Status> {
        let request = RemoveSnapshotRequest {
            snapshotter: NAME.to_owned(),
            key: key.to_owned(),
        };
        self.0.remove(request).await.map(drop)
    }

    /// The pages of `List`.
    pub(crate) async fn list(&mut self, filters: &[&str]) -> Result<Vec<Vec<Info>>, Status> {
        let request = ListSnapshotsRequest {
            snapshotter: NAME.to_owned(),
            filters: filters.iter().map(ToString::to_string).collect(),
        };
        let mut pages = Vec::new();
        let mut stream = self.0.list(request).await?.into_inner();
        while let Some(page) = stream.message().await? {
            pages.push(page.info);
        }
        Ok(pages)
    }
}

fn owned(labels: &[(&str, &str)]) -> HashMap<String, String> {
    let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    labels.iter().map(owned).collect()
}

async fn daemon() -> (Daemon, Caller) {
    let origin = Origin::start(|_| Reply::status(404)).await;
    let daemon = Daemon::start(origin.address).await;
    let caller = Caller::connect(&daemon).await;
    (daemon, caller)
}

#[tokio::test]
async fn snapshot_lives_from_prepare_to_removal() {
    let (_daemon, mut caller) = daemon().await;
    let mounts = caller.prepare("a", "", &[]).await.unwrap();
    assert_eq!(mounts[0].r#type, "bind");
    std::fs::write(format!("{}/file", mounts[0].source), "x").unwrap();
    assert_eq!(caller.stat("a").await.unwrap().kind(), Kind::Active);
    caller.commit("base", "a").await.unwrap();
    let info = caller.stat("base").await.unwrap();
    assert_eq!((info.kind(), info.parent.as_str()), (Kind::Committed, ""));
    assert!(info.created_at.is_some() && info.updated_at.is_some());

    let mounts = caller.prepare("b", "base", &[]).await.unwrap();
    assert_eq!(mounts[0].r#type, "overlay");
    let again = MountsRequest {
        snapshotter: NAME.to_owned(),
        key: "b".to_owned(),
    };
    assert_eq!(
        caller.0.mounts(again).await.unwrap().into_inner().mounts,
        mounts
    );
    let view = ViewSnapshotRequest {
        snapshotter: NAME.to_owned(),
        key: "v".to_owned(),
        parent: "base".to_owned(),
        ..ViewSnapshotRequest::default()
    };
    assert_eq!(
        caller.0.view(view).await.unwrap().into_inner().mounts.len(),
        1
    );
    let usage = UsageRequest {
        snapshotter: NAME.to_owned(),
        key: "base".to_owned(),
    };
    let usage = caller.0.usage(usage).await.unwrap().into_inner();
    assert!(usage.inodes >= 2, "{usage:?}");

    for key in ["v", "b", "base"] {
        caller.remove(key).await.unwrap();
    }
    let cleanup = CleanupRequest {
        snapshotter: NAME.to_owned(),
    };
    caller.0.cleanup(cleanup).await.unwrap();
    assert!(caller.list(&[]).await.unwrap().is_empty());
}

#[tokio::test]
async fn errors_have_the_codes_that_containerd_knows_and_name_the_snapshot() {
    let (_daemon, mut caller) = daemon().await;
    caller.prepare("a", "", &[]).await.unwrap();
    caller.commit("base", "a").await.unwrap();
    caller.prepare("b", "base", &[]).await.unwrap();
    let expect = |result: Result<(), Status>, code: Code, named: &str| {
        let status = result.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(named), "{status}");
    };
    let missing = caller.stat("missing").await.map(drop);
    expect(missing, Code::NotFound, "missing");
    let twice = caller.prepare("b", "base", &[]).await.map(drop);
    expect(twice, Code::AlreadyExists, "\"b\"");
    let orphan = caller.prepare("c", "nowhere", &[]).await.map(drop);
    expect(orphan, Code::NotFound, "nowhere");
    let parent = caller.remove("base").await;
    expect(parent, Code::FailedPrecondition, "base");
    let filter = caller.list(&["name=="]).await.map(drop);
    expect(filter, Code::InvalidArgument, "name==");
}

#[tokio::test]
async fn labels_are_updated_and_found_by_filters_in_pages() {
    let (_daemon, mut caller) = daemon().await;
    for at in 0..101 {
        let key = format!("k{at}");
        caller.prepare(&key, "", &[("odd", "no")]).await.unwrap();
    }
    let pages = caller.list(&[]).await.unwrap();
    let lens: Vec<_> = pages.iter().map(Vec::len).collect();
    assert_eq!(lens, [100, 1]);
    let update = UpdateSnapshotRequest {
        snapshotter: NAME.to_owned(),
        info: Some(Info {
            name: "k1".to_owned(),
            labels: owned(&[("odd", "yes"), ("other", "x")]),
            ..Info::default()
        }),
        update_mask: Some(prost_types::FieldMask {
            paths: vec!["labels.odd".to_owned()],
        }),
    };
    let info = caller
        .0
        .update(update)
        .await
        .unwrap()
        .into_inner()
        .info
        .unwrap();
    assert_eq!(info.labels, owned(&[("odd", "yes")]));
    let found = caller.list(&["labels.odd==yes", "name==k7"]).await.unwrap();
    let names: Vec<_> = found.iter().flatten().map(|info| &*info.name).collect();
    assert_eq!(names, ["k1", "k7"]);
}

#[tokio::test]
async fn calls_are_counted_by_method_and_answer() {
    let (daemon, mut caller) = daemon().await;
    caller.prepare("a", "", &[]).await.unwrap();
    caller.stat("b").await.unwrap_err();
    let metrics = daemon.metrics().await;
    for line in [
        "hawker_snapshot_requests_total{method=\"Prepare\",code=\"ok\"} 1",
        "hawker_snapshot_requests_total{method=\"Stat\",code=\"not_found\"} 1",
        "hawker_layer_staged_total{outcome=\"staged\"} 0",
        "hawker_prepare_released_total{reason=\"gc\"} 0",
        "hawker_prepare_wait_seconds_count 0",
    ] {
        assert!(metrics.contains(line), "{line} not in\n{metrics}");
    }
}
