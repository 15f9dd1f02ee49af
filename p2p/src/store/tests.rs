//! Tests of the whole store, on real directories.

mod adopt_killed;
mod adopted;
mod basics;
mod chained;
mod crash;
pub(super) mod fate;
mod faults;
mod killed;
mod model;
mod origins;
mod quota;
mod room;
mod upgraded;

use std::{ops::Range, path::Path, sync::Arc};

use hawker_model::{Chain, ChainState, Digest, Geometry, PieceIndex, SignedStates, TaskId};

use super::{BlobFile, Store, StoreConfig};

/// A blob as the network would bring it.
#[derive(Clone, Debug)]
struct Content {
    task: TaskId,
    geometry: Geometry,
    data: Vec<u8>,
    states: Vec<ChainState>,
}

impl Content {
    /// `len` bytes that depend on `seed`.
    fn new(seed: u8, len: usize) -> Self {
        let mut x = u64::from(seed) << 32 | 0x9e37_79b9;
        let mut next = || {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x as u8
        };
        let data: Vec<u8> = (0..len).map(|_| next()).collect();
        let geometry = Geometry::for_length(len as u64).unwrap();
        let mut chain = Chain::new(geometry);
        let piece = |piece| {
            let range = geometry.range(piece);
            range.start as usize..range.end as usize
        };
        let states = geometry
            .pieces()
            .map(|p| chain.advance(&data[piece(p)]).unwrap())
            .collect();
        Self {
            task: TaskId::Blob(Digest::of(&data)),
            geometry,
            data,
            states,
        }
    }

    fn count(&self) -> u32 {
        self.geometry.piece_count()
    }

    fn piece(&self, piece: u32) -> &[u8] {
        let range = self.geometry.range(PieceIndex(piece));
        &self.data[range.start as usize..range.end as usize]
    }

    fn batch(&self, range: Range<u32>) -> SignedStates {
        SignedStates {
            first: PieceIndex(range.start),
            states: self.states[range.start as usize..range.end as usize].to_vec(),
            origin: None,
            signer: Arc::from(*b"a certificate"),
            signature: b"a signature".to_vec(),
        }
    }

    /// Creates the blob with its whole list.
    fn create(&self, store: &Store) -> Arc<BlobFile> {
        let blob = store.create(self.task, self.geometry).unwrap();
        if self.count() > 0 {
            blob.add_batch(self.batch(0..self.count())).unwrap();
        }
        blob
    }

    /// Creates the blob and writes some of its pieces; says how often it was told complete.
    fn write(&self, store: &Store, pieces: Range<u32>) -> usize {
        let blob = self.create(store);
        let written = pieces.map(|p| blob.write_piece(PieceIndex(p), self.piece(p)).unwrap());
        written.filter(|written| written.complete).count()
    }

    /// That whatever `blob` claims to have is right; returns how many pieces that is.
    fn verify(&self, blob: &BlobFile) -> u32 {
        let pieces = blob.pieces();
        for piece in pieces.iter() {
            assert_eq!(
                blob.read_piece(piece).unwrap(),
                self.piece(piece.0),
                "piece {piece}"
            );
        }
        pieces.len()
    }
}

fn open(dir: &Path) -> Store {
    Store::open(dir, StoreConfig::default()).unwrap()
}

fn open_with_quota(dir: &Path, quota: u64) -> Store {
    let config = StoreConfig {
        quota_bytes: Some(quota),
        ..StoreConfig::default()
    };
    Store::open(dir, config).unwrap()
}
