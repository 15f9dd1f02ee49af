//! How much a socket may hold that is not on the wire yet. Pure.
//!
//! Who is to get the next piece is decided by [`hawker_swarm`] once a socket has taken the last: what
//! lies in sockets leaves by TCP's choice, and words wait behind it. So it is as little as keeps the
//! kernel from running dry before this process is woken again, and that goes by the connection's rate.

use std::time::Duration;

use tokio::time::Instant;

/// For a connection that is slow or new.
pub(super) const LEAST: u32 = 32 << 10;
/// More gains nothing at any rate.
const MOST: u32 = 256 << 10;
/// What a socket may hold lasts for so long, in seconds, or up to twice as long since it is rounded
/// up. Linux wakes the writer when half of it is left, and may go beyond by one buffer of 64 KiB.
const LASTS: f64 = 0.025;
/// A rate is taken over this time,
const WINDOW: Duration = Duration::from_millis(100);
/// or over so many bytes, if they go sooner.
const ENOUGH: u64 = 1 << 20;

/// The rate of one connection, and what follows from it.
#[derive(Debug)]
pub(super) struct Unsent {
    len: u32,
    since: Instant,
    bytes: u64,
}

impl Unsent {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            len: LEAST,
            since: now,
            bytes: 0,
        }
    }

    /// The socket has taken a piece. Says how much it is to hold from now on, where that is new.
    pub(super) fn note(&mut self, bytes: usize, now: Instant) -> Option<u32> {
        self.bytes += bytes as u64;
        let time = now.saturating_duration_since(self.since);
        if time < WINDOW && self.bytes < ENOUGH {
            return None;
        }
        let rate = self.bytes as f64 / time.as_secs_f64().max(1e-6);
        let len = ((rate * LASTS) as u32).clamp(LEAST, MOST);
        let before = std::mem::replace(&mut self.len, len.next_power_of_two());
        (self.since, self.bytes) = (now, 0);
        (self.len != before).then_some(self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pieces of 128 KiB, one in each `every`, for a second.
    fn after_a_second(unsent: &mut Unsent, now: &mut Instant, every: Duration) -> u32 {
        let until = *now + Duration::from_secs(1);
        while *now < until {
            *now += every;
            unsent.note(128 << 10, *now);
        }
        unsent.len
    }

    #[test]
    fn sockets_hold_what_lasts_until_the_process_is_woken() {
        let mut now = Instant::now();
        let mut unsent = Unsent::new(now);
        let mut at = |bytes_per_second: u64| {
            let every = Duration::from_secs(128 << 10) / bytes_per_second as u32;
            after_a_second(&mut unsent, &mut now, every)
        };
        assert_eq!(at(1_000_000), LEAST);
        assert_eq!(at(2_000_000), 64 << 10);
        assert_eq!(at(100_000_000), MOST);
        assert_eq!(at(4_000_000), 128 << 10);
        assert_eq!(at(100_000), LEAST, "a connection that becomes slow");
    }

    #[test]
    fn fast_connection_needs_no_time_to_be_known_for_it() {
        let now = Instant::now();
        let mut unsent = Unsent::new(now);
        let changes: Vec<_> = (1..=8)
            .map(|n| unsent.note(128 << 10, now + n * WINDOW / 1000))
            .collect();
        assert_eq!(changes[..7], [None; 7]);
        assert_eq!(changes[7], Some(MOST));
        assert_eq!(
            unsent.note(1 << 20, now + WINDOW / 100),
            None,
            "nothing new"
        );
    }

    #[test]
    fn clock_that_stands_still_is_no_fault() {
        let now = Instant::now();
        let mut unsent = Unsent::new(now);
        assert_eq!(unsent.note(usize::MAX / 2, now), Some(MOST));
        assert_eq!(unsent.note(0, now), None);
    }
}
