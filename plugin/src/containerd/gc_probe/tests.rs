use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use containerd_client::services::v1::snapshots as messages;
use futures::stream::{self, BoxStream};
use tempfile::TempDir;
use tokio::{net::UnixListener, sync::watch, time::Instant};
use tokio_util::task::AbortOnDropHandle;
use tonic::{Request, Response, Status, async_trait, transport::Server};

use super::{BLIND, GcProbe};
use crate::containerd::{
    api::{SnapshotsApi, SnapshotsServer},
    client::ContainerdClient,
    metrics::Release,
};

/// containerd's API, as far as it is asked. Everything but `Update` is unimplemented, which is an
/// answer.
pub(in crate::containerd) struct FakeContainerd {
    path: PathBuf,
    collecting: watch::Sender<bool>,
    unknown: watch::Sender<String>,
    questions: Arc<AtomicUsize>,
    _serving: AbortOnDropHandle<()>,
    _dir: TempDir,
}

impl FakeContainerd {
    pub(in crate::containerd) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let collecting = watch::Sender::new(false);
        let unknown = watch::Sender::new("unknown".to_owned());
        let questions = Arc::new(AtomicUsize::new(0));
        let locks = Locks {
            collecting: collecting.subscribe(),
            unknown: unknown.subscribe(),
            questions: Arc::clone(&questions),
        };
        let incoming = stream::unfold(listener, |listener| async {
            let accepted = listener.accept().await.map(|(stream, _)| stream);
            Some((accepted, listener))
        });
        let serving = tokio::spawn(async move {
            let server = Server::builder().add_service(SnapshotsServer::new(locks));
            server
                .serve_with_incoming(Box::pin(incoming))
                .await
                .unwrap();
        });
        Self {
            path,
            collecting,
            unknown,
            questions,
            _serving: AbortOnDropHandle::new(serving),
            _dir: dir,
        }
    }

    pub(in crate::containerd) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether a garbage collection has the lock or waits for it.
    pub(in crate::containerd) fn collect(&self, collecting: bool) {
        self.collecting.send_replace(collecting);
    }

    /// Which snapshotter it does not know; at first, `unknown`.
    fn forget(&self, snapshotter: &str) {
        self.unknown.send_replace(snapshotter.to_owned());
    }

    pub(in crate::containerd) fn questions(&self) -> usize {
        self.questions.load(Ordering::Relaxed)
    }
}

struct Locks {
    collecting: watch::Receiver<bool>,
    unknown: watch::Receiver<String>,
    questions: Arc<AtomicUsize>,
}

type Answer<T> = Result<Response<T>, Status>;

fn none<T>() -> Answer<T> {
    Err(Status::unimplemented("not here"))
}

#[async_trait]
impl SnapshotsApi for Locks {
    type ListStream = BoxStream<'static, Result<messages::ListSnapshotsResponse, Status>>;

    async fn update(
        &self,
        request: Request<messages::UpdateSnapshotRequest>,
    ) -> Answer<messages::UpdateSnapshotResponse> {
        self.questions.fetch_add(1, Ordering::Relaxed);
        if request.into_inner().snapshotter == *self.unknown.borrow() {
            return Err(Status::invalid_argument("snapshotter not loaded"));
        }
        let mut collecting = self.collecting.clone();
        collecting.wait_for(|collecting| !collecting).await.unwrap();
        Err(Status::invalid_argument("invalid argument"))
    }

    async fn prepare(
        &self,
        _: Request<messages::PrepareSnapshotRequest>,
    ) -> Answer<messages::PrepareSnapshotResponse> {
        none()
    }

    async fn view(
        &self,
        _: Request<messages::ViewSnapshotRequest>,
    ) -> Answer<messages::ViewSnapshotResponse> {
        none()
    }

    async fn mounts(
        &self,
        _: Request<messages::MountsRequest>,
    ) -> Answer<messages::MountsResponse> {
        none()
    }

    async fn commit(&self, _: Request<messages::CommitSnapshotRequest>) -> Answer<()> {
        none()
    }

    async fn remove(&self, _: Request<messages::RemoveSnapshotRequest>) -> Answer<()> {
        none()
    }

    async fn stat(
        &self,
        _: Request<messages::StatSnapshotRequest>,
    ) -> Answer<messages::StatSnapshotResponse> {
        none()
    }

    async fn list(&self, _: Request<messages::ListSnapshotsRequest>) -> Answer<Self::ListStream> {
        none()
    }

    async fn usage(&self, _: Request<messages::UsageRequest>) -> Answer<messages::UsageResponse> {
        none()
    }

    async fn cleanup(&self, _: Request<messages::CleanupRequest>) -> Answer<()> {
        none()
    }
}

#[tokio::test]
async fn collection_that_waits_is_seen_soon() {
    let containerd = FakeContainerd::start().await;
    let probe = GcProbe::new(ContainerdClient::new(containerd.path()));
    let quiet = tokio::time::timeout(Duration::from_millis(500), probe.released("hawker"));
    assert!(quiet.await.is_err());
    containerd.collect(true);
    let began = Instant::now();
    assert_eq!(probe.released("hawker").await, Release::Gc);
    // On a busy machine; a quiet one takes 100 to 200 ms.
    assert!(began.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn all_who_wait_ask_together_and_nobody_asks_when_nobody_waits() {
    let containerd = FakeContainerd::start().await;
    let probe = GcProbe::new(ContainerdClient::new(containerd.path()));
    let all = futures::future::join_all((0..50).map(|_| probe.released("hawker")));
    let waited = tokio::time::timeout(Duration::from_secs(1), all);
    assert!(waited.await.is_err());
    // One that was under way may still come.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let questions = containerd.questions();
    assert!((1..=50).contains(&questions), "{questions}");
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(containerd.questions(), questions);
}

#[tokio::test]
async fn containerd_that_cannot_be_asked_is_waited_for_only_shortly() {
    let probe = GcProbe::new(ContainerdClient::new(Path::new("/nowhere/c.sock")));
    let began = Instant::now();
    assert_eq!(probe.released("hawker").await, Release::Unreachable);
    assert!((BLIND..BLIND * 2).contains(&began.elapsed()));
}

#[tokio::test]
async fn containerd_that_does_not_know_us_tells_nothing() {
    let containerd = FakeContainerd::start().await;
    let probe = GcProbe::new(ContainerdClient::new(containerd.path()));
    assert_eq!(probe.released("unknown").await, Release::Unreachable);
}

#[tokio::test]
async fn only_the_first_waits_for_a_containerd_that_cannot_be_asked() {
    let containerd = FakeContainerd::start().await;
    let probe = GcProbe::new(ContainerdClient::new(containerd.path()));
    containerd.forget("late");
    assert_eq!(probe.released("late").await, Release::Unreachable);
    for _ in 0..3 {
        let began = Instant::now();
        assert_eq!(probe.released("late").await, Release::Unreachable);
        assert!(began.elapsed() < BLIND / 2);
    }
    let waits = |snapshotter| tokio::time::timeout(BLIND / 2, probe.released(snapshotter));
    assert!(waits("hawker").await.is_err(), "another one is asked for");

    containerd.forget("another");
    assert!(waits("late").await.is_err());
    containerd.forget("late");
    let began = Instant::now();
    assert_eq!(probe.released("late").await, Release::Unreachable);
    assert!(began.elapsed() >= BLIND);
}
