//! What snapshots take.

use std::os::unix::fs::MetadataExt;

use super::*;

fn blocks(path: &Path) -> u64 {
    fs::symlink_metadata(path).unwrap().blocks() * 512
}

#[test]
fn committed_snapshots_are_measured_once_with_every_inode_once() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = open(&dir);
    snapshots.prepare("a", "", plain()).unwrap();
    let root = files(&snapshots, "a");
    fs::create_dir(root.join("dir")).unwrap();
    fs::write(root.join("dir/file"), vec![1; 100_000]).unwrap();
    fs::hard_link(root.join("dir/file"), root.join("same")).unwrap();
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    sparse.set_len(1 << 30).unwrap();
    let size = blocks(&root) + blocks(&root.join("dir")) + blocks(&root.join("same"));
    snapshots.commit("one", "a", plain()).unwrap();
    let usage = snapshots.usage("one").unwrap();
    assert_eq!(usage, Usage { size, inodes: 4 });
    // Not measured again.
    fs::write(files(&snapshots, "one").join("later"), vec![1; 100_000]).unwrap();
    assert_eq!(snapshots.usage("one").unwrap(), usage);
}

#[test]
fn what_was_measured_or_not_before_a_restart_is_known_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = open(&dir);
    committed(&snapshots, "one", "");
    snapshots.prepare("active", "one", plain()).unwrap();
    drop(snapshots);
    let snapshots = open(&dir);
    assert_eq!(snapshots.usage("one").unwrap().inodes, 2);
    assert_eq!(snapshots.usage("active").unwrap().inodes, 1);
    // Durable with the next change.
    snapshots.prepare("other", "", plain()).unwrap();
    drop(snapshots);
    let snapshots = open(&dir);
    let row = snapshots.inner.core.graph().row("one").unwrap().clone();
    assert_eq!(row.usage.unwrap().inodes, 2);
}

#[test]
fn an_active_snapshot_is_measured_again_some_time_after_it_was_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let config = SnapshotsConfig {
        usage_age: Duration::from_millis(20),
        ..config()
    };
    let snapshots = Snapshots::open(&store(&dir), config).unwrap();
    snapshots.prepare("a", "", plain()).unwrap();
    assert_eq!(snapshots.usage("a").unwrap().inodes, 1);
    fs::write(files(&snapshots, "a").join("file"), "x").unwrap();
    eventually("the file counts", || {
        snapshots.usage("a").unwrap().inodes == 2
    });
    snapshots.view("v", "", plain()).unwrap();
    assert_eq!(snapshots.usage("v").unwrap(), Usage::default());
}

#[test]
fn asking_does_not_wait_for_a_walk() {
    let dir = tempfile::tempdir().unwrap();
    let config = SnapshotsConfig {
        usage_age: Duration::ZERO,
        ..config()
    };
    let snapshots = Snapshots::open(&store(&dir), config).unwrap();
    snapshots.prepare("a", "", plain()).unwrap();
    let root = files(&snapshots, "a");
    for number in 0..3_000 {
        fs::write(root.join(number.to_string()), "").unwrap();
    }
    let start = Instant::now();
    for _ in 0..1_000 {
        snapshots.usage("a").unwrap();
    }
    assert!(
        start.elapsed() < Duration::from_secs(1),
        "{:?}",
        start.elapsed()
    );
}
