//! Rates in bytes per second, and the tokens that keep to them.
//!
//! A bucket may be overdrawn: whoever finds it above zero takes as much as he needs, and the next
//! one waits until the debt is paid. So a piece passes that is larger than the burst, and over time
//! the rate is exact.

use std::{
    collections::BTreeMap,
    num::NonZeroU64,
    time::{Duration, Instant},
};

use hawker_model::TaskId;

/// Parts of a byte in which tokens are counted: what a rate of one byte per second gives in one
/// nanosecond.
const PARTS: i128 = 1_000_000_000;
/// Tasks whose tokens are kept before the idle ones are forgotten.
const FEW_TASKS: usize = 64;

/// So many bytes per second, and so many at once after a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    bytes_per_second: NonZeroU64,
    burst: u64,
}

impl Rate {
    /// A rate with a burst of a tenth of a second. `None`: no bytes at all are no rate.
    pub fn new(bytes_per_second: u64) -> Option<Self> {
        let rate = NonZeroU64::new(bytes_per_second)?;
        Some(Self {
            bytes_per_second: rate,
            burst: (bytes_per_second / 10).max(1),
        })
    }

    /// With another burst, at least one byte.
    pub fn with_burst(self, burst: u64) -> Self {
        let burst = burst.max(1);
        Self { burst, ..self }
    }

    /// Bytes per second.
    pub fn bytes_per_second(&self) -> u64 {
        self.bytes_per_second.get()
    }

    /// Bytes that may pass at once after a pause.
    pub fn burst(&self) -> u64 {
        self.burst
    }

    /// The slower of two, where there are two.
    pub fn slower(one: Option<Self>, other: Option<Self>) -> Option<Self> {
        let both = one.into_iter().chain(other);
        both.min_by_key(|rate| rate.bytes_per_second)
    }

    /// How long so many bytes take.
    pub fn time_for(&self, bytes: u64) -> Duration {
        Duration::from_secs_f64(bytes as f64 / self.bytes_per_second.get() as f64)
    }
}

/// Limits of one kind of traffic. `None`: none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limit {
    /// Of all tasks together.
    pub total: Option<Rate>,
    /// Of each task.
    pub per_task: Option<Rate>,
}

/// All limits of a host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// What peers and seeds send us.
    pub download: Limit,
    /// What we send to peers.
    pub upload: Limit,
    /// What origins send us. The shell sees to it.
    pub back_to_source: Limit,
}

/// Tokens that come with time.
#[derive(Clone, Debug, Default)]
pub struct Bucket {
    rate: Option<Rate>,
    /// Tokens at `at`, in parts of a byte.
    level: i128,
    /// `None`: never used, so full.
    at: Option<Instant>,
}

impl Bucket {
    /// A full bucket; without a rate one that never holds anybody up.
    pub fn new(rate: Option<Rate>) -> Self {
        Self {
            rate,
            level: 0,
            at: None,
        }
    }

    /// Changes the rate. A debt stays, and is paid at the new rate.
    pub fn set(&mut self, rate: Option<Rate>, now: Instant) {
        if self.rate == rate {
            return;
        }
        match (self.rate, rate) {
            (Some(old), Some(new)) => {
                self.level = self.level_at(old, now).min(parts(new.burst));
                self.at = Some(now);
            }
            _ => self.at = None,
        }
        self.rate = rate;
    }

    /// When something may pass; `None`: now.
    pub fn ready_at(&self, now: Instant) -> Option<Instant> {
        let rate = self.rate?;
        let missing = PARTS - self.level_at(rate, now);
        let per_nano = i128::from(rate.bytes_per_second.get());
        // At least one whole byte, so that a wait is never for nothing.
        let wait = (missing + per_nano - 1) / per_nano;
        (missing > 0).then(|| now + Duration::from_nanos(u64::try_from(wait).unwrap_or(u64::MAX)))
    }

    /// So many bytes pass.
    pub fn take(&mut self, bytes: u64, now: Instant) {
        if let Some(rate) = self.rate {
            self.level = self.level_at(rate, now) - parts(bytes);
            self.at = Some(now);
        }
    }

    /// So many of the bytes taken did not pass after all.
    pub fn give_back(&mut self, bytes: u64, now: Instant) {
        if let Some(rate) = self.rate {
            self.level = (self.level_at(rate, now) + parts(bytes)).min(parts(rate.burst));
            self.at = Some(now);
        }
    }

    /// Whole bytes that may pass at once; 0 in debt.
    pub fn available(&self, now: Instant) -> u64 {
        self.rate.map_or(u64::MAX, |rate| {
            u64::try_from(self.level_at(rate, now) / PARTS).unwrap_or(0)
        })
    }

    /// Whether there is a rate at all.
    pub fn is_limited(&self) -> bool {
        self.rate.is_some()
    }

    fn is_full(&self, now: Instant) -> bool {
        self.rate
            .is_none_or(|rate| self.level_at(rate, now) >= parts(rate.burst))
    }

    fn level_at(&self, rate: Rate, now: Instant) -> i128 {
        let Some(at) = self.at else {
            return parts(rate.burst);
        };
        let nanos = now.saturating_duration_since(at).as_nanos();
        // A century of nanoseconds times the largest rate still fits.
        let nanos = i128::from(u64::try_from(nanos).unwrap_or(u64::MAX));
        let grown = self.level + nanos * i128::from(rate.bytes_per_second.get());
        grown.min(parts(rate.burst))
    }
}

fn parts(bytes: u64) -> i128 {
    i128::from(bytes) * PARTS
}

/// The tokens of one kind of traffic: those of all tasks, and those of each.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    limit: Limit,
    total: Bucket,
    tasks: BTreeMap<TaskId, Bucket>,
    /// Tasks that have a rate of their own, beside the limit of each.
    own: BTreeMap<TaskId, Rate>,
}

impl Meter {
    pub(crate) fn new(limit: Limit) -> Self {
        Self {
            limit,
            total: Bucket::new(limit.total),
            tasks: BTreeMap::new(),
            own: BTreeMap::new(),
        }
    }

    pub(crate) fn set(&mut self, limit: Limit, now: Instant) {
        self.limit = limit;
        self.total.set(limit.total, now);
        self.set_buckets(now);
    }

    /// Gives one task a rate of its own, or takes that away.
    pub(crate) fn set_own(&mut self, task: TaskId, rate: Option<Rate>, now: Instant) {
        match rate {
            Some(rate) => _ = self.own.insert(task, rate),
            None => _ = self.own.remove(&task),
        }
        self.set_buckets(now);
    }

    fn set_buckets(&mut self, now: Instant) {
        let (of_each, own) = (self.limit.per_task, &self.own);
        self.tasks.retain(|task, bucket| {
            let rate = Rate::slower(of_each, own.get(task).copied());
            bucket.set(rate, now);
            rate.is_some()
        });
    }

    /// What one task is held to.
    fn rate_of(&self, task: &TaskId) -> Option<Rate> {
        Rate::slower(self.limit.per_task, self.own.get(task).copied())
    }

    pub(crate) fn is_limited(&self) -> bool {
        self.limit != Limit::default() || !self.own.is_empty()
    }

    pub(crate) fn total_rate(&self) -> Option<Rate> {
        self.limit.total
    }

    /// When anything may pass; `None`: now.
    pub(crate) fn total_ready_at(&self, now: Instant) -> Option<Instant> {
        self.total.ready_at(now)
    }

    /// When something of the task may pass; `None`: now.
    pub(crate) fn ready_at(&self, task: &TaskId, now: Instant) -> Option<Instant> {
        self.own_ready_at(task, now).max(self.total.ready_at(now))
    }

    /// The same, were there no limit of all tasks.
    pub(crate) fn own_ready_at(&self, task: &TaskId, now: Instant) -> Option<Instant> {
        self.tasks.get(task).and_then(|task| task.ready_at(now))
    }

    pub(crate) fn available(&self, task: &TaskId, now: Instant) -> u64 {
        let fresh = self.rate_of(task).map_or(u64::MAX, |rate| rate.burst);
        let own = self.tasks.get(task).map(|task| task.available(now));
        own.unwrap_or(fresh).min(self.total.available(now))
    }

    pub(crate) fn take(&mut self, task: &TaskId, bytes: u64, now: Instant) {
        self.total.take(bytes, now);
        if let Some(own) = self.bucket(task, now) {
            own.take(bytes, now);
        }
    }

    pub(crate) fn give_back(&mut self, task: &TaskId, bytes: u64, now: Instant) {
        self.total.give_back(bytes, now);
        if let Some(own) = self.bucket(task, now) {
            own.give_back(bytes, now);
        }
    }

    fn bucket(&mut self, task: &TaskId, now: Instant) -> Option<&mut Bucket> {
        let rate = self.rate_of(task)?;
        if self.tasks.len() >= FEW_TASKS && !self.tasks.contains_key(task) {
            // A full one is as good as a new one.
            self.tasks.retain(|_, bucket| !bucket.is_full(now));
        }
        let bucket = self.tasks.entry(*task);
        Some(bucket.or_insert_with(|| Bucket::new(Some(rate))))
    }
}

/// Who has had how much, so that the one who has had least comes next. Who comes anew, or comes back,
/// starts beside those who are served now: nobody saves up.
#[derive(Debug)]
pub(crate) struct Shares<K> {
    had: BTreeMap<K, u64>,
    /// What the one served last had had.
    floor: u64,
}

impl<K> Default for Shares<K> {
    fn default() -> Self {
        Self {
            had: BTreeMap::new(),
            floor: 0,
        }
    }
}

impl<K: Ord + Clone> Shares<K> {
    pub(crate) fn of(&self, who: &K) -> u64 {
        self.had.get(who).copied().unwrap_or(0).max(self.floor)
    }

    pub(crate) fn note(&mut self, who: &K, bytes: u64) {
        let had = self.of(who);
        self.floor = had;
        if self.had.len() >= FEW_TASKS && !self.had.contains_key(who) {
            self.had.retain(|_, had| *had > self.floor);
        }
        self.had.insert(who.clone(), had.saturating_add(bytes));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sample;

    /// Takes `bytes` at a time for so long, as soon as it may; says how many passed.
    fn drain(bucket: &mut Bucket, bytes: u64, time: Duration, start: Instant) -> u64 {
        let (mut now, mut passed) = (start, 0);
        loop {
            if let Some(at) = bucket.ready_at(now) {
                now = at;
            }
            if now >= start + time {
                return passed;
            }
            bucket.take(bytes, now);
            passed += bytes;
        }
    }

    #[test]
    fn a_rate_is_kept_whatever_the_size_of_pieces() {
        let rate = 10 << 20;
        for piece in [997, 1500, 64 << 10, 4 << 20] {
            let mut bucket = Bucket::new(Rate::new(rate));
            let passed = drain(&mut bucket, piece, Duration::from_secs(4), sample::start());
            let (least, most) = (4 * rate, 4 * rate + rate / 10 + piece);
            assert!((least - 1..=most).contains(&passed), "{piece}: {passed}");
        }
    }

    #[test]
    fn a_burst_passes_at_once_and_only_once() {
        let rate = Rate::new(1000).unwrap().with_burst(5000);
        let mut bucket = Bucket::new(Some(rate));
        let now = sample::start();
        bucket.take(5000, now);
        let at = bucket.ready_at(now).unwrap();
        assert_eq!(at, now + Duration::from_millis(1));
        assert_eq!(bucket.available(now + Duration::from_secs(60)), 5000);
    }

    #[test]
    fn a_debt_is_paid_at_the_new_rate() {
        let now = sample::start();
        let mut bucket = Bucket::new(Rate::new(100));
        bucket.take(1010, now);
        bucket.set(Rate::new(1000), now);
        let wait = bucket.ready_at(now).unwrap() - now;
        assert_eq!(wait, Duration::from_millis(1001));
        bucket.set(None, now);
        assert_eq!(bucket.ready_at(now), None);
    }

    #[test]
    fn what_is_given_back_may_pass_again() {
        let now = sample::start();
        let mut bucket = Bucket::new(Rate::new(1000));
        bucket.take(900, now);
        bucket.give_back(900, now);
        assert_eq!(bucket.available(now), 100);
    }

    #[test]
    fn a_task_is_held_by_its_own_rate_and_by_that_of_all() {
        let now = sample::start();
        let limit = Limit {
            total: Rate::new(1000),
            per_task: Rate::new(100),
        };
        let (mut meter, [a, b]) = (Meter::new(limit), sample::tasks());
        meter.take(&a, 10, now);
        assert_eq!(meter.ready_at(&b, now), None);
        let own = meter.ready_at(&a, now).unwrap();
        assert_eq!(own, now + Duration::from_millis(10));
        meter.take(&b, 190, now);
        assert_eq!(
            meter.total_ready_at(now).unwrap(),
            now + Duration::from_millis(101)
        );
        meter.set(Limit::default(), now);
        assert_eq!(meter.ready_at(&a, now), None);
    }

    #[test]
    fn a_task_with_a_rate_of_its_own_is_held_to_the_slower_one_and_no_other_is() {
        let now = sample::start();
        let (mut meter, [a, b]) = (Meter::new(Limit::default()), sample::tasks());
        meter.set_own(a, Rate::new(100), now);
        assert!(meter.is_limited());
        meter.take(&a, 10, now);
        meter.take(&b, 1000, now);
        let due = |meter: &Meter, task| meter.ready_at(task, now).map(|at| at - now);
        assert_eq!(due(&meter, &a), Some(Duration::from_millis(10)));
        assert_eq!(
            (due(&meter, &b), meter.available(&b, now)),
            (None, u64::MAX)
        );
        let limit = Limit {
            total: None,
            per_task: Rate::new(1000),
        };
        meter.set(limit, now);
        meter.take(&b, 110, now);
        assert_eq!(due(&meter, &a), Some(Duration::from_millis(10)));
        assert_eq!(due(&meter, &b), Some(Duration::from_millis(11)));
        meter.set(Limit::default(), now);
        assert_eq!(due(&meter, &b), None);
        meter.set_own(a, None, now);
        assert_eq!((due(&meter, &a), meter.is_limited()), (None, false));
    }

    #[test]
    fn whoever_had_least_comes_next_and_nobody_saves_up() {
        let mut shares = Shares::default();
        for _ in 0..10 {
            shares.note(&"a", 100);
        }
        // It comes anew, beside the other one.
        assert!(shares.of(&"b") >= 900 && shares.of(&"b") < shares.of(&"a"));
        shares.note(&"b", 400);
        assert!(shares.of(&"a") < shares.of(&"b"));
    }

    proptest! {
        #[test]
        fn no_bucket_gives_more_than_its_rate_and_burst(
            rate in 1u64..1 << 32,
            burst in 1u64..1 << 24,
            takes in proptest::collection::vec((0u64..1 << 22, 0u64..1 << 32), 1..50),
        ) {
            let start = sample::start();
            let rate = Rate::new(rate).unwrap().with_burst(burst);
            let mut bucket = Bucket::new(Some(rate));
            let (mut now, mut passed, mut last) = (start, 0u128, 0u128);
            for (bytes, pause) in takes {
                now += Duration::from_nanos(pause);
                if bucket.ready_at(now).is_none() {
                    bucket.take(bytes, now);
                    passed += u128::from(bytes);
                    last = bytes.into();
                }
            }
            let elapsed = (now - start).as_nanos();
            let most = u128::from(rate.bytes_per_second()) * elapsed / 1_000_000_000;
            prop_assert!(passed <= most + u128::from(burst) + last);
        }
    }
}
