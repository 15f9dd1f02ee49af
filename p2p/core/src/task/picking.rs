//! Which piece to ask a neighbour for.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use hawker_model::{HostId, PieceIndex, Role};

use super::Task;
use crate::{
    neighbour::{Neighbour, Request},
    shared::Shared,
};

/// Of what a reader waits for, so many pieces come before the rarest;
const READ_AHEAD: usize = 4;
/// of one that reads on and on, for so many and more, only the next: what more came first all hosts
/// would ask the same few for.
const MANY: usize = 16;
/// A piece that is on order for less than this is not ordered elsewhere as well.
const LEAST_STEAL_AGE: Duration = Duration::from_millis(100);
/// The same for pieces while others are still wanted.
const STEAL_AGE: Duration = Duration::from_millis(500);
/// The same for pieces that come from another zone then.
const FAR_STEAL_AGE: Duration = Duration::from_secs(1);
/// Hosts that one piece is on order at, at the end.
const MOST_COPIES: usize = 2;

impl Task {
    pub(super) fn pick(
        &self,
        host: &HostId,
        neighbour: &Neighbour,
        cx: &mut Shared,
        now: Instant,
    ) -> Option<PieceIndex> {
        let content = self.content.as_ref()?;
        let comes = |piece| self.comes_anyway(piece, now);
        let may_at_all = |piece| self.may_ask_for(piece, host, neighbour) && !comes(piece);
        let import = self.import(neighbour, cx, now);
        let fits = |piece| {
            import
                .as_ref()
                .is_none_or(|import| self.may_import(piece, import))
        };
        let may = |piece| may_at_all(piece) && fits(piece);
        let any = content.picker.wants_any_of(&neighbour.has);
        let waiting = any.then(|| self.pick_waiting(neighbour, may)).flatten();
        if self.feeds_others(cx) {
            return waiting;
        }
        waiting
            .or_else(|| {
                let import = import.as_ref()?;
                let ours = |piece| self.is_ours(piece, import) && may_at_all(piece);
                content.picker.rarest(&neighbour.has, ours, &mut cx.rng)
            })
            .or_else(|| content.picker.rarest(&neighbour.has, may, &mut cx.rng))
            .or_else(|| self.pick_late(neighbour, may_at_all, now))
    }

    /// Others wait for what we fetch from the origin: our downlink is for that.
    fn feeds_others(&self, cx: &Shared) -> bool {
        let chosen = cx.config.role == Role::Seed || self.origin.duty;
        chosen && self.origin.run.is_some() && !self.doubts.is_open()
    }

    pub(super) fn may_ask_for(
        &self,
        piece: PieceIndex,
        host: &HostId,
        neighbour: &Neighbour,
    ) -> bool {
        let soon = self.origin.run.is_some_and(|run| run.brings_soon(piece));
        let known = self
            .content
            .as_ref()
            .is_some_and(|content| content.can_check(piece));
        known
            && !soon
            && !neighbour.requests.contains_key(&piece)
            && self.doubts.may_ask(piece, host)
    }

    /// The next pieces that a reader waits for.
    fn pick_waiting(
        &self,
        neighbour: &Neighbour,
        may: impl Fn(PieceIndex) -> bool,
    ) -> Option<PieceIndex> {
        let content = self.content.as_ref()?;
        let fits = |piece: &PieceIndex| {
            content.picker.is_wanted(*piece) && neighbour.has.contains(*piece) && may(*piece)
        };
        let unstored = |range: &Range<u32>| {
            let pieces = content.pieces.missing_in(range.clone());
            pieces.filter(|piece| !content.storing.contains_key(piece))
        };
        // One reader waits again and again, each time from further on: for the same piece.
        let mut seen = 0..0;
        for range in &self.waiting {
            if range.len() <= MANY {
                if let Some(piece) = unstored(range).take(READ_AHEAD).find(fits) {
                    return Some(piece);
                }
            } else if !seen.contains(&range.start) || seen.end > range.end {
                let Some(next) = unstored(range).next() else {
                    continue;
                };
                if fits(&next) {
                    return Some(next);
                }
                seen = range.start..next.0 + 1;
            }
        }
        None
    }

    /// Looks up since when pieces are on order, once some may be late.
    pub(super) fn age_orders(&mut self, now: Instant) {
        let content = self.content.as_ref();
        let least = match content.is_some_and(|content| content.picker.wants_none()) {
            true => LEAST_STEAL_AGE,
            false => STEAL_AGE,
        };
        let old = |at: Instant| now >= at + least;
        if self.ordered_from.is_some_and(old) {
            let requests = self.neighbours.values().flat_map(|n| n.requests.values());
            self.ordered_from = requests.map(|request| request.at).min();
        }
    }

    /// The piece that others have been asked for longest ago, if they are slow with it.
    fn pick_late(
        &self,
        neighbour: &Neighbour,
        may: impl Fn(PieceIndex) -> bool,
        now: Instant,
    ) -> Option<PieceIndex> {
        if neighbour.requests.len() >= MOST_COPIES {
            return None;
        }
        let content = self.content.as_ref()?;
        let (least, factor) = match content.picker.wants_none() {
            _ if neighbour.far => (FAR_STEAL_AGE, 4),
            true => (LEAST_STEAL_AGE, 1),
            false => (STEAL_AGE, 2),
        };
        if self.ordered_from.is_none_or(|at| now < at + least) {
            return None;
        }
        let requests = self.neighbours.values().flat_map(|holder| {
            // Most are too young for any neighbour: only of the others it is asked how slow it is.
            let late = move |(_, request): &(_, &Request)| {
                let slow = || now >= request.at + holder.pace.turnaround() * factor;
                now >= request.at + least && slow()
            };
            holder.requests.iter().filter(late)
        });
        let stolen = requests.filter(|(piece, _)| {
            neighbour.has.contains(**piece) && may(**piece) && self.copies(**piece) < MOST_COPIES
        });
        let oldest = stolen.min_by_key(|(piece, request)| (request.at, **piece));
        oldest.map(|(piece, _)| *piece)
    }

    /// At how many neighbours the piece is on order.
    fn copies(&self, piece: PieceIndex) -> usize {
        let holders = self.neighbours.values();
        holders.filter(|n| n.requests.contains_key(&piece)).count()
    }
}
