//! What the snapshotter adds to the start of a container: `Prepare` and `Mounts` through
//! containerd, and whole containers, with Hawker's snapshots and with overlayfs' by turns.

use std::{
    collections::HashMap,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use containerd_client::{
    services::v1::snapshots::{
        ListSnapshotsRequest, MountsRequest, PrepareSnapshotRequest, RemoveSnapshotRequest,
        snapshots_client::SnapshotsClient,
    },
    tonic::{Request, transport::Channel},
    with_namespace,
};
use serde::Serialize;

use crate::{
    cluster::{Client, Cluster, Containerd, Member},
    image::Image,
};

const ROUNDS: usize = 60;
const CONTAINERS: usize = 20;
const NAMESPACE: &str = "bench";

/// Medians in milliseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct StartCost {
    /// `Prepare` and `Mounts` of a container's snapshot, asked of containerd.
    pub(super) prepare_hawker: f64,
    pub(super) prepare_overlayfs: f64,
    /// `ctr run` of `true` from its start to its end.
    pub(super) run_hawker: f64,
    pub(super) run_overlayfs: f64,
}

/// Pulls the image into both snapshotters of one containerd, and measures both by turns.
pub(super) fn measure_starts(cluster: &Cluster, node: &Member, image: &Image) -> Result<StartCost> {
    let reference = cluster.registry.push(image)?;
    node.start_hawkerd()?;
    node.wait_until_healthy(Duration::from_secs(20))?;
    let containerd = node.start_containerd()?;
    let mut runs = Vec::new();
    for snapshotter in ["hawker", "overlayfs"] {
        let session = containerd.client(Client::Ctr).in_namespace(NAMESPACE);
        let session = session.with_snapshotter(snapshotter);
        session.pull(&reference)?;
        runs.push(session);
    }
    let mut containers = [Vec::new(), Vec::new()];
    for _ in 0..CONTAINERS {
        for (session, times) in runs.iter().zip(&mut containers) {
            let began = Instant::now();
            session.run(&reference, &["/bin/true"])?;
            times.push(began.elapsed());
        }
    }
    let [prepare_hawker, prepare_overlayfs] = prepare_by_turns(&containerd)?;
    let [run_hawker, run_overlayfs] = containers.map(median);
    Ok(StartCost {
        prepare_hawker,
        prepare_overlayfs,
        run_hawker,
        run_overlayfs,
    })
}

fn prepare_by_turns(containerd: &Containerd) -> Result<[f64; 2]> {
    let socket = containerd.host().path("/run/containerd/containerd.sock");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut snapshots = connect(socket).await?;
        let names = ["hawker", "overlayfs"];
        let mut uppermost = Vec::new();
        for name in names {
            uppermost.push(uppermost_of(&mut snapshots, name).await?);
        }
        let mut times = [Vec::new(), Vec::new()];
        for round in 0..ROUNDS {
            for ((name, parent), times) in names.iter().zip(&uppermost).zip(&mut times) {
                let key = format!("bench-{round}");
                let time = prepare(&mut snapshots, name, parent, &key).await?;
                times.push(time);
            }
        }
        Ok(times.map(median))
    })
}

async fn connect(socket: PathBuf) -> Result<SnapshotsClient<Channel>> {
    let channel = containerd_client::connect(&socket).await;
    let channel = channel.with_context(|| format!("cannot connect {}", socket.display()))?;
    Ok(SnapshotsClient::new(channel))
}

/// The image's snapshot: the committed one that is nobody's parent.
async fn uppermost_of(snapshots: &mut SnapshotsClient<Channel>, name: &str) -> Result<String> {
    let request = ListSnapshotsRequest {
        snapshotter: name.to_owned(),
        filters: Vec::new(),
    };
    let mut stream = snapshots.list(in_namespace(request)?).await?.into_inner();
    let mut all = Vec::new();
    while let Some(page) = stream.message().await? {
        all.extend(page.info);
    }
    let leaf = all.iter().find(|it| {
        let name = &it.name;
        name.starts_with("sha256:") && !all.iter().any(|other| other.parent == *name)
    });
    Ok(leaf
        .with_context(|| format!("{name} has no image"))?
        .name
        .clone())
}

/// One snapshot as a container's start makes it; removed again outside the measured time.
async fn prepare(
    snapshots: &mut SnapshotsClient<Channel>,
    name: &str,
    parent: &str,
    key: &str,
) -> Result<Duration> {
    let (snapshotter, key) = (name.to_owned(), key.to_owned());
    let began = Instant::now();
    let request = PrepareSnapshotRequest {
        snapshotter: snapshotter.clone(),
        key: key.clone(),
        parent: parent.to_owned(),
        // Or a collection takes it away at once.
        labels: HashMap::from([("containerd.io/gc.root".to_owned(), "now".to_owned())]),
    };
    snapshots.prepare(in_namespace(request)?).await?;
    let request = MountsRequest {
        snapshotter: snapshotter.clone(),
        key: key.clone(),
    };
    snapshots.mounts(in_namespace(request)?).await?;
    let time = began.elapsed();
    let request = RemoveSnapshotRequest { snapshotter, key };
    snapshots.remove(in_namespace(request)?).await?;
    Ok(time)
}

fn in_namespace<T>(request: T) -> Result<Request<T>> {
    Ok(with_namespace!(request, NAMESPACE))
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    let middle = times.get(times.len() / 2).copied().unwrap_or_default();
    middle.as_secs_f64() * 1e3
}

impl StartCost {
    pub(super) fn render(&self) -> String {
        let Self {
            prepare_hawker,
            prepare_overlayfs,
            run_hawker,
            run_overlayfs,
        } = self;
        format!(
            "Prepare and Mounts of a container: hawker {prepare_hawker:.2} ms, overlayfs \
             {prepare_overlayfs:.2} ms: {:+.2} ms\n\
             container from start to end: hawker {run_hawker:.1} ms, overlayfs \
             {run_overlayfs:.1} ms: {:+.1} ms\n",
            prepare_hawker - prepare_overlayfs,
            run_hawker - run_overlayfs,
        )
    }
}
