//! How a task is cut into pieces.

use std::ops::Range;

use crate::PieceIndex;

/// Smallest piece, in bytes.
pub const MIN_PIECE_LEN: u32 = 64 << 10;
/// Largest piece, in bytes.
pub const MAX_PIECE_LEN: u32 = 4 << 20;
/// A blob is cut into about this many pieces, as far as the limits allow: a host can pass on only
/// what it has whole, so that a mesh comes the nearer to its bound the more there are
/// (`core/POLICIES.md`).
const PIECES_WANTED: u64 = 2048;
/// 4 TiB: a task has fewer than 2^20 pieces, so no set or list of them is ever large.
const MAX_LENGTH: u64 = (MAX_PIECE_LEN as u64) << 20;

/// Length of a blob and of its pieces. All pieces have `piece_len` bytes but the last, which has
/// the rest. A blob of length 0 has no pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Geometry {
    length: u64,
    piece_len: u32,
}

impl Geometry {
    /// The geometry every host uses for a blob of `length` bytes: pieces of a power of two, about
    /// `length / 2048`, between [`MIN_PIECE_LEN`] and [`MAX_PIECE_LEN`].
    pub fn for_length(length: u64) -> Result<Self, GeometryError> {
        if length > MAX_LENGTH {
            return Err(GeometryError::TooLong(length));
        }
        let wanted = (length / PIECES_WANTED).max(1);
        // Round down: 256 MiB / 2048 is exactly 128 KiB.
        let power = 1 << (63 - wanted.leading_zeros());
        let piece_len = power.clamp(u64::from(MIN_PIECE_LEN), u64::from(MAX_PIECE_LEN)) as u32;
        Ok(Self { length, piece_len })
    }

    /// A geometry told by someone else, checked.
    pub fn new(length: u64, piece_len: u32) -> Result<Self, GeometryError> {
        let sound =
            piece_len.is_power_of_two() && (MIN_PIECE_LEN..=MAX_PIECE_LEN).contains(&piece_len);
        if !sound {
            return Err(GeometryError::PieceLen(piece_len));
        }
        if length.div_ceil(u64::from(piece_len)) > 1 << 20 {
            return Err(GeometryError::TooLong(length));
        }
        Ok(Self { length, piece_len })
    }

    /// Bytes in the whole blob.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Bytes in every piece but the last.
    pub fn piece_len(&self) -> u32 {
        self.piece_len
    }

    /// How many pieces there are.
    #[inline]
    pub fn piece_count(&self) -> u32 {
        // `new` and `for_length` keep this below 2^20, and make `piece_len` a power of two: asked
        // several times for each message, it is worth no division.
        let rest = self.length & u64::from(self.piece_len - 1);
        (self.length >> self.piece_len.trailing_zeros()) as u32 + u32::from(rest > 0)
    }

    /// The byte range of a piece; empty for a piece that does not exist.
    pub fn range(&self, piece: PieceIndex) -> Range<u64> {
        let start = u64::from(piece.0) * u64::from(self.piece_len);
        let end = (start + u64::from(self.piece_len)).min(self.length);
        start.min(end)..end
    }

    /// Bytes in `piece`; 0 for a piece that does not exist.
    pub fn len_of(&self, piece: PieceIndex) -> u32 {
        let range = self.range(piece);
        (range.end - range.start) as u32
    }

    /// Whether `piece` is the last.
    pub fn is_last(&self, piece: PieceIndex) -> bool {
        piece.0.checked_add(1) == Some(self.piece_count())
    }

    /// Whether `piece` exists.
    pub fn contains(&self, piece: PieceIndex) -> bool {
        piece.0 < self.piece_count()
    }

    /// The piece that holds byte `offset`.
    pub fn piece_at(&self, offset: u64) -> Option<PieceIndex> {
        (offset < self.length).then(|| PieceIndex((offset / u64::from(self.piece_len)) as u32))
    }

    /// The pieces that hold the bytes of `range`, as a range of indexes.
    pub fn pieces_of(&self, range: &Range<u64>) -> Range<u32> {
        let end = range.end.min(self.length);
        if range.start >= end {
            return 0..0;
        }
        let piece_len = u64::from(self.piece_len);
        (range.start / piece_len) as u32..end.div_ceil(piece_len) as u32
    }

    /// All pieces, ascending.
    pub fn pieces(&self) -> impl Iterator<Item = PieceIndex> + use<> {
        (0..self.piece_count()).map(PieceIndex)
    }
}

/// Why a geometry cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GeometryError {
    #[error("a piece of {0} bytes is not a power of two between 64 KiB and 4 MiB")]
    PieceLen(u32),
    #[error("a blob of {0} bytes has more than 2^20 pieces")]
    TooLong(u64),
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn piece_size_follows_the_blob() {
        let piece_len = |length| Geometry::for_length(length).unwrap().piece_len();
        assert_eq!(piece_len(0), 64 << 10);
        assert_eq!(piece_len(64 << 20), 64 << 10);
        assert_eq!(piece_len(256 << 20), 128 << 10);
        assert_eq!(piece_len(1200 << 20), 512 << 10);
        assert_eq!(piece_len(100 << 30), 4 << 20);
        assert!(Geometry::for_length(u64::MAX).is_err());
        assert!(Geometry::new(1, 3 << 16).is_err());
        assert!(Geometry::new(u64::MAX, 64 << 10).is_err());
    }

    proptest! {
        #[test]
        fn pieces_tile_the_blob(length in 0u64..(1 << 33)) {
            let geometry = Geometry::for_length(length).unwrap();
            let mut at = 0;
            for piece in geometry.pieces().take(3) {
                prop_assert_eq!(geometry.range(piece).start, at);
                prop_assert_eq!(geometry.piece_at(at), Some(piece));
                at = geometry.range(piece).end;
            }
            let count = geometry.piece_count();
            prop_assert_eq!(geometry.pieces_of(&(0..u64::MAX)), 0..count);
            if let Some(last) = count.checked_sub(1).map(PieceIndex) {
                prop_assert_eq!(geometry.range(last).end, length);
                prop_assert!(geometry.len_of(last) > 0 && geometry.is_last(last));
            }
            prop_assert_eq!(geometry.len_of(PieceIndex(count)), 0);
        }
    }
}
