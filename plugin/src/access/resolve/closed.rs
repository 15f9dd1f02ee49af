//! What is known not to be given to nobody: it is not asked for in nobody's name again for a while.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::Holder;

/// Entries at most.
const MOST: usize = 4096;

/// Repositories, registries and single manifests, and until when each is taken to be closed.
#[derive(Debug, Default)]
pub(super) struct Closed(Mutex<HashMap<Holder, Instant>>);

impl Closed {
    pub(super) fn holds(&self, name: &Holder) -> bool {
        let until = self.lock().get(name).copied();
        until.is_some_and(|until| Instant::now() < until)
    }

    /// It is not tried again for so long.
    pub(super) fn note(&self, name: Holder, kept: Duration) {
        let (mut closed, now) = (self.lock(), Instant::now());
        if closed.len() >= MOST {
            closed.retain(|_, until| now < *until);
        }
        if closed.len() >= MOST {
            // What is forgotten costs a request each.
            closed.clear();
        }
        closed.insert(name, now + kept);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Holder, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_closed_is_known_and_memory_is_bounded() {
        let closed = Closed::default();
        let name = |number: usize| Holder::of_repository(&number.to_string(), None);
        for number in 0..3 * MOST {
            assert!(!closed.holds(&name(number)));
            closed.note(name(number), Duration::from_secs(60));
            assert!(closed.holds(&name(number)));
        }
        assert!(closed.lock().len() <= MOST);
        closed.note(name(0), Duration::ZERO);
        assert!(!closed.holds(&name(0)));
    }
}
