//! What the store does while nothing goes wrong.

use std::{sync::Barrier, thread};

use super::*;
use crate::store::{
    AddBatchError, BlobError, CreateError, OpenStoreError, ReadError, WritePieceError,
};

#[test]
fn a_blob_is_written_in_any_order_and_survives_a_reopen() {
    let dir = tempfile::tempdir().unwrap();
    let content = Content::new(1, 300_000);
    let store = open(dir.path());
    let blob = content.create(&store);
    for piece in (0..content.count()).rev() {
        let last = piece == 0;
        let written = blob
            .write_piece(PieceIndex(piece), content.piece(piece))
            .unwrap();
        assert_eq!(written.complete, last);
        assert_eq!(blob.is_complete(), last);
    }
    assert!(store.blobs()[0].complete && !store.blobs()[0].durable);
    assert!(blob.finish().unwrap());
    drop((blob, store));

    let store = open(dir.path());
    assert!(store.blobs()[0].durable);
    let blob = store.find(&content.task).unwrap();
    assert_eq!(content.verify(&blob), content.count());
    assert_eq!(blob.list().unwrap().states(), content.states);
    let batch = blob.list().unwrap().batches_from(0).next().cloned();
    assert_eq!(batch, Some(content.batch(0..content.count())));
    assert_eq!(
        blob.read_at(65_000, 100_000).unwrap(),
        content.data[65_000..165_000]
    );
    assert_eq!(blob.read_at(300_000, 0).unwrap(), Vec::new());
}

#[test]
fn what_does_not_fit_or_match_is_refused_with_its_reason() {
    let dir = tempfile::tempdir().unwrap();
    let content = Content::new(1, 200_000);
    let store = open(dir.path());
    let blob = store.create(content.task, content.geometry).unwrap();
    let write = |piece: u32, data: &[u8]| blob.write_piece(PieceIndex(piece), data);
    let error = write(0, content.piece(0)).unwrap_err();
    assert!(
        matches!(error, WritePieceError::UnknownState { .. }),
        "{error}"
    );
    blob.add_batch(content.batch(0..2)).unwrap();
    let error = write(0, b"short").unwrap_err();
    assert!(
        matches!(
            error,
            WritePieceError::Length {
                wanted: 65_536,
                found: 5,
                ..
            }
        ),
        "{error}"
    );
    let error = write(9, b"").unwrap_err();
    assert!(
        matches!(error, WritePieceError::OutOfRange { .. }),
        "{error}"
    );
    let error = write(0, content.piece(1)).unwrap_err();
    assert!(matches!(error, WritePieceError::Mismatch { .. }), "{error}");
    let error = write(2, content.piece(2)).unwrap_err();
    assert!(
        matches!(error, WritePieceError::UnknownState { .. }),
        "{error}"
    );
    assert!(blob.pieces().is_empty());
    write(1, content.piece(1)).unwrap();

    let error = blob.read_piece(PieceIndex(0)).unwrap_err();
    assert!(
        matches!(
            error,
            ReadError::Missing {
                piece: PieceIndex(0),
                ..
            }
        ),
        "{error}"
    );
    let error = blob.read_at(70_000, 70_000).unwrap_err();
    assert!(
        matches!(
            error,
            ReadError::Missing {
                piece: PieceIndex(2),
                ..
            }
        ),
        "{error}"
    );
    for (offset, len) in [(0, 200_001), (200_001, 0), (u64::MAX, 2)] {
        let error = blob.read_at(offset, len).unwrap_err();
        assert!(matches!(error, ReadError::OutOfRange { .. }), "{error}");
    }
    let beyond = SignedStates {
        first: PieceIndex(u32::MAX),
        ..content.batch(0..2)
    };
    let error = blob.add_batch(beyond).unwrap_err();
    assert!(matches!(error, AddBatchError::List { .. }), "{error}");
    let other = Geometry::for_length(5).unwrap();
    let error = store.create(content.task, other).unwrap_err();
    assert!(
        matches!(error, CreateError::OtherGeometry { .. }),
        "{error}"
    );
    let empty = Geometry::for_length(0).unwrap();
    let error = store
        .create(TaskId::Blob(Digest::of(b"x")), empty)
        .unwrap_err();
    assert!(matches!(error, CreateError::NotEmpty { .. }), "{error}");
}

#[test]
fn a_blob_without_bytes_is_complete_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let tasks = [Content::new(0, 0).task, TaskId::Url([7; 32])];
    let store = open(dir.path());
    for task in tasks {
        let blob = store
            .create(task, Geometry::for_length(0).unwrap())
            .unwrap();
        assert!(blob.is_complete());
        assert_eq!(blob.read_at(0, 0).unwrap(), Vec::new());
    }
    store.checkpoint().unwrap();
    drop(store);
    let store = open(dir.path());
    assert_eq!(store.blobs().iter().filter(|blob| blob.durable).count(), 2);
}

#[test]
fn the_same_piece_twice_is_harmless() {
    let dir = tempfile::tempdir().unwrap();
    let content = Content::new(1, 100_000);
    let store = open(dir.path());
    assert_eq!(content.write(&store, 0..2), 1);
    assert_eq!(content.write(&store, 0..2), 0);
    assert_eq!(content.verify(&store.find(&content.task).unwrap()), 2);
}

#[test]
fn many_writers_complete_a_blob_once() {
    let dir = tempfile::tempdir().unwrap();
    let content = Content::new(1, 4 << 20);
    let store = open(dir.path());
    let blob = content.create(&store);
    let (threads, start) = (8, Barrier::new(8));
    let told: usize = thread::scope(|scope| {
        let workers = (0..threads).map(|worker| {
            let (blob, content, start, store) = (&blob, &content, &start, &store);
            scope.spawn(move || {
                start.wait();
                // Every piece is written by two threads, in different orders.
                let mine = (0..content.count()).filter(|p| (p + worker) % 4 < 2);
                let mine: Vec<u32> = match worker % 2 {
                    0 => mine.collect(),
                    _ => mine.rev().collect(),
                };
                let mut told = 0;
                for piece in mine {
                    let piece = PieceIndex(piece);
                    let written = blob.write_piece(piece, content.piece(piece.0)).unwrap();
                    told += usize::from(written.complete);
                    assert_eq!(blob.read_piece(piece).unwrap(), content.piece(piece.0));
                    store.checkpoint().unwrap();
                }
                told
            })
        });
        let workers: Vec<_> = workers.collect();
        workers
            .into_iter()
            .map(|worker| worker.join().unwrap())
            .sum()
    });
    assert_eq!(told, 1);
    assert!(blob.is_complete());
    assert_eq!(content.verify(&blob), content.count());
}

#[test]
fn a_directory_is_opened_once_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let error = Store::open(dir.path(), StoreConfig::default()).unwrap_err();
    let own = std::process::id();
    assert!(matches!(error, OpenStoreError::InUse { pid: Some(pid), .. } if pid == own));
    assert!(error.to_string().contains("two daemons"), "{error}");
    drop(store);
    open(dir.path());
}

#[test]
fn a_removed_blob_is_gone_but_its_readers_finish() {
    let dir = tempfile::tempdir().unwrap();
    let content = Content::new(1, 100_000);
    let store = open(dir.path());
    content.write(&store, 0..1);
    let old = store.find(&content.task).unwrap();
    store.remove(&content.task).unwrap();
    assert!(store.find(&content.task).is_none());
    assert!(matches!(
        store.remove(&content.task),
        Err(BlobError::Unknown(_))
    ));
    assert_eq!(content.verify(&old), 1);
    let error = old
        .write_piece(PieceIndex(1), content.piece(1))
        .unwrap_err();
    assert!(matches!(error, WritePieceError::Removed(_)), "{error}");
    assert!(matches!(
        old.add_batch(content.batch(0..1)),
        Err(AddBatchError::Removed(_))
    ));

    // A blob that comes again has nothing to do with it.
    let new = content.create(&store);
    assert!(new.pieces().is_empty());
    assert_eq!(content.write(&store, 0..2), 1);
    store.checkpoint().unwrap();
    drop((old, new, store));
    let store = open(dir.path());
    assert_eq!(content.verify(&store.find(&content.task).unwrap()), 2);
    store.remove(&content.task).unwrap();
    drop(store);
    assert!(open(dir.path()).blobs().is_empty());
}

#[test]
fn a_closed_store_takes_no_change() {
    let dir = tempfile::tempdir().unwrap();
    let content = Content::new(1, 100_000);
    let store = open(dir.path());
    content.write(&store, 0..1);
    store.close().unwrap();
    store.close().unwrap();
    assert!(store.checkpoint().is_err());
    assert!(store.remove(&content.task).is_err());
    let other = Content::new(2, 5);
    assert!(store.create(other.task, other.geometry).is_err());
    drop(store);
    let store = open(dir.path());
    assert_eq!(store.blobs()[0].pieces, 1);
    assert_eq!(content.verify(&store.find(&content.task).unwrap()), 1);
}
