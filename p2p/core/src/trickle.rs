//! Whether what comes is far too little, and whether the origin brings more.

use std::time::{Duration, Instant};

/// Bytes per second below which peers do not do their work.
const TRICKLE: f64 = (1 << 20) as f64;
/// The same while others fetch as well: all of them would go, and their links may be slow.
const TRICKLE_IN_CROWD: f64 = (32 << 10) as f64;
/// So many pieces that we lack and neighbours have: it is they who are slow, not what they wait for.
pub(crate) const ENOUGH: usize = 16;
/// How long it takes to be sure,
const LOOK: Duration = Duration::from_millis(200);
/// and in a crowd.
const LOOK_IN_CROWD: Duration = Duration::from_secs(4);
/// How long the origin has to show that it brings more,
const TRIAL: Duration = Duration::from_secs(2);
/// how much more,
const BETTER: f64 = 1.5;
/// and how long it is left in peace if it does not; twice as long each time.
const PAUSE: Duration = Duration::from_secs(30);
const MOST_DOUBLINGS: u32 = 6;

/// What came since when.
#[derive(Debug, Clone, Copy)]
struct Mark {
    at: Instant,
    got: u64,
}

/// What is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sight {
    Fine,
    /// It comes in a trickle.
    Trickle,
    /// It does so with the origin's help as well.
    Vain,
}

#[derive(Debug, Default)]
pub(crate) struct Trickle {
    mark: Option<Mark>,
    /// Bytes per second as last seen.
    rate: f64,
    /// Bytes per second before the origin was asked.
    before: Option<f64>,
    failures: u32,
    not_before: Option<Instant>,
}

impl Trickle {
    /// Whether the origin is asked because of this.
    pub(crate) fn is_on(&self) -> bool {
        self.before.is_some()
    }

    /// Nothing is to be seen now.
    pub(crate) fn rest(&mut self) {
        self.mark = None;
    }

    /// Looks at how much there is. `crowd`: others fetch as well; our share of randomness then.
    pub(crate) fn look(
        &mut self,
        got: u64,
        piece_len: u32,
        crowd: Option<f64>,
        now: Instant,
    ) -> Sight {
        let paused = self.not_before.is_some_and(|at| now < at);
        let mark = *self.mark.get_or_insert(Mark { at: now, got });
        let (time, least) = match crowd {
            Some(jitter) => (LOOK_IN_CROWD.mul_f64(1.0 + 2.0 * jitter), TRICKLE_IN_CROWD),
            None => (LOOK, TRICKLE),
        };
        let time = if self.is_on() { TRIAL } else { time };
        // Whole pieces are counted: in less time than this one or none tells nothing.
        let pieces = Duration::from_secs_f64(1.5 * f64::from(piece_len) / least);
        let elapsed = now - mark.at;
        if elapsed < time.max(pieces) {
            return Sight::Fine;
        }
        self.mark = Some(Mark { at: now, got });
        self.rate = got.saturating_sub(mark.got) as f64 / elapsed.as_secs_f64();
        match self.before {
            Some(before) if self.rate < BETTER * before => Sight::Vain,
            None if self.rate < least && !paused => Sight::Trickle,
            _ => Sight::Fine,
        }
    }

    /// The origin is asked.
    pub(crate) fn begin(&mut self, now: Instant) {
        self.before = Some(self.rate);
        self.mark = self.mark.map(|mark| Mark { at: now, ..mark });
    }

    /// It brings no more.
    pub(crate) fn give_up(&mut self, now: Instant) {
        self.before = None;
        self.not_before = Some(now + PAUSE * (1 << self.failures.min(MOST_DOUBLINGS)));
        self.failures += 1;
    }

    /// Peers do their work now.
    pub(crate) fn stand_back(&mut self) {
        (self.before, self.mark) = (None, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    const PIECE: u32 = 64 << 10;

    /// Looks every 50 ms for so long at what comes at a rate; says the first thing of note.
    fn look(trickle: &mut Trickle, rate: u64, crowd: Option<f64>, now: &mut Instant) -> Sight {
        let start = *now;
        while *now < start + Duration::from_secs(10) {
            let got = rate * (*now - start).as_millis() as u64 / 1000;
            let sight = trickle.look(got, PIECE, crowd, *now);
            if sight != Sight::Fine {
                return sight;
            }
            *now += Duration::from_millis(50);
        }
        Sight::Fine
    }

    #[test]
    fn a_trickle_is_seen_soon_and_later_in_a_crowd() {
        let start = sample::start();
        let (mut now, mut trickle) = (start, Trickle::default());
        let seen = look(&mut trickle, 100 << 10, None, &mut now);
        assert_eq!(seen, Sight::Trickle);
        assert!(now - start <= Duration::from_millis(300));
        let (mut now, mut trickle) = (start, Trickle::default());
        let seen = look(&mut trickle, 20 << 10, Some(0.5), &mut now);
        assert_eq!(seen, Sight::Trickle);
        assert!(now - start >= LOOK_IN_CROWD * 2);
    }

    #[test]
    fn what_comes_at_a_usual_rate_is_no_trickle() {
        let (mut now, mut trickle) = (sample::start(), Trickle::default());
        assert_eq!(look(&mut trickle, 2 << 20, None, &mut now), Sight::Fine);
        trickle.rest();
        let slow_links = look(&mut trickle, 100 << 10, Some(0.0), &mut now);
        assert_eq!(slow_links, Sight::Fine);
    }

    #[test]
    fn an_origin_that_brings_no_more_is_left_in_peace_for_longer_and_longer() {
        let (mut now, mut trickle) = (sample::start(), Trickle::default());
        for pause in [PAUSE, PAUSE * 2] {
            trickle.rest();
            assert_eq!(
                look(&mut trickle, 100 << 10, None, &mut now),
                Sight::Trickle
            );
            trickle.begin(now);
            assert_eq!(look(&mut trickle, 100 << 10, None, &mut now), Sight::Vain);
            trickle.give_up(now);
            assert_eq!(look(&mut trickle, 100 << 10, None, &mut now), Sight::Fine);
            now += pause;
        }
    }
}
