//! How often somebody tried of late.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// More are not remembered; the oldest go first.
const MOST: usize = 4096;

/// Who tried, and when.
#[derive(Debug)]
pub(super) struct Attempts {
    window: Duration,
    recent: VecDeque<(Instant, String)>,
}

impl Attempts {
    pub(super) fn new(window: Duration) -> Self {
        let recent = VecDeque::new();
        Self { window, recent }
    }

    /// Counts one.
    pub(super) fn add(&mut self, who: &str) {
        self.add_at(who, Instant::now());
    }

    fn add_at(&mut self, who: &str, now: Instant) {
        while self.recent.len() >= MOST || self.oldest_is_over(now) {
            self.recent.pop_front();
        }
        self.recent.push_back((now, who.to_owned()));
    }

    fn oldest_is_over(&self, now: Instant) -> bool {
        let oldest = self.recent.front();
        oldest.is_some_and(|(at, _)| now.saturating_duration_since(*at) >= self.window)
    }

    /// Those of one within the window.
    pub(super) fn count(&self, who: &str) -> usize {
        self.within(Instant::now())
            .filter(|recent| recent.1 == who)
            .count()
    }

    /// Those of all within the window.
    pub(super) fn total(&self) -> usize {
        self.within(Instant::now()).count()
    }

    fn within(&self, now: Instant) -> impl Iterator<Item = &(Instant, String)> {
        let recent = self.recent.iter();
        recent.filter(move |(at, _)| now.saturating_duration_since(*at) < self.window)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_are_counted_for_a_while() {
        let (mut attempts, now) = (Attempts::new(Duration::from_secs(60)), Instant::now());
        attempts.add_at("a", now);
        attempts.add_at("b", now + Duration::from_secs(30));
        let within = |attempts: &Attempts, seconds| {
            attempts.within(now + Duration::from_secs(seconds)).count()
        };
        assert_eq!(within(&attempts, 59), 2);
        assert_eq!(within(&attempts, 60), 1);
        attempts.add_at("a", now + Duration::from_secs(70));
        assert_eq!(attempts.recent.len(), 2);
        (0..2 * MOST).for_each(|_| attempts.add_at("c", now + Duration::from_secs(71)));
        assert_eq!(attempts.recent.len(), MOST);
    }
}
