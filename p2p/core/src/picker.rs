//! Which piece to ask a neighbour for: rarest first, at random among equals.
//!
//! Holds the pieces that are missing and asked of nobody ("wanted"), and of every piece how many
//! ordinary neighbours have it ("spread"). Sources, which hand out pieces by their own choice, do
//! not count: what only they have is what they are to inject.

use hawker_model::{PieceIndex, PieceSet};
use rand::{RngExt, rngs::SmallRng};

/// One pick looks at no more pieces than this, so that a task of a million pieces costs no more.
const MOST_LOOKED_AT: usize = 1 << 15;

#[derive(Debug)]
pub(crate) struct Picker {
    wanted: PieceSet,
    spread: Vec<u16>,
    /// At how many neighbours each is on order at most.
    ordered: Vec<u16>,
}

impl Picker {
    /// Wants all pieces not in `stored`.
    pub(crate) fn new(stored: &PieceSet) -> Self {
        let mut picker = Self {
            wanted: PieceSet::empty(stored.capacity()),
            spread: vec![0; stored.capacity() as usize],
            ordered: vec![0; stored.capacity() as usize],
        };
        for piece in stored.missing() {
            picker.want(piece);
        }
        picker
    }

    pub(crate) fn want(&mut self, piece: PieceIndex) {
        self.wanted.insert(piece);
    }

    pub(crate) fn unwant(&mut self, piece: PieceIndex) {
        self.wanted.remove(piece);
    }

    pub(crate) fn is_wanted(&self, piece: PieceIndex) -> bool {
        self.wanted.contains(piece)
    }

    /// Whether every missing piece is asked of someone.
    pub(crate) fn wants_none(&self) -> bool {
        self.wanted.is_empty()
    }

    /// The piece is on order at one more neighbour,
    pub(crate) fn note_order(&mut self, piece: PieceIndex) {
        let ordered = &mut self.ordered[piece.as_usize()];
        *ordered = ordered.saturating_add(1);
    }

    /// or at one less, since it came from there,
    pub(crate) fn note_arrival(&mut self, piece: PieceIndex) {
        let ordered = &mut self.ordered[piece.as_usize()];
        // Beyond the greatest number nobody counts.
        if *ordered < u16::MAX {
            *ordered = ordered.saturating_sub(1);
        }
    }

    /// or at none.
    pub(crate) fn note_taken_back(&mut self, piece: PieceIndex) {
        self.ordered[piece.as_usize()] = 0;
    }

    /// Whether the piece may be on order anywhere. Where it was refused, or its neighbour is gone,
    /// that is not counted: it is looked for in vain then.
    pub(crate) fn may_be_ordered(&self, piece: PieceIndex) -> bool {
        self.ordered.get(piece.as_usize()).is_some_and(|n| *n > 0)
    }

    /// Whether any wanted piece is in `has`.
    pub(crate) fn wants_any_of(&self, has: &PieceSet) -> bool {
        self.wanted.meets(has)
    }

    /// How many ordinary neighbours have the piece.
    pub(crate) fn spread(&self, piece: PieceIndex) -> u16 {
        self.spread[piece.as_usize()]
    }

    pub(crate) fn add_holder(&mut self, piece: PieceIndex) {
        let spread = &mut self.spread[piece.as_usize()];
        *spread = spread.saturating_add(1);
    }

    pub(crate) fn remove_holder(&mut self, piece: PieceIndex) {
        let spread = &mut self.spread[piece.as_usize()];
        *spread = spread.saturating_sub(1);
    }

    /// The rarest wanted piece of `has` that `may` be asked for.
    pub(crate) fn rarest(
        &self,
        has: &PieceSet,
        may: impl Fn(PieceIndex) -> bool,
        rng: &mut SmallRng,
    ) -> Option<PieceIndex> {
        let mut best = Best::default();
        let count = self.wanted.capacity();
        if count == 0 {
            return None;
        }
        let start = rng.random_range(0..count);
        if !self.wants_any_of(has) {
            return None;
        }
        let (tail, head) = (start..count, 0..start);
        let tail = has.common_in(&self.wanted, tail);
        let pieces = tail.chain(has.common_in(&self.wanted, head));
        for piece in pieces.filter(|piece| may(*piece)).take(MOST_LOOKED_AT) {
            best.offer(piece, self.spread(piece), rng);
        }
        best.piece
    }

    /// How many wanted pieces of `has` exactly `holders` ordinary neighbours have, counted up to
    /// `enough`.
    pub(crate) fn exclusive(&self, has: &PieceSet, holders: u16, enough: usize) -> usize {
        let all = 0..self.wanted.capacity();
        let looked_at = has.common_in(&self.wanted, all).take(MOST_LOOKED_AT);
        let exclusive = looked_at.filter(|piece| self.spread(*piece) == holders);
        exclusive.take(enough).count()
    }
}

/// The rarest so far, each of equals with the same chance.
#[derive(Default)]
struct Best {
    piece: Option<PieceIndex>,
    spread: u16,
    equals: u32,
}

impl Best {
    fn offer(&mut self, piece: PieceIndex, spread: u16, rng: &mut SmallRng) {
        if self.piece.is_none() || spread < self.spread {
            (self.piece, self.spread, self.equals) = (Some(piece), spread, 1);
        } else if spread == self.spread {
            self.equals += 1;
            if rng.random_range(0..self.equals) == 0 {
                self.piece = Some(piece);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn set(capacity: u32, pieces: &[u32]) -> PieceSet {
        let mut set = PieceSet::empty(capacity);
        for piece in pieces {
            set.insert(PieceIndex(*piece));
        }
        set
    }

    #[test]
    fn the_rarest_piece_that_the_neighbour_has_comes_first() {
        let mut rng = SmallRng::seed_from_u64(1);
        let mut picker = Picker::new(&set(8, &[0]));
        for piece in [1, 1, 2, 3, 3] {
            picker.add_holder(PieceIndex(piece));
        }
        let has = set(8, &[0, 1, 2, 3]);
        assert_eq!(picker.rarest(&has, |_| true, &mut rng), Some(PieceIndex(2)));
        picker.unwant(PieceIndex(2));
        let not_1 = |piece| piece != PieceIndex(1);
        assert_eq!(picker.rarest(&has, not_1, &mut rng), Some(PieceIndex(3)));
        picker.want(PieceIndex(2));
        assert_eq!(picker.rarest(&has, |_| true, &mut rng), Some(PieceIndex(2)));
    }

    #[test]
    fn a_piece_may_be_on_order_until_it_has_come_from_all_or_is_taken_back() {
        let (mut picker, piece) = (Picker::new(&set(8, &[])), PieceIndex(3));
        assert!(!picker.may_be_ordered(piece));
        picker.note_order(piece);
        picker.note_order(piece);
        picker.note_arrival(piece);
        assert!(picker.may_be_ordered(piece), "at the other one");
        picker.note_arrival(piece);
        assert!(!picker.may_be_ordered(piece));
        picker.note_order(piece);
        picker.note_taken_back(piece);
        assert!(!picker.may_be_ordered(piece) && !picker.may_be_ordered(PieceIndex(8)));
    }

    #[test]
    fn equals_are_picked_at_random() {
        let mut rng = SmallRng::seed_from_u64(1);
        let picker = Picker::new(&set(64, &[]));
        let full = PieceSet::full(64);
        let picks = (0..200).filter_map(|_| picker.rarest(&full, |_| true, &mut rng));
        let different: std::collections::BTreeSet<_> = picks.collect();
        assert!(different.len() > 40, "{}", different.len());
    }

    #[test]
    fn exclusive_pieces_are_those_no_ordinary_neighbour_has() {
        let mut picker = Picker::new(&set(4, &[0]));
        picker.add_holder(PieceIndex(1));
        let full = PieceSet::full(4);
        assert_eq!(picker.exclusive(&full, 0, 9), 2);
        assert_eq!(picker.exclusive(&full, 1, 9), 1);
        picker.remove_holder(PieceIndex(1));
        assert_eq!(picker.exclusive(&full, 0, 9), 3);
    }
}
