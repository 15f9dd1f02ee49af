//! Every operation of the store fails once, or from then on, and the power goes at each: what was
//! promised is kept, nothing wrong is given out, and the store works on once the fault is over.

use std::{collections::BTreeMap, fmt::Display, fs, path::PathBuf, sync::OnceLock};

use nix::libc;

use super::{
    adopted::{adopt, adopt_from, foreign, ingest},
    fate::{Fate, Loss, Plan},
    *,
};
use crate::store::{OpenStoreError, disk::Disk};

const LEN: usize = 70_000;
/// Room for four.
const QUOTA: u64 = 4 * LEN as u64;

fn content(name: u8) -> &'static Content {
    static CONTENTS: OnceLock<Vec<Content>> = OnceLock::new();
    let contents = CONTENTS.get_or_init(|| (0..6).map(|seed| Content::new(seed, LEN)).collect());
    &contents[usize::from(name - b'a')]
}

fn config() -> StoreConfig {
    StoreConfig {
        quota_bytes: Some(QUOTA),
        ..StoreConfig::default()
    }
}

pub(super) fn memory() -> tempfile::TempDir {
    // Where nothing has to be waited for.
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

/// Two lives of a store in which everything happens that changes a disk. What fails is gone past.
struct Life<'r> {
    root: &'r Path,
    disk: Disk,
    /// Blobs that the store said are durable; whether they are pinned.
    promised: BTreeMap<u8, bool>,
    errors: Vec<String>,
}

impl<'r> Life<'r> {
    fn new(root: &'r Path, disk: Disk) -> Self {
        Self {
            root,
            disk,
            promised: BTreeMap::new(),
            errors: Vec::new(),
        }
    }

    fn open(&self) -> Result<Store, OpenStoreError> {
        Store::open_on(self.disk.clone(), &self.root.join("store"), config())
    }

    fn note<T, E: Display>(&mut self, result: Result<T, E>) -> Option<T> {
        result
            .map_err(|error| self.errors.push(error.to_string()))
            .ok()
    }

    /// `between` is when the first life is over, but for its end.
    fn live(&mut self, between: impl FnOnce(Option<&Store>)) {
        let first = self.open();
        let first = self.note(first);
        if let Some(store) = &first {
            self.first(store);
        }
        between(first.as_ref());
        if let Some(store) = first {
            let closed = store.close();
            self.note(closed);
        }
        let second = self.open();
        if let Some(store) = self.note(second) {
            self.second(&store);
        }
    }

    fn first(&mut self, store: &Store) {
        self.write(store, b'a', 0..2);
        self.write(store, b'b', 0..1);
        let saved = store.checkpoint();
        self.note(saved);
        let file = ingest(self.root, content(b'c'));
        let adopted = adopt(store, content(b'c'), &file, true);
        if self.note(adopted).is_some() {
            self.promised.insert(b'c', true);
        }
        let pinned = store.set_pinned(&content(b'a').task, true);
        if self.note(pinned).is_some() && self.promised.contains_key(&b'a') {
            self.promised.insert(b'a', true);
        }
        self.write(store, b'd', 0..2);
        self.read(store, b'b');
        // It has to make room.
        self.promised.retain(|_, pinned| *pinned);
        self.write(store, b'e', 0..2);
        self.read(store, b'a');
        self.promised.remove(&b'e');
        let removed = store.remove(&content(b'e').task);
        self.note(removed);
        let saved = store.checkpoint();
        self.note(saved);
    }

    fn second(&mut self, store: &Store) {
        self.read(store, b'a');
        self.read(store, b'c');
        self.write(store, b'b', 0..2);
        let saved = store.checkpoint();
        self.note(saved);
    }

    fn write(&mut self, store: &Store, name: u8, pieces: Range<u32>) {
        let content = content(name);
        let blob = store.create(content.task, content.geometry);
        let Some(blob) = self.note(blob) else { return };
        let added = blob.add_batch(content.batch(0..2));
        self.note(added);
        for piece in pieces {
            let written = blob.write_piece(PieceIndex(piece), content.piece(piece));
            self.note(written);
        }
        if blob.is_complete() {
            let finished = blob.finish();
            if self.note(finished) == Some(true) {
                self.promised.entry(name).or_insert(false);
            }
        }
    }

    fn read(&mut self, store: &Store, name: u8) {
        let Some(blob) = store.find(&content(name).task) else {
            return;
        };
        for piece in blob.pieces().iter() {
            match blob.read_piece(piece) {
                Ok(data) => assert_eq!(data, content(name).piece(piece.0)),
                Err(error) => {
                    // A disk that does not give a byte back has broken the promise.
                    self.promised.remove(&name);
                    self.errors.push(error.to_string());
                }
            }
        }
    }
}

/// The store works, and tells no other story than its directory.
fn recovers(root: &Path, store: &Store) {
    let new = content(b'f');
    assert_eq!(new.write(store, 0..2), 1);
    let blob = store.find(&new.task).unwrap();
    assert!(blob.finish().unwrap());
    assert_eq!(new.verify(&blob), new.count());
    store.remove(&new.task).unwrap();
    store.checkpoint().unwrap();
    // Looked at, what lost its file goes.
    store
        .blobs()
        .iter()
        .for_each(|blob| drop(store.find(&blob.task)));
    store.checkpoint().unwrap();
    let mut stored: Vec<_> = store
        .blobs()
        .iter()
        .map(|blob| blob.task.to_hex())
        .collect();
    let mut files = files(&root.join("store/blobs/sha256"));
    stored.sort();
    files.sort();
    assert_eq!(stored, files, "what takes room is what is told of");
    assert!(store.blobs().len() as u64 * LEN as u64 <= QUOTA);
}

fn files(dir: &Path) -> Vec<String> {
    let shards = fs::read_dir(dir).unwrap();
    let entries = shards.flat_map(|shard| fs::read_dir(shard.unwrap().path()).unwrap());
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.collect()
}

/// On a sound disk, what was promised is there, and nothing wrong is.
fn keeps(root: &Path, promised: &BTreeMap<u8, bool>) {
    let dir = root.join("store");
    let store = Store::open_on(Disk::default(), &dir, config()).unwrap();
    assert!(!dir.join("state.redb.corrupt").exists());
    for (name, pinned) in promised {
        let summary = store.look_up(&content(*name).task);
        let summary = summary.unwrap_or_else(|| panic!("{} is lost", char::from(*name)));
        let found = (summary.complete, summary.durable, summary.pinned || !pinned);
        assert_eq!(found, (true, true, true), "{}", char::from(*name));
    }
    for summary in store.blobs() {
        let content = (b'a'..=b'f').map(content);
        let content = content
            .into_iter()
            .find(|c| c.task == summary.task)
            .unwrap();
        content.verify(&store.find(&summary.task).unwrap());
    }
    recovers(root, &store);
    store.close().unwrap();
}

fn fails_everywhere(errno: i32, lasting: bool) {
    for at in 0.. {
        let root = memory();
        let fate = Fate::new(Plan::Fail { at, errno, lasting });
        let mut life = Life::new(root.path(), fate.disk());
        life.live(|store| {
            fate.heal();
            if let Some(store) = store {
                recovers(root.path(), store);
            }
        });
        let Some(struck) = fate.struck() else {
            assert!(life.errors.is_empty(), "{:?}", life.errors);
            assert_eq!(life.promised.len(), 3);
            println!("{at} operations can fail with {errno}");
            assert!(at > 60);
            break;
        };
        let Life { promised, .. } = life;
        let kept = std::panic::catch_unwind(|| keeps(root.path(), &promised));
        assert!(kept.is_ok(), "operation {at} failed: {struck:.200}");
    }
}

#[test]
fn whatever_fails_once_costs_no_promise() {
    fails_everywhere(libc::EIO, false);
}

#[test]
fn a_disk_that_fails_for_a_while_costs_no_promise() {
    fails_everywhere(libc::EIO, true);
}

#[test]
fn a_full_disk_costs_no_promise_and_the_store_recovers() {
    fails_everywhere(libc::ENOSPC, true);
}

#[test]
fn a_disk_that_turns_read_only_costs_no_promise_and_the_store_recovers() {
    fails_everywhere(libc::EROFS, true);
}

#[test]
fn a_blob_opened_on_a_read_only_disk_is_read_there_and_written_once_it_is_writable_again() {
    let (root, content) = (memory(), content(b'a'));
    let fate = Fate::new(Plan::Spare);
    let store = Store::open_on(fate.disk(), root.path(), config()).unwrap();
    content.write(&store, 0..1);
    store.checkpoint().unwrap();
    fate.strike(libc::EROFS);
    let blob = store.find(&content.task).unwrap();
    assert_eq!(blob.read_piece(PieceIndex(0)).unwrap(), content.piece(0));
    let write = || blob.write_piece(PieceIndex(1), content.piece(1));
    let error = write().unwrap_err().to_string();
    assert!(error.to_lowercase().contains("read-only"), "{error}");
    fate.heal();
    assert!(write().unwrap().complete);
    assert_eq!(content.verify(&blob), 2);
}

#[test]
fn power_may_go_at_any_operation() {
    for at in 0.. {
        let root = memory();
        let fate = Fate::new(Plan::PowerOff { at });
        let mut life = Life::new(root.path(), fate.disk());
        life.live(|_| ());
        let Life { promised, .. } = life;
        let dice = at as u64;
        let whole = (at % 4 == 0).then_some(Loss::Nothing);
        for loss in [Loss::Everything, Loss::Some(dice)]
            .into_iter()
            .chain(whole)
        {
            let image = memory();
            fate.restore(root.path(), image.path(), loss);
            let kept = std::panic::catch_unwind(|| keeps(image.path(), &promised));
            let struck = fate.struck().unwrap_or_default();
            assert!(kept.is_ok(), "{loss:?} at operation {at}: {struck:.200}");
        }
        if fate.struck().is_none() {
            println!("{at} operations change something");
            assert!(at > 60);
            break;
        }
    }
}

/// Another program's files are taken in, linked and given up, and each operation fails.
#[test]
fn whatever_fails_about_another_programs_file_nothing_wrong_is_given_out() {
    for (at, errno) in (0..).zip([libc::EIO, libc::ENOSPC].into_iter().cycle()) {
        let root = memory();
        let fate = Fate::new(Plan::Fail {
            at: at / 2,
            errno,
            lasting: false,
        });
        let mut life = Life::new(root.path(), fate.disk());
        life.live(|store| {
            let Some(store) = store else { return };
            let others: PathBuf = root.path().join("others");
            fs::create_dir_all(&others).unwrap();
            for name in [b'a', b'd'] {
                let file = foreign(&others, content(name));
                let _ = adopt_from(store, content(name), &file);
                assert_eq!(fs::read(&file).unwrap(), content(name).data);
            }
            fate.heal();
            recovers(root.path(), store);
        });
        let Life { promised, .. } = life;
        let kept = std::panic::catch_unwind(|| keeps(root.path(), &promised));
        let Some(struck) = fate.struck() else { break };
        assert!(kept.is_ok(), "operation {at}: {struck:.200}");
    }
}
