//! Which piece a source gives to a child that leaves the choice to it: the one sent least often,
//! in order, so that each piece leaves a source once before one leaves it twice.

use std::time::{Duration, Instant};

use hawker_model::{PieceIndex, PieceSet};

/// How often each piece was sent to hosts that are still there.
#[derive(Debug)]
pub(crate) struct Injection {
    sent: Vec<u16>,
    /// Pieces that nobody has from us.
    fresh: PieceSet,
    last: Vec<Option<Instant>>,
}

/// Whether pieces that were sent already may be sent again at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// We have everything: a repeated piece takes no fresh one's place.
    AtOnce,
    /// Fresh pieces are still to come: only if the mesh has not brought it for so long.
    After(Duration),
}

impl Injection {
    pub(crate) fn new(count: u32) -> Self {
        Self {
            sent: vec![0; count as usize],
            fresh: PieceSet::full(count),
            last: vec![None; count as usize],
        }
    }

    pub(crate) fn note_sent(&mut self, piece: PieceIndex, now: Instant) {
        let sent = &mut self.sent[piece.as_usize()];
        *sent = sent.saturating_add(1);
        self.fresh.remove(piece);
        self.last[piece.as_usize()] = Some(now);
    }

    /// A host went away with what we sent it.
    pub(crate) fn note_lost(&mut self, pieces: &PieceSet) {
        for piece in pieces.iter() {
            let sent = &mut self.sent[piece.as_usize()];
            *sent = sent.saturating_sub(1);
            if *sent == 0 {
                self.fresh.insert(piece);
            }
        }
    }

    /// The best of `ours` that nobody has from us and the child lacks. `spread` says how many
    /// neighbours have a piece.
    pub(crate) fn pick_fresh(
        &self,
        ours: &PieceSet,
        lacks: impl Fn(PieceIndex) -> bool,
        spread: impl Fn(PieceIndex) -> u16,
    ) -> Option<PieceIndex> {
        let mut best: Option<(u16, PieceIndex)> = None;
        let fresh = ours.common_in(&self.fresh, 0..ours.capacity());
        for piece in fresh.filter(|piece| lacks(*piece)) {
            let holders = spread(piece);
            if best.is_none_or(|(least, _)| holders < least) {
                best = Some((holders, piece));
            }
            if holders == 0 {
                break;
            }
        }
        best.map(|(_, piece)| piece)
    }

    /// The best of `ours` that the child lacks, a fresh one if there is any.
    pub(crate) fn pick(
        &self,
        ours: &PieceSet,
        lacks: impl Fn(PieceIndex) -> bool,
        spread: impl Fn(PieceIndex) -> u16,
        repeat: Repeat,
        now: Instant,
    ) -> Option<PieceIndex> {
        let fresh = self.pick_fresh(ours, &lacks, &spread);
        fresh.or_else(|| {
            let may = |piece: &PieceIndex| lacks(*piece) && self.may_repeat(*piece, repeat, now);
            let pieces = ours.iter().filter(may);
            pieces.min_by_key(|piece| (self.sent[piece.as_usize()], spread(*piece)))
        })
    }

    fn may_repeat(&self, piece: PieceIndex, repeat: Repeat, now: Instant) -> bool {
        match (repeat, self.last[piece.as_usize()]) {
            (Repeat::AtOnce, _) | (_, None) => true,
            (Repeat::After(settle), Some(last)) => now >= last + settle,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    #[test]
    fn every_piece_is_sent_once_before_one_is_sent_twice() {
        let now = sample::start();
        let (mut injection, ours) = (Injection::new(3), PieceSet::full(3));
        let mut sent = Vec::new();
        for _ in 0..4 {
            let piece = injection.pick(&ours, |_| true, |_| 0, Repeat::AtOnce, now);
            let piece = piece.unwrap();
            injection.note_sent(piece, now);
            sent.push(piece.0);
        }
        assert_eq!(sent, [0, 1, 2, 0]);
    }

    #[test]
    fn while_fresh_pieces_are_to_come_a_piece_is_repeated_only_later() {
        let now = sample::start();
        let (mut injection, ours) = (Injection::new(1), PieceSet::full(1));
        let settle = Duration::from_secs(1);
        let pick = |injection: &Injection, now| {
            injection.pick(&ours, |_| true, |_| 0, Repeat::After(settle), now)
        };
        injection.note_sent(PieceIndex(0), now);
        assert_eq!(pick(&injection, now), None);
        assert_eq!(pick(&injection, now + settle), Some(PieceIndex(0)));
    }

    #[test]
    fn what_a_dead_child_took_with_it_is_fresh_again() {
        let now = sample::start();
        let (mut injection, ours) = (Injection::new(2), PieceSet::full(2));
        injection.note_sent(PieceIndex(0), now);
        injection.note_lost(&ours);
        let pick = injection.pick(&ours, |_| true, |_| 0, Repeat::AtOnce, now);
        assert_eq!(pick, Some(PieceIndex(0)));
    }

    #[test]
    fn pieces_that_neighbours_have_come_after_those_that_nobody_has() {
        let now = sample::start();
        let (injection, ours) = (Injection::new(3), PieceSet::full(3));
        let spread = |piece: PieceIndex| 2 - piece.0 as u16;
        let pick = injection.pick(&ours, |_| true, spread, Repeat::AtOnce, now);
        assert_eq!(pick, Some(PieceIndex(2)));
    }
}
