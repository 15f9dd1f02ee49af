//! A task's origin: the sources known, whether we may go there, and the fetch that runs.

use std::time::Instant;

use hawker_model::PieceIndex;

use crate::{Refusal, Source, TaskFailure};

/// Sources kept per task; more only come from many clients with different credentials.
const MOST_SOURCES: usize = 4;
/// Pieces that the running fetch brings next are not asked of peers.
const SOON: u32 = 8;

#[derive(Debug, Default)]
pub(crate) struct BackToSource {
    /// Where the bytes are; the first is in use.
    sources: Vec<Source>,
    /// Sources that failed for good, and how.
    refused: Vec<(Source, TaskFailure)>,
    pub(crate) run: Option<Run>,
    /// The scheduler chose us.
    pub(crate) duty: bool,
    /// Nobody helps us: we go by ourselves.
    pub(crate) alone: bool,
    /// Peers have pieces but do not give them.
    pub(crate) stalled: bool,
    pub(crate) not_before: Option<Instant>,
    failures: u32,
}

/// A fetch that runs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    /// The piece that comes next.
    pub(crate) next: u32,
    pub(crate) end: Option<u32>,
    /// Pieces that it brought, and that peers brought meanwhile.
    pub(crate) got: u32,
    pub(crate) peers_got: u32,
}

impl Run {
    pub(crate) fn new(first: PieceIndex, end: Option<PieceIndex>) -> Self {
        Self {
            next: first.0,
            end: end.map(|end| end.0),
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
    /// Adds a source, unless it is known or has failed.
    pub(crate) fn add(&mut self, source: Source) {
        let failed = self.refused.iter().any(|(other, _)| *other == source);
        if !failed && !self.sources.contains(&source) && self.sources.len() < MOST_SOURCES {
            self.sources.push(source);
        }
    }

    pub(crate) fn source(&self) -> Option<&Source> {
        self.sources.first()
    }

    /// How the source failed earlier.
    pub(crate) fn failure_of(&self, source: &Source) -> Option<&TaskFailure> {
        let refused = self.refused.iter().find(|(other, _)| other == source);
        refused.map(|(_, failure)| failure)
    }

    /// The latest failure.
    pub(crate) fn failure(&self) -> Option<&TaskFailure> {
        self.refused.last().map(|(_, failure)| failure)
    }

    /// Sources that failed may be tried again.
    pub(crate) fn forgive(&mut self) {
        self.refused.clear();
        self.failures = 0;
        self.not_before = None;
    }

    /// Whether a fetch may start now.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.run.is_none() && self.not_before.is_none_or(|at| at <= now)
    }

    /// The source in use failed for good; says whether there is another.
    pub(crate) fn give_up_source(&mut self, failure: TaskFailure) -> bool {
        if !self.sources.is_empty() {
            let source = self.sources.remove(0);
            self.refused.push((source, failure));
        }
        !self.sources.is_empty()
    }

    /// Counts a failure that may pass; says how many there were since the last success.
    pub(crate) fn note_failure(&mut self) -> u32 {
        self.failures += 1;
        self.failures
    }

    pub(crate) fn note_success(&mut self) {
        self.failures = 0;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn source(url: &str) -> Source {
        Source {
            url: url.into(),
            authorization: None,
        }
    }

    #[test]
    fn a_source_that_failed_is_not_taken_again_until_forgiven() {
        let mut origin = BackToSource::default();
        origin.add(source("a"));
        origin.add(source("a"));
        origin.add(source("b"));
        let failure = TaskFailure::NotFound("404".into());
        assert!(origin.give_up_source(failure.clone()));
        origin.add(source("a"));
        assert_eq!(origin.failure_of(&source("a")), Some(&failure));
        assert_eq!(origin.source(), Some(&source("b")));
        assert!(!origin.give_up_source(failure));
        origin.forgive();
        origin.add(source("a"));
        assert_eq!(origin.source(), Some(&source("a")));
    }

    #[test]
    fn what_the_fetch_brings_soon_is_bounded_by_its_end() {
        let run = Run::new(PieceIndex(4), Some(PieceIndex(6)));
        let soon = (0..20).filter(|p| run.brings_soon(PieceIndex(*p)));
        assert_eq!(soon.collect::<Vec<_>>(), [4, 5]);
    }
}
