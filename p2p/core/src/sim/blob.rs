//! The blobs that are distributed: no bytes, only whether bytes would be right.

use std::sync::Arc;

use hawker_model::{
    ChainState, Digest, Geometry, GeometryError, HostId, PieceIndex, PieceList, SignedStates,
    TaskId,
};

/// What the bytes of a piece are: the true ones, or forged in one of many ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bytes(pub(crate) u8);

pub(crate) const TRUE: Bytes = Bytes(0);
/// Fits no list.
pub(crate) const CORRUPT: Bytes = Bytes(u8::MAX);
/// Fits the forged list.
pub(crate) const FORGED: Bytes = Bytes(1);

/// A blob by its place in the scenario.
pub(crate) type BlobNo = u16;

#[derive(Debug)]
pub(crate) struct Blob {
    number: BlobNo,
    pub(crate) task: TaskId,
    pub(crate) geometry: Geometry,
}

impl Blob {
    pub(crate) fn new(number: BlobNo, length: u64) -> Result<Self, GeometryError> {
        let geometry = Geometry::for_length(length)?;
        let last = PieceIndex(geometry.piece_count().saturating_sub(1));
        let digest = match length {
            0 => Digest::of(b""),
            _ => state(number, last, TRUE).to_digest(),
        };
        Ok(Self {
            number,
            task: TaskId::Blob(digest),
            geometry,
        })
    }

    /// The chain values of the pieces `first..end`, as someone who has `bytes` would compute them.
    pub(crate) fn batch(
        &self,
        first: u32,
        end: u32,
        bytes: Bytes,
        signer: &Arc<[u8]>,
    ) -> SignedStates {
        let value = |piece| match self.geometry.is_last(piece) {
            // Even a forger must end in the digest.
            true => self.state(piece, TRUE),
            false => self.state(piece, bytes),
        };
        SignedStates {
            first: PieceIndex(first),
            states: (first..end).map(PieceIndex).map(value).collect(),
            origin: None,
            signer: Arc::clone(signer),
            signature: Vec::new(),
        }
    }

    /// Whether a piece with these bytes matches the list.
    pub(crate) fn check(&self, list: &PieceList, piece: PieceIndex, bytes: Bytes) -> bool {
        let Some((before, after)) = list.around(piece) else {
            return false;
        };
        let true_before = self.is_true_before(piece, before);
        after == self.state(piece, bytes) && (bytes != TRUE || true_before)
    }

    /// Whether a chain value is the one before a piece.
    pub(crate) fn is_true_before(&self, piece: PieceIndex, before: ChainState) -> bool {
        match piece.0.checked_sub(1) {
            None => before == ChainState::initial(),
            Some(previous) => before == self.state(PieceIndex(previous), TRUE),
        }
    }

    fn state(&self, piece: PieceIndex, bytes: Bytes) -> ChainState {
        state(self.number, piece, bytes)
    }
}

/// What names a signer.
pub(crate) fn certificate(host: &HostId) -> Arc<[u8]> {
    Arc::from(host.as_str().as_bytes())
}

fn state(blob: BlobNo, piece: PieceIndex, bytes: Bytes) -> ChainState {
    let mut value = [bytes.0; 32];
    value[4..6].copy_from_slice(&blob.to_be_bytes());
    value[..4].copy_from_slice(&piece.0.to_be_bytes());
    ChainState::from_bytes(value)
}
