//! A task's origin: whether we may go there, and the fetch that runs.

use std::{collections::BTreeSet, time::Instant};

use hawker_model::PieceIndex;

use crate::{
    Refusal, SourceMark, TaskFailure, renewal::Renewal, sources::Sources, trickle::Trickle,
};

/// Pieces that the running fetch brings next are not asked of peers.
const SOON: u32 = 8;

#[derive(Debug, Default)]
pub(crate) struct BackToSource {
    /// Where the bytes are.
    pub(crate) sources: Sources,
    pub(crate) renewal: Renewal,
    pub(crate) run: Option<Run>,
    /// The scheduler chose us.
    pub(crate) duty: bool,
    /// Nobody helps us: we go by ourselves.
    pub(crate) alone: bool,
    /// Nobody helps us, but others like us come first: if they have told nothing by then, we go.
    pub(crate) turn_at: Option<Instant>,
    /// We go by ourselves because it was our turn.
    pub(crate) by_turn: bool,
    /// Nobody gave a sign of life: as soon as somebody does, the fetch may prove needless.
    pub(crate) hedged: bool,
    /// Peers have pieces but do not give them.
    pub(crate) stalled: bool,
    /// They give them far too slowly.
    pub(crate) trickle: Trickle,
    pub(crate) not_before: Option<Instant>,
    /// Until then a seed looks whether others have the task.
    pub(crate) grace: Option<Instant>,
    /// What our own part of the chain was read from.
    chain: Chain,
    failures: u32,
}

#[derive(Debug, Default)]
struct Chain {
    sources: BTreeSet<SourceMark>,
    /// Some of it was stored before the task was opened.
    earlier: bool,
}

/// A fetch that runs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    /// The piece that comes next.
    pub(crate) next: u32,
    pub(crate) end: Option<u32>,
    /// When it last gave a sign of life, else its start.
    pub(crate) heard_at: Instant,
    /// Pieces that it brought, and that peers brought meanwhile.
    pub(crate) got: u32,
    pub(crate) peers_got: u32,
}

impl Run {
    pub(crate) fn new(first: PieceIndex, end: Option<PieceIndex>, now: Instant) -> Self {
        Self {
            next: first.0,
            end: end.map(|end| end.0),
            heard_at: now,
            got: 0,
            peers_got: 0,
        }
    }

    /// Whether the fetch is about to bring the piece.
    pub(crate) fn brings_soon(&self, piece: PieceIndex) -> bool {
        let end = self
            .end
            .unwrap_or(u32::MAX)
            .min(self.next.saturating_add(SOON));
        (self.next..end).contains(&piece.0)
    }

    /// Whether peers do so well that the fetch is not needed.
    pub(crate) fn is_overtaken(&self) -> bool {
        self.peers_got >= SOON && self.peers_got > 2 * self.got
    }
}

impl BackToSource {
    /// Sources that failed may be tried again.
    pub(crate) fn forgive(&mut self) {
        self.sources.forgive();
        self.renewal.forget_rounds();
        self.failures = 0;
        self.not_before = None;
        self.grace = None;
    }

    /// Whether a fetch may start now.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        let mut waits = [self.not_before, self.grace].into_iter().flatten();
        self.run.is_none() && waits.all(|at| at <= now)
    }

    /// Nothing is wanted of the origin any more: credentials are forgotten.
    pub(crate) fn drop_sources(&mut self) {
        self.sources.drop_all();
        self.renewal = Renewal::default();
    }

    /// The store turns out to have a piece that no peer gave. If it is the one that the running fetch
    /// brings next, the fetch has stored it and is about to say so.
    pub(crate) fn note_found(&mut self, piece: PieceIndex) {
        if let Some(run) = self.run.as_mut().filter(|run| run.next == piece.0) {
            run.next += 1;
        }
    }

    /// What is known of the content was stored before.
    pub(crate) fn note_stored_chain(&mut self) {
        self.chain.earlier = true;
    }

    /// The source in use tells the length, or extends the chain.
    pub(crate) fn note_chain(&mut self) {
        self.chain.sources.extend(self.sources.in_use());
    }

    /// Whether the chain is that of the source in use, as far as we made it: if it is false, nobody
    /// else is to blame.
    pub(crate) fn is_own_chain(&self) -> bool {
        let last = self.sources.in_use();
        let mut sources = self.chain.sources.iter();
        !self.chain.earlier && sources.all(|mark| Some(*mark) == last)
    }

    /// Peers bring the task: it is no longer our business to fetch it.
    pub(crate) fn stand_back(&mut self) {
        self.alone = false;
        self.turn_at = None;
        self.by_turn = false;
        self.hedged = false;
        self.stalled = false;
        self.trickle.stand_back();
    }

    /// All that was known of the content is dropped.
    pub(crate) fn forget_chain(&mut self) {
        self.chain = Chain::default();
    }

    /// Counts a failure that may pass; says how many there were since the last success.
    pub(crate) fn note_failure(&mut self) -> u32 {
        self.failures += 1;
        self.failures
    }

    /// The source in use brought a piece.
    pub(crate) fn note_success(&mut self) {
        self.failures = 0;
        self.sources.note_bytes();
        self.renewal.forget_rounds();
    }
}

/// The refusal that tells children why the origin gives nothing.
pub(crate) fn refusal(failure: &TaskFailure) -> Refusal {
    match failure {
        TaskFailure::Denied(_) => Refusal::Denied,
        TaskFailure::NotFound(_) => Refusal::NotFound,
        _ => Refusal::OriginFailed,
    }
}

/// The same for those whose own source did not fail: a credential is nobody's business but that of
/// whoever brought it.
pub(crate) fn refusal_of_others(failure: &TaskFailure) -> Refusal {
    match failure {
        TaskFailure::NotFound(_) => Refusal::NotFound,
        _ => Refusal::OriginFailed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    #[test]
    fn what_the_fetch_brings_soon_is_bounded_by_its_end() {
        let run = Run::new(PieceIndex(4), Some(PieceIndex(6)), sample::start());
        let soon = (0..20).filter(|p| run.brings_soon(PieceIndex(*p)));
        assert_eq!(soon.collect::<Vec<_>>(), [4, 5]);
    }
}
