//! Real directories, as containerd fills and empties them.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use hawker_config::NodeConfig;
use hawker_model::{Digest, Role, TaskId};
use hawker_p2p::{Node, Owner, Recorder};
use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::{
    Ended, Sharing, SharingMetrics,
    metrics::Change,
    root::{Home, Root},
};
use crate::settings::node_settings;

/// A node, and a directory of blobs that is containerd's.
struct Bed {
    dir: TempDir,
    node: Node,
    metrics: SharingMetrics,
}

impl Bed {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("store");
        let text = format!("store.dir = {store:?}\n");
        let config = NodeConfig::parse(&text, Path::new("test.toml"), Some(Role::Node)).unwrap();
        let node = Node::start(node_settings(&config).unwrap()).await.unwrap();
        fs::create_dir_all(dir.path().join("content/blobs/sha256")).unwrap();
        fs::create_dir(dir.path().join("content/ingest")).unwrap();
        let metrics = SharingMetrics::default();
        Self { dir, node, metrics }
    }

    fn blobs(&self) -> PathBuf {
        self.dir.path().join("content/blobs/sha256")
    }

    /// containerd commits a blob: renamed when it is whole, read-only.
    fn commit(&self, data: &[u8], digest: Digest) -> PathBuf {
        let ingest = self.dir.path().join("content/ingest/data");
        fs::write(&ingest, data).unwrap();
        fs::set_permissions(&ingest, Permissions::from_mode(0o444)).unwrap();
        let path = self.blobs().join(digest.to_hex());
        fs::rename(ingest, &path).unwrap();
        path
    }

    fn share(&self) -> JoinHandle<Ended> {
        self.share_with(Root::Saying(Home::Unknown("it is not asked".to_owned())))
    }

    fn share_with(&self, root: Root) -> JoinHandle<Ended> {
        let mut sharing = Sharing::new(
            self.node.clone(),
            Path::new("/nowhere/containerd.sock"),
            self.metrics.clone(),
        );
        sharing.settle = Duration::from_millis(50);
        sharing.root = root;
        let dir = self.blobs();
        tokio::spawn(async move { sharing.share(&dir).await })
    }

    fn owner(&self, digest: Digest) -> Option<Owner> {
        let blob = self.node.look_up(&TaskId::Blob(digest))?;
        blob.complete.then_some(blob.owner)
    }

    async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        for _ in 0..2000 {
            if holds(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("not within 20 s: {what}");
    }

    /// The node has a copy of its own.
    async fn own(&self, data: &[u8]) -> Digest {
        let file = self.dir.path().join("own");
        fs::write(&file, data).unwrap();
        let mut recorder = Recorder::new();
        recorder.update(data);
        let recording = recorder.finish();
        let digest = recording.digest();
        self.node.adopt(recording, file, false).await.unwrap();
        digest
    }

    fn store_path(&self, digest: Digest) -> PathBuf {
        let hex = digest.to_hex();
        let shard = self.dir.path().join("store/blobs/sha256").join(&hex[..2]);
        shard.join(hex)
    }
}

fn data(seed: u8) -> Vec<u8> {
    (0..300_000u32)
        .map(|i| (i / 7) as u8 ^ i as u8 ^ seed)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_containerd_has_the_node_has_and_gives_up_with_it() {
    let bed = Bed::start().await;
    let (early, late) = (data(1), data(2));
    let [early_digest, late_digest] = [&early, &late].map(|data| Digest::of(data));
    let early_file = bed.commit(&early, early_digest);
    let sharing = bed.share();
    bed.until("an image from before", |bed| {
        bed.owner(early_digest)
            .is_some_and(|owner| owner != Owner::Us)
    })
    .await;
    let late_file = bed.commit(&late, late_digest);
    bed.until("one that was pulled now", |bed| {
        bed.owner(late_digest).is_some()
    })
    .await;
    if bed.owner(late_digest) == Some(Owner::Other) {
        let ours = fs::metadata(bed.store_path(late_digest)).unwrap();
        assert_eq!(ours.ino(), fs::metadata(&late_file).unwrap().ino());
    }
    fs::remove_file(&early_file).unwrap();
    bed.until("it went with containerd's", |bed| {
        bed.owner(early_digest).is_none()
    })
    .await;
    assert!(!bed.store_path(early_digest).exists());
    bed.until("it is counted", |bed| {
        bed.metrics.counted(Change::GivenUp) == 1
    })
    .await;
    assert!(bed.owner(late_digest).is_some());
    assert_eq!(bed.metrics.counted(Change::Shared), 2);
    sharing.abort();
    bed.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_s_own_copy_makes_way() {
    let bed = Bed::start().await;
    let data = data(3);
    let digest = bed.own(&data).await;
    assert_eq!(bed.owner(digest), Some(Owner::Us));
    let sharing = bed.share();
    let file = bed.commit(&data, digest);
    bed.until("there is one copy", |bed| {
        bed.owner(digest) != Some(Owner::Us)
    })
    .await;
    if bed.owner(digest) == Some(Owner::Other) {
        assert_eq!(fs::metadata(&file).unwrap().nlink(), 2);
    }
    let blob = bed.node.find(TaskId::Blob(digest)).await.unwrap().unwrap();
    blob.complete().await.unwrap();
    sharing.abort();
    bed.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pinned_stays_and_what_is_no_blob_never_comes() {
    let bed = Bed::start().await;
    let data = data(4);
    let (digest, wrong) = (Digest::of(&data), Digest::of(b"other"));
    let file = bed.commit(&data, digest);
    bed.commit(&data, wrong);
    let sharing = bed.share();
    bed.until("both were looked at", |bed| {
        bed.owner(digest).is_some() && bed.metrics.counted(Change::Failed) == 1
    })
    .await;
    assert_eq!(bed.owner(wrong), None);
    bed.node.set_pinned(digest, true).await.unwrap();
    fs::remove_file(&file).unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(bed.owner(digest).is_some());
    sharing.abort();
    bed.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_went_while_nobody_watched_is_found_missing() {
    let bed = Bed::start().await;
    let data = data(5);
    let digest = Digest::of(&data);
    let file = bed.commit(&data, digest);
    let sharing = bed.share();
    bed.until("it is shared", |bed| bed.owner(digest).is_some())
        .await;
    sharing.abort();
    _ = sharing.await;
    fs::remove_file(&file).unwrap();
    let sharing = bed.share();
    bed.until("it is given up", |bed| bed.owner(digest).is_none())
        .await;
    // A directory that goes is looked for again.
    fs::remove_dir_all(bed.dir.path().join("content")).unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(10), sharing).await;
    let ended = ended.unwrap().unwrap();
    assert!(
        matches!(ended, Ended::Moved | Ended::Watch { .. }),
        "{ended}"
    );
    bed.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sharing_ends_where_containerd_keeps_no_content_or_keeps_it_elsewhere() {
    let bed = Bed::start().await;
    for home in [Home::None, Home::Dir("/elsewhere".into())] {
        let sharing = bed.share_with(Root::Saying(home));
        let ended = tokio::time::timeout(Duration::from_secs(10), sharing).await;
        assert!(matches!(ended.unwrap().unwrap(), Ended::Moved));
    }
    let stays = bed.share_with(Root::Saying(Home::Dir(bed.blobs())));
    let data = data(6);
    let digest = Digest::of(&data);
    bed.commit(&data, digest);
    bed.until("it is shared", |bed| bed.owner(digest).is_some())
        .await;
    stays.abort();
    bed.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pinned_copy_is_not_exchanged_for_a_file_that_can_only_be_read_in_place() {
    let bed = Bed::start().await;
    let Ok(other) = tempfile::tempdir_in("/dev/shm") else {
        return;
    };
    let data = data(7);
    let digest = bed.own(&data).await;
    bed.node.set_pinned(digest, true).await.unwrap();
    fs::write(other.path().join(digest.to_hex()), &data).unwrap();
    let root = Root::Saying(Home::Dir(other.path().to_owned()));
    let mut sharing = Sharing::new(bed.node.clone(), Path::new("/none"), bed.metrics.clone());
    (sharing.settle, sharing.root) = (Duration::from_millis(50), root);
    let dir = other.path().to_owned();
    let sharing = tokio::spawn(async move { sharing.share(&dir).await });
    bed.until("it was looked at", |bed| {
        bed.metrics.counted(Change::Shared) == 1
    })
    .await;
    assert_eq!(bed.owner(digest), Some(Owner::Us));
    sharing.abort();
    drop(other);
    let blob = bed.node.find(TaskId::Blob(digest)).await.unwrap().unwrap();
    blob.complete().await.unwrap();
    bed.node.shutdown().await;
}
