//! Sets of pieces.

use std::ops::Range;

use crate::PieceIndex;

/// Which pieces of a task someone has: a bitmap with its count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PieceSet {
    words: Vec<u64>,
    capacity: u32,
    len: u32,
}

impl PieceSet {
    /// No piece out of `capacity`.
    pub fn empty(capacity: u32) -> Self {
        Self {
            words: vec![0; capacity.div_ceil(64) as usize],
            capacity,
            len: 0,
        }
    }

    /// All of `capacity` pieces.
    pub fn full(capacity: u32) -> Self {
        let mut set = Self::empty(capacity);
        set.insert_range(0..capacity);
        set
    }

    /// How many pieces the task has.
    #[inline]
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// How many pieces are in the set.
    #[inline]
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether no piece is in the set.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether every piece is in the set.
    pub fn is_full(&self) -> bool {
        self.len == self.capacity
    }

    /// Whether `piece` is in the set; false for a piece the task does not have.
    #[inline]
    pub fn contains(&self, piece: PieceIndex) -> bool {
        let word = self.words.get(piece.as_usize() / 64);
        piece.0 < self.capacity && word.is_some_and(|word| word >> (piece.0 % 64) & 1 == 1)
    }

    /// Adds `piece`; says whether it is new. A piece the task does not have is not added.
    #[inline]
    pub fn insert(&mut self, piece: PieceIndex) -> bool {
        if piece.0 >= self.capacity || self.contains(piece) {
            return false;
        }
        self.words[piece.as_usize() / 64] |= 1 << (piece.0 % 64);
        self.len += 1;
        true
    }

    /// Adds a range of pieces.
    pub fn insert_range(&mut self, range: Range<u32>) {
        for piece in range {
            self.insert(PieceIndex(piece));
        }
    }

    /// Adds all pieces of another set of the same task; says how many are new.
    pub fn insert_all(&mut self, other: &Self) -> u32 {
        let before = self.len;
        for (own, more) in self.words.iter_mut().zip(&other.words) {
            self.len += (more & !*own).count_ones();
            *own |= more;
        }
        self.len - before
    }

    /// Takes `piece` out; says whether it was in.
    #[inline]
    pub fn remove(&mut self, piece: PieceIndex) -> bool {
        if !self.contains(piece) {
            return false;
        }
        self.words[piece.as_usize() / 64] &= !(1 << (piece.0 % 64));
        self.len -= 1;
        true
    }

    /// The pieces in the set, ascending.
    pub fn iter(&self) -> impl Iterator<Item = PieceIndex> + '_ {
        self.words
            .iter()
            .enumerate()
            .flat_map(|(at, &word)| Ones(word).map(move |bit| PieceIndex(at as u32 * 64 + bit)))
    }

    /// The pieces not in the set, ascending.
    pub fn missing(&self) -> impl Iterator<Item = PieceIndex> + '_ {
        let capacity = self.capacity;
        let holes =
            self.words.iter().enumerate().flat_map(|(at, &word)| {
                Ones(!word).map(move |bit| PieceIndex(at as u32 * 64 + bit))
            });
        holes.take_while(move |piece| piece.0 < capacity)
    }

    /// The pieces of `range` that are not in the set, ascending. Runs of pieces that are cost little.
    pub fn missing_in(&self, range: Range<u32>) -> impl Iterator<Item = PieceIndex> + '_ {
        let range = range.start..range.end.min(self.capacity);
        pieces_of(range, |at| self.words.get(at).map_or(0, |word| !word))
    }

    /// The pieces of `range` that are in both sets, ascending. Runs of others cost little.
    pub fn common_in<'a>(
        &'a self,
        other: &'a Self,
        range: Range<u32>,
    ) -> impl Iterator<Item = PieceIndex> + 'a {
        let both = self.words.iter().zip(&other.words);
        let words = both.len() as u32;
        let range = range.start..range.end.min(self.capacity).min(words * 64);
        pieces_of(range, |at| {
            let words = self.words.get(at).zip(other.words.get(at));
            words.map_or(0, |(own, other)| own & other)
        })
    }

    /// Whether any piece is in both sets.
    pub fn meets(&self, other: &Self) -> bool {
        let mut both = self.words.iter().zip(&other.words);
        both.any(|(own, other)| own & other != 0)
    }

    /// The first piece not in the set.
    pub fn first_missing(&self) -> Option<PieceIndex> {
        self.missing().next()
    }

    /// Whether every piece of `range` is in the set.
    pub fn contains_range(&self, range: Range<u32>) -> bool {
        range
            .into_iter()
            .all(|piece| self.contains(PieceIndex(piece)))
    }

    /// One bit per piece, piece 0 in the lowest bit of the first byte; unused bits are 0.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> = self
            .words
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect();
        bytes.truncate(self.capacity.div_ceil(8) as usize);
        bytes
    }

    /// The reverse of [`Self::to_bytes`]: length and unused bits must be right.
    pub fn from_bytes(capacity: u32, bytes: &[u8]) -> Result<Self, PieceSetError> {
        if bytes.len() != capacity.div_ceil(8) as usize {
            return Err(PieceSetError::Length {
                capacity,
                found: bytes.len(),
            });
        }
        let mut set = Self::empty(capacity);
        for (word, chunk) in set.words.iter_mut().zip(bytes.chunks(8)) {
            let mut whole = [0; 8];
            whole[..chunk.len()].copy_from_slice(chunk);
            *word = u64::from_le_bytes(whole);
            set.len += word.count_ones();
        }
        let used = capacity % 64;
        match set.words.last() {
            Some(last) if used != 0 && last >> used != 0 => Err(PieceSetError::UnusedBits),
            _ => Ok(set),
        }
    }
}

/// Why bytes are no set of pieces.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PieceSetError {
    #[error("a set of {capacity} pieces does not have {found} bytes")]
    Length { capacity: u32, found: usize },
    #[error("a set of pieces names a piece beyond the last")]
    UnusedBits,
}

/// The pieces of `range` whose bits are set in the words that `word` gives, ascending.
fn pieces_of(range: Range<u32>, word: impl Fn(usize) -> u64) -> impl Iterator<Item = PieceIndex> {
    let mut words = range.start / 64..range.end.div_ceil(64);
    let (mut start, mut ones) = (0, Ones(0));
    std::iter::from_fn(move || {
        loop {
            if let Some(bit) = ones.next() {
                return Some(PieceIndex(start + bit));
            }
            let at = words.next()?;
            start = at * 64;
            let below = range.start.saturating_sub(start);
            let above = (start + 64).saturating_sub(range.end);
            // Within the range's first and last word; neither shift reaches 64 there, unless it is
            // empty.
            let mask = match range.is_empty() {
                true => 0,
                false => (u64::MAX << below) & (u64::MAX >> above),
            };
            ones = Ones(word(at as usize) & mask);
        }
    })
}

/// The set bits of a word, ascending.
struct Ones(u64);

impl Iterator for Ones {
    type Item = u32;
    #[inline]
    fn next(&mut self) -> Option<u32> {
        let bit = self.0.trailing_zeros();
        (bit < 64).then(|| {
            self.0 &= self.0 - 1;
            bit
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn behaves_as_an_ordinary_set(
            capacity in 0u32..300,
            steps in prop::collection::vec((any::<bool>(), 0u32..310), 0..200),
        ) {
            let (mut set, mut model) = (PieceSet::empty(capacity), BTreeSet::new());
            for (add, piece) in steps {
                let changed = match add {
                    true => piece < capacity && model.insert(piece),
                    false => model.remove(&piece),
                };
                let piece = PieceIndex(piece);
                prop_assert_eq!(if add { set.insert(piece) } else { set.remove(piece) }, changed);
            }
            prop_assert_eq!(set.len() as usize, model.len());
            prop_assert!(set.iter().map(|p| p.0).eq(model.iter().copied()));
            prop_assert!(set.missing().map(|p| p.0).eq((0..capacity).filter(|p| !model.contains(p))));
            prop_assert_eq!(PieceSet::from_bytes(capacity, &set.to_bytes()).unwrap(), set);
        }

        #[test]
        fn ranges_and_unions_are_those_of_ordinary_sets(
            capacity in 0u32..300,
            one in prop::collection::btree_set(0u32..310, 0..200),
            other in prop::collection::btree_set(0u32..310, 0..200),
            start in 0u32..310,
            len in 0u32..310,
        ) {
            let set_of = |pieces: &BTreeSet<u32>| {
                let mut set = PieceSet::empty(capacity);
                pieces.iter().for_each(|piece| _ = set.insert(PieceIndex(*piece)));
                set
            };
            let (mut set, more) = (set_of(&one), set_of(&other));
            let range = start..start + len;
            let inside = || range.clone().filter(|piece| *piece < capacity);
            let missing = set.missing_in(range.clone()).map(|p| p.0);
            prop_assert!(missing.eq(inside().filter(|piece| !one.contains(piece))));
            let common = set.common_in(&more, range.clone()).map(|p| p.0);
            let both = |piece: &u32| one.contains(piece) && other.contains(piece);
            prop_assert!(common.eq(inside().filter(both)));
            let met = one.iter().any(|piece| *piece < capacity && other.contains(piece));
            prop_assert_eq!(set.meets(&more), met);
            let before = set.len();
            let new = set.insert_all(&more);
            let all = set_of(&one.union(&other).copied().collect());
            prop_assert_eq!((set.len(), before + new), (all.len(), all.len()));
            prop_assert_eq!(set, all);
        }

        #[test]
        fn any_bytes_are_a_set_or_an_error(capacity in 0u32..100, bytes in prop::collection::vec(any::<u8>(), 0..16)) {
            if let Ok(set) = PieceSet::from_bytes(capacity, &bytes) {
                prop_assert_eq!(set.to_bytes(), bytes);
                prop_assert!(set.iter().all(|p| p.0 < capacity));
            }
        }
    }
}
