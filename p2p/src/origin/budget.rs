//! What one registry is asked at most, and when it is left in peace because it says so.
//!
//! Each registry has a ledger of its own: whoever waits for one never keeps others from another.

use std::{
    collections::HashMap,
    num::NonZeroU16,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use hawker_swarm::Rate;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::hold::{HeldBy, Hold};
use crate::throttle::Throttle;

/// Registries that are remembered before those are forgotten that nobody asks.
const FEW_REGISTRIES: usize = 256;

/// What a registry asks for beyond that is no wish but a mistake.
const LONGEST_PEACE: Duration = Duration::from_secs(3600);

/// Connections that questions have to themselves where all others are taken by bodies.
const FOR_QUESTIONS: usize = 1;

/// Requests for what another one is silent about, of one registry at a time.
const MOST_SPARE: usize = 4;

/// What one registry may be asked. `None`: any number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Budget {
    /// Bytes that it sends.
    pub rate: Option<Rate>,
    /// Requests that it answers at a time, their bodies included.
    pub connections: Option<NonZeroU16>,
    /// Requests in a second.
    pub requests: Option<NonZeroU16>,
}

impl Budget {
    /// What it says, and for the rest what `usual` says.
    pub(super) fn or(self, usual: Self) -> Self {
        Self {
            rate: self.rate.or(usual.rate),
            connections: self.connections.or(usual.connections),
            requests: self.requests.or(usual.requests),
        }
    }
}

/// What a registry is asked for.
#[derive(Clone, Debug)]
pub(super) enum Errand {
    /// Something short that somebody waits for.
    Question,
    /// Bytes, which wait for their turn as long as it takes, and tell so.
    Body(Hold),
}

/// Why a registry may not be asked now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NoVisit {
    /// It wants to be left in peace, for so long still.
    Peace(Duration),
    /// A limit of ours let nothing through: the end of its setting's name.
    Full(&'static str),
}

/// What one registry is asked.
#[derive(Debug)]
pub(super) struct Ledger {
    bytes: Throttle,
    requests: Throttle,
    connections: Option<Connections>,
    spares: Arc<Semaphore>,
    /// It said when to come back.
    closed_until: Mutex<Option<Instant>>,
}

/// Requests that are answered at a time: bodies take minutes, and questions do not wait for them.
#[derive(Debug)]
struct Connections {
    any: Arc<Semaphore>,
    questions: Arc<Semaphore>,
}

impl Connections {
    fn new(most: NonZeroU16) -> Self {
        Self {
            any: Arc::new(Semaphore::new(most.get().into())),
            questions: Arc::new(Semaphore::new(FOR_QUESTIONS)),
        }
    }

    /// Waits for one; `None` does not happen, since they are never closed.
    async fn take(&self, errand: &Errand) -> Option<OwnedSemaphorePermit> {
        let (any, questions) = (Arc::clone(&self.any), Arc::clone(&self.questions));
        match errand {
            Errand::Body(_) => any.acquire_owned().await.ok(),
            Errand::Question => tokio::select! {
                biased;
                permit = any.acquire_owned() => permit.ok(),
                permit = questions.acquire_owned() => permit.ok(),
            },
        }
    }
}

/// A request to a registry, until its body has ended.
#[derive(Debug)]
pub(super) struct Visit {
    ledger: Arc<Ledger>,
    _connection: Option<OwnedSemaphorePermit>,
}

impl Ledger {
    fn new(budget: Budget) -> Self {
        let count = |number: NonZeroU16| u64::from(number.get());
        Self {
            bytes: Throttle::new(budget.rate),
            // Of a second's requests a tenth may come at once.
            requests: Throttle::new(budget.requests.map(count).and_then(Rate::new)),
            connections: budget.connections.map(Connections::new),
            spares: Arc::new(Semaphore::new(MOST_SPARE)),
            closed_until: Mutex::new(None),
        }
    }

    /// Waits until the registry may be asked: for its own wish no longer than `patience`, nor for
    /// our limits where it is asked a question.
    pub(super) async fn visit(
        self: &Arc<Self>,
        errand: &Errand,
        patience: Duration,
    ) -> Result<Visit, NoVisit> {
        let taking = async {
            match &self.connections {
                Some(connections) => connections.take(errand).await,
                None => None,
            }
        };
        let connection = within(errand, patience, "connections", taking).await?;
        while let Some(left) = self.closed_for() {
            if left > patience {
                return Err(NoVisit::Peace(left));
            }
            let waiting = tokio::time::sleep(left);
            match errand {
                Errand::Question => waiting.await,
                Errand::Body(hold) => hold.during(HeldBy::Registry, waiting).await,
            }
        }
        let passing = self.requests.pass_at_once(1);
        within(errand, patience, "requests", passing).await?;
        Ok(Visit {
            ledger: Arc::clone(self),
            _connection: connection,
        })
    }

    /// One request more, for what another one is silent about: if the registry has said nothing
    /// against it, and limits have room for it at once.
    pub(super) fn spare(self: &Arc<Self>) -> Option<Spare> {
        let turn = Arc::clone(&self.spares).try_acquire_owned().ok()?;
        let connection = match &self.connections {
            Some(connections) => Some(Arc::clone(&connections.any).try_acquire_owned().ok()?),
            None => None,
        };
        let is_free = self.closed_for().is_none() && self.requests.try_pass(1);
        is_free.then(|| Spare {
            visit: Visit {
                ledger: Arc::clone(self),
                _connection: connection,
            },
            _turn: turn,
        })
    }

    /// The registry wants to be left in peace for so long.
    pub(super) fn close(&self, time: Duration) {
        let until = Instant::now().checked_add(time.min(LONGEST_PEACE));
        let mut closed = self.closed();
        *closed = until.max(*closed);
    }

    fn closed_for(&self) -> Option<Duration> {
        let until = (*self.closed())?;
        let left = until.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }

    fn closed(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        // A moment is whole whatever panicked beside it.
        self.closed_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request for what another one is silent about.
#[derive(Debug)]
pub(super) struct Spare {
    visit: Visit,
    _turn: OwnedSemaphorePermit,
}

impl Spare {
    /// The registry wants to be left in peace for so long.
    pub(super) fn close(&self, time: Duration) {
        self.visit.ledger.close(time);
    }

    /// It takes the place of the silent one.
    pub(super) fn into_visit(self) -> Visit {
        self.visit
    }
}

impl Visit {
    /// Waits until the bytes owed may be taken. Cancel safe: what may not is still owed.
    pub(super) async fn settle(&self, owed: &mut u64) {
        self.ledger.bytes.settle(owed).await;
    }

    /// Whether there is a rate to keep to.
    pub(super) fn has_rate(&self) -> bool {
        self.ledger.bytes.is_limited()
    }
}

/// What `setting` lets through; of a question that is known soon.
async fn within<T>(
    errand: &Errand,
    patience: Duration,
    setting: &'static str,
    passing: impl Future<Output = T>,
) -> Result<T, NoVisit> {
    match errand {
        Errand::Body(hold) => Ok(hold.during(HeldBy::Limit, passing).await),
        Errand::Question => tokio::time::timeout(patience, passing)
            .await
            .map_err(|_| NoVisit::Full(setting)),
    }
}

/// The ledgers of all registries, by name.
#[derive(Debug)]
pub(super) struct Ledgers {
    usual: Budget,
    special: HashMap<String, Budget>,
    known: Mutex<HashMap<String, Arc<Ledger>>>,
}

impl Ledgers {
    pub(super) fn new(usual: Budget, special: HashMap<String, Budget>) -> Self {
        Self {
            usual,
            special,
            known: Mutex::default(),
        }
    }

    pub(super) fn of(&self, registry: &str) -> Arc<Ledger> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ledger) = known.get(registry) {
            return Arc::clone(ledger);
        }
        if known.len() >= FEW_REGISTRIES {
            let in_use = |ledger: &Arc<Ledger>| {
                Arc::strong_count(ledger) > 1 || ledger.closed_for().is_some()
            };
            known.retain(|_, ledger| in_use(ledger));
        }
        let special = self.special.get(registry).copied().unwrap_or_default();
        let ledger = Arc::new(Ledger::new(special.or(self.usual)));
        known.insert(registry.to_owned(), Arc::clone(&ledger));
        ledger
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledgers(budget: Budget) -> Ledgers {
        Ledgers::new(Budget::default(), HashMap::from([("a".to_owned(), budget)]))
    }

    fn body() -> Errand {
        Errand::Body(Hold::default())
    }

    const SECOND: Duration = Duration::from_secs(1);

    /// What is had without waiting.
    async fn at_once(ledger: &Arc<Ledger>, errand: &Errand) -> Option<Visit> {
        let visit = ledger.visit(errand, SECOND);
        let visit = tokio::time::timeout(Duration::from_millis(1), visit).await;
        visit.ok()?.ok()
    }

    #[tokio::test]
    async fn a_registry_that_wants_peace_is_left_alone_and_others_are_not() {
        let ledgers = ledgers(Budget::default());
        ledgers.of("a").close(60 * SECOND);
        let refused = ledgers.of("a").visit(&body(), SECOND).await;
        assert!(matches!(refused, Err(NoVisit::Peace(left)) if left > 50 * SECOND));
        assert!(at_once(&ledgers.of("b"), &body()).await.is_some());
    }

    #[tokio::test]
    async fn a_shorter_wait_does_not_end_a_longer_one() {
        let ledger = ledgers(Budget::default()).of("a");
        ledger.close(60 * SECOND);
        ledger.close(SECOND);
        assert!(ledger.visit(&body(), 30 * SECOND).await.is_err());
    }

    #[tokio::test]
    async fn connections_are_counted_until_their_bodies_end() {
        let ledger = ledgers(Budget {
            connections: NonZeroU16::new(1),
            ..Budget::default()
        })
        .of("a");
        let first = at_once(&ledger, &body()).await;
        assert!(first.is_some());
        assert!(at_once(&ledger, &body()).await.is_none());
        drop(first);
        assert!(at_once(&ledger, &body()).await.is_some());
    }

    #[tokio::test]
    async fn a_question_does_not_wait_behind_bodies() {
        let ledger = ledgers(Budget {
            connections: NonZeroU16::new(2),
            ..Budget::default()
        })
        .of("a");
        let bodies = [
            at_once(&ledger, &body()).await,
            at_once(&ledger, &body()).await,
        ];
        assert!(bodies.iter().all(Option::is_some));
        let question = at_once(&ledger, &Errand::Question).await;
        assert!(question.is_some());
        assert!(at_once(&ledger, &Errand::Question).await.is_none());
        drop(question);
        assert!(at_once(&ledger, &Errand::Question).await.is_some());
    }

    #[tokio::test]
    async fn a_question_that_a_limit_holds_up_is_told_which_one() {
        let budget = Budget {
            connections: NonZeroU16::new(1),
            ..Budget::default()
        };
        let ledger = ledgers(budget).of("a");
        let held = [
            at_once(&ledger, &body()).await,
            at_once(&ledger, &Errand::Question).await,
        ];
        assert!(held.iter().all(Option::is_some));
        let patience = Duration::from_millis(10);
        let full = ledger.visit(&Errand::Question, patience).await;
        assert_eq!(full.err(), Some(NoVisit::Full("connections")));
        let errand = body();
        let body = ledger.visit(&errand, patience);
        let body = tokio::time::timeout(10 * patience, body).await;
        assert!(body.is_err(), "bytes wait for their turn");
    }

    #[test]
    fn what_is_said_of_one_registry_wins() {
        let usual = Budget {
            rate: Rate::new(5),
            connections: NonZeroU16::new(4),
            requests: None,
        };
        let special = Budget {
            rate: Rate::new(7),
            ..Budget::default()
        };
        assert_eq!(special.or(usual).rate, Rate::new(7));
        assert_eq!(special.or(usual).connections, NonZeroU16::new(4));
    }
}
