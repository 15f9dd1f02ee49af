//! How many pieces are on their way at once, and which of them hold a slot still. Pure.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// A piece that has been on its way for so long, or for twice as long as is usual, holds no slot
/// any more: its receiver is slow, and others need not wait for it.
pub(super) const SLOW: Duration = Duration::from_millis(200);
/// Whatever is usual, others do not wait for longer than this; longer for large pieces.
const SLOWEST: Duration = Duration::from_secs(1);
/// Pieces on their way in all, as a multiple of the slots.
pub(super) const MOST: usize = 4;

/// The pieces on their way to all hosts.
#[derive(Debug)]
pub(super) struct Slots {
    count: usize,
    /// When each was begun, oldest first.
    begun: VecDeque<Instant>,
    /// Smoothed seconds that a piece takes.
    usual: f64,
    slowest: Duration,
    /// After so long a piece holds no slot any more: follows from the two.
    slow: Duration,
}

impl Slots {
    pub(super) fn new(count: usize) -> Self {
        Self {
            count,
            begun: VecDeque::new(),
            usual: 0.0,
            slowest: SLOWEST,
            slow: SLOW,
        }
    }

    /// After so long a piece holds no slot any more.
    pub(super) fn slow(&self) -> Duration {
        self.slow
    }

    fn note_slow(&mut self) {
        let usual = Duration::from_secs_f64(self.usual * 2.0);
        self.slow = SLOW.max(usual.min(self.slowest));
    }

    pub(super) fn begin(&mut self, len: u32, now: Instant) {
        self.slowest = SLOWEST.max(SLOWEST.mul_f64(f64::from(len) / f64::from(1 << 20)));
        self.note_slow();
        self.begun.push_back(now);
    }

    /// A piece that was begun then has left, or never will.
    pub(super) fn end(&mut self, begun: Instant) {
        let at = self.begun.partition_point(|other| *other < begun);
        self.begun.remove(at);
    }

    /// A piece has left; says whether in time. Slow ones count as just too slow: only where all are,
    /// our own link is to blame.
    pub(super) fn finish(&mut self, begun: Instant, now: Instant) -> bool {
        let (took, slow) = (now.saturating_duration_since(begun), self.slow());
        self.usual += (took.min(slow).as_secs_f64() - self.usual) / 8.0;
        self.note_slow();
        self.end(begun);
        took < slow
    }

    /// How many hold no slot any more.
    fn stuck(&self, now: Instant) -> usize {
        let is_stuck = |at: &Instant| now >= *at + self.slow;
        match self.begun.front().is_some_and(is_stuck) {
            true => self.begun.partition_point(is_stuck),
            false => 0,
        }
    }

    pub(super) fn is_free(&self, now: Instant) -> bool {
        let many = self.begun.len() >= self.count;
        !many || (self.begun.len() - self.stuck(now) < self.count && !self.are_all_stuck())
    }

    /// Whether so many are on their way that the slow ones hold up the others.
    pub(super) fn are_all_stuck(&self) -> bool {
        self.begun.len() >= self.count * MOST
    }

    /// When a slot becomes free although no piece ends.
    pub(super) fn frees_at(&self, now: Instant) -> Option<Instant> {
        let next = self.begun.get(self.stuck(now));
        next.filter(|_| !self.are_all_stuck())
            .map(|at| *at + self.slow())
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.begun.len()
    }
}
