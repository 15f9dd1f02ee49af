//! How full the file system may get, how long a blob lives unused, and what outlives a start.

use std::{sync::Mutex, time::Duration};

use super::*;
use crate::store::{
    AtStart, Water,
    disk::{Disk, Space},
    record::lock,
};

const LEN: usize = 200_000;
const TOTAL: u64 = 10_000_000;
const WATER: Water = Water {
    high: 8_900_000,
    low: 8_700_000,
};

fn whole(store: &Store, seed: u8) -> Content {
    let content = Content::new(seed, LEN);
    content.write(store, 0..content.count());
    content
}

/// A store on a file system of which others use as much as the test says.
fn with_water(dir: &Path) -> (Store, impl Fn(u64)) {
    let space = Arc::new(Mutex::new(Space {
        total: TOTAL,
        free: TOTAL,
    }));
    let disk = Disk {
        space: Some(Arc::clone(&space)),
        ..Disk::default()
    };
    let config = StoreConfig {
        water: Some(WATER),
        ..StoreConfig::default()
    };
    let store = Store::open_on(disk, dir, config).unwrap();
    (store, move |used| lock(&space).free = TOTAL - used)
}

/// Nothing was used lately, but in the order of the seeds.
fn age(store: &Store, contents: &[&Content]) {
    for (at, content) in (1..).zip(contents) {
        let record = store.inner.record(&content.task);
        record.unwrap().set_last_used(at);
    }
}

#[test]
fn above_its_high_water_the_file_system_is_brought_to_its_low_water() {
    let dir = tempfile::tempdir().unwrap();
    let (store, set_used) = with_water(dir.path());
    let [a, b, c, d, e] = [1, 2, 3, 4, 5].map(|seed| whole(&store, seed));
    store.set_pinned(&a.task, true).unwrap();
    let held = store.find(&b.task).unwrap();
    let after = || {
        store.checkpoint().unwrap();
        store.take_evicted()
    };
    set_used(WATER.high + 100_000);
    assert!(after().is_empty(), "all was used just now");
    age(&store, &[&a, &b, &c, &d, &e]);
    set_used(WATER.high);
    assert!(
        after().contains(&c.task),
        "once begun, it goes on to the low water"
    );
    set_used(WATER.low);
    assert!(after().is_empty());
    set_used(WATER.high);
    assert!(after().is_empty(), "it begins above the high water");
    set_used(WATER.high + 100_000);
    assert_eq!(after(), [d.task, e.task]);
    let room = store.room();
    assert_eq!((room.evicted, room.evicted_bytes), (3, 3 * LEN as u64));
    assert_eq!((room.total, room.free), (TOTAL, 1_000_000));
    assert_eq!(a.verify(&store.find(&a.task).unwrap()), a.count());
    assert_eq!(b.verify(&held), b.count());
}

#[test]
fn a_new_blob_comes_in_above_the_high_water_and_makes_what_room_there_is() {
    let dir = tempfile::tempdir().unwrap();
    let (store, set_used) = with_water(dir.path());
    let [old, fresh] = [1, 2].map(|seed| whole(&store, seed));
    age(&store, &[&old]);
    set_used(WATER.high - 1_000);
    let new = whole(&store, 3);
    assert_eq!(store.take_evicted(), [old.task]);
    assert_eq!(new.verify(&store.find(&new.task).unwrap()), new.count());
    // Where there is no room at all, what is fresh goes too, and then it is refused.
    set_used(TOTAL - 1_000);
    let error = store.create(old.task, old.geometry).map(drop);
    assert!(error.is_ok(), "{error:?}");
    assert_eq!(store.take_evicted(), [fresh.task]);
    let large = Geometry::for_length(TOTAL).unwrap();
    let error = store.create(TaskId::Url([1; 32]), large).unwrap_err();
    assert!(error.to_string().contains("no space"), "{error}");
}

#[test]
fn what_cannot_fit_drives_nothing_out() {
    let dir = tempfile::tempdir().unwrap();
    let (store, set_used) = with_water(dir.path());
    let old = whole(&store, 1);
    age(&store, &[&old]);
    set_used(WATER.high - 1_000);
    let large = Geometry::for_length(TOTAL).unwrap();
    let error = store.create(TaskId::Url([1; 32]), large).unwrap_err();
    assert!(error.to_string().contains("no space"), "{error}");
    assert!(store.take_evicted().is_empty());
    assert_eq!(old.verify(&store.find(&old.task).unwrap()), old.count());
}

#[test]
fn what_nobody_used_for_long_goes_unless_it_is_pinned_or_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let config = StoreConfig {
        ttl: Some(Duration::from_secs(3600)),
        ..StoreConfig::default()
    };
    let store = Store::open(dir.path(), config).unwrap();
    let [a, b, c, d] = [1, 2, 3, 4].map(|seed| whole(&store, seed));
    store.set_pinned(&a.task, true).unwrap();
    let held = store.find(&b.task).unwrap();
    for record in store.inner.all() {
        if record.task != d.task {
            record.set_last_used(1);
        }
    }
    store.checkpoint().unwrap();
    assert_eq!(store.take_evicted(), [c.task]);
    drop(held);
    store.checkpoint().unwrap();
    assert_eq!(store.take_evicted(), [b.task]);
    assert_eq!(store.blobs().len(), 2);
}

#[test]
fn a_store_that_starts_empty_keeps_what_is_pinned() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let [a, b] = [1, 2].map(|seed| whole(&store, seed));
    store.set_pinned(&b.task, true).unwrap();
    store.close().unwrap();
    drop(store);
    let config = StoreConfig {
        at_start: AtStart::Wipe,
        ..StoreConfig::default()
    };
    let store = Store::open(dir.path(), config).unwrap();
    let tasks: Vec<_> = store.blobs().iter().map(|blob| blob.task).collect();
    assert_eq!(tasks, [b.task]);
    assert!(!store.inner.layout().blob(&a.task).exists());
    assert_eq!(b.verify(&store.find(&b.task).unwrap()), b.count());
}
