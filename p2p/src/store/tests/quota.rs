//! Who goes when the store is full.

use super::*;
use crate::store::{BlobError, CreateError};

const LEN: usize = 100_000;

fn whole(store: &Store, seed: u8) -> Content {
    let content = Content::new(seed, LEN);
    content.write(store, 0..content.count());
    content
}

fn tasks(store: &Store) -> Vec<TaskId> {
    store.blobs().iter().map(|blob| blob.task).collect()
}

#[test]
fn the_least_recently_used_blob_goes_first() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_with_quota(dir.path(), 3 * LEN as u64);
    let [a, b, c] = [1, 2, 3].map(|seed| whole(&store, seed));
    store.find(&a.task).unwrap().touch();
    store.find(&b.task).unwrap().read_at(0, 1).unwrap();
    let d = whole(&store, 4);
    assert_eq!(store.take_evicted(), [c.task]);
    let e = whole(&store, 5);
    assert_eq!(store.take_evicted(), [a.task]);
    assert!(store.take_evicted().is_empty());
    store.close().unwrap();
    drop(store);

    // The order of use is known to the next process too, and so is a smaller quota.
    let store = open_with_quota(dir.path(), 2 * LEN as u64);
    let f = whole(&store, 6);
    assert_eq!(store.take_evicted(), [b.task, d.task]);
    let mut left = [e.task, f.task];
    left.sort();
    assert_eq!(tasks(&store), left);
    let files = std::fs::read_dir(dir.path().join("blobs/sha256")).unwrap();
    let files = files.flat_map(|shard| std::fs::read_dir(shard.unwrap().path()).unwrap());
    assert_eq!(files.count(), 2);
}

#[test]
fn what_is_pinned_or_in_use_stays() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_with_quota(dir.path(), 3 * LEN as u64);
    let [a, b, c] = [1, 2, 3].map(|seed| whole(&store, seed));
    store.set_pinned(&a.task, true).unwrap();
    let pin = store.pin(&b.task).unwrap();
    let user = store.find(&c.task).unwrap();
    let new = Content::new(4, LEN);
    let error = store.create(new.task, new.geometry).unwrap_err();
    assert!(
        matches!(error, CreateError::QuotaHeld { held: 300_000, .. }),
        "{error}"
    );
    assert!(store.take_evicted().is_empty());
    assert_eq!(pin.blob().task(), b.task);
    drop((pin, user));
    whole(&store, 4);
    whole(&store, 5);
    assert_eq!(store.take_evicted(), [b.task, c.task]);
    drop(store);

    let store = open_with_quota(dir.path(), LEN as u64);
    let error = store.create(b.task, b.geometry).unwrap_err();
    assert!(
        matches!(error, CreateError::QuotaHeld { held: 100_000, .. }),
        "{error}"
    );
    store.set_pinned(&a.task, false).unwrap();
    store.create(b.task, b.geometry).unwrap();
    assert!(matches!(
        store.set_pinned(&a.task, true),
        Err(BlobError::Unknown(_))
    ));
}

#[test]
fn nothing_is_evicted_for_a_blob_that_cannot_fit() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_with_quota(dir.path(), 2 * LEN as u64);
    let [a, b] = [1, 2].map(|seed| whole(&store, seed));
    let large = Content::new(3, 2 * LEN + 1);
    let error = store.create(large.task, large.geometry).unwrap_err();
    assert!(
        matches!(error, CreateError::LargerThanQuota { quota: 200_000, .. }),
        "{error}"
    );
    let pin = store.pin(&a.task).unwrap();
    let large = Content::new(3, LEN + 1);
    let error = store.create(large.task, large.geometry).unwrap_err();
    assert!(
        matches!(error, CreateError::QuotaHeld { held: 100_000, .. }),
        "{error}"
    );
    assert_eq!(store.blobs().len(), 2);
    drop(pin);
    store.create(large.task, large.geometry).unwrap();
    assert_eq!(store.take_evicted(), [a.task, b.task]);
}

#[test]
fn a_full_disk_is_an_error_that_names_the_place_and_the_need() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let a = whole(&store, 1);
    let task = TaskId::Url([1; 32]);
    let length = 4 << 40;
    if store.inner.layout().space().unwrap().free > length {
        return; // No blob is larger than this disk.
    }
    let error = store
        .create(task, Geometry::for_length(length).unwrap())
        .unwrap_err();
    assert!(matches!(error, CreateError::NoSpace { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains(&dir.path().display().to_string()), "{text}");
    assert!(text.contains(&length.to_string()), "{text}");
    assert_eq!(tasks(&store), [a.task]);
}
