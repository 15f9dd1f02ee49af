//! What may be asked of peers: bytes on order count against the download's rate, over all tasks and
//! for each.
//!
//! Tokens are taken when a piece is asked for, and given back when it will not come. When there are
//! none, tasks wait for their turn: the one that has had least comes next.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use hawker_model::TaskId;

use crate::rate::{Limit, Meter, Rate, Shares};

#[derive(Debug, Default)]
pub(crate) struct Downloads {
    meter: Meter,
    shares: Shares<TaskId>,
    /// Bytes that tokens were taken for and that did not come yet.
    on_order: BTreeMap<TaskId, u64>,
    waiting: BTreeSet<TaskId>,
    due: Option<Instant>,
}

impl Downloads {
    pub(crate) fn new(limit: Limit) -> Self {
        Self {
            meter: Meter::new(limit),
            ..Self::default()
        }
    }

    /// Changes the limits. Tasks that wait are to be looked at now.
    pub(crate) fn set(&mut self, limit: Limit, now: Instant) {
        self.meter.set(limit, now);
        self.look_again(now);
    }

    /// Gives a task a rate of its own, or takes that away.
    pub(crate) fn set_own(&mut self, task: TaskId, rate: Option<Rate>, now: Instant) {
        self.meter.set_own(task, rate, now);
        self.look_again(now);
    }

    fn look_again(&mut self, now: Instant) {
        if !self.meter.is_limited() {
            self.on_order.clear();
        }
        self.due = Some(now).filter(|_| !self.waiting.is_empty());
    }

    pub(crate) fn is_limited(&self) -> bool {
        self.meter.is_limited()
    }

    /// Whether the task is held up by a limit.
    pub(crate) fn holds(&self, task: &TaskId) -> bool {
        self.waiting.contains(task)
    }

    /// Whether the task is held up by the rate of all tasks, not by one of its own.
    pub(crate) fn lacks_total(&self, task: &TaskId, now: Instant) -> bool {
        let limited = self.meter.total_rate().is_some() && self.holds(task);
        limited && self.meter.own_ready_at(task, now).is_none()
    }

    /// Whether the task may ask for a piece. If not, it waits for its turn.
    pub(crate) fn may_order(&mut self, task: &TaskId, now: Instant) -> bool {
        if !self.is_limited() {
            return true;
        }
        let own = self.shares.of(task);
        let first = |other: &&TaskId| {
            *other != task
                && self.shares.of(other) < own
                && self.meter.ready_at(other, now).is_none()
        };
        let ready_at = match self.meter.ready_at(task, now) {
            None if !self.waiting.iter().any(|other| first(&other)) => {
                self.waiting.remove(task);
                return true;
            }
            None => now,
            Some(at) => at,
        };
        self.waiting.insert(*task);
        self.due = Some(self.due.map_or(ready_at, |due| due.min(ready_at)));
        false
    }

    /// How many pieces of that length the task may ask for at once, at least one.
    pub(crate) fn room(&self, task: &TaskId, piece_len: u32, now: Instant) -> usize {
        let pieces = self.meter.available(task, now) / u64::from(piece_len.max(1));
        usize::try_from(pieces).unwrap_or(usize::MAX).max(1)
    }

    /// So many bytes of the task are on order now.
    pub(crate) fn note_orders(&mut self, task: &TaskId, bytes: u64, now: Instant) {
        if !self.is_limited() {
            return;
        }
        let before = match bytes {
            0 => self.on_order.remove(task),
            _ => self.on_order.insert(*task, bytes),
        };
        let before = before.unwrap_or(0);
        if bytes > before {
            self.meter.take(task, bytes - before, now);
            self.shares.note(task, bytes - before);
        } else if bytes < before {
            self.meter.give_back(task, before - bytes, now);
        }
    }

    /// So many bytes of the task came, which were on order until now.
    pub(crate) fn note_arrival(&mut self, task: &TaskId, bytes: u64, now: Instant) {
        if !self.is_limited() {
            return;
        }
        let ordered = self.on_order.get_mut(task);
        let paid = ordered.map_or(0, |ordered| {
            let paid = bytes.min(*ordered);
            *ordered -= paid;
            paid
        });
        // What nobody had asked for counts as well.
        self.meter.take(task, bytes - paid, now);
    }

    pub(crate) fn forget(&mut self, task: &TaskId, now: Instant) {
        self.note_orders(task, 0, now);
        self.waiting.remove(task);
    }

    /// When [`Self::take_turn`] is due.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due.filter(|_| !self.waiting.is_empty())
    }

    /// The tasks that waited, in the order of their turns, those alike by what `share` says. Each is
    /// to be taken out of the waiting ones by [`Self::end_wait`] before it asks again.
    pub(crate) fn turns(&mut self, share: impl Fn(&TaskId) -> u64, now: Instant) -> Vec<TaskId> {
        if self.due().is_none_or(|due| due > now) {
            return Vec::new();
        }
        self.due = None;
        let mut turns: Vec<_> = self.waiting.iter().copied().collect();
        turns.sort_by_key(|task| (self.shares.of(task), share(task), *task));
        turns
    }

    pub(crate) fn end_wait(&mut self, task: &TaskId) {
        self.waiting.remove(task);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Rate, sample};

    fn limited(rate: u64) -> Downloads {
        Downloads::new(Limit {
            total: Rate::new(rate),
            per_task: None,
        })
    }

    #[test]
    fn what_is_taken_back_may_be_asked_again() {
        let (mut downloads, task, now) = (limited(1000), sample::task(), sample::start());
        assert!(downloads.may_order(&task, now));
        downloads.note_orders(&task, 500, now);
        assert!(!downloads.may_order(&task, now) && downloads.holds(&task));
        downloads.note_orders(&task, 0, now);
        assert!(downloads.may_order(&task, now) && !downloads.holds(&task));
    }

    #[test]
    fn what_comes_is_paid_once() {
        let (mut downloads, task, now) = (limited(1000), sample::task(), sample::start());
        downloads.note_orders(&task, 1100, now);
        downloads.note_arrival(&task, 1100, now);
        downloads.note_orders(&task, 0, now);
        assert!(!downloads.may_order(&task, now));
        let due = downloads.due().unwrap();
        assert_eq!(due, now + std::time::Duration::from_millis(1001));
        assert_eq!(downloads.turns(|_| 0, now), []);
        assert_eq!(downloads.turns(|_| 0, due), [task]);
    }

    #[test]
    fn tasks_with_large_and_with_small_pieces_get_the_same() {
        let mut downloads = limited(1 << 20);
        let tasks = sample::tasks();
        let (mut now, mut got) = (sample::start(), [0u64; 2]);
        let (end, sizes) = (
            now + std::time::Duration::from_secs(60),
            [1 << 20, 64 << 10],
        );
        for task in &tasks {
            assert!(downloads.may_order(task, now));
        }
        while now < end {
            for (at, task) in tasks.iter().enumerate() {
                downloads.end_wait(task);
                while downloads.may_order(task, now) {
                    downloads.note_orders(task, sizes[at], now);
                    downloads.note_arrival(task, sizes[at], now);
                    got[at] += sizes[at];
                }
            }
            now = downloads.due().unwrap().max(now);
            downloads.turns(|_| 0, now);
        }
        let share = got[0] as f64 / (got[0] + got[1]) as f64;
        assert!((0.45..=0.55).contains(&share), "{got:?}");
        let rate = (got[0] + got[1]) as f64 / 60.0 / f64::from(1 << 20);
        assert!((0.95..=1.05).contains(&rate), "{rate}");
    }
}
