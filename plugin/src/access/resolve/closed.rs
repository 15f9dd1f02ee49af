//! What is known not to be given to nobody: it is not asked for in nobody's name again for a while.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::Holder;

/// How long it is not tried again.
const KEPT: Duration = Duration::from_secs(300);
/// Entries at most.
const MOST: usize = 4096;

/// Repositories, registries and single manifests.
#[derive(Debug, Default)]
pub(super) struct Closed(Mutex<HashMap<Holder, Instant>>);

impl Closed {
    pub(super) fn holds(&self, name: &Holder) -> bool {
        let at = self.lock().get(name).copied();
        at.is_some_and(|at| at.elapsed() < KEPT)
    }

    pub(super) fn note(&self, name: Holder) {
        let mut closed = self.lock();
        if closed.len() >= MOST {
            closed.retain(|_, at| at.elapsed() < KEPT);
        }
        if closed.len() >= MOST {
            // What is forgotten costs a request each.
            closed.clear();
        }
        closed.insert(name, Instant::now());
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
            closed.note(name(number));
            assert!(closed.holds(&name(number)));
        }
        assert!(closed.lock().len() <= MOST);
    }
}
