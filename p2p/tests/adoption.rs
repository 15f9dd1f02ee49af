//! Files that become blobs past the network, and what the network has of it.

#![allow(clippy::unwrap_used)] // a test's helpers may fail as its assertions do

mod support;

use std::{path::PathBuf, time::Duration};

use hawker_model::{Digest, HostId, OriginName, Role, TaskId};
use hawker_p2p::{Node, Otherwise, Pace, Recorder, Recording, Security, Share, Shared};
use hawker_scheduler::{Scheduler, Security as SchedulerSecurity, Settings};
use tempfile::TempDir;

use crate::support::{Cluster, Origin, content, fetch};

const MIB: usize = 1 << 20;
const IDLE: Share = Share {
    otherwise: Otherwise::Refuse,
    pace: Pace::Idle,
};

fn recording(data: &[u8]) -> Recording {
    let mut recorder = Recorder::new();
    data.chunks(100_000).for_each(|part| recorder.update(part));
    recorder.finish()
}

/// A file as a client of the content store leaves it.
fn ingest(dir: &TempDir, data: &[u8]) -> PathBuf {
    let path = dir.path().join(Digest::of(data).to_hex());
    std::fs::write(&path, data).unwrap();
    path
}

/// Waits a while for something to become true.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..1000 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not within 10 s: {what}");
}

async fn read(node: &Node, task: TaskId) -> Result<Vec<u8>, String> {
    use futures::StreamExt as _;
    let blob = node.open(task, None).await.map_err(|e| e.to_string())?;
    let mut read = Box::pin(blob.read(0..u64::MAX));
    let mut all = Vec::new();
    while let Some(bytes) = read.next().await {
        all.extend_from_slice(&bytes.map_err(|e| e.to_string())?);
    }
    Ok(all)
}

/// Two nodes that know each other through a scheduler only.
async fn pair(cluster: &mut Cluster) -> (Scheduler, Node, Node) {
    let Security::Tls(identity) = cluster.security("scheduler", Role::Scheduler) else {
        panic!("a cluster has TLS");
    };
    let mut settings = Settings::new(
        HostId::parse("scheduler").unwrap(),
        ([127, 0, 0, 1], 0).into(),
        SchedulerSecurity::Tls(identity),
    );
    settings.tracker.settle_time = Duration::from_millis(100);
    let scheduler = Scheduler::start(settings).await.unwrap();
    cluster.schedule(scheduler.address());
    let (one, other) = (cluster.node("one").await, cluster.node("other").await);
    for node in [&one, &other] {
        until("the scheduler is up", async || {
            node.status().await.unwrap().schedulers[0].connected
        })
        .await;
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    (scheduler, one, other)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_adopted_is_announced_and_served_with_a_list_that_others_believe() {
    let (mut cluster, dir) = (Cluster::new(), tempfile::tempdir().unwrap());
    let (_scheduler, one, other) = pair(&mut cluster).await;
    let data = content(1, 3 * MIB + 5);
    let task = TaskId::Blob(Digest::of(&data));
    let file = ingest(&dir, &data);
    let blob = one
        .adopt(recording(&data), file.clone(), true)
        .await
        .unwrap();
    assert!(blob.is_local() && !file.exists());
    let anyone = |_: &OriginName| true;
    assert!(
        !blob.is_held(0..1, &anyone),
        "nothing is known of an origin"
    );
    assert_eq!(read(&other, task).await.unwrap(), data);
    until("all of it is counted", async || {
        other.bytes().parent == data.len() as u64
    })
    .await;
    let copy = other.open(task, None).await.unwrap();
    assert!(!copy.is_held(0..1, &anyone));
    for node in [one, other] {
        node.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_removed_is_withdrawn() {
    let (mut cluster, dir) = (Cluster::new(), tempfile::tempdir().unwrap());
    let (_scheduler, one, other) = pair(&mut cluster).await;
    let data = content(2, MIB);
    let digest = Digest::of(&data);
    let task = TaskId::Blob(digest);
    let file = ingest(&dir, &data);
    let shared = one.adopt_from(digest, file.clone(), IDLE, false).await;
    assert_eq!(shared.unwrap(), Shared::Shared);
    let again = one.adopt_from(digest, file.clone(), IDLE, false).await;
    assert_eq!(again.unwrap(), Shared::Already);
    assert!(one.set_pinned(digest, true).await.unwrap());
    assert!(!one.remove(digest).await.unwrap(), "it is pinned");
    assert_eq!(read(&one, task).await.unwrap(), data);
    assert!(one.set_pinned(digest, false).await.unwrap());
    assert!(one.remove(digest).await.unwrap());
    assert!(!one.remove(digest).await.unwrap(), "it is gone");
    assert!(!one.set_pinned(digest, true).await.unwrap());
    assert!(one.find(task).await.unwrap().is_none() && file.exists());
    assert!(one.blobs().is_empty());
    read(&other, task).await.unwrap_err();
    // And back again.
    one.adopt_from(digest, file, IDLE, false).await.unwrap();
    until("it is announced again", async || {
        read(&other, task).await.is_ok_and(|read| read == data)
    })
    .await;
    for node in [one, other] {
        node.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_here_is_not_copied_again() {
    let (dir, Ok(other)) = (
        tempfile::tempdir().unwrap(),
        tempfile::tempdir_in("/dev/shm"),
    ) else {
        return;
    };
    let (cluster, data) = (Cluster::new(), content(7, MIB));
    let digest = Digest::of(&data);
    let node = cluster.node("alone").await;
    let blob = node.adopt(recording(&data), ingest(&dir, &data), false);
    drop(blob.await.unwrap());
    let copy = Share {
        otherwise: Otherwise::Copy,
        pace: Pace::Full,
    };
    let file = ingest(&other, &data);
    let shared = node.adopt_from(digest, file.clone(), copy, true).await;
    assert_eq!(shared.unwrap(), Shared::Already);
    assert!(node.blobs()[0].pinned);
    // What is not here is.
    let data = content(8, MIB);
    let file = ingest(&other, &data);
    let shared = node
        .adopt_from(Digest::of(&data), file.clone(), copy, true)
        .await;
    assert_eq!(shared.unwrap(), Shared::Copied);
    assert!(file.exists() && node.blobs().iter().all(|blob| blob.pinned));
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_is_adopted_while_it_is_fetched_ends_whole_for_its_readers() {
    let (cluster, origin) = (Cluster::new(), Origin::start().await);
    let dir = tempfile::tempdir().unwrap();
    let data = content(3, 8 * MIB);
    let (task, source) = origin.add(&data);
    origin.slow_down(Duration::from_millis(50));
    let node = cluster.node("alone").await;
    let reader = tokio::spawn({
        let node = node.clone();
        async move { fetch(&node, task, &source).await }
    });
    until("some pieces came", async || {
        node.blobs().first().is_some_and(|blob| blob.pieces > 4)
    })
    .await;
    let blob = node
        .adopt(recording(&data), ingest(&dir, &data), true)
        .await;
    blob.unwrap().complete().await.unwrap();
    let read = tokio::time::timeout(Duration::from_secs(3), reader).await;
    assert_eq!(read.expect("at once").unwrap().unwrap(), data);
    assert!(
        origin.bytes() < data.len() as u64 / 2,
        "the rest was not fetched"
    );
    assert!(node.blobs()[0].durable && node.blobs()[0].pinned);
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_blob_that_nobody_has_gets_it_when_it_is_adopted() {
    let mut cluster = Cluster::new();
    // Nobody else gives up before.
    cluster.swarm(|swarm| swarm.sign_of_life = Duration::from_secs(20));
    let (_scheduler, one, other) = pair(&mut cluster).await;
    let dir = tempfile::tempdir().unwrap();
    let data = content(4, MIB + 1);
    let task = TaskId::Blob(Digest::of(&data));
    let origin = Origin::start().await;
    let (_, source) = origin.add(&data);
    origin.slow_down(Duration::from_secs(20));
    let reader = tokio::spawn({
        let one = one.clone();
        async move { fetch(&one, task, &source).await }
    });
    until("it is looked for", async || {
        !one.status().await.unwrap().tasks.is_empty()
    })
    .await;
    one.adopt(recording(&data), ingest(&dir, &data), false)
        .await
        .unwrap();
    let read = tokio::time::timeout(Duration::from_secs(5), reader).await;
    assert_eq!(read.expect("at once").unwrap().unwrap(), data);
    for node in [one, other] {
        node.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_waits_for_is_not_removed() {
    let (cluster, origin) = (Cluster::new(), Origin::start().await);
    let data = content(5, 2 * MIB);
    let (task, source) = origin.add(&data);
    origin.slow_down(Duration::from_millis(20));
    let node = cluster.node("alone").await;
    let reader = tokio::spawn({
        let node = node.clone();
        async move { fetch(&node, task, &source).await }
    });
    until("some pieces came", async || {
        node.blobs().first().is_some_and(|blob| blob.pieces > 0)
    })
    .await;
    assert!(!node.remove(Digest::of(&data)).await.unwrap());
    assert_eq!(reader.await.unwrap().unwrap(), data);
    assert!(node.remove(Digest::of(&data)).await.unwrap());
    assert!(node.blobs().is_empty());
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_file_that_is_changed_is_neither_served_nor_spoils_later_reads() {
    let (mut cluster, dir) = (Cluster::new(), tempfile::tempdir().unwrap());
    let (_scheduler, one, other) = pair(&mut cluster).await;
    let data = content(6, 2 * MIB);
    let digest = Digest::of(&data);
    let task = TaskId::Blob(digest);
    let file = ingest(&dir, &data);
    one.adopt_from(digest, file.clone(), IDLE, false)
        .await
        .unwrap();
    // In use when it changes.
    let open = one.open(task, None).await.unwrap();
    std::fs::write(&file, vec![0; data.len()]).unwrap();
    let later = std::time::SystemTime::now() + Duration::from_secs(1);
    std::fs::File::open(&file)
        .unwrap()
        .set_modified(later)
        .unwrap();
    if one.find(task).await.unwrap().is_some() && read(&one, task).await.is_ok() {
        // Shared extents: the change is not ours.
        assert_eq!(read(&one, task).await.unwrap(), data);
        return;
    }
    read(&other, task).await.unwrap_err();
    drop(open);
    let origin = Origin::start().await;
    let (_, source) = origin.add(&data);
    assert_eq!(fetch(&one, task, &source).await.unwrap(), data);
    assert_eq!(
        std::fs::read(&file).unwrap(),
        vec![0; data.len()],
        "theirs is left alone"
    );
    for node in [one, other] {
        node.shutdown().await;
    }
}
