//! The store against a model of what it may and must remember.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::PathBuf,
    sync::OnceLock,
    time::{Duration, SystemTime},
};

use proptest::prelude::*;

use super::{
    adopted::{adopt, adopt_from, foreign, ingest},
    *,
};
use crate::store::{AdoptError, BlobSummary, CreateError, ReadError, WritePieceError};

/// With room for two of the three largest.
const QUOTA: u64 = 700_000;

fn contents() -> &'static [Content] {
    static CONTENTS: OnceLock<Vec<Content>> = OnceLock::new();
    CONTENTS.get_or_init(|| {
        let lens = [0, 1, 65_536, 200_000, 300_000, 260_000];
        let contents = lens.iter().enumerate();
        contents
            .map(|(seed, len)| Content::new(seed as u8, *len))
            .collect()
    })
}

#[derive(Clone, Debug)]
enum Step {
    Create(usize),
    Batch(usize, u32, u32),
    Write(usize, u32),
    WriteBad(usize, u32),
    Read(usize, u64, usize),
    Remove(usize),
    Pin(usize, bool),
    /// A client has written it here.
    Adopt(usize, bool),
    /// Another program has it.
    AdoptFrom(usize),
    /// The other program deletes it.
    DropForeign(usize),
    /// The other program changes it in place.
    SpoilForeign(usize),
    Hold(usize),
    Release,
    Checkpoint,
    /// Without a clean mark.
    Crash,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let blob = || 0..contents().len();
    prop_oneof![
        2 => blob().prop_map(Step::Create),
        4 => (blob(), 0u32..6, 1u32..6).prop_map(|(b, first, count)| Step::Batch(b, first, count)),
        10 => (blob(), 0u32..6).prop_map(|(b, piece)| Step::Write(b, piece)),
        1 => (blob(), 0u32..6).prop_map(|(b, piece)| Step::WriteBad(b, piece)),
        3 => (blob(), 0u64..300_000, 0usize..150_000).prop_map(|(b, at, len)| Step::Read(b, at, len)),
        1 => blob().prop_map(Step::Remove),
        1 => (blob(), any::<bool>()).prop_map(|(b, pinned)| Step::Pin(b, pinned)),
        2 => (blob(), any::<bool>()).prop_map(|(b, pin)| Step::Adopt(b, pin)),
        2 => blob().prop_map(Step::AdoptFrom),
        1 => blob().prop_map(Step::DropForeign),
        1 => blob().prop_map(Step::SpoilForeign),
        1 => blob().prop_map(Step::Hold),
        1 => Just(Step::Release),
        2 => Just(Step::Checkpoint),
        1 => Just(Step::Crash),
        1 => Just(Step::Restart),
    ]
}

/// What is known of one blob.
#[derive(Clone, Debug, Default)]
struct Known {
    list: u32,
    pieces: BTreeSet<u32>,
    pinned: bool,
    complete: bool,
    /// Its file is the other program's.
    linked: bool,
}

struct Harness {
    dir: tempfile::TempDir,
    store: Option<Store>,
    /// In the order of use, the oldest first.
    used: Vec<usize>,
    known: BTreeMap<usize, Known>,
    /// What must outlive a crash.
    saved: BTreeMap<usize, Known>,
    held: BTreeMap<usize, Arc<BlobFile>>,
}

impl Harness {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Some(open_with_quota(dir.path(), QUOTA));
        Self {
            dir,
            store,
            used: Vec::new(),
            known: BTreeMap::new(),
            saved: BTreeMap::new(),
            held: BTreeMap::new(),
        }
    }

    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    fn apply(&mut self, step: Step) {
        match step {
            Step::Create(at) => self.create(at),
            Step::Batch(at, first, count) => self.batch(at, first, count),
            Step::Write(at, piece) => self.write(at, piece, true),
            Step::WriteBad(at, piece) => self.write(at, piece, false),
            Step::Read(at, offset, len) => self.read(at, offset, len),
            Step::Remove(at) => {
                let removed = self.store().remove(&contents()[at].task).is_ok();
                assert_eq!(removed, self.known.contains_key(&at));
                self.forget(at);
            }
            Step::Pin(at, pinned) => {
                let done = self.store().set_pinned(&contents()[at].task, pinned);
                assert_eq!(done.is_ok(), self.known.contains_key(&at));
                if let Some(known) = self.known.get_mut(&at) {
                    known.pinned = pinned;
                    self.saved.insert(at, known.clone());
                }
            }
            Step::Adopt(at, pin) => self.adopt(at, pin),
            Step::AdoptFrom(at) => self.adopt_from(at),
            Step::DropForeign(at) => drop(fs::remove_file(self.foreign(at))),
            Step::SpoilForeign(at) => self.spoil_foreign(at),
            Step::Hold(at) => {
                let blob = self.store().find(&contents()[at].task);
                assert_eq!(blob.is_some(), self.known.contains_key(&at));
                self.held.extend(blob.map(|blob| (at, blob)));
            }
            Step::Release => self.held.clear(),
            Step::Checkpoint => {
                self.store().checkpoint().unwrap();
                let marked =
                    |blob: &BlobSummary| blob.pieces < blob.geometry.piece_count() || blob.durable;
                assert!(self.store().blobs().iter().all(marked));
                self.saved = self.known.clone();
            }
            Step::Crash => {
                self.restart();
                self.recover();
            }
            Step::Restart => {
                self.store().close().unwrap();
                self.saved = self.known.clone();
                self.restart();
                self.check_order();
                self.check();
            }
        }
    }

    fn restart(&mut self) {
        self.held.clear();
        self.store = None;
        self.let_go();
        self.store = Some(open_with_quota(self.dir.path(), QUOTA));
    }

    fn touch(&mut self, at: usize) {
        self.used.retain(|used| *used != at);
        self.used.push(at);
    }

    fn forget(&mut self, at: usize) {
        self.known.remove(&at);
        self.saved.remove(&at);
        self.held.remove(&at);
        self.used.retain(|used| *used != at);
    }

    fn create(&mut self, at: usize) {
        let content = &contents()[at];
        let created = self.store().create(content.task, content.geometry);
        if self.known.contains_key(&at) {
            created.unwrap();
            return;
        }
        let Some(evicted) = self.evict_for(at) else {
            let error = created.unwrap_err();
            assert!(matches!(error, CreateError::QuotaHeld { .. }), "{error}");
            assert!(self.store().take_evicted().is_empty());
            return;
        };
        drop(created.unwrap());
        self.note_evicted(evicted);
        self.touch(at);
        let known = Known {
            complete: content.count() == 0,
            ..Known::default()
        };
        self.known.insert(at, known);
    }

    /// The model's own eviction.
    fn evict_for(&self, at: usize) -> Option<Vec<usize>> {
        let len = |at: &usize| contents()[*at].data.len() as u64;
        let own = |at: &&usize| !self.known[*at].linked;
        let used: u64 = self.known.keys().filter(own).map(len).sum();
        let mut excess = (used + len(&at)).saturating_sub(QUOTA);
        let idle = |at: &&usize| !self.known[*at].pinned && !self.held.contains_key(*at);
        let mut evicted = Vec::new();
        for candidate in self.used.iter().filter(idle).filter(own) {
            if excess == 0 {
                break;
            }
            excess = excess.saturating_sub(len(candidate));
            evicted.push(*candidate);
        }
        (excess == 0).then_some(evicted)
    }

    fn note_evicted(&mut self, evicted: Vec<usize>) {
        let told: Vec<TaskId> = evicted.iter().map(|at| contents()[*at].task).collect();
        assert_eq!(self.store().take_evicted(), told);
        evicted.into_iter().for_each(|at| self.forget(at));
    }

    fn adopt(&mut self, at: usize, pin: bool) {
        let content = &contents()[at];
        let file = ingest(self.dir.path(), content);
        let adopted = adopt(self.store(), content, &file, pin);
        if !self.known.contains_key(&at) {
            match self.evict_for(at) {
                Some(evicted) => self.note_evicted(evicted),
                None if pin => {}
                None => {
                    let error = adopted.unwrap_err();
                    assert!(matches!(error, AdoptError::Room(_)) && file.exists());
                    return;
                }
            }
        }
        drop(adopted.unwrap());
        assert!(!file.exists());
        self.note_whole(at);
        self.known.entry(at).and_modify(|known| {
            known.pinned |= pin;
            known.linked = false;
        });
        self.saved.insert(at, self.known[&at].clone());
    }

    fn adopt_from(&mut self, at: usize) {
        let content = &contents()[at];
        let file = self.foreign(at);
        foreign(file.parent().unwrap(), content);
        let (known, evicted) = (self.known.contains_key(&at), self.evict_for(at));
        match adopt_from(self.store(), content, &file) {
            Ok(adopted) => drop(adopted),
            // Shared extents are ours in the end, so they need room, but make none.
            Err(error) => {
                assert!(matches!(error, AdoptError::Room(_)), "{error}");
                assert!(!known && evicted != Some(Vec::new()));
                return;
            }
        }
        let linked = is_linked(self.store(), at);
        assert!(known || linked || evicted == Some(Vec::new()));
        self.note_whole(at);
        self.known
            .entry(at)
            .and_modify(|known| known.linked = linked);
        self.saved.insert(at, self.known[&at].clone());
    }

    /// A blob is whole and durable now.
    fn note_whole(&mut self, at: usize) {
        let count = contents()[at].count();
        let known = self.known.entry(at).or_default();
        let changed = !known.complete || known.pieces.len() as u32 != count;
        (known.list, known.complete) = (count, true);
        known.pieces = (0..count).collect();
        if changed || !self.used.contains(&at) {
            self.touch(at);
        }
    }

    fn foreign(&self, at: usize) -> PathBuf {
        let dir = self.dir.path().join("foreign");
        fs::create_dir_all(&dir).unwrap();
        dir.join(contents()[at].task.to_hex())
    }

    fn spoil_foreign(&mut self, at: usize) {
        let file = self.foreign(at);
        let linked = self.known.get(&at).is_some_and(|known| known.linked);
        let (Ok(found), false) = (fs::metadata(&file), contents()[at].data.is_empty()) else {
            return;
        };
        let ours = fs::metadata(self.blob_path(at)).map(|ours| ours.ino());
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&file, b"other bytes").unwrap();
        let later = SystemTime::now() + Duration::from_secs(1);
        let opened = fs::File::options().write(true).open(&file).unwrap();
        opened.set_modified(later).unwrap();
        fs::remove_file(&file).unwrap();
        self.held.remove(&at);
        if linked && ours.is_ok_and(|ours| ours == found.ino()) {
            assert!(self.store().find(&contents()[at].task).is_none());
            self.note_evicted(vec![at]);
        }
    }

    fn blob_path(&self, at: usize) -> PathBuf {
        let hex = contents()[at].task.to_hex();
        let dir = self.dir.path().join("blobs/sha256").join(&hex[..2]);
        dir.join(hex)
    }

    /// Between two lives of the store: what the other program has deleted is ours alone, if it is
    /// pinned, and gone otherwise.
    fn let_go(&mut self) {
        for at in self.known.keys().copied().collect::<Vec<_>>() {
            let alone = fs::metadata(self.blob_path(at)).is_ok_and(|found| found.nlink() == 1);
            let known = &self.known[&at];
            match (known.linked && alone, known.pinned) {
                (true, false) => self.forget(at),
                (true, true) => {
                    for known in [self.known.get_mut(&at), self.saved.get_mut(&at)] {
                        known.unwrap().linked = false;
                    }
                }
                (false, _) => {}
            }
        }
    }

    fn batch(&mut self, at: usize, first: u32, count: u32) {
        let content = &contents()[at];
        let Some(blob) = self.store().find(&content.task) else {
            return assert!(!self.known.contains_key(&at));
        };
        let known = self.known.get_mut(&at).unwrap();
        let end = (first + count).min(content.count());
        if first >= end {
            return;
        }
        let added = blob.add_batch(content.batch(first..end));
        match first > known.list {
            true => assert!(added.is_err()),
            false => assert_eq!(added.unwrap(), end > known.list),
        }
        if first <= known.list {
            known.list = known.list.max(end);
        }
        assert_eq!(
            blob.list().unwrap().states(),
            &content.states[..known.list as usize]
        );
    }

    fn write(&mut self, at: usize, piece: u32, good: bool) {
        let content = &contents()[at];
        let Some(blob) = self.store().find(&content.task) else {
            return assert!(!self.known.contains_key(&at));
        };
        let known = self.known.get_mut(&at).unwrap();
        let mut data = content.piece(piece).to_vec();
        if let (false, Some(byte)) = (good, data.last_mut()) {
            *byte ^= 1;
        }
        let written = blob.write_piece(PieceIndex(piece), &data);
        if piece >= content.count() {
            assert!(matches!(written, Err(WritePieceError::OutOfRange { .. })));
        } else if known.pieces.contains(&piece) {
            assert!(!written.unwrap().complete);
        } else if piece >= known.list {
            assert!(matches!(written, Err(WritePieceError::UnknownState { .. })));
        } else if !good {
            assert!(matches!(written, Err(WritePieceError::Mismatch { .. })));
        } else {
            known.pieces.insert(piece);
            known.complete = known.pieces.len() as u32 == content.count();
            assert_eq!(written.unwrap().complete, known.complete);
            self.touch(at);
        }
    }

    fn read(&mut self, at: usize, offset: u64, len: usize) {
        let content = &contents()[at];
        let Some(blob) = self.store().find(&content.task) else {
            return assert!(!self.known.contains_key(&at));
        };
        let known = &self.known[&at];
        let (end, length) = (offset + len as u64, content.data.len() as u64);
        let mut pieces = content.geometry.pieces_of(&(offset..end));
        let here = pieces.all(|piece| known.pieces.contains(&piece));
        match blob.read_at(offset, len) {
            Ok(bytes) => {
                assert!(here && end <= length);
                assert_eq!(bytes, content.data[offset as usize..end as usize]);
                self.touch(at);
            }
            Err(ReadError::OutOfRange { .. }) => assert!(end > length),
            Err(ReadError::Missing { .. }) => assert!(!here && end <= length),
            Err(error) => panic!("{error}"),
        }
    }

    /// Everything is as known, and every stored byte is right.
    fn check(&mut self) {
        let summaries = self.store().blobs();
        assert_eq!(summaries.len(), self.known.len());
        for summary in summaries {
            let at = contents()
                .iter()
                .position(|content| content.task == summary.task)
                .unwrap();
            let known = &self.known[&at];
            let blob = self.store().find(&summary.task).unwrap();
            assert!(
                blob.pieces()
                    .iter()
                    .map(|piece| piece.0)
                    .eq(known.pieces.iter().copied())
            );
            contents()[at].verify(&blob);
            assert_eq!(blob.list().unwrap().len(), known.list);
            assert_eq!(
                (
                    blob.is_complete(),
                    summary.pinned,
                    is_linked(self.store(), at)
                ),
                (known.complete, known.pinned, known.linked)
            );
        }
        self.use_all();
    }

    /// A clean stop keeps the order of use.
    fn check_order(&self) {
        let mut summaries = self.store().blobs();
        summaries.sort_by_key(|summary| summary.last_used);
        let found = summaries.iter().map(|summary| summary.task);
        assert!(found.eq(self.used.iter().map(|at| contents()[*at].task)));
    }

    /// Brings the store's order of use and the model's together.
    fn use_all(&mut self) {
        self.used = self.known.keys().copied().collect();
        for at in &self.used {
            self.store().find(&contents()[*at].task).unwrap().touch();
        }
    }

    /// After a crash: at least what was saved, at most what was known. That is what is known now.
    fn recover(&mut self) {
        let before = std::mem::take(&mut self.known);
        let summaries = self.store().blobs();
        for at in self.saved.keys() {
            let found = self.store().find(&contents()[*at].task);
            assert!(found.is_some(), "a saved blob is there");
        }
        for summary in summaries {
            let at = contents()
                .iter()
                .position(|content| content.task == summary.task)
                .unwrap();
            let blob = self.store().find(&summary.task).unwrap();
            let (known, saved) = (&before[&at], &self.saved[&at]);
            let pieces: BTreeSet<u32> = blob.pieces().iter().map(|piece| piece.0).collect();
            assert!(pieces.is_subset(&known.pieces) && pieces.is_superset(&saved.pieces));
            let list = blob.list().unwrap().len();
            assert!((saved.list..=known.list).contains(&list));
            contents()[at].verify(&blob);
            let recovered = Known {
                list,
                pieces,
                pinned: summary.pinned,
                complete: blob.is_complete(),
                linked: is_linked(self.store(), at),
            };
            assert_eq!(recovered.linked, saved.linked);
            assert!(saved.complete || !summary.durable);
            assert!(
                !summary.complete || summary.durable,
                "in doubt until it is found"
            );
            self.known.insert(at, recovered);
        }
        self.saved = self.known.clone();
        // Last use may be older than it was.
        self.use_all();
    }
}

fn is_linked(store: &Store, at: usize) -> bool {
    let record = store.inner.record(&contents()[at].task);
    record.is_some_and(|record| record.state().is_linked())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn the_store_remembers_what_it_must_and_no_more(
        steps in prop::collection::vec(step(), 1..80),
    ) {
        let mut harness = Harness::new();
        for step in steps {
            harness.apply(step);
        }
        harness.check();
    }
}
