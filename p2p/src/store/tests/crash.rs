//! What is served after crashes and damage.
//!
//! Dropping a store without `close` leaves what a killed daemon leaves: no clean mark.

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::FileExt,
    path::PathBuf,
};

use super::*;
use crate::store::{OpenStoreError, ReadError, StateError};

const LEN: usize = 400_000;

fn blob_path(dir: &Path, content: &Content) -> PathBuf {
    let hex = content.task.to_hex();
    dir.join("blobs/sha256").join(&hex[..2]).join(hex)
}

fn blob_file(dir: &Path, content: &Content) -> File {
    let path = blob_path(dir, content);
    OpenOptions::new().write(true).open(path).unwrap()
}

/// A store that crashed after `pieces` of a blob were claimed.
fn crashed(dir: &Path, content: &Content, pieces: Range<u32>) {
    let store = open(dir);
    content.write(&store, pieces);
    store.checkpoint().unwrap();
}

#[test]
fn what_was_not_saved_is_fetched_again() {
    let dir = tempfile::tempdir().unwrap();
    let content = Content::new(1, LEN);
    let store = open(dir.path());
    content.write(&store, 0..3);
    drop(store);
    // Not even its row was saved, so its file went.
    let store = open(dir.path());
    assert!(store.blobs().is_empty());
    assert!(!blob_path(dir.path(), &content).exists());
    content.write(&store, 0..3);
    store.checkpoint().unwrap();
    content.write(&store, 3..5);
    drop(store);

    let store = open(dir.path());
    let blob = store.find(&content.task).unwrap();
    assert_eq!(content.verify(&blob), 3);
    assert_eq!(content.write(&store, 0..content.count()), 1);
}

#[test]
fn torn_pieces_are_not_served_after_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let content = Content::new(1, LEN);
    crashed(dir.path(), &content, 0..6);
    let file = blob_file(dir.path(), &content);
    file.write_all_at(&[0; 512], 65_536 + 1_000).unwrap();
    file.write_all_at(&[0; 8_192], 4 * 65_536 - 4_096).unwrap();

    let store = open(dir.path());
    assert_eq!(store.blobs()[0].pieces, 6);
    let blob = store.find(&content.task).unwrap();
    let kept: Vec<u32> = blob.pieces().iter().map(|piece| piece.0).collect();
    assert_eq!(kept, [0, 2, 5]);
    content.verify(&blob);
    assert_eq!(content.write(&store, 0..content.count()), 1);
    assert_eq!(content.verify(&blob), content.count());
}

#[test]
fn what_was_durable_is_not_read_again_after_a_crash_and_the_rest_is() {
    let dir = tempfile::tempdir().unwrap();
    let [whole, part] = [1, 2].map(|seed| Content::new(seed, LEN));
    let store = open(dir.path());
    whole.write(&store, 0..whole.count());
    part.write(&store, 0..3);
    store.checkpoint().unwrap();
    drop(store);
    // It shows who looks.
    for content in [&whole, &part] {
        let file = blob_file(dir.path(), content);
        file.write_all_at(&[0; 512], 0).unwrap();
    }
    let store = open(dir.path());
    assert!(store.find(&whole.task).unwrap().is_complete());
    let blob = store.find(&part.task).unwrap();
    assert!(!blob.has(PieceIndex(0)));
    assert_eq!(part.verify(&blob), 2);
}

#[test]
fn a_piece_that_rots_on_the_disk_is_given_up_when_someone_complains() {
    let dir = tempfile::tempdir().unwrap();
    let content = Content::new(1, LEN);
    let store = open(dir.path());
    content.write(&store, 0..content.count());
    store.checkpoint().unwrap();
    let blob = store.find(&content.task).unwrap();
    assert!(blob.recheck_piece(PieceIndex(1)).unwrap());
    blob_file(dir.path(), &content)
        .write_all_at(b"rot", 70_000)
        .unwrap();
    assert!(blob.recheck_piece(PieceIndex(0)).unwrap());
    assert!(!blob.recheck_piece(PieceIndex(1)).unwrap());
    assert!(!blob.has(PieceIndex(1)) && !store.blobs()[0].durable);
    // It was saved at once.
    drop((blob, store));
    let store = Store::open(dir.path(), StoreConfig::default()).unwrap();
    let blob = store.find(&content.task).unwrap();
    assert_eq!(content.verify(&blob), content.count() - 1);
    assert_eq!(content.write(&store, 1..2), 1);
}

#[test]
fn doubt_outlasts_a_clean_stop_in_between() {
    let dir = tempfile::tempdir().unwrap();
    let content = Content::new(1, LEN);
    crashed(dir.path(), &content, 0..6);
    blob_file(dir.path(), &content)
        .write_all_at(&[0; 512], 0)
        .unwrap();
    open(dir.path()).close().unwrap();

    let store = open(dir.path());
    let blob = store.find(&content.task).unwrap();
    assert!(!blob.has(PieceIndex(0)));
    assert_eq!(content.verify(&blob), 5);
    drop(blob);
    // Once checked, a clean stop is believed.
    store.close().unwrap();
    drop(store);
    assert!(!open(dir.path()).inner.all()[0].state().is_unchecked());
}

#[test]
fn a_truncated_file_loses_the_pieces_beyond_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let content = Content::new(1, LEN);
    let store = open(dir.path());
    content.write(&store, 0..6);
    store.close().unwrap();
    drop(store);
    blob_file(dir.path(), &content)
        .set_len(3 * 65_536 + 5)
        .unwrap();

    let store = open(dir.path());
    let blob = store.find(&content.task).unwrap();
    assert_eq!(content.verify(&blob), 3);
    assert_eq!(content.write(&store, 0..content.count()), 1);
    store.checkpoint().unwrap();
    drop((blob, store));
    // Of a complete one nothing is believed any more.
    blob_file(dir.path(), &content)
        .set_len(LEN as u64 - 1)
        .unwrap();
    let store = open(dir.path());
    assert!(store.find(&content.task).is_none());
    assert!(!blob_path(dir.path(), &content).exists());
    assert_eq!(content.write(&store, 0..content.count()), 1);
}

#[test]
fn a_file_that_shrinks_while_in_use_heals() {
    let dir = tempfile::tempdir().unwrap();
    let content = Content::new(1, LEN);
    let store = open(dir.path());
    content.write(&store, 0..content.count());
    store.checkpoint().unwrap();
    let blob = store.find(&content.task).unwrap();
    blob_file(dir.path(), &content).set_len(100_000).unwrap();
    let error = blob.read_at(0, LEN).unwrap_err();
    assert!(
        matches!(
            error,
            ReadError::Lost {
                piece: PieceIndex(1),
                ..
            }
        ),
        "{error}"
    );
    let error = blob.read_piece(PieceIndex(1)).unwrap_err();
    assert!(matches!(error, ReadError::Missing { .. }), "{error}");
    assert!(!blob.is_complete() && !store.blobs()[0].durable);
    // What lies beyond is lost with it, and stays so when the file grows again.
    let last = content.count() - 1;
    assert!(!blob.has(PieceIndex(last)));
    content.write(&store, last..last + 1);
    assert_eq!(content.verify(&blob), 2);
    drop(blob);
    drop(store);
    let store = open(dir.path());
    let blob = store.find(&content.task).unwrap();
    assert_eq!(content.verify(&blob), 1, "the last was not saved yet");
    assert_eq!(content.write(&store, 0..content.count()), 1);
    assert_eq!(content.verify(&blob), content.count());
    store.checkpoint().unwrap();
    drop((blob, store));
    let store = open(dir.path());
    assert!(store.blobs()[0].durable);
    // It may also shrink while nobody holds it.
    blob_file(dir.path(), &content).set_len(70_000).unwrap();
    assert_eq!(content.verify(&store.find(&content.task).unwrap()), 1);
    assert!(!store.blobs()[0].durable);
}

#[test]
fn a_file_that_vanishes_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let [a, b] = [1, 2].map(|seed| Content::new(seed, LEN));
    let store = open(dir.path());
    a.write(&store, 0..a.count());
    b.write(&store, 0..2);
    fs::remove_file(blob_path(dir.path(), &a)).unwrap();
    fs::remove_file(blob_path(dir.path(), &b)).unwrap();
    assert!(store.find(&a.task).is_none());
    assert_eq!(b.write(&store, 0..b.count()), 1);
    assert_eq!(store.take_evicted(), [a.task, b.task]);
    fs::remove_file(blob_path(dir.path(), &b)).unwrap();
    drop(store);
    assert!(open(dir.path()).blobs().is_empty());
}

#[test]
fn a_crash_before_the_mark_is_made_up_for() {
    let dir = tempfile::tempdir().unwrap();
    let content = Content::new(1, LEN);
    let store = open(dir.path());
    content.write(&store, 0..content.count());
    // The first half of a checkpoint.
    store.inner.save(&store.inner.all()).unwrap();
    drop(store);

    let store = open(dir.path());
    store.checkpoint().unwrap();
    assert!(!store.blobs()[0].durable, "not before it is checked");
    assert!(store.find(&content.task).unwrap().is_complete());
    store.checkpoint().unwrap();
    assert!(store.blobs()[0].durable);
}

#[test]
fn a_piece_lost_between_sync_and_mark_prevents_the_mark() {
    let dir = tempfile::tempdir().unwrap();
    let content = Content::new(1, LEN);
    let store = open(dir.path());
    content.write(&store, 0..content.count());
    let record = store.inner.record(&content.task).unwrap();
    let losses = record.state().begin_finish().unwrap();
    record.state().lose(PieceIndex(2));
    assert_eq!(content.write(&store, 2..3), 1);
    assert!(record.snapshot_of_whole(losses).is_none());
    assert!(store.find(&content.task).unwrap().finish().unwrap());
}

#[test]
fn a_database_that_failed_is_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let content = Content::new(1, LEN);
    let store = open(dir.path());
    content.write(&store, 0..3);
    let failed = store.inner.database.change(
        |_| -> Result<(), _> { Err(std::io::Error::other("disk full").into()) },
        |()| {},
    );
    assert!(failed.is_err());
    store.checkpoint().unwrap();
    content.write(&store, 0..5);
    store.close().unwrap();
    drop(store);
    let store = open(dir.path());
    assert_eq!(content.verify(&store.find(&content.task).unwrap()), 5);
}

#[test]
fn files_that_are_not_blobs_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let content = Content::new(1, LEN);
    crashed(dir.path(), &content, 0..1);
    let shard = blob_path(dir.path(), &content).parent().unwrap().to_owned();
    let hex = content.task.to_hex();
    let orphan = Content::new(2, 5).task.to_hex();
    let orphan_path = dir
        .path()
        .join("blobs/url")
        .join(&orphan[..2])
        .join(&orphan);
    fs::create_dir_all(orphan_path.parent().unwrap()).unwrap();
    fs::write(&orphan_path, "orphan").unwrap();
    let foreign = [
        shard.join("README"),
        shard.join(orphan),
        shard.join(&hex[1..]),
    ];
    foreign
        .iter()
        .for_each(|path| fs::write(path, "mine").unwrap());
    open(dir.path());
    assert!(foreign.iter().all(|path| path.exists()));
    assert!(!orphan_path.exists());
}

#[test]
fn a_corrupt_database_is_moved_aside_and_the_store_starts_empty() {
    let dir = tempfile::tempdir().unwrap();
    let content = Content::new(1, LEN);
    for garbage in [&b"no database"[..], &[0x5a; 100_000]] {
        crashed(dir.path(), &content, 0..content.count());
        let state = dir.path().join("state.redb");
        fs::write(&state, garbage).unwrap();
        let store = open(dir.path());
        assert!(store.blobs().is_empty());
        assert!(!blob_path(dir.path(), &content).exists());
        assert_eq!(
            fs::read(dir.path().join("state.redb.corrupt")).unwrap(),
            garbage
        );
        assert_eq!(content.write(&store, 0..content.count()), 1);
    }
}

#[test]
fn a_rotten_database_never_serves_what_is_not_there() {
    let content = Content::new(1, LEN);
    let pristine = tempfile::tempdir().unwrap();
    let store = open(pristine.path());
    content.write(&store, 0..4);
    store.close().unwrap();
    drop(store);
    let state = fs::read(pristine.path().join("state.redb")).unwrap();
    let used = state.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    for round in 0..40usize {
        let dir = tempfile::tempdir().unwrap();
        let path = blob_path(dir.path(), &content);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::copy(blob_path(pristine.path(), &content), &path).unwrap();
        let mut rotten = state.clone();
        let at = round * used / 40;
        rotten[at..(at + 40).min(used)]
            .iter_mut()
            .for_each(|byte| *byte ^= 0x55);
        fs::write(dir.path().join("state.redb"), rotten).unwrap();
        let store = match Store::open(dir.path(), StoreConfig::default()) {
            Ok(store) => store,
            // The version's own bytes.
            Err(OpenStoreError::Newer { .. }) => continue,
            Err(error) => panic!("round {round}: {error}"),
        };
        if let Some(blob) = store.find(&content.task) {
            content.verify(&blob);
            let _ = blob.list();
        }
        let _ = store.remove(&content.task);
        assert_eq!(
            content.write(&store, 0..content.count()),
            1,
            "round {round}"
        );
    }
}

#[test]
fn pieces_without_a_readable_list_do_not_count() {
    let dir = tempfile::tempdir().unwrap();
    let content = Content::new(1, LEN);
    let store = open(dir.path());
    let blob = store.create(content.task, content.geometry).unwrap();
    blob.add_batch(content.batch(0..2)).unwrap();
    blob.add_batch(content.batch(2..5)).unwrap();
    for piece in 0..5 {
        blob.write_piece(PieceIndex(piece), content.piece(piece))
            .unwrap();
    }
    drop(blob);
    store.close().unwrap();
    drop(store);
    edit(dir.path(), |transaction| {
        let lists: redb::TableDefinition<'_, &[u8; 37], &[u8]> =
            redb::TableDefinition::new("lists");
        let mut table = transaction.open_table(lists).unwrap();
        let key = crate::store::row::batch_key(&content.task, 2);
        table.insert(&key, &b"rotten"[..]).unwrap();
    });
    let store = open(dir.path());
    let blob = store.find(&content.task).unwrap();
    assert_eq!(blob.list().unwrap().len(), 2);
    assert_eq!(content.verify(&blob), 2);
    assert_eq!(content.write(&store, 0..content.count()), 1);
}

#[test]
fn an_older_store_starts_empty_and_leaves_no_file_behind() {
    let dir = tempfile::tempdir().unwrap();
    let (store, content) = (open(dir.path()), Content::new(7, 200_000));
    content.write(&store, 0..content.count());
    store.close().unwrap();
    drop(store);
    set_version(dir.path(), 1);
    let store = open(dir.path());
    assert!(store.blobs().is_empty() && store.find(&content.task).is_none());
    assert!(!store.inner.layout().blob(&content.task).exists());
    assert_eq!(content.write(&store, 0..content.count()), 1);
    store.close().unwrap();
    drop(store);
    // It has the new format from then on.
    let blob = open(dir.path()).find(&content.task).unwrap();
    assert_eq!(content.verify(&blob), content.count());
}

#[test]
fn a_newer_store_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    set_version(dir.path(), 4);
    let error = Store::open(dir.path(), StoreConfig::default()).unwrap_err();
    assert!(
        matches!(
            error,
            OpenStoreError::Newer {
                found: 4,
                known: 3,
                ..
            }
        ),
        "{error}"
    );
    let error = Store::open(dir.path(), StoreConfig::default()).unwrap_err();
    assert!(
        matches!(error, OpenStoreError::Newer { .. }),
        "still refused: {error}"
    );
}

#[test]
fn a_store_that_cannot_be_made_says_where() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    fs::write(&path, "").unwrap();
    let error = Store::open(&path, StoreConfig::default()).unwrap_err();
    assert!(matches!(error, OpenStoreError::Directory { .. }), "{error}");
    assert!(error.to_string().contains("/file"), "{error}");
    assert_eq!(StateError::Closed.to_string(), "the blob store is closed");
}

pub(super) fn set_version(dir: &Path, version: u32) {
    edit(dir, |transaction| {
        let meta: redb::TableDefinition<'_, &str, u32> = redb::TableDefinition::new("meta");
        let mut meta = transaction.open_table(meta).unwrap();
        meta.insert("version", version).unwrap();
    });
}

fn edit(dir: &Path, change: impl FnOnce(&redb::WriteTransaction)) {
    let database = redb::Database::create(dir.join("state.redb")).unwrap();
    let transaction = database.begin_write().unwrap();
    change(&transaction);
    transaction.commit().unwrap();
}
