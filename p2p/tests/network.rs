//! Nodes and seeds of one process over real sockets, TLS, disks and an HTTP origin.

#![allow(clippy::unwrap_used)] // a test's helpers may fail as its assertions do

mod support;

use std::{path::Path, time::Duration};

use futures::StreamExt;
use hawker_model::{Digest, OriginName, Role, TaskId};
use hawker_p2p::Node;

use crate::support::{Cluster, Origin, content, fetch};

const MIB: usize = 1 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_node_alone_fetches_from_the_origin_once() {
    let (cluster, origin) = (Cluster::new(), Origin::start().await);
    let data = content(1, 3 * MIB + 17);
    let (task, source) = origin.add(&data);
    let node = cluster.node("alone").await;
    assert_eq!(fetch(&node, task, &source).await.unwrap(), data);
    assert_eq!(fetch(&node, task, &source).await.unwrap(), data);
    assert_eq!((origin.gets(), origin.bytes()), (1, data.len() as u64));
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_with_a_seed_take_each_byte_from_the_origin_once() {
    let (mut cluster, origin) = (Cluster::new(), Origin::start().await);
    let data = content(2, 5 * MIB + 1);
    let (task, source) = origin.add(&data);
    let seed = cluster.seed("seed").await;
    let nodes = [
        cluster.node("n1").await,
        cluster.node("n2").await,
        cluster.node("n3").await,
    ];
    let pulls = nodes.iter().map(|node| fetch(node, task, &source));
    for pulled in futures::future::join_all(pulls).await {
        assert_eq!(pulled.unwrap(), data);
    }
    assert_eq!(origin.bytes(), data.len() as u64);
    let received: u64 = nodes
        .iter()
        .map(|node| node.bytes().seed + node.bytes().parent)
        .sum();
    assert!(received >= 3 * data.len() as u64);
    for node in nodes.iter().chain([&seed]) {
        node.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_gets_the_bytes_knows_at_which_origin_they_were_read() {
    let (mut cluster, origin) = (Cluster::new(), Origin::start().await);
    let data = content(20, 3 * MIB + 1);
    let (task, source) = origin.add(&data);
    let giver = OriginName::of_url(&source.url).unwrap();
    let stranger = OriginName::parse("https://stranger.example").unwrap();
    let seed = cluster.seed("seed").await;
    let node = cluster.node("relay").await;
    cluster.know("relay", &node);
    assert_eq!(fetch(&node, task, &source).await.unwrap(), data);
    // The last gets it from the relay alone, and names no origin.
    seed.shutdown().await;
    let last = cluster.node("last").await;
    let blob = last.open(task, None).await.unwrap();
    blob.complete().await.unwrap();
    assert_eq!(origin.gets(), 1);
    for host in [&node, &last] {
        let blob = host.open(task, None).await.unwrap();
        assert!(blob.is_held(0..u64::MAX, &|name| *name == giver));
        assert!(!blob.is_held(0..u64::MAX, &|name| *name == stranger));
        assert!(!blob.is_held(5..6, &|name| *name == stranger));
    }
    blob.note_holder(stranger.clone());
    assert!(blob.is_held(0..u64::MAX, &|name| *name == stranger));
    drop(blob);
    last.shutdown().await;
    drop(last);
    let last = cluster.node("last").await;
    let blob = last.open(task, None).await.unwrap();
    assert_eq!(blob.holders(), [stranger]);
    assert!(blob.is_held(0..u64::MAX, &|name| *name == giver));
    for host in [&node, &last] {
        host.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_stored_is_not_fetched_again_after_a_restart() {
    let (cluster, origin) = (Cluster::new(), Origin::start().await);
    let data = content(3, 4 * MIB);
    let (task, source) = origin.add(&data);
    origin.slow_down(Duration::from_millis(10));
    let node = cluster.node("again").await;
    let blob = node.open(task, Some(source.clone())).await.unwrap();
    while blob.progress().0 < 20 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    node.shutdown().await;
    drop((blob, node));
    let before = origin.bytes();
    let node = cluster.node("again").await;
    assert_eq!(fetch(&node, task, &source).await.unwrap(), data);
    let again = origin.bytes() - before;
    assert!(
        again <= data.len() as u64 - 20 * (64 << 10),
        "fetched {again} bytes again"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_of_the_origin_are_an_error_and_are_not_kept() {
    let (cluster, origin) = (Cluster::new(), Origin::start().await);
    let data = content(4, MIB);
    let (task, source) = origin.add(&data);
    origin.falsify(&task, content(5, MIB));
    let node = cluster.node("cheated").await;
    let error = fetch(&node, task, &source).await.unwrap_err();
    assert!(error.contains("digest"), "{error}");
    origin.falsify(&task, data.clone());
    assert_eq!(fetch(&node, task, &source).await.unwrap(), data);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seed_that_is_gone_is_no_obstacle() {
    let (mut cluster, origin) = (Cluster::new(), Origin::start().await);
    let data = content(6, MIB);
    let (task, source) = origin.add(&data);
    let seed = cluster.seed("gone").await;
    let node = cluster.node("n").await;
    seed.shutdown().await;
    drop(seed);
    assert_eq!(fetch(&node, task, &source).await.unwrap(), data);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_s_credential_reaches_the_origin_through_the_seed() {
    let (mut cluster, origin) = (Cluster::new(), Origin::start().await);
    let data = content(7, 2 * MIB);
    let (task, mut source) = origin.add(&data);
    origin.require("Basic c2VjcmV0");
    let _seed = cluster.seed("seed").await;
    let (allowed, denied) = (cluster.node("allowed").await, cluster.node("denied").await);
    let error = fetch(&denied, task, &source).await.unwrap_err();
    assert!(error.contains("denied"), "{error}");
    source.authorization = Some(hawker_swarm::Secret::new("Basic c2VjcmV0"));
    assert_eq!(fetch(&allowed, task, &source).await.unwrap(), data);
}

#[tokio::test(flavor = "multi_thread")]
async fn empty_and_tiny_blobs_are_blobs() {
    let (mut cluster, origin) = (Cluster::new(), Origin::start().await);
    let _seed = cluster.seed("seed").await;
    let node = cluster.node("n").await;
    for len in [0, 1, 63, 64, 65_536] {
        let data = content(len as u64, len);
        let (task, source) = origin.add(&data);
        assert_eq!(
            fetch(&node, task, &source).await.unwrap(),
            data,
            "{len} bytes"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_in_the_middle_gets_its_bytes_before_the_end_is_there() {
    let (cluster, origin) = (Cluster::new(), Origin::start().await);
    let data = content(8, 4 * MIB);
    let (task, source) = origin.add(&data);
    origin.slow_down(Duration::from_millis(20));
    let node = cluster.node("n").await;
    let blob = node.open(task, Some(source)).await.unwrap();
    let mut read = Box::pin(blob.read(100_000..100_010));
    let bytes = read.next().await.unwrap().unwrap();
    assert_eq!(bytes, data.slice(100_000..100_010));
    assert!(blob.progress().0 < 60);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_task_without_a_source_is_an_error_soon() {
    let cluster = Cluster::new();
    let mut settings = cluster.settings("n", Role::Node);
    settings.swarm.give_up = Duration::from_millis(300);
    let node = Node::start(settings).await.unwrap();
    let task = TaskId::Blob(Digest::of(b"nowhere"));
    let blob = node.open(task, None).await.unwrap();
    assert!(blob.geometry().await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_waits_gets_an_error_when_the_node_stops() {
    let (cluster, origin) = (Cluster::new(), Origin::start().await);
    let (task, source) = origin.add(&content(9, MIB));
    origin.slow_down(Duration::from_secs(60));
    let node = cluster.node("n").await;
    let blob = node.open(task, Some(source)).await.unwrap();
    let waiting = tokio::spawn(async move { blob.complete().await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    node.shutdown().await;
    let ended = tokio::time::timeout(Duration::from_secs(5), waiting).await;
    assert!(ended.expect("it waits no longer").unwrap().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_that_hung_up_while_idle_connect_again_for_the_next_blob() {
    let (mut cluster, origin) = (Cluster::new(), Origin::start().await);
    cluster.swarm(|swarm| swarm.idle_connection = Duration::from_millis(200));
    let _seed = cluster.seed("seed").await;
    let node = cluster.node("n").await;
    let mut expected = 0;
    for round in 0..3 {
        let data = content(10 + round, MIB);
        let (task, source) = origin.add(&data);
        assert_eq!(fetch(&node, task, &source).await.unwrap(), data);
        expected += data.len() as u64;
        assert_eq!(
            node.bytes().origin,
            0,
            "round {round} went through the seed"
        );
        tokio::time::sleep(Duration::from_millis(900)).await;
    }
    assert_eq!(origin.bytes(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_is_whole_for_the_network_too_as_soon_as_its_reader_has_it() {
    let (mut cluster, origin) = (Cluster::new(), Origin::start().await);
    let first = cluster.node("first").await;
    cluster.know("first", &first);
    let second = cluster.node("second").await;
    let mut expected = 0;
    for round in 0..20 {
        let data = content(40 + round, 5 * 65_536 + 3);
        let (task, source) = origin.add(&data);
        assert_eq!(fetch(&first, task, &source).await.unwrap(), data);
        assert_eq!(fetch(&first, task, &source).await.unwrap(), data);
        expected += data.len() as u64;
        let blob = second.open(task, None).await.unwrap();
        let whole = tokio::time::timeout(Duration::from_secs(8), blob.complete()).await;
        whole.expect("in time").unwrap();
    }
    assert_eq!(origin.bytes(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_evicted_blob_that_is_read_again_at_once_comes_back() {
    let (cluster, origin) = (Cluster::new(), Origin::start().await);
    let mut settings = cluster.settings("small", Role::Node);
    settings.store.quota_bytes = Some(3 * MIB as u64);
    let node = Node::start(settings).await.unwrap();
    let blobs: Vec<_> = (0..3).map(|seed| content(60 + seed, 2 * MIB)).collect();
    // Checkpoints come every two seconds: some of them between an eviction and the next fetch.
    for round in 0..12 {
        let data = &blobs[round % 3];
        let (task, source) = origin.add(data);
        origin.slow_down(Duration::from_millis(8));
        let pulled = async {
            loop {
                // While the blob before still has its readers' entry, there is no room.
                match fetch(&node, task, &source).await {
                    Ok(bytes) => break bytes,
                    Err(error) if error.contains("quota") => {
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        };
        let pulled = tokio::time::timeout(Duration::from_secs(20), pulled).await;
        assert_eq!(&pulled.expect("no reader waits for ever"), data);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_the_disk_loses_under_a_reader_are_fetched_again() {
    let (cluster, origin) = (Cluster::new(), Origin::start().await);
    let settings = cluster.settings("n", Role::Node);
    let store = settings.store_dir.clone();
    let node = Node::start(settings).await.unwrap();
    let data = content(90, 3 * MIB);
    let (task, source) = origin.add(&data);
    assert_eq!(fetch(&node, task, &source).await.unwrap(), data);
    let blob = node.open(task, Some(source.clone())).await.unwrap();
    assert!(blob.is_local());
    let mut read = Box::pin(blob.read(0..u64::MAX));
    let mut got = read.next().await.unwrap().unwrap().to_vec();
    lose_all_but_a_mib(&store, &task);
    while let Some(bytes) = read.next().await {
        got.extend_from_slice(&bytes.unwrap());
    }
    assert_eq!(got, data);
    blob.complete().await.unwrap();
    let status = node.status().await.unwrap();
    assert!(status.store.room.lost_pieces > 0);
    assert_eq!(status.store.complete, 1);
    let expected = (data.len() + 2 * MIB) as u64;
    assert_eq!(node.bytes().origin, expected, "only what was lost");
}

/// As a disk does that no longer gives back what lies behind the first MiB.
fn lose_all_but_a_mib(store: &Path, task: &TaskId) {
    let hex = task.to_hex();
    let file = store.join("blobs/sha256").join(&hex[..2]).join(&hex);
    let file = std::fs::File::options().write(true).open(file).unwrap();
    file.set_len(MIB as u64).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_under_way_goes_on_at_its_origin_after_the_disk_lost_some_of_it() {
    let (cluster, origin) = (Cluster::new(), Origin::start().await);
    let settings = cluster.settings("n", Role::Node);
    let store = settings.store_dir.clone();
    let node = Node::start(settings).await.unwrap();
    let data = content(92, 6 * MIB);
    let (task, source) = origin.add(&data);
    origin.slow_down(Duration::from_millis(10));
    let blob = node.open(task, Some(source)).await.unwrap();
    while blob.progress().0 < 48 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // The origin holds back the rest until its bytes are asked for again.
    origin.slow_down(Duration::from_secs(60));
    tokio::time::sleep(Duration::from_millis(100)).await;
    lose_all_but_a_mib(&store, &task);
    origin.slow_down(Duration::ZERO);
    let mut read = Box::pin(blob.read(0..u64::MAX));
    let mut got = Vec::new();
    while let Some(bytes) = read.next().await {
        got.extend_from_slice(&bytes.unwrap());
    }
    assert_eq!(got, data);
    assert!(node.status().await.unwrap().store.room.lost_pieces > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_becomes_whole_while_it_is_read_is_mended_by_its_readers_origin() {
    let (cluster, origin) = (Cluster::new(), Origin::start().await);
    let settings = cluster.settings("n", Role::Node);
    let store = settings.store_dir.clone();
    let node = Node::start(settings).await.unwrap();
    let data = content(93, 3 * MIB);
    let (task, source) = origin.add(&data);
    let blob = node.open(task, Some(source)).await.unwrap();
    blob.complete().await.unwrap();
    assert!(!blob.is_local());
    lose_all_but_a_mib(&store, &task);
    let mut read = Box::pin(blob.read(0..u64::MAX));
    let mut got = Vec::new();
    while let Some(bytes) = read.next().await {
        got.extend_from_slice(&bytes.unwrap());
    }
    assert_eq!(got, data);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_told_of_a_wrong_piece_looks_at_its_disk_and_no_longer_claims_it() {
    let (mut cluster, origin) = (Cluster::new(), Origin::start().await);
    let seed = cluster.seed("seed").await;
    let data = content(91, 2 * MIB);
    let (task, source) = origin.add(&data);
    assert_eq!(fetch(&seed, task, &source).await.unwrap(), data);
    let (hex, store) = (
        task.to_hex(),
        cluster.settings("seed", Role::Seed).store_dir,
    );
    let file = store.join("blobs/sha256").join(&hex[..2]).join(&hex);
    let file = std::fs::File::options().write(true).open(file).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"rot", MIB as u64).unwrap();
    let node = cluster.node("n").await;
    let fetched = tokio::time::timeout(Duration::from_secs(60), fetch(&node, task, &source)).await;
    assert_eq!(fetched.expect("in time").unwrap(), data);
    let mut lost = 0;
    for _ in 0..100 {
        lost = seed.room().lost_pieces;
        if lost > 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(lost, 1, "the seed has found its rotten piece");
    // Its own next reader has it mended.
    assert_eq!(fetch(&seed, task, &source).await.unwrap(), data);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_that_is_given_up_leaves_no_reader() {
    let (cluster, origin) = (Cluster::new(), Origin::start().await);
    origin.slow_down(Duration::from_millis(50));
    let node = cluster.node("n").await;
    for seed in 0..50 {
        let (task, source) = origin.add(&content(80 + seed, MIB));
        let mut open = Box::pin(node.open(task, Some(source)));
        for _ in 0..seed % 7 {
            if futures::FutureExt::now_or_never(&mut open).is_some() {
                break;
            }
            tokio::time::sleep(Duration::from_micros(seed * 40)).await;
        }
    }
    let mut readers = usize::MAX;
    for _ in 0..50 {
        let status = node.status().await.unwrap();
        readers = status.tasks.iter().map(|task| task.readers).sum();
        if readers == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(readers, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_counts_what_each_task_sent() {
    let (mut cluster, origin) = (Cluster::new(), Origin::start().await);
    let data = content(130, MIB);
    let (task, source) = origin.add(&data);
    let seed = cluster.seed("seed").await;
    let nodes = [cluster.node("n1").await, cluster.node("n2").await];
    let pulls = nodes.iter().map(|node| fetch(node, task, &source));
    for pulled in futures::future::join_all(pulls).await {
        assert_eq!(pulled.unwrap(), data);
    }
    let mut sent = 0;
    for node in nodes.iter().chain([&seed]) {
        let status = node.status().await.unwrap();
        sent += status.tasks.iter().map(|task| task.bytes.sent).sum::<u64>();
    }
    assert!(sent >= data.len() as u64, "{sent}");
}
