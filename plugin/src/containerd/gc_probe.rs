//! Whether containerd's garbage collection waits for a `Prepare` of ours.
//!
//! containerd holds a read lock of the snapshotter while it calls `Prepare`. Its garbage
//! collection wants to write; once it waits, every other `Prepare` (the start of a container)
//! queues up behind it. So while one of ours waits for its layer, containerd is asked every
//! [`EVERY`] for something that takes the same lock. When that is not answered, but a question
//! without the lock is, the collection waits, and whoever watches lets go.
//!
//! Asking again without the lock is what tells a lock from a slow containerd: on a node that
//! unpacks on all cores an answer takes its time. All in all a collection waits for 100 to 200 ms.

#[cfg(test)]
pub(super) mod tests;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use futures::FutureExt as _;
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval_at, sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, warn};

use super::{
    client::{ContainerdClient, Unreachable},
    metrics::Release,
};

/// From one question to the next.
const EVERY: Duration = Duration::from_millis(40);
/// How long an answer may take before the question without the lock is asked. With six busy
/// processes on two cores answers took 90 ms at most, but for those that both questions waited for:
/// less than this and the pauses.
const PATIENCE: Duration = Duration::from_millis(75);
/// How often that one must be answered meanwhile.
const CONTROLS: usize = 2;
const CONTROL_PAUSE: Duration = Duration::from_millis(20);
/// How long that one may take.
const CONTROL_PATIENCE: Duration = Duration::from_secs(1);
/// How long `Prepare` calls may wait while containerd cannot be asked: once, until it answers
/// again. Not each of them, or a stack of fifty layers takes minutes.
const BLIND: Duration = Duration::from_secs(2);
/// Names that this is remembered for: containerd has one for us, its callers may send any.
const MOST_NAMES: usize = 64;

/// Asks for all waiting `Prepare` calls at once. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct GcProbe {
    client: ContainerdClient,
    rounds: Arc<Mutex<HashMap<String, Weak<Round>>>>,
    blind: Arc<Mutex<Blind>>,
}

/// Since when each snapshotter's lock cannot be asked for. Outlives the rounds.
type Blind = HashMap<String, Instant>;

/// Asking goes on while somebody holds this.
#[derive(Debug)]
struct Round {
    verdict: watch::Receiver<Option<Release>>,
    _asking: AbortOnDropHandle<()>,
}

impl GcProbe {
    pub(super) fn new(client: ContainerdClient) -> Self {
        Self {
            client,
            rounds: Arc::default(),
            blind: Arc::default(),
        }
    }

    /// Returns when a `Prepare` of the snapshotter that containerd calls by this name should wait
    /// no longer. Cancel-safe.
    pub(super) async fn released(&self, snapshotter: &str) -> Release {
        let round = self.join(snapshotter);
        let mut verdict = round.verdict.clone();
        let released = verdict.wait_for(Option::is_some).await;
        // The asking ends with a verdict only, or with the runtime.
        released
            .ok()
            .and_then(|found| *found)
            .unwrap_or(Release::Stopping)
    }

    /// The round that is under way, or a new one.
    fn join(&self, snapshotter: &str) -> Arc<Round> {
        let mut rounds = self.rounds.lock().unwrap_or_else(PoisonError::into_inner);
        let running = rounds.get(snapshotter).and_then(Weak::upgrade);
        if let Some(round) = running.filter(|round| round.verdict.borrow().is_none()) {
            return round;
        }
        rounds.retain(|_, round| round.strong_count() > 0);
        let (tell, verdict) = watch::channel(None);
        let asking = Asking {
            client: self.client.clone(),
            snapshotter: snapshotter.to_owned(),
            blind: Arc::clone(&self.blind),
        };
        let asking = tokio::spawn(async move {
            tell.send_replace(Some(asking.until_released().await));
        });
        let round = Arc::new(Round {
            verdict,
            _asking: AbortOnDropHandle::new(asking),
        });
        rounds.insert(snapshotter.to_owned(), Arc::downgrade(&round));
        round
    }
}

/// One look at the lock.
#[derive(Debug)]
enum Look {
    Free,
    Blocked,
    Unreachable(String),
}

/// What one round needs.
struct Asking {
    client: ContainerdClient,
    snapshotter: String,
    blind: Arc<Mutex<Blind>>,
}

impl Asking {
    async fn until_released(self) -> Release {
        // A layer that is there at once costs no question.
        let mut ticks = interval_at(Instant::now() + EVERY, EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let snapshotter = self.snapshotter.as_str();
            match look(&self.client, snapshotter).await {
                Look::Free => self.sees(),
                Look::Blocked => {
                    self.sees();
                    debug!(snapshotter, "containerd's garbage collection waits");
                    return Release::Gc;
                }
                Look::Unreachable(error) => {
                    if self.blind_for() >= BLIND {
                        warn!(
                            error,
                            "cannot ask containerd whether its garbage collection waits \
                             (containerd.address): layers that are not there yet are left to it"
                        );
                        return Release::Unreachable;
                    }
                }
            }
        }
    }

    fn sees(&self) {
        self.blind().remove(&self.snapshotter);
    }

    fn blind_for(&self) -> Duration {
        let mut blind = self.blind();
        if blind.len() >= MOST_NAMES && !blind.contains_key(&self.snapshotter) {
            blind.clear();
        }
        let since = blind
            .entry(self.snapshotter.clone())
            .or_insert_with(Instant::now);
        since.elapsed()
    }

    fn blind(&self) -> MutexGuard<'_, Blind> {
        self.blind.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn look(client: &ContainerdClient, snapshotter: &str) -> Look {
    let mut lock = std::pin::pin!(client.pass_lock(snapshotter));
    if let Ok(passed) = timeout(PATIENCE, lock.as_mut()).await {
        return Look::of(passed);
    }
    for _ in 0..CONTROLS {
        tokio::select! {
            biased;
            passed = lock.as_mut() => return Look::of(passed),
            greeted = timeout(CONTROL_PATIENCE, client.greet()) => match greeted {
                Ok(Ok(())) => sleep(CONTROL_PAUSE).await,
                Ok(Err(error)) => return Look::Unreachable(error.to_string()),
                Err(_) => return Look::Unreachable("it does not answer".to_owned()),
            },
        }
    }
    match lock.now_or_never() {
        Some(passed) => Look::of(passed),
        None => Look::Blocked,
    }
}

impl Look {
    fn of(passed: Result<(), Unreachable>) -> Self {
        match passed {
            Ok(()) => Self::Free,
            Err(error) => Self::Unreachable(error.to_string()),
        }
    }
}
