//! Stores of a version that cut blobs into other pieces.

use std::{fs::OpenOptions, os::unix::fs::FileExt, process::Command};

use hawker_model::OriginName;
use nix::libc;

use super::{
    adopted::{adopt_from, foreign, recording},
    crash::set_version,
    fate::{Fate, Loss, Plan},
    faults::memory,
    *,
};
use crate::store::disk::Disk;

const LEN: usize = 900_000;
/// Of the older version's pieces.
const PIECE_LEN: u32 = 256 << 10;

/// A blob as the older version had it.
fn old(seed: u8, len: usize) -> Content {
    let content = Content::new(seed, len);
    let geometry = Geometry::new(len as u64, PIECE_LEN).unwrap();
    let states = recording(&content.data).chain(&geometry).unwrap();
    Content {
        geometry,
        states,
        ..content
    }
}

fn origin(number: u32) -> OriginName {
    OriginName::parse(&format!("https://r{number}.example")).unwrap()
}

fn write_all(store: &Store, content: &Content) {
    assert_eq!(content.write(store, 0..content.count()), 1);
    assert!(store.find(&content.task).unwrap().finish().unwrap());
}

/// Ends a life of the older version.
fn close(dir: &Path, store: Store) {
    store.close().unwrap();
    drop(store);
    set_version(dir, 2);
}

/// That the store has the blob, whole and in today's pieces.
fn assert_today(store: &Store, content: &Content) {
    let today = Content::new(0, content.data.len()).geometry;
    let summary = store.look_up(&content.task).unwrap();
    assert!(summary.complete && summary.durable && summary.geometry == today);
    let blob = store.find(&content.task).unwrap();
    assert_eq!(blob.geometry(), today);
    let states = recording(&content.data).chain(&today).unwrap();
    assert_eq!(blob.list().unwrap().states(), states);
    for piece in today.pieces() {
        let range = today.range(piece);
        let data = &content.data[range.start as usize..range.end as usize];
        assert_eq!(blob.read_piece(piece).unwrap(), data);
    }
}

#[test]
fn whole_blobs_get_new_lists_and_keep_pins_origins_kin_and_times() {
    let dir = tempfile::tempdir().unwrap();
    let [pinned, shared, today] = [old(1, LEN), old(2, LEN), Content::new(3, LEN)];
    let store = open(dir.path());
    let blob = store.create(pinned.task, pinned.geometry).unwrap();
    for piece in 0..pinned.count() {
        // The last two of one origin.
        let origin = Some(origin(piece.min(2)));
        let batch = pinned.batch(piece..piece + 1);
        blob.add_batch(SignedStates { origin, ..batch }).unwrap();
        let data = pinned.piece(piece);
        blob.write_piece(PieceIndex(piece), data).unwrap();
    }
    blob.note_holder(origin(9));
    drop(blob);
    store.set_pinned(&pinned.task, true).unwrap();
    write_all(&store, &shared);
    adopt_from(&store, &shared, &foreign(dir.path(), &shared)).unwrap();
    write_all(&store, &today);
    let kin = |store: &Store| store.inner.record(&shared.task).unwrap().state().kin();
    let (kin_before, before) = (kin(&store), store.blobs());
    close(dir.path(), store);

    let store = open(dir.path());
    for content in [&pinned, &shared, &today] {
        assert_today(&store, content);
    }
    for (before, after) in before.iter().zip(store.blobs()) {
        assert_eq!((before.task, before.pinned), (after.task, after.pinned));
        assert_eq!(before.created, after.created);
        assert_eq!(before.owner, after.owner);
    }
    assert!(kin_before.is_some() && kin(&store) == kin_before);
    let blob = store.find(&pinned.task).unwrap();
    assert_eq!(blob.holders(), [origin(9)]);
    let list = blob.list().unwrap();
    let batches: Vec<_> = list.batches_from(0).collect();
    let told = batches.iter().map(|b| (b.end(), b.origin.clone()));
    let expected = [(4, 0), (8, 1), (14, 2)].map(|(end, by)| (end, Some(origin(by))));
    assert_eq!(told.collect::<Vec<_>>(), expected);
    // We sign them when we send them.
    assert!(
        batches
            .iter()
            .all(|batch| batch.signature.is_empty() && batch.signer.is_empty())
    );
    // What agreed is as it was.
    let list = store.find(&today.task).unwrap().list().unwrap();
    assert!(
        list.batches_from(0)
            .all(|batch| !batch.signature.is_empty())
    );
}

#[test]
fn what_nothing_proves_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let (part, mut url) = (old(1, LEN), old(2, LEN));
    url.task = TaskId::Url([7; 32]);
    let store = open(dir.path());
    part.write(&store, 0..2);
    url.write(&store, 0..url.count());
    store.checkpoint().unwrap();
    close(dir.path(), store);
    let store = open(dir.path());
    assert!(store.blobs().is_empty());
    for content in [&part, &url] {
        assert!(!store.inner.layout().blob(&content.task).exists());
    }
    // It comes again, in today's pieces.
    let again = Content::new(1, LEN);
    write_all(&store, &again);
    assert_today(&store, &part);
}

#[test]
fn a_blob_that_has_rotted_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let [rotten, sound] = [1, 2].map(|seed| old(seed, LEN));
    let store = open(dir.path());
    write_all(&store, &rotten);
    write_all(&store, &sound);
    store.set_pinned(&rotten.task, true).unwrap();
    let path = store.inner.layout().blob(&rotten.task);
    close(dir.path(), store);
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(b"rot", 70_000).unwrap();
    let store = open(dir.path());
    assert!(store.look_up(&rotten.task).is_none() && !path.exists());
    assert_today(&store, &sound);
}

#[test]
fn a_whole_blob_that_a_crash_left_without_its_mark_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let content = old(1, LEN);
    let store = open(dir.path());
    content.write(&store, 0..content.count());
    store.set_pinned(&content.task, true).unwrap();
    assert!(!store.blobs()[0].durable);
    // As killed.
    drop(store);
    set_version(dir.path(), 2);
    let store = open(dir.path());
    assert_today(&store, &content);
    assert!(store.blobs()[0].pinned);
}

/// Small, so that there are many runs; the pinned one comes last.
fn contents() -> [Content; 3] {
    let mut contents = [1, 2, 3].map(|seed| old(seed, 70_000));
    contents.sort_by_key(|content| content.task);
    contents
}

/// An older store with a whole blob, half of one and a pinned one; says whether it worked.
fn prepare(disk: Disk, dir: &Path) -> Option<()> {
    let store = Store::open_on(disk, dir, StoreConfig::default()).ok()?;
    let [whole, part, pinned] = contents();
    for content in [&whole, &pinned] {
        let blob = store.create(content.task, content.geometry).ok()?;
        blob.add_batch(content.batch(0..1)).ok()?;
        blob.write_piece(PieceIndex(0), content.piece(0)).ok()?;
        blob.finish().ok()?.then_some(())?;
    }
    let blob = store.create(part.task, part.geometry).ok()?;
    blob.add_batch(part.batch(0..1)).ok()?;
    store.set_pinned(&pinned.task, true).ok()?;
    drop(blob);
    store.close().ok()
}

/// On a sound disk, an opening finds all that was whole.
fn assert_kept(dir: &Path) {
    let [whole, part, pinned] = contents();
    let store = open(dir);
    assert_today(&store, &pinned);
    assert!(store.look_up(&pinned.task).unwrap().pinned);
    if store.look_up(&whole.task).is_some() {
        assert_today(&store, &whole);
    }
    assert!(store.look_up(&part.task).is_none());
    assert!(!store.inner.layout().blob(&part.task).exists());
    store.close().unwrap();
}

#[test]
fn whatever_fails_while_blobs_are_read_anew_no_pinned_one_is_lost() {
    for (at, errno) in (0..).zip([libc::EIO, libc::ENOSPC].into_iter().cycle()) {
        let dir = memory();
        prepare(Disk::default(), dir.path()).unwrap();
        set_version(dir.path(), 2);
        let fate = Fate::new(Plan::Fail {
            at: at / 2,
            errno,
            lasting: at % 3 == 0,
        });
        let opened = Store::open_on(fate.disk(), dir.path(), StoreConfig::default());
        // What is not served meanwhile may be fetched.
        drop(opened);
        assert_kept(dir.path());
        if fate.struck().is_none() {
            assert!(at > 20);
            break;
        }
    }
}

/// A store that was opened although the operation of that number failed, and left the blob out.
fn left_out(at: usize, content: &Content) -> Option<(tempfile::TempDir, Store)> {
    let dir = memory();
    prepare(Disk::default(), dir.path()).unwrap();
    let fate = Fate::new(Plan::Fail {
        at,
        errno: libc::EIO,
        lasting: false,
    });
    let store = Store::open_on(fate.disk(), dir.path(), StoreConfig::default());
    assert!(fate.struck().is_some(), "no opening left it out");
    let store = store.ok().filter(|s| s.look_up(&content.task).is_none())?;
    Some((dir, store))
}

#[test]
fn a_pinned_blob_that_cannot_be_read_comes_back_or_is_fetched_again() {
    let [_, _, pinned] = contents();
    for fetched in [false, true] {
        let (dir, store) = (0..).find_map(|at| left_out(at, &pinned)).unwrap();
        if fetched {
            let mut today = [1, 2, 3].map(|seed| Content::new(seed, 70_000)).into_iter();
            let today = today.find(|content| content.task == pinned.task);
            write_all(&store, &today.unwrap());
        }
        store.close().unwrap();
        drop(store);
        let store = open(dir.path());
        assert_today(&store, &pinned);
        assert_eq!(store.look_up(&pinned.task).unwrap().pinned, !fetched);
    }
}

#[test]
fn the_power_may_go_while_blobs_are_read_anew() {
    for at in 0.. {
        let root = memory();
        let fate = Fate::new(Plan::PowerOff { at });
        let prepared = prepare(fate.disk(), root.path()).is_some();
        drop(Store::open_on(
            fate.disk(),
            root.path(),
            StoreConfig::default(),
        ));
        for loss in [Loss::Everything, Loss::Some(at as u64), Loss::Nothing] {
            if !prepared {
                continue;
            }
            let image = memory();
            fate.restore(root.path(), image.path(), loss);
            assert_kept(image.path());
        }
        if fate.struck().is_none() {
            break;
        }
    }
}

const DIR: &str = "HAWKER_TEST_UPGRADE_DIR";
const NAME: &str = "store::tests::upgraded::killed_at_any_step_the_next_opening_goes_on";

#[test]
fn killed_at_any_step_the_next_opening_goes_on() {
    if let Some(dir) = std::env::var_os(DIR) {
        return drop(open(Path::new(&dir)));
    }
    for kill_at in 0.. {
        let dir = memory();
        prepare(Disk::default(), dir.path()).unwrap();
        set_version(dir.path(), 2);
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture", NAME])
            .env(DIR, dir.path())
            .env("HAWKER_TEST_KILL_AT", kill_at.to_string())
            .output();
        let status = child.unwrap().status;
        let [whole, ..] = contents();
        assert_kept(dir.path());
        assert_today(&open(dir.path()), &whole);
        if status.success() {
            assert_eq!(kill_at, 5);
            break;
        }
        assert_eq!(status.code(), Some(77), "at {kill_at}");
    }
}
