//! Piece indexes.

use std::fmt;

/// The number of a piece within its task, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PieceIndex(pub u32);

impl PieceIndex {
    /// As an index into a slice with one entry per piece.
    pub fn as_usize(self) -> usize {
        self.0 as usize
    }

    /// The piece after this one. No blob has a piece of the greatest index, which is its own next.
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for PieceIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}
