//! Whole files that become blobs.

use std::{
    fs::{self, File, Permissions},
    os::unix::fs::{FileExt, MetadataExt, PermissionsExt},
    path::PathBuf,
};

use hawker_model::{Recorder, Recording};

use super::*;
use crate::store::{
    AdoptError, Otherwise, Owner, Pace, ReadError, Share, Shared, WritePieceError,
    kin::{Kin, Stamp},
};

const LEN: usize = 400_000;
pub(super) const LINK: Share = Share {
    otherwise: Otherwise::Refuse,
    pace: Pace::Full,
};

pub(super) fn recording(data: &[u8]) -> Recording {
    let mut recorder = Recorder::new();
    recorder.update(data);
    recorder.finish()
}

/// Writes a file as a client of the content store would, next to the store's own.
pub(super) fn ingest(dir: &Path, content: &Content) -> PathBuf {
    let path = dir.join(format!("ingest-{}", content.task.to_hex()));
    fs::write(&path, &content.data).unwrap();
    path
}

/// Another program's file: read-only, as containerd has them.
pub(super) fn foreign(dir: &Path, content: &Content) -> PathBuf {
    let path = dir.join(content.task.to_hex());
    if !path.exists() {
        fs::write(&path, &content.data).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o444)).unwrap();
    }
    path
}

pub(super) fn sign(_: &Geometry, first: PieceIndex, states: Vec<ChainState>) -> SignedStates {
    SignedStates {
        first,
        states,
        origin: None,
        signer: Arc::from(*b"a certificate"),
        signature: b"a signature".to_vec(),
    }
}

pub(super) fn adopt(
    store: &Store,
    content: &Content,
    file: &Path,
    pin: bool,
) -> Result<Arc<BlobFile>, AdoptError> {
    store.adopt(&recording(&content.data), file, pin, &sign)
}

pub(super) fn adopt_from(
    store: &Store,
    content: &Content,
    file: &Path,
) -> Result<(Arc<BlobFile>, Shared), AdoptError> {
    adopt_from_as(store, content, file, LINK, false)
}

/// As a node does it.
fn adopt_from_as(
    store: &Store,
    content: &Content,
    file: &Path,
    share: Share,
    pin: bool,
) -> Result<(Arc<BlobFile>, Shared), AdoptError> {
    let digest = content.task.digest().unwrap();
    if let Some(blob) = store.shared_already(digest, file, share, pin)? {
        return Ok((blob, Shared::Already));
    }
    store.take_in(store.bring(digest, file, share)?, pin, &sign)
}

fn blob_path(dir: &Path, content: &Content) -> PathBuf {
    let hex = content.task.to_hex();
    dir.join("blobs/sha256").join(&hex[..2]).join(hex)
}

fn inode(path: &Path) -> u64 {
    fs::metadata(path).unwrap().ino()
}

fn kin(store: &Store, content: &Content) -> Option<Kin> {
    store.inner.record(&content.task)?.state().kin()
}

/// Changes a file in place, however short ago it was written.
fn change(path: &Path, len: u64) {
    let file = File::options().write(true).open(path).unwrap();
    file.write_all_at(b"changed", 70_000).unwrap();
    file.set_len(len).unwrap();
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(1);
    file.set_modified(later).unwrap();
}

#[test]
fn a_whole_file_becomes_a_blob_in_no_time() {
    for len in [0, 1, LEN, 3 * 65_536] {
        let dir = tempfile::tempdir().unwrap();
        let (store, content) = (open(dir.path()), Content::new(1, len));
        let file = ingest(dir.path(), &content);
        let blob = adopt(&store, &content, &file, true).unwrap();
        assert!(!file.exists() && blob.is_complete());
        assert_eq!(content.verify(&blob), content.count());
        assert_eq!(blob.list().unwrap().states(), content.states);
        let summary = store.blobs()[0].clone();
        assert!(
            summary.complete && summary.durable && summary.pinned && summary.owner == Owner::Us
        );
        drop((blob, store));
        // Nothing was closed: it was durable before.
        let store = open(dir.path());
        assert_eq!(store.blobs().len(), 1);
        let summary = &store.blobs()[0];
        assert!(summary.durable && summary.pinned);
        let blob = store.find(&content.task).unwrap();
        assert_eq!(content.verify(&blob), content.count());
        assert_eq!(
            blob.list().unwrap().batches_from(0).count(),
            usize::from(len > 0)
        );
    }
}

#[test]
fn nothing_vouches_for_the_origin_of_adopted_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let (store, content) = (open(dir.path()), Content::new(1, LEN));
    let blob = adopt(&store, &content, &ingest(dir.path(), &content), false).unwrap();
    assert!(!blob.is_held(0..1, &|_| true) && blob.holders().is_empty());
}

#[test]
fn a_blob_that_is_here_is_kept_and_one_with_gaps_is_filled() {
    let dir = tempfile::tempdir().unwrap();
    let (store, content) = (open(dir.path()), Content::new(1, LEN));
    // Some pieces, and a list that ends before them all.
    let blob = store.create(content.task, content.geometry).unwrap();
    blob.add_batch(content.batch(0..3)).unwrap();
    for piece in [0, 2] {
        blob.write_piece(PieceIndex(piece), content.piece(piece))
            .unwrap();
    }
    let adopted = adopt(&store, &content, &ingest(dir.path(), &content), true).unwrap();
    assert!(Arc::ptr_eq(&blob, &adopted), "its readers see what came");
    assert_eq!(content.verify(&blob), content.count());
    let inode_before = inode(&blob_path(dir.path(), &content));
    let file = ingest(dir.path(), &content);
    adopt(&store, &content, &file, false).unwrap();
    assert!(
        !file.exists() && store.blobs()[0].pinned,
        "a second one does not unpin"
    );
    assert_eq!(inode(&blob_path(dir.path(), &content)), inode_before);
    drop((blob, adopted, store));
    let store = open(dir.path());
    assert!(store.blobs()[0].durable && store.blobs()[0].pinned);
    assert_eq!(
        content.verify(&store.find(&content.task).unwrap()),
        content.count()
    );
}

#[test]
fn what_was_stored_under_a_false_length_or_list_gives_way() {
    let (content, other) = (Content::new(1, LEN), Content::new(2, LEN));
    let longer = Geometry::for_length(LEN as u64 + 1).unwrap();
    for geometry in [content.geometry, longer] {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let old = store.create(content.task, geometry).unwrap();
        if geometry == content.geometry {
            old.add_batch(other.batch(0..2)).unwrap();
            old.write_piece(PieceIndex(0), other.piece(0)).unwrap();
        }
        let blob = adopt(&store, &content, &ingest(dir.path(), &content), false).unwrap();
        assert_eq!(content.verify(&blob), content.count());
        assert!(old.is_removed() && !blob.is_removed());
        let error = old.write_piece(PieceIndex(1), &[0; 65_536]).unwrap_err();
        let refused = matches!(
            error,
            WritePieceError::Removed(_)
                | WritePieceError::UnknownState { .. }
                | WritePieceError::Mismatch { .. }
        );
        assert!(refused, "{error}");
        assert_eq!(content.verify(&blob), content.count());
    }
}

#[test]
fn another_geometry_of_the_same_length_is_filled_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let (store, content) = (open(dir.path()), Content::new(1, LEN));
    let wide = Geometry::new(LEN as u64, 256 << 10).unwrap();
    let blob = store.create(content.task, wide).unwrap();
    adopt(&store, &content, &ingest(dir.path(), &content), false).unwrap();
    assert!(blob.is_complete() && blob.pieces().len() == 2);
    assert_eq!(blob.read_at(0, LEN).unwrap(), content.data);
}

#[test]
fn a_file_that_is_not_what_was_recorded_is_refused_and_stays() {
    let dir = tempfile::tempdir().unwrap();
    let (store, content) = (open(dir.path()), Content::new(1, LEN));
    let file = ingest(dir.path(), &content);
    fs::write(&file, &content.data[1..]).unwrap();
    let error = adopt(&store, &content, &file, false).unwrap_err();
    assert!(matches!(error, AdoptError::Changed { .. }), "{error}");
    // Where it has to be read, the bytes are looked at too.
    fs::write(&file, &Content::new(2, LEN).data).unwrap();
    content.write(&store, 0..1);
    let error = adopt(&store, &content, &file, false).unwrap_err();
    assert!(matches!(error, AdoptError::Changed { .. }), "{error}");
    assert!(file.exists());
    let gone = adopt(&store, &content, &dir.path().join("none"), false).unwrap_err();
    assert!(
        matches!(gone, AdoptError::Io { .. }) && gone.is_retryable(),
        "{gone}"
    );
    assert_eq!(
        fs::read_dir(dir.path().join("incoming")).unwrap().count(),
        0
    );
}

#[test]
fn what_cannot_be_evicted_refuses_only_what_is_not_pinned() {
    let dir = tempfile::tempdir().unwrap();
    let [a, b, c] = [1, 2, 3].map(|seed| Content::new(seed, LEN));
    let store = open_with_quota(dir.path(), LEN as u64);
    drop(adopt(&store, &a, &ingest(dir.path(), &a), true).unwrap());
    let file = ingest(dir.path(), &b);
    let error = adopt(&store, &b, &file, false).unwrap_err();
    assert!(
        matches!(error, AdoptError::Room(_)) && file.exists(),
        "{error}"
    );
    drop(adopt(&store, &b, &file, true).unwrap());
    store.set_pinned(&a.task, false).unwrap();
    store.set_pinned(&b.task, false).unwrap();
    drop(adopt(&store, &c, &ingest(dir.path(), &c), false).unwrap());
    assert_eq!(store.take_evicted(), [a.task, b.task]);
    // Another program's bytes are not counted; shared extents are, and drive nothing out.
    let foreign = foreign(dir.path(), &a);
    match adopt_from(&store, &a, &foreign) {
        Ok(adopted) => drop(adopted),
        Err(error) => {
            assert!(matches!(error, AdoptError::Room(_)), "{error}");
            assert_eq!(store.take_evicted(), []);
            return;
        }
    }
    assert_eq!((store.blobs().len(), store.take_evicted().len()), (2, 0));
    drop(adopt(&store, &b, &ingest(dir.path(), &b), false).unwrap());
    assert_eq!(
        store.take_evicted(),
        [c.task],
        "nor dropped for room, which frees none"
    );
}

#[test]
fn a_file_of_another_program_is_served_from_where_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let (store, content) = (open(dir.path()), Content::new(1, LEN));
    let file = foreign(dir.path(), &content);
    let (blob, shared) = adopt_from(&store, &content, &file).unwrap();
    assert_eq!(shared, Shared::Shared);
    assert_eq!(content.verify(&blob), content.count());
    let summary = store.blobs()[0].clone();
    assert!(summary.owner != Owner::Us && summary.durable && !summary.pinned);
    let (_, again) = adopt_from(&store, &content, &file).unwrap();
    assert_eq!(again, Shared::Already);
    if let Some(Kin::Linked(_)) = kin(&store, &content) {
        assert_eq!(inode(&blob_path(dir.path(), &content)), inode(&file));
    }
    assert_eq!(
        fs::metadata(&file).unwrap().mode() & 0o777,
        0o444,
        "it is as it was"
    );
    drop((blob, store));
    let store = open(dir.path());
    let (blob, again) = adopt_from(&store, &content, &file).unwrap();
    assert_eq!(again, Shared::Already, "also after a restart");
    assert_eq!(content.verify(&blob), content.count());
    // Our name goes, theirs stays.
    drop(blob);
    store.remove(&content.task).unwrap();
    assert_eq!(fs::read(&file).unwrap(), content.data);
}

#[test]
fn our_own_copy_gives_way_to_the_other_program_s_file() {
    let dir = tempfile::tempdir().unwrap();
    let (store, content) = (open(dir.path()), Content::new(1, LEN));
    content.write(&store, 0..content.count());
    store.set_pinned(&content.task, true).unwrap();
    let reader = store.find(&content.task).unwrap();
    let file = foreign(dir.path(), &content);
    let (blob, shared) = adopt_from(&store, &content, &file).unwrap();
    assert_eq!(shared, Shared::Shared);
    assert_eq!(
        content.verify(&reader),
        content.count(),
        "who reads goes on"
    );
    drop((reader, blob));
    assert_eq!(
        content.verify(&store.find(&content.task).unwrap()),
        content.count()
    );
    if let Some(Kin::Linked(_)) = kin(&store, &content) {
        assert_eq!(inode(&blob_path(dir.path(), &content)), inode(&file));
    }
    drop(store);
    let store = open(dir.path());
    assert!(store.blobs()[0].pinned && store.blobs()[0].owner != Owner::Us);
    assert_eq!(
        content.verify(&store.find(&content.task).unwrap()),
        content.count()
    );
}

#[test]
fn a_half_fetched_blob_is_completed_from_the_other_program_s_file() {
    let dir = tempfile::tempdir().unwrap();
    let (store, content) = (open(dir.path()), Content::new(1, LEN));
    content.write(&store, 2..4);
    let reader = store.find(&content.task).unwrap();
    adopt_from(&store, &content, &foreign(dir.path(), &content)).unwrap();
    assert_eq!(content.verify(&reader), content.count());
    assert!(store.blobs()[0].owner != Owner::Us);
}

#[test]
fn files_that_are_not_what_they_are_called_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (store, content) = (open(dir.path()), Content::new(1, LEN));
    let file = dir.path().join("file");
    fs::write(&file, &Content::new(2, LEN).data).unwrap();
    let error = adopt_from(&store, &content, &file).unwrap_err();
    assert!(
        matches!(error, AdoptError::Digest { .. }) && !error.is_retryable(),
        "{error}"
    );
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(foreign(dir.path(), &content), &link).unwrap();
    let error = adopt_from(&store, &content, &link).unwrap_err();
    assert!(matches!(error, AdoptError::Io { .. }), "{error}");
    let error = adopt_from(&store, &content, dir.path()).unwrap_err();
    assert!(matches!(error, AdoptError::NotAFile { .. }), "{error}");
    assert!(store.blobs().is_empty());
    assert_eq!(
        fs::read_dir(dir.path().join("incoming")).unwrap().count(),
        0
    );
}

#[test]
fn a_file_on_another_file_system_is_copied_or_refused() {
    let (dir, other) = (
        tempfile::tempdir().unwrap(),
        tempfile::tempdir_in("/dev/shm"),
    );
    let Ok(other) = other else { return };
    let (store, content) = (open(dir.path()), Content::new(1, LEN));
    let file = foreign(other.path(), &content);
    let error = adopt_from(&store, &content, &file).unwrap_err();
    assert!(
        matches!(error, AdoptError::Apart { .. }) && !error.is_retryable(),
        "{error}"
    );
    let share = Share {
        otherwise: Otherwise::Copy,
        pace: Pace::Idle,
    };
    let (blob, shared) = adopt_from_as(&store, &content, &file, share, true).unwrap();
    assert_eq!(shared, Shared::Copied);
    assert_eq!(content.verify(&blob), content.count());
    assert!(store.blobs()[0].owner == Owner::Us && store.blobs()[0].pinned);
    // An ingest may lie elsewhere too.
    let content = Content::new(2, LEN);
    let file = ingest(other.path(), &content);
    let blob = adopt(&store, &content, &file, false).unwrap();
    assert_eq!(content.verify(&blob), content.count());
    assert!(!file.exists());
}

#[test]
fn content_does_not_depend_on_a_file_that_is_only_read_where_it_lies() {
    let (dir, other) = (
        tempfile::tempdir().unwrap(),
        tempfile::tempdir_in("/dev/shm"),
    );
    let Ok(other) = other else { return };
    let store = open(dir.path());
    let [a, b] = [1, 2].map(|seed| Content::new(seed, LEN));
    let lend = |content: &Content, otherwise, pin| {
        let share = Share {
            otherwise,
            pace: Pace::Full,
        };
        let file = foreign(other.path(), content);
        adopt_from_as(&store, content, &file, share, pin).unwrap().1
    };
    for content in [&a, &b] {
        assert_eq!(lend(content, Otherwise::InPlace, false), Shared::Shared);
        assert_eq!(lend(content, Otherwise::InPlace, false), Shared::Already);
    }
    // One is imported, the other one written here by a client.
    assert_eq!(lend(&a, Otherwise::Copy, true), Shared::Copied);
    drop(adopt(&store, &b, &ingest(dir.path(), &b), true).unwrap());
    drop(other);
    assert!(
        store
            .blobs()
            .iter()
            .all(|blob| blob.owner == Owner::Us && blob.durable)
    );
    for content in [&a, &b] {
        let blob = store.find(&content.task).unwrap();
        assert_eq!(content.verify(&blob), content.count());
    }
    drop(store);
    let store = open(dir.path());
    assert!(
        store
            .blobs()
            .iter()
            .all(|blob| blob.complete && blob.pinned)
    );
}

#[test]
fn a_linked_file_that_was_changed_is_no_longer_served() {
    for len in [LEN as u64, 100_000, LEN as u64 + 9] {
        let dir = tempfile::tempdir().unwrap();
        let (store, content) = (open(dir.path()), Content::new(1, LEN));
        let file = foreign(dir.path(), &content);
        let (blob, _) = adopt_from(&store, &content, &file).unwrap();
        if !matches!(kin(&store, &content), Some(Kin::Linked(_))) {
            return;
        }
        change(&file, len);
        let changed = fs::read(&file).unwrap();
        let error = blob.read_piece(PieceIndex(0)).unwrap_err();
        assert!(matches!(error, ReadError::Lost { .. }), "{error}");
        assert!(blob.is_removed() && blob.pieces().is_empty());
        assert!(store.find(&content.task).is_none());
        assert_eq!(store.take_evicted(), [content.task]);
        assert!(!blob_path(dir.path(), &content).exists());
        // It comes again like any other, in a file of its own, and theirs is left alone.
        assert_eq!(content.write(&store, 0..content.count()), 1);
        assert_eq!(fs::read(&file).unwrap(), changed);
        drop((blob, store));
        assert_eq!(fs::read(&file).unwrap(), changed);
    }
}

#[test]
fn a_linked_file_that_changed_while_nobody_looked_is_noticed() {
    for reopen in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let (store, content) = (open(dir.path()), Content::new(1, LEN));
        let file = foreign(dir.path(), &content);
        drop(adopt_from(&store, &content, &file).unwrap());
        if !matches!(kin(&store, &content), Some(Kin::Linked(_))) {
            return;
        }
        let running = match reopen {
            true => {
                store.close().unwrap();
                drop(store);
                None
            }
            false => Some(store),
        };
        change(&file, LEN as u64);
        let changed = fs::read(&file).unwrap();
        let store = running.unwrap_or_else(|| open(dir.path()));
        assert!(store.find(&content.task).is_none());
        assert!(store.blobs().is_empty());
        assert_eq!(fs::read(&file).unwrap(), changed);
    }
}

#[test]
fn a_linked_file_whose_other_name_is_gone_goes_too_unless_it_is_pinned() {
    for pin in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let (store, content) = (open(dir.path()), Content::new(1, LEN));
        let file = foreign(dir.path(), &content);
        drop(adopt_from(&store, &content, &file).unwrap());
        if !matches!(kin(&store, &content), Some(Kin::Linked(_))) {
            return;
        }
        store.set_pinned(&content.task, pin).unwrap();
        fs::remove_file(&file).unwrap();
        assert_eq!(
            content.verify(&store.find(&content.task).unwrap()),
            content.count()
        );
        drop(store);
        let store = open(dir.path());
        assert_eq!(store.find(&content.task).is_some(), pin);
        assert_eq!(blob_path(dir.path(), &content).exists(), pin);
        assert_eq!(kin(&store, &content), None, "it is ours alone now");
    }
}

#[test]
fn a_row_that_is_ahead_of_its_file_is_put_right() {
    let dir = tempfile::tempdir().unwrap();
    let (store, content) = (open(dir.path()), Content::new(1, LEN));
    content.write(&store, 0..content.count());
    store.checkpoint().unwrap();
    let file = foreign(dir.path(), &content);
    // As far as the exchange of the file goes before a crash.
    let record = store.inner.record(&content.task).unwrap();
    let stamp = Stamp::of(&fs::metadata(&file).unwrap());
    record.state().set_kin(Some(Kin::Linked(stamp)));
    store.inner.save(&[record]).unwrap();
    drop(store);
    let store = open(dir.path());
    assert_eq!(kin(&store, &content), None);
    assert!(!store.blobs()[0].complete, "in doubt");
    assert_eq!(
        content.verify(&store.find(&content.task).unwrap()),
        content.count()
    );
    let (_, shared) = adopt_from(&store, &content, &file).unwrap();
    assert_eq!(shared, Shared::Shared);
}

#[test]
fn what_must_stay_is_not_removed() {
    let dir = tempfile::tempdir().unwrap();
    let (store, content) = (open(dir.path()), Content::new(1, LEN));
    content.write(&store, 0..2);
    assert!(store.remove_unproven(&content.task).unwrap());
    drop(adopt(&store, &content, &ingest(dir.path(), &content), true).unwrap());
    assert!(!store.remove_unproven(&content.task).unwrap());
    assert!(!store.remove_unpinned(&content.task).unwrap());
    store.set_pinned(&content.task, false).unwrap();
    assert!(store.remove_unpinned(&content.task).unwrap());
    assert!(store.remove_unpinned(&content.task).is_err());
}

#[test]
fn many_take_in_the_same_file_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let (store, content) = (open(dir.path()), Content::new(1, LEN));
    let file = foreign(dir.path(), &content);
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let (store, content, file) = (&store, &content, &file);
            let own = dir.path().join(format!("own-{worker}"));
            fs::write(&own, &content.data).unwrap();
            scope.spawn(move || match worker % 2 {
                0 => drop(adopt(store, content, &own, worker == 0).unwrap()),
                _ => drop(adopt_from(store, content, file).unwrap()),
            });
        }
        scope.spawn(|| content.write(&store, 0..content.count()));
    });
    assert_eq!(store.blobs().len(), 1);
    assert!(store.blobs()[0].pinned && store.blobs()[0].durable);
    assert_eq!(
        content.verify(&store.find(&content.task).unwrap()),
        content.count()
    );
    assert_eq!(
        fs::read_dir(dir.path().join("incoming")).unwrap().count(),
        0
    );
}

#[test]
fn what_is_pinned_never_comes_to_be_read_where_another_program_has_it() {
    let (dir, other) = (
        tempfile::tempdir().unwrap(),
        tempfile::tempdir_in("/dev/shm"),
    );
    let Ok(other) = other else { return };
    let store = open(dir.path());
    let content = Content::new(1, LEN);
    let lend = |otherwise, pin| {
        let share = Share {
            otherwise,
            pace: Pace::Full,
        };
        let file = foreign(other.path(), &content);
        drop(adopt_from_as(&store, &content, &file, share, pin).unwrap());
        store.blobs()[0].owner
    };
    assert_eq!(lend(Otherwise::Copy, true), Owner::Us);
    assert_eq!(lend(Otherwise::InPlace, false), Owner::Us);
    drop(other);
    let blob = store.find(&content.task).unwrap();
    assert_eq!(content.verify(&blob), content.count());
}

#[test]
fn a_file_on_another_file_system_is_read_where_it_lies() {
    let (dir, other) = (
        tempfile::tempdir().unwrap(),
        tempfile::tempdir_in("/dev/shm"),
    );
    let Ok(other) = other else { return };
    let content = Content::new(1, LEN);
    let file = foreign(other.path(), &content);
    let share = Share {
        otherwise: Otherwise::InPlace,
        pace: Pace::Full,
    };
    let take = |store: &Store| adopt_from_as(store, &content, &file, share, false);
    let store = open(dir.path());
    content.write(&store, 0..content.count());
    let (blob, shared) = take(&store).unwrap();
    assert_eq!(
        (shared, store.blobs()[0].owner),
        (Shared::Shared, Owner::Other)
    );
    assert_eq!(content.verify(&blob), content.count());
    drop((blob, store));
    // One name is enough: it is theirs.
    let store = open(dir.path());
    assert_eq!(take(&store).unwrap().1, Shared::Already);
    let blob = store.find(&content.task).unwrap();
    assert_eq!(content.verify(&blob), content.count());
    assert_eq!(blob.recheck().unwrap(), 0);
    drop(blob);
    store.close().unwrap();
    drop(store);
    // Gone while nobody looked, and while the store ran.
    fs::remove_file(&file).unwrap();
    let store = open(dir.path());
    let name = blob_path(dir.path(), &content);
    assert!(store.blobs().is_empty() && name.symlink_metadata().is_err());
    foreign(other.path(), &content);
    drop(take(&store).unwrap());
    fs::remove_file(&file).unwrap();
    assert!(store.find(&content.task).is_none());
    assert_eq!(store.take_evicted(), [content.task]);
    assert!(name.symlink_metadata().is_err());
    // Changed.
    foreign(other.path(), &content);
    drop(take(&store).unwrap());
    fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    change(&file, LEN as u64);
    assert!(store.find(&content.task).is_none() && file.exists());
}
