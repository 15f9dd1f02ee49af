//! One peer of one task: what it has, what we asked of it, what it asked of us.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use hawker_model::{PieceIndex, PieceSet, Role};

use crate::short_map::ShortMap;

/// Pieces asked of a neighbour before we know how fast it is.
const FIRST_WINDOW: f64 = 4.0;
/// The window never falls below this. With a dozen neighbours pieces are on their way from others
/// while one is asked for its next: a request made late goes to who can answer soonest.
const LEAST_WINDOW: f64 = 1.0;
/// With fewer than this waiting at the neighbour more is asked for, with more than that less.
const FEW_WAITING: f64 = 0.4;
const MANY_WAITING: f64 = 1.0;
/// What the least time from request to piece grows by while one piece is on order, so that it is
/// forgotten: what makes it longer then is not our doing.
const LEAST_GROWS: f64 = 1.05;
/// So many refusals in a row, and its have-set is a lie.
const MOST_MISSES: u32 = 3;

/// Pieces that are taken beside what is owed, at most. A source that is told anew that it owes 16, again
/// and again while 8 are on their way, may have any number on its way; but never more than it gave.
const MOST_CROSSING: u16 = 1024;
/// So many pieces that we gave are remembered: those that may be unchecked yet.
const MOST_GIFTS: usize = 8;

#[derive(Debug)]
pub(crate) struct Neighbour {
    pub(crate) role: Role,
    /// It is in another zone.
    pub(crate) far: bool,
    /// When it last had something that nobody else of our zone had told us of.
    pub(crate) brought_at: Option<Instant>,
    /// It has answered, or came by itself.
    pub(crate) joined: bool,
    /// We have sent it our `Join`.
    pub(crate) greeted: bool,
    /// It has told the same geometry as we know.
    pub(crate) agrees: bool,
    /// It knows our geometry.
    pub(crate) told_head: bool,
    pub(crate) has: PieceSet,
    /// It chooses what it sends (a seed, or a node that has much that nobody else has).
    pub(crate) source: bool,
    /// How many chain values it knows, as far as we know.
    pub(crate) listed: u32,
    /// It has a list that has proven false here: what it knows is not what we know.
    pub(crate) deceived: bool,
    /// How much of our log of stored pieces it was told.
    pub(crate) told: usize,
    pub(crate) requests: ShortMap<PieceIndex, Request>,
    pub(crate) pace: Pace,
    /// Pieces of its own choice that it still owes us, and since when it has sent none.
    pub(crate) credit: u16,
    /// What it owed when we asked anew, or closed: it may have sent that before our word came, and then
    /// that comes beside what it owes now. It will not choose those pieces again.
    crossing: u16,
    pub(crate) credit_since: Option<Instant>,
    /// When it last gave a piece, or began to owe one.
    pub(crate) gave_at: Option<Instant>,
    misses: u32,
    /// It gives no sign of life, though its connection stands: nothing is asked of it.
    pub(crate) silent: bool,
    /// It has owed us a piece that it has for far too long, and given none.
    pub(crate) withholds: bool,
    /// A piece of it did not match, or its list has proven false; until that is settled nothing is
    /// asked of it.
    pub(crate) suspected: bool,
    /// A piece of it has matched.
    pub(crate) proven: bool,
    /// Pieces that it gave since the end of its list is waited for.
    pub(crate) tried: usize,
    /// What we sent it, while its own word is not in yet.
    pub(crate) sent: PieceSet,
    /// How many pieces we sent it, some of them again, and which of late.
    pub(crate) given: u32,
    pub(crate) gifts: VecDeque<PieceIndex>,
    /// How many those were when it last left the choice to us.
    pub(crate) asked_any: Option<u32>,
    /// When we last told it that we have no time for it.
    pub(crate) refused_at: Option<Instant>,
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
            far: false,
            brought_at: None,
            joined: false,
            greeted: false,
            agrees: false,
            told_head: false,
            has: PieceSet::empty(pieces),
            source: role == Role::Seed,
            listed: 0,
            deceived: false,
            told: 0,
            requests: ShortMap::default(),
            pace: Pace::default(),
            credit: 0,
            crossing: 0,
            credit_since: None,
            gave_at: None,
            misses: 0,
            silent: false,
            withholds: false,
            suspected: false,
            proven: false,
            tried: 0,
            sent: PieceSet::empty(pieces),
            given: 0,
            gifts: VecDeque::new(),
            asked_any: None,
            refused_at: None,
        }
    }

    /// Whether it has every piece of a task that has any.
    pub(crate) fn is_complete(&self) -> bool {
        self.has.capacity() > 0 && self.has.is_full()
    }

    /// Whether we may ask it for something.
    pub(crate) fn is_ready(&self) -> bool {
        self.joined && !self.suspected && !self.silent
    }

    /// Whether what it has is as good as ours.
    pub(crate) fn is_counted_on(&self) -> bool {
        self.is_heard() && !self.suspected
    }

    /// Whether it has answered, and does what it is there for.
    pub(crate) fn is_heard(&self) -> bool {
        self.joined && !self.silent && !self.withholds
    }

    /// How many more pieces to ask for, if `most` may be on order.
    pub(crate) fn room(&self, most: usize) -> usize {
        let window = self.pace.window(most);
        window.saturating_sub(self.requests.len() + usize::from(self.credit))
    }

    /// It knows chain values up to this one.
    pub(crate) fn note_listed(&mut self, end: u32) {
        if !self.deceived {
            self.listed = self.listed.max(end);
        }
    }

    pub(crate) fn note_request(&mut self, piece: PieceIndex, now: Instant) {
        if self.requests.is_empty() {
            self.gave_at = Some(now);
        }
        let late = false;
        self.requests.insert(piece, Request { at: now, late });
    }

    /// Whether it was asked for this piece, or for any.
    pub(crate) fn owes(&self, piece: PieceIndex) -> bool {
        self.requests.contains_key(&piece) || self.credit > 0 || self.crossing > 0
    }

    /// It owes so many pieces of its own choice from when it hears of it.
    pub(crate) fn note_credit(&mut self, credit: u16, now: Instant) {
        if self.credit == 0 {
            self.credit_since = Some(now);
        }
        self.crossing = self.crossing.saturating_add(self.credit).min(MOST_CROSSING);
        self.credit = credit;
    }

    /// Nothing more is left to its choice, and what it sends all the same is not owed. Says whether
    /// something was.
    pub(crate) fn take_credit_back(&mut self) -> bool {
        self.credit_since = None;
        self.crossing = 0;
        std::mem::take(&mut self.credit) > 0
    }

    /// Nothing more is left to its choice, but what it owed may be on its way and is taken, and no more
    /// than that. Says whether something was.
    pub(crate) fn end_credit(&mut self) -> bool {
        let owed = self.credit;
        let had = self.take_credit_back();
        self.crossing = owed;
        had
    }

    /// It cannot be heard: nothing of its choice is waited for, but all that it owed may come yet.
    pub(crate) fn set_credit_aside(&mut self) {
        let crossing = self.crossing.saturating_add(self.credit);
        self.take_credit_back();
        self.crossing = crossing.min(MOST_CROSSING);
    }

    /// It could not give a piece of its own choice: one less is waited for. Says whether one was; if it
    /// was not meant for that, one more may come.
    pub(crate) fn forgo_one(&mut self) -> bool {
        let owed = self.credit > 0;
        if owed {
            self.credit -= 1;
            self.crossing = self.crossing.saturating_add(1).min(MOST_CROSSING);
        }
        owed
    }

    /// A piece came from it. Says whether we had asked for this one.
    pub(crate) fn note_piece(&mut self, piece: PieceIndex, queue: Duration, now: Instant) -> bool {
        let owed = self.owes(piece);
        let request = self.requests.remove(&piece);
        if request.is_none() && owed {
            match self.credit {
                0 => self.crossing = self.crossing.saturating_sub(1),
                _ => self.credit -= 1,
            }
            self.credit_since = Some(now);
        }
        let full = self.requests.len() + 1 >= self.pace.window(usize::MAX);
        let asked = request.map(|request| request.at);
        self.pace.note_piece(asked, full, queue, now);
        if self.requests.is_empty() && self.credit == 0 {
            self.pace.pause();
        }
        self.tried += 1;
        // What nobody asked for does not make up for what is on order.
        if owed {
            self.gave_at = Some(now);
            self.withholds = false;
            self.misses = 0;
        }
        request.is_some()
    }

    /// It does not have what it said it had. Says whether that was once too often.
    pub(crate) fn note_miss(&mut self) -> bool {
        self.misses += 1;
        self.misses >= MOST_MISSES
    }

    /// We give it a piece.
    pub(crate) fn note_gift(&mut self, piece: PieceIndex) {
        self.given = self.given.saturating_add(1);
        if self.gifts.len() >= MOST_GIFTS {
            self.gifts.pop_front();
        }
        self.gifts.push_back(piece);
    }

    /// Since when it owes us a piece that we asked for.
    pub(crate) fn owes_since(&self) -> Option<Instant> {
        self.gave_at.filter(|_| !self.requests.is_empty())
    }
}

/// How many pieces to have on order: so many that hardly any waits at the neighbour. As long as a
/// piece comes about as soon after its request as ever, the way there and back is not full, and one
/// more is asked for; when it comes later, they wait for each other, and one less is.
#[derive(Debug)]
pub(crate) struct Pace {
    window: f64,
    /// The last piece, if more were on order after it.
    last: Option<Instant>,
    /// Smoothed seconds between two pieces.
    interval: Option<f64>,
    /// Smoothed seconds from request to piece, and the least of late.
    trip: Option<f64>,
    least_trip: f64,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            window: FIRST_WINDOW,
            last: None,
            interval: None,
            trip: None,
            least_trip: f64::INFINITY,
        }
    }
}

impl Pace {
    /// A piece of the neighbour's choice, or one that was asked for at some time. `full`: as many were
    /// on order as the window says.
    fn note_piece(&mut self, asked: Option<Instant>, full: bool, queue: Duration, now: Instant) {
        if let Some(last) = self.last.replace(now) {
            let seconds = (now - last).as_secs_f64();
            self.interval = Some(smooth(self.interval, seconds, 0.2));
        }
        match (asked, self.interval) {
            (Some(at), _) => self.note_trip((now - at).as_secs_f64().max(1e-6), full),
            (None, Some(interval)) => {
                let wanted = queue.as_secs_f64() / interval.max(1e-6);
                self.window = wanted.clamp(LEAST_WINDOW, self.window + 1.0);
            }
            (None, None) => {}
        }
    }

    fn note_trip(&mut self, seconds: f64, full: bool) {
        let trip = smooth(self.trip, seconds, 0.3);
        self.trip = Some(trip);
        if self.window <= LEAST_WINDOW {
            self.least_trip *= LEAST_GROWS;
        }
        self.least_trip = self.least_trip.min(seconds);
        let waiting = self.window * (1.0 - self.least_trip / trip);
        if waiting < FEW_WAITING && full {
            self.window += 1.0;
        } else if waiting > MANY_WAITING {
            self.window = (self.window - 0.5).max(LEAST_WINDOW);
        }
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

    /// The usual time from request to piece.
    pub(crate) fn turnaround(&self) -> Duration {
        Duration::from_secs_f64(self.trip.unwrap_or_default().min(60.0))
    }

    /// The usual time between two pieces.
    pub(crate) fn piece_time(&self) -> Option<Duration> {
        self.interval.map(Duration::from_secs_f64)
    }
}

fn smooth(old: Option<f64>, new: f64, share: f64) -> f64 {
    old.map_or(new, |old| old + (new - old) * share)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    /// Keeps as many pieces on order as the window says; each comes `way` after its request, and
    /// `piece_time` after the one before.
    fn give(neighbour: &mut Neighbour, pieces: u32, way: Duration, piece_time: Duration) {
        let queue = Duration::from_millis(25);
        let (mut now, mut asked) = (sample::start(), 0);
        let mut comes = VecDeque::new();
        let mut free_at = now;
        for _ in 0..pieces {
            while comes.len() < neighbour.pace.window(32) {
                neighbour.note_request(PieceIndex(asked), now);
                free_at = free_at.max(now) + piece_time;
                comes.push_back((PieceIndex(asked), free_at + way));
                asked += 1;
            }
            let Some((piece, at)) = comes.pop_front() else {
                return;
            };
            now = at;
            neighbour.note_piece(piece, queue, now);
        }
    }

    #[test]
    fn so_many_pieces_are_on_order_that_the_way_is_full_and_hardly_more() {
        let millis = Duration::from_millis;
        let mut far = Neighbour::new(Role::Node, 1000);
        give(&mut far, 400, millis(100), millis(10));
        let window = far.pace.window(32);
        assert!((10..=14).contains(&window), "{window}");
        let mut near = Neighbour::new(Role::Node, 1000);
        give(&mut near, 400, millis(1), millis(10));
        let window = near.pace.window(32);
        assert!((1..=3).contains(&window), "{window}");
    }

    #[test]
    fn the_window_does_not_grow_while_less_is_on_order() {
        let mut neighbour = Neighbour::new(Role::Node, 1000);
        let queue = Duration::from_millis(25);
        let (mut now, before) = (sample::start(), neighbour.pace.window(32));
        for piece in (0..500).map(PieceIndex) {
            neighbour.note_request(piece, now);
            now += Duration::from_millis(1);
            neighbour.note_piece(piece, queue, now);
        }
        assert!(neighbour.pace.window(32) <= before);
    }

    #[test]
    fn pieces_that_nobody_asked_for_do_not_make_up_for_those_on_order() {
        let mut neighbour = Neighbour::new(Role::Node, 10);
        let (start, queue) = (sample::start(), Duration::from_millis(25));
        neighbour.note_request(PieceIndex(1), start);
        for second in 1..9 {
            let now = start + Duration::from_secs(second);
            neighbour.note_piece(PieceIndex(2), queue, now);
            assert_eq!(neighbour.note_miss(), second >= u64::from(MOST_MISSES));
        }
        assert_eq!(neighbour.owes_since(), Some(start));
        assert!(neighbour.credit_since.is_none());
    }

    #[test]
    fn what_was_sent_before_our_word_came_is_owed_beside_what_is_owed_now() {
        let mut neighbour = Neighbour::new(Role::Seed, 1000);
        let (now, queue) = (sample::start(), Duration::from_millis(25));
        let mut pieces = (0..).map(PieceIndex);
        let mut come = |neighbour: &mut Neighbour, count: usize| {
            let mut pieces = pieces.by_ref().take(count);
            let owed = |piece| {
                let owed = neighbour.owes(piece);
                neighbour.note_piece(piece, queue, now);
                owed
            };
            pieces.all(owed)
        };
        neighbour.note_credit(16, now);
        assert!(come(&mut neighbour, 10));
        // It may have sent the other six by now, and then sends sixteen.
        neighbour.note_credit(16, now);
        assert!(come(&mut neighbour, 6 + 16));
        assert!(!come(&mut neighbour, 1), "nobody asked for that");
    }

    #[test]
    fn what_may_come_beside_what_is_owed_is_bounded_and_ends_when_it_is_taken_back() {
        let mut neighbour = Neighbour::new(Role::Seed, 1000);
        let now = sample::start();
        for _ in 0..99 {
            neighbour.note_credit(16, now);
        }
        assert_eq!(neighbour.crossing, MOST_CROSSING);
        assert!(neighbour.take_credit_back());
        assert!(!neighbour.owes(PieceIndex(0)));
    }

    #[test]
    fn what_was_sent_before_we_closed_is_owed_and_no_more() {
        let mut neighbour = Neighbour::new(Role::Seed, 1000);
        let (now, queue) = (sample::start(), Duration::from_millis(25));
        (0..9).for_each(|_| neighbour.note_credit(16, now));
        assert!(neighbour.end_credit());
        assert!(neighbour.credit == 0 && neighbour.credit_since.is_none());
        for piece in (0..16).map(PieceIndex) {
            assert!(neighbour.owes(piece));
            neighbour.note_piece(piece, queue, now);
        }
        assert!(!neighbour.owes(PieceIndex(16)), "nobody asked for that");
    }

    #[test]
    fn a_neighbour_that_has_nothing_of_what_it_claims_is_found_out() {
        let mut neighbour = Neighbour::new(Role::Node, 10);
        assert!((1..MOST_MISSES).all(|_| !neighbour.note_miss()));
        assert!(neighbour.note_miss());
    }
}
