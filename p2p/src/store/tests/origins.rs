//! Whose bytes the store says they are.

use std::collections::BTreeSet;

use hawker_model::OriginName;
use proptest::prelude::*;

use super::*;

const PIECE: usize = 64 << 10;
/// Pieces of the blob that everything here is about.
const COUNT: u32 = 6;
/// Origins that take part.
const ORIGINS: usize = 3;

fn content() -> Content {
    Content::new(1, (COUNT as usize - 1) * PIECE + 7)
}

fn origin(number: usize) -> OriginName {
    OriginName::parse(&format!("https://r{number}.example")).unwrap()
}

fn read_at(content: &Content, pieces: Range<u32>, from: Option<usize>) -> SignedStates {
    SignedStates {
        origin: from.map(origin),
        ..content.batch(pieces)
    }
}

fn bytes_of(content: &Content, pieces: &Range<u32>) -> Range<u64> {
    let last = PieceIndex(pieces.end - 1);
    content.geometry.range(PieceIndex(pieces.start)).start..content.geometry.range(last).end
}

fn held(blob: &BlobFile, content: &Content, pieces: Range<u32>, by: usize) -> bool {
    blob.is_held(bytes_of(content, &pieces), &|name| *name == origin(by))
}

/// A blob of which 0..2 were read at origin 0, 2..4 nobody knows where, the rest at origin 1.
fn mixed(store: &Store, content: &Content) -> Arc<BlobFile> {
    let blob = store.create(content.task, content.geometry).unwrap();
    for (pieces, from) in [(0..2, Some(0)), (2..4, None), (4..COUNT, Some(1))] {
        blob.add_batch(read_at(content, pieces, from)).unwrap();
    }
    for piece in 0..COUNT {
        let data = content.piece(piece);
        blob.write_piece(PieceIndex(piece), data).unwrap();
    }
    blob
}

fn assert_mixed(blob: &BlobFile, content: &Content) {
    assert!(held(blob, content, 0..2, 0) && held(blob, content, 4..COUNT, 1));
    assert!(!held(blob, content, 0..3, 0) && !held(blob, content, 3..COUNT, 1));
    assert!((0..ORIGINS).all(|by| !held(blob, content, 2..3, by)));
    assert!(!held(blob, content, 0..1, 1) && !held(blob, content, 0..COUNT, 2));
}

#[test]
fn where_pieces_were_read_outlives_crashes_and_stops() {
    let dir = tempfile::tempdir().unwrap();
    let content = content();
    let store = open(dir.path());
    assert_mixed(&mixed(&store, &content), &content);
    store.checkpoint().unwrap();
    // As killed.
    drop(store);
    let store = open(dir.path());
    let blob = store.find(&content.task).unwrap();
    assert_mixed(&blob, &content);
    blob.note_holder(origin(2));
    drop(blob);
    store.close().unwrap();
    drop(store);
    let store = open(dir.path());
    let blob = store.find(&content.task).unwrap();
    assert!(held(&blob, &content, 0..COUNT, 2));
    assert!(held(&blob, &content, 0..2, 0) && !held(&blob, &content, 0..COUNT, 0));
    assert_eq!(blob.holders(), [origin(2)]);
    // The list is sent on with the origins that were signed.
    let list = blob.list().unwrap();
    let origins = list.batches_from(0).map(|batch| batch.origin.clone());
    assert!(origins.eq([Some(origin(0)), None, Some(origin(1))]));
}

#[test]
fn a_blob_that_comes_again_has_to_be_proven_again() {
    let dir = tempfile::tempdir().unwrap();
    let content = content();
    let store = open_with_quota(dir.path(), content.data.len() as u64 + 100);
    mixed(&store, &content).note_holder(origin(2));
    store.checkpoint().unwrap();
    // It has to make room for another.
    let other = Content::new(2, 1000);
    other.write(&store, 0..1);
    assert_eq!(store.take_evicted(), [content.task]);
    store.remove(&other.task).unwrap();
    let blob = content.create(&store);
    assert!(blob.holders().is_empty());
    assert!((0..ORIGINS).all(|by| !held(&blob, &content, 0..1, by)));
    drop(blob);
    store.remove(&content.task).unwrap();
    assert_mixed(&mixed(&store, &content), &content);
}

#[test]
fn nothing_is_said_of_what_is_not_listed_and_an_empty_blob_needs_no_holder() {
    let dir = tempfile::tempdir().unwrap();
    let (store, content) = (open(dir.path()), content());
    let blob = store.create(content.task, content.geometry).unwrap();
    assert!(held(&blob, &content, 0..COUNT, 0));
    let batch = read_at(&content, 0..1, Some(0));
    blob.add_batch(batch).unwrap();
    assert!(held(&blob, &content, 0..COUNT, 0) && !held(&blob, &content, 0..COUNT, 1));
    assert!(held(&blob, &content, 1..COUNT, 1));
    // The first byte of the next piece, the last of this one.
    let edge = PIECE as u64;
    let by_other = |range| blob.is_held(range, &|name| *name == origin(1));
    assert!(by_other(edge..edge + 1) && !by_other(edge - 1..edge) && by_other(5..5));
    assert!(!by_other(0..u64::MAX) && by_other(u64::MAX - 1..u64::MAX));
    let empty = Content::new(3, 0);
    let blob = empty.create(&store);
    assert!(blob.is_complete() && blob.is_held(0..u64::MAX, &|_| false));
}

#[test]
fn a_later_reader_of_known_pieces_is_not_credited() {
    let dir = tempfile::tempdir().unwrap();
    let (store, content) = (open(dir.path()), content());
    let blob = store.create(content.task, content.geometry).unwrap();
    blob.add_batch(read_at(&content, 0..2, Some(0))).unwrap();
    assert!(!blob.add_batch(read_at(&content, 0..2, Some(1))).unwrap());
    assert!(blob.add_batch(read_at(&content, 0..4, Some(1))).unwrap());
    assert!(!held(&blob, &content, 0..1, 1) && held(&blob, &content, 2..4, 1));
}

fn rot(dir: &Path, table: &str, key: &[u8; 33]) {
    let table: redb::TableDefinition<'_, &[u8; 33], &[u8]> = redb::TableDefinition::new(table);
    let database = redb::Database::create(dir.join("state.redb")).unwrap();
    let transaction = database.begin_write().unwrap();
    {
        let mut table = transaction.open_table(table).unwrap();
        table.insert(key, &b"rotten"[..]).unwrap();
    }
    transaction.commit().unwrap();
}

fn rot_batch(dir: &Path, content: &Content, first: u32) {
    let table: redb::TableDefinition<'_, &[u8; 37], &[u8]> = redb::TableDefinition::new("lists");
    let database = redb::Database::create(dir.join("state.redb")).unwrap();
    let transaction = database.begin_write().unwrap();
    {
        let mut table = transaction.open_table(table).unwrap();
        let key = crate::store::row::batch_key(&content.task, first);
        if table.remove(&key).unwrap().is_some() {
            table.insert(&key, &b"rotten"[..]).unwrap();
        }
    }
    transaction.commit().unwrap();
}

#[test]
fn what_rotted_is_nobody_s() {
    let dir = tempfile::tempdir().unwrap();
    let content = content();
    let store = open(dir.path());
    mixed(&store, &content).note_holder(origin(2));
    store.close().unwrap();
    drop(store);
    rot_batch(dir.path(), &content, 4);
    let store = open(dir.path());
    let blob = store.find(&content.task).unwrap();
    assert_eq!(blob.list().unwrap().len(), 4);
    // Others may come in place of what was lost.
    assert!(blob.holders().is_empty() && held(&blob, &content, 0..2, 0));
    blob.add_batch(read_at(&content, 4..COUNT, Some(2)))
        .unwrap();
    assert!(!held(&blob, &content, 4..COUNT, 1) && held(&blob, &content, 4..COUNT, 2));
    drop(blob);
    store.close().unwrap();
    drop(store);
    rot(dir.path(), "origins", &content.task.to_bytes());
    let store = open(dir.path());
    let blob = store.find(&content.task).unwrap();
    assert_eq!(content.verify(&blob), 4);
    assert!((0..ORIGINS).all(|by| !held(&blob, &content, 0..1, by)));
}

#[derive(Clone, Debug)]
enum Step {
    /// A batch from the network.
    Batch(u32, u32, Option<usize>),
    /// Our own fetch at an origin, from a piece on.
    Fetch(u32, u32, Option<usize>),
    /// A piece from the network.
    Piece(u32),
    Prove(usize),
    Checkpoint,
    Remove,
    Stop,
    Kill,
    /// The file is found short: pieces are lost.
    Lose(u32),
    RotBatch(u32),
    RotOrigins,
}

fn any_step() -> impl Strategy<Value = Step> {
    let from = || prop::option::weighted(0.8, 0..ORIGINS);
    prop_oneof![
        6 => (0..COUNT, 1..4u32, from()).prop_map(|(at, n, from)| Step::Batch(at, n, from)),
        6 => (0..COUNT, 1..4u32, from()).prop_map(|(at, n, from)| Step::Fetch(at, n, from)),
        4 => (0..COUNT).prop_map(Step::Piece),
        2 => (0..ORIGINS).prop_map(Step::Prove),
        2 => Just(Step::Checkpoint),
        1 => Just(Step::Remove),
        1 => Just(Step::Stop),
        1 => Just(Step::Kill),
        1 => (0..COUNT).prop_map(Step::Lose),
        1 => (0..COUNT).prop_map(Step::RotBatch),
        1 => Just(Step::RotOrigins),
    ]
}

/// What may be said: who has signed for each piece since the blob was made, who has proven it.
#[derive(Debug, Default)]
struct Truth {
    gave: [BTreeSet<usize>; COUNT as usize],
    proved: BTreeSet<usize>,
    /// Whoever first told a piece's chain value, in order of pieces.
    first: Vec<Option<usize>>,
    /// Nothing was lost since: then all that is true must be said.
    forgot: bool,
}

impl Truth {
    fn told(&mut self, pieces: Range<u32>, from: Option<usize>) {
        for piece in pieces {
            self.gave[piece as usize].extend(from);
            if piece as usize == self.first.len() {
                self.first.push(from);
            }
        }
    }

    fn check(&self, blob: &BlobFile, content: &Content) -> Result<(), TestCaseError> {
        let accepted = (0..1 << ORIGINS).map(|mask: usize| move |by: usize| mask >> by & 1 == 1);
        for accepts in accepted {
            let takes =
                |name: &OriginName| (0..ORIGINS).any(|by| accepts(by) && *name == origin(by));
            let proved = self.proved.iter().any(|by| accepts(*by));
            for piece in 0..COUNT {
                let said = blob.is_held(bytes_of(content, &(piece..piece + 1)), &takes);
                let gave = self.gave[piece as usize].iter().any(|by| accepts(*by));
                let here = blob.has(PieceIndex(piece));
                prop_assert!(!here || !said || gave || proved, "{piece}: {self:?}");
                if !self.forgot {
                    let first = self.first.get(piece as usize);
                    let first = first.is_none_or(|from| from.is_some_and(accepts));
                    prop_assert_eq!(said, first || proved, "{}: {:?}", piece, self);
                }
            }
            let all = blob.is_held(0..u64::MAX, &takes);
            let each = (0..COUNT).all(|p| blob.is_held(bytes_of(content, &(p..p + 1)), &takes));
            prop_assert_eq!(all, each);
        }
        Ok(())
    }
}

/// The store under test; `None` only while it is opened anew.
struct Bench {
    dir: tempfile::TempDir,
    content: Content,
    open: Option<(Store, Arc<BlobFile>)>,
    truth: Truth,
}

impl Bench {
    fn new() -> Self {
        let mut bench = Self {
            dir: tempfile::tempdir().unwrap(),
            content: content(),
            open: None,
            truth: Truth::default(),
        };
        bench.open();
        bench
    }

    fn blob(&self) -> &BlobFile {
        &self.open.as_ref().unwrap().1
    }

    fn open(&mut self) {
        let store = open(self.dir.path());
        let blob = match store.find(&self.content.task) {
            Some(blob) => blob,
            None => {
                self.truth = Truth::default();
                store
                    .create(self.content.task, self.content.geometry)
                    .unwrap()
            }
        };
        self.open = Some((store, blob));
    }

    fn stop(&mut self) {
        let (store, blob) = self.open.take().unwrap();
        drop(blob);
        store.close().unwrap();
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Batch(first, count, from) => {
                let pieces = first..(first + count).min(COUNT);
                let batch = read_at(&self.content, pieces.clone(), from);
                if self.blob().add_batch(batch).is_ok() {
                    self.truth.told(pieces, from);
                }
            }
            Step::Fetch(first, count, from) => self.fetch(first..(first + count).min(COUNT), from),
            Step::Piece(piece) => {
                let data = self.content.piece(piece);
                let _ = self.blob().write_piece(PieceIndex(piece), data);
            }
            Step::Prove(by) => {
                self.blob().note_holder(origin(by));
                self.truth.proved.insert(by);
            }
            Step::Checkpoint => self.open.as_ref().unwrap().0.checkpoint().unwrap(),
            Step::Remove => {
                let (store, blob) = self.open.take().unwrap();
                drop(blob);
                store.remove(&self.content.task).unwrap();
                drop(store);
                self.open();
            }
            Step::Stop => {
                self.stop();
                self.open();
            }
            Step::Kill => {
                self.open = None;
                self.truth.forgot = true;
                self.open();
            }
            Step::Lose(piece) => self.lose(piece),
            Step::RotBatch(first) => {
                self.stop();
                rot_batch(self.dir.path(), &self.content, first);
                self.truth.forgot = true;
                self.open();
            }
            Step::RotOrigins => {
                self.stop();
                rot(self.dir.path(), "origins", &self.content.task.to_bytes());
                self.truth.forgot = true;
                self.open();
            }
        }
    }

    fn fetch(&mut self, pieces: Range<u32>, from: Option<usize>) {
        let blob = self.blob();
        let Some(before) = blob.list().unwrap().before(PieceIndex(pieces.start)) else {
            return;
        };
        let mut chain = Chain::resume(self.content.geometry, PieceIndex(pieces.start), before);
        let bytes = bytes_of(&self.content, &pieces);
        let data = &self.content.data[bytes.start as usize..bytes.end as usize];
        let batch = blob
            .write_chained(&mut chain, data, |first, states| SignedStates {
                first,
                states,
                origin: from.map(origin),
                signer: (*b"a certificate").into(),
                signature: b"a signature".to_vec(),
            })
            .unwrap();
        if let Some(batch) = batch {
            self.truth.told(batch.first.0..batch.end(), from);
        }
    }

    fn lose(&mut self, piece: u32) {
        let blob = self.blob();
        if blob.has(PieceIndex(piece)) {
            let hex = self.content.task.to_hex();
            let path = format!("blobs/sha256/{}/{hex}", &hex[..2]);
            let path = self.dir.path().join(path);
            let file = std::fs::OpenOptions::new().write(true).open(path);
            let file = file.unwrap();
            file.set_len(self.content.geometry.range(PieceIndex(piece)).start)
                .unwrap();
            assert!(blob.read_piece(PieceIndex(piece)).is_err());
            file.set_len(self.content.geometry.length()).unwrap();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn no_origin_is_said_to_hold_what_it_never_gave_or_proved(
        steps in prop::collection::vec(any_step(), 1..25),
    ) {
        let mut bench = Bench::new();
        for step in steps {
            bench.step(step);
            bench.truth.check(bench.blob(), &bench.content)?;
        }
    }
}
