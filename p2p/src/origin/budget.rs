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

use crate::throttle::Throttle;

/// Registries that are remembered before those are forgotten that nobody asks.
const FEW_REGISTRIES: usize = 256;

/// What a registry asks for beyond that is no wish but a mistake.
const LONGEST_PEACE: Duration = Duration::from_secs(3600);

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

/// What one registry is asked.
#[derive(Debug)]
pub(super) struct Ledger {
    bytes: Throttle,
    requests: Throttle,
    connections: Option<Arc<Semaphore>>,
    /// It said when to come back.
    closed_until: Mutex<Option<Instant>>,
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
        let connections = budget.connections.map(|most| usize::from(most.get()));
        Self {
            bytes: Throttle::new(budget.rate),
            // Of a second's requests a tenth may come at once.
            requests: Throttle::new(budget.requests.map(count).and_then(Rate::new)),
            connections: connections.map(|most| Arc::new(Semaphore::new(most))),
            closed_until: Mutex::new(None),
        }
    }

    /// Waits until the registry may be asked again. `Err`: it wants to be left in peace for longer
    /// than `patience`, for so long.
    pub(super) async fn visit(self: &Arc<Self>, patience: Duration) -> Result<Visit, Duration> {
        let connection = match &self.connections {
            Some(connections) => Arc::clone(connections).acquire_owned().await.ok(),
            None => None,
        };
        while let Some(left) = self.closed_for() {
            if left > patience {
                return Err(left);
            }
            tokio::time::sleep(left).await;
        }
        self.requests.pass_at_once(1).await;
        Ok(Visit {
            ledger: Arc::clone(self),
            _connection: connection,
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

    #[tokio::test]
    async fn a_registry_that_wants_peace_is_left_alone_and_others_are_not() {
        let ledgers = ledgers(Budget::default());
        ledgers.of("a").close(Duration::from_secs(60));
        let refused = ledgers.of("a").visit(Duration::from_secs(1)).await;
        assert!(matches!(refused, Err(left) if left > Duration::from_secs(50)));
        assert!(ledgers.of("b").visit(Duration::ZERO).await.is_ok());
    }

    #[tokio::test]
    async fn a_shorter_wait_does_not_end_a_longer_one() {
        let ledger = ledgers(Budget::default()).of("a");
        ledger.close(Duration::from_secs(60));
        ledger.close(Duration::from_secs(1));
        assert!(ledger.visit(Duration::from_secs(30)).await.is_err());
    }

    #[tokio::test]
    async fn connections_are_counted_until_their_bodies_end() {
        let ledgers = ledgers(Budget {
            connections: NonZeroU16::new(1),
            ..Budget::default()
        });
        let first = ledgers.of("a").visit(Duration::ZERO).await.unwrap();
        let ledger = ledgers.of("a");
        let second = ledger.visit(Duration::ZERO);
        let second = tokio::time::timeout(Duration::from_millis(1), second).await;
        assert!(second.is_err());
        drop(first);
        assert!(ledgers.of("a").visit(Duration::ZERO).await.is_ok());
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
