//! One peer of one task: what it has, what we asked of it, what it asked of us.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use hawker_model::{PieceIndex, PieceSet, Role};

/// Pieces asked of a neighbour before we know how fast it is.
const FIRST_WINDOW: f64 = 4.0;
/// The window never falls below this, so that a piece is on its way while the next is asked for.
const LEAST_WINDOW: f64 = 2.0;
/// So many refusals in a row, and its have-set is a lie.
const MOST_MISSES: u32 = 8;

#[derive(Debug)]
pub(crate) struct Neighbour {
    pub(crate) role: Role,
    /// It has answered, or came by itself.
    pub(crate) joined: bool,
    /// We have sent it our `Join`.
    pub(crate) greeted: bool,
    /// It knows our geometry.
    pub(crate) told_head: bool,
    pub(crate) has: PieceSet,
    /// It chooses what it sends (a seed, or a node that has much that nobody else has).
    pub(crate) source: bool,
    /// How many chain values it knows, as far as we know.
    pub(crate) listed: u32,
    /// How much of our log of stored pieces it was told.
    pub(crate) told: usize,
    pub(crate) requests: BTreeMap<PieceIndex, Request>,
    pub(crate) pace: Pace,
    /// Pieces of its own choice that it still owes us, and since when it has sent none.
    pub(crate) credit: u16,
    pub(crate) credit_since: Option<Instant>,
    pub(crate) busy_until: Option<Instant>,
    /// When it last gave a piece, or began to owe one.
    pub(crate) gave_at: Option<Instant>,
    pub(crate) gave: u32,
    misses: u32,
    /// A piece of it did not match; until that is settled nothing is asked of it.
    pub(crate) suspected: bool,
    /// What we sent it, while its own word is not in yet.
    pub(crate) sent: PieceSet,
}

/// A piece asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request {
    pub(crate) at: Instant,
    /// It took too long, and the piece may be asked of others.
    pub(crate) late: bool,
}

impl Neighbour {
    pub(crate) fn new(role: Role, pieces: u32) -> Self {
        Self {
            role,
            joined: false,
            greeted: false,
            told_head: false,
            has: PieceSet::empty(pieces),
            source: role == Role::Seed,
            listed: 0,
            told: 0,
            requests: BTreeMap::new(),
            pace: Pace::default(),
            credit: 0,
            credit_since: None,
            busy_until: None,
            gave_at: None,
            gave: 0,
            misses: 0,
            suspected: false,
            sent: PieceSet::empty(pieces),
        }
    }

    /// Whether it has every piece of a task that has any.
    pub(crate) fn is_complete(&self) -> bool {
        self.has.capacity() > 0 && self.has.is_full()
    }

    /// Whether we may ask it for something now.
    pub(crate) fn is_ready(&self, now: Instant) -> bool {
        self.joined && !self.suspected && self.busy_until.is_none_or(|until| until <= now)
    }

    /// How many more pieces to ask for.
    pub(crate) fn room(&self, most: usize) -> usize {
        let window = self.pace.window(most);
        window.saturating_sub(self.requests.len() + usize::from(self.credit))
    }

    pub(crate) fn note_request(&mut self, piece: PieceIndex, now: Instant) {
        if self.requests.is_empty() {
            self.gave_at = Some(now);
        }
        let late = false;
        self.requests.insert(piece, Request { at: now, late });
    }

    /// A piece came from it. Says whether we had asked for this one.
    pub(crate) fn note_piece(&mut self, piece: PieceIndex, queue: Duration, now: Instant) -> bool {
        let request = self.requests.remove(&piece);
        if request.is_none() {
            self.credit = self.credit.saturating_sub(1);
            self.credit_since = Some(now);
        }
        self.pace.note_piece(queue, now);
        if self.requests.is_empty() && self.credit == 0 {
            self.pace.pause();
        }
        self.gave_at = Some(now);
        self.gave += 1;
        self.misses = 0;
        self.busy_until = None;
        request.is_some()
    }

    /// It does not have what it said it had. Says whether that was once too often.
    pub(crate) fn note_miss(&mut self) -> bool {
        self.misses += 1;
        self.misses >= MOST_MISSES
    }

    /// Since when it owes us a piece that we asked for.
    pub(crate) fn owes_since(&self) -> Option<Instant> {
        self.gave_at.filter(|_| !self.requests.is_empty())
    }
}

/// How many pieces to have on order: so many that the queue at the neighbour lasts a little while,
/// by the time between its pieces.
#[derive(Debug)]
pub(crate) struct Pace {
    window: f64,
    /// The last piece, if more were on order after it.
    last: Option<Instant>,
    /// Smoothed seconds between two pieces.
    interval: Option<f64>,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            window: FIRST_WINDOW,
            last: None,
            interval: None,
        }
    }
}

impl Pace {
    fn note_piece(&mut self, queue: Duration, now: Instant) {
        let last = self.last.replace(now);
        let Some(seconds) = last.map(|last| (now - last).as_secs_f64()) else {
            return;
        };
        let smooth = self
            .interval
            .map_or(seconds, |old| old * 0.8 + seconds * 0.2);
        self.interval = Some(smooth);
        let wanted = queue.as_secs_f64() / smooth.max(1e-6);
        self.window = wanted.clamp(LEAST_WINDOW, self.window + 1.0);
    }

    /// Nothing is on order: the time until the next piece says nothing.
    fn pause(&mut self) {
        self.last = None;
    }

    /// It refused as busy.
    pub(crate) fn slow_down(&mut self) {
        self.window = (self.window / 2.0).max(LEAST_WINDOW);
    }

    /// How many pieces to have on order.
    pub(crate) fn window(&self, most: usize) -> usize {
        (self.window.round() as usize).min(most)
    }

    /// The usual time from request to piece, with the window in use.
    pub(crate) fn turnaround(&self) -> Duration {
        let seconds = self.interval.unwrap_or_default() * self.window;
        Duration::from_secs_f64(seconds.min(60.0))
    }

    /// The usual time between two pieces.
    pub(crate) fn piece_time(&self) -> Option<Duration> {
        self.interval.map(Duration::from_secs_f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    fn give(neighbour: &mut Neighbour, pieces: u32, every: Duration) {
        let queue = Duration::from_millis(200);
        let mut now = sample::start();
        neighbour.note_request(PieceIndex(999), now);
        for piece in 0..pieces {
            neighbour.note_request(PieceIndex(piece), now);
            now += every;
            neighbour.note_piece(PieceIndex(piece), queue, now);
        }
    }

    #[test]
    fn a_fast_neighbour_gets_a_wide_window_and_a_slow_one_a_narrow_one() {
        let mut fast = Neighbour::new(Role::Node, 1000);
        give(&mut fast, 100, Duration::from_millis(1));
        assert_eq!(fast.pace.window(32), 32);
        let mut slow = Neighbour::new(Role::Node, 1000);
        give(&mut slow, 10, Duration::from_millis(300));
        assert_eq!(slow.pace.window(32), 2);
    }

    #[test]
    fn a_neighbour_that_has_nothing_of_what_it_claims_is_found_out() {
        let mut neighbour = Neighbour::new(Role::Node, 10);
        assert!((1..MOST_MISSES).all(|_| !neighbour.note_miss()));
        assert!(neighbour.note_miss());
    }
}
