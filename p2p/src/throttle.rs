//! Waiting for tokens: what origins send is held to a rate by reading it no faster.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use hawker_model::TaskId;
use hawker_swarm::{Bucket, Limit, Rate};
use tokio::sync::Notify;

/// What passes in one turn: whoever has more takes several, so that all get the same.
const TURN: u64 = 256 << 10;
/// Tasks whose rates are kept before those are forgotten that nobody fetches.
const FEW_TASKS: usize = 64;

/// A rate that several share, each in turn.
#[derive(Debug)]
pub(crate) struct Throttle {
    bucket: Mutex<Bucket>,
    changed: Notify,
    /// First come, first served.
    turns: tokio::sync::Mutex<()>,
}

impl Throttle {
    pub(crate) fn new(rate: Option<Rate>) -> Self {
        Self {
            bucket: Mutex::new(Bucket::new(rate)),
            changed: Notify::new(),
            turns: tokio::sync::Mutex::new(()),
        }
    }

    /// Changes the rate, also for those who wait.
    pub(crate) fn set(&self, rate: Option<Rate>) {
        self.bucket().set(rate, Instant::now());
        self.changed.notify_waiters();
    }

    /// Waits until so many bytes may pass.
    pub(crate) async fn pass(&self, bytes: u64) {
        let mut owed = bytes;
        self.settle(&mut owed).await;
    }

    /// Waits until what is owed may pass. Cancel safe: what could not pass is still owed.
    pub(crate) async fn settle(&self, owed: &mut u64) {
        while *owed > 0 {
            let now = (*owed).min(TURN);
            self.pass_at_once(now).await;
            *owed -= now;
        }
    }

    pub(crate) fn is_limited(&self) -> bool {
        self.bucket().is_limited()
    }

    /// Waits for one turn, however much it takes.
    pub(crate) async fn pass_at_once(&self, bytes: u64) {
        if !self.is_limited() {
            return;
        }
        let _turn = self.turns.lock().await;
        loop {
            // Before the look at the rate, so that no change is missed.
            let changed = self.changed.notified();
            let Some(at) = self.take(bytes) else {
                return;
            };
            tokio::select! {
                () = tokio::time::sleep_until(at.into()) => {}
                () = changed => {}
            }
        }
    }

    /// Lets so much pass if nobody waits and nothing has to be waited for.
    pub(crate) fn try_pass(&self, bytes: u64) -> bool {
        if !self.is_limited() {
            return true;
        }
        let turn = self.turns.try_lock();
        turn.is_ok() && self.take(bytes).is_none()
    }

    /// Takes the bytes, or says when that may be tried again.
    fn take(&self, bytes: u64) -> Option<Instant> {
        let (mut bucket, now) = (self.bucket(), Instant::now());
        let at = bucket.ready_at(now);
        if at.is_none() {
            bucket.take(bytes, now);
        }
        at
    }

    fn bucket(&self) -> std::sync::MutexGuard<'_, Bucket> {
        // A bucket is whole whatever panicked beside it.
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The rates of what origins send: of all tasks, and of each.
#[derive(Debug)]
pub(crate) struct OriginPace {
    total: Throttle,
    tasks: Mutex<Tasks>,
}

#[derive(Debug, Default)]
struct Tasks {
    rate: Option<Rate>,
    /// Tasks that have a rate of their own beside that of each.
    own: BTreeMap<TaskId, Rate>,
    known: BTreeMap<TaskId, Arc<Throttle>>,
}

impl Tasks {
    fn rate_of(&self, task: &TaskId) -> Option<Rate> {
        Rate::slower(self.rate, self.own.get(task).copied())
    }

    fn set_throttles(&self) {
        for (task, throttle) in &self.known {
            throttle.set(self.rate_of(task));
        }
    }
}

impl OriginPace {
    pub(crate) fn new(limit: Limit) -> Self {
        let tasks = Tasks {
            rate: limit.per_task,
            ..Tasks::default()
        };
        Self {
            total: Throttle::new(limit.total),
            tasks: Mutex::new(tasks),
        }
    }

    pub(crate) fn set(&self, limit: Limit) {
        self.total.set(limit.total);
        let mut tasks = self.tasks();
        tasks.rate = limit.per_task;
        tasks.set_throttles();
    }

    /// Gives a task a rate of its own, or takes that away.
    pub(crate) fn set_own(&self, task: TaskId, rate: Option<Rate>) {
        let mut tasks = self.tasks();
        match rate {
            Some(rate) => _ = tasks.own.insert(task, rate),
            None => _ = tasks.own.remove(&task),
        }
        tasks.set_throttles();
    }

    /// The pace of one task's fetch.
    pub(crate) fn of(self: &Arc<Self>, task: TaskId) -> TaskPace {
        let mut tasks = self.tasks();
        let rate = tasks.rate_of(&task);
        if tasks.known.len() >= FEW_TASKS {
            tasks.known.retain(|_, task| Arc::strong_count(task) > 1);
        }
        let own = tasks.known.entry(task);
        let own = own.or_insert_with(|| Arc::new(Throttle::new(rate)));
        TaskPace {
            own: Arc::clone(own),
            all: Arc::clone(self),
        }
    }

    fn tasks(&self) -> std::sync::MutexGuard<'_, Tasks> {
        // Rates are whole whatever panicked beside them.
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one task's fetch is held to.
#[derive(Debug)]
pub(crate) struct TaskPace {
    own: Arc<Throttle>,
    all: Arc<OriginPace>,
}

impl TaskPace {
    /// Waits until so many bytes may pass.
    pub(crate) async fn pass(&self, bytes: u64) {
        self.own.pass(bytes).await;
        self.all.total.pass(bytes).await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn who_waits_goes_on_when_the_limit_is_lifted() {
        let throttle = Arc::new(Throttle::new(Rate::new(1)));
        throttle.pass_at_once(1 << 30).await;
        let waiting = tokio::spawn({
            let throttle = Arc::clone(&throttle);
            async move { throttle.pass(1).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        throttle.set(None);
        let done = tokio::time::timeout(Duration::from_secs(60), waiting).await;
        assert!(matches!(done, Ok(Ok(()))));
    }

    #[tokio::test]
    async fn a_task_is_held_by_its_own_rate_alone_where_all_have_room() {
        let pace = Arc::new(OriginPace::new(Limit {
            total: None,
            per_task: Rate::new(1),
        }));
        let task = |name: &[u8]| TaskId::Blob(hawker_model::Digest::of(name));
        let (one, other) = (pace.of(task(b"one")), pace.of(task(b"other")));
        one.pass(1000).await;
        other.pass(1000).await;
        let again = pace.of(task(b"one"));
        let waits = tokio::time::timeout(Duration::from_millis(1), again.pass(1)).await;
        assert!(waits.is_err());
        pace.set(Limit::default());
        again.pass(1).await;
    }

    #[tokio::test]
    async fn a_rate_of_a_task_s_own_holds_no_other_and_ends() {
        let pace = Arc::new(OriginPace::new(Limit::default()));
        let task = |name: &[u8]| TaskId::Blob(hawker_model::Digest::of(name));
        pace.set_own(task(b"one"), Rate::new(1));
        let (one, other) = (pace.of(task(b"one")), pace.of(task(b"other")));
        one.pass(1000).await;
        other.pass(1 << 30).await;
        let waits = tokio::time::timeout(Duration::from_millis(1), one.pass(1)).await;
        assert!(waits.is_err());
        pace.set_own(task(b"one"), None);
        one.pass(1).await;
    }
}
