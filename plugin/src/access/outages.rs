//! Who could not reach a registry a moment ago: while there is grace, not every request has to find
//! that out for itself.
//!
//! By asker and repository, not by registry: one repository of a registry may fail while all others
//! answer, and whoever makes one fail must not lengthen any right by it, least of all one that has
//! been withdrawn.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::right_key::Holder;

/// How long what failed is taken to be down.
const KEEP: Duration = Duration::from_secs(5);
/// Askers remembered at most.
const MOST: usize = 4096;

/// When who last found the place of theirs to be down.
#[derive(Debug, Default)]
pub(super) struct Outages(Mutex<HashMap<Holder, Instant>>);

impl Outages {
    pub(super) fn note(&self, holder: &Holder) {
        let mut known = self.lock();
        if known.len() >= MOST {
            known.clear();
        }
        known.insert(*holder, Instant::now());
    }

    pub(super) fn is_down(&self, holder: &Holder) -> bool {
        let known = self.lock();
        known.get(holder).is_some_and(|at| at.elapsed() < KEEP)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Holder, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_failed_is_down_and_memory_is_bounded() {
        let outages = Outages::default();
        let holder = |repository: &str| Holder::of_repository(repository, None);
        outages.note(&holder("r.io/a"));
        assert!(outages.is_down(&holder("r.io/a")));
        assert!(!outages.is_down(&holder("r.io/b")));
        for i in 0..2 * MOST {
            outages.note(&holder(&i.to_string()));
        }
        assert!(outages.lock().len() <= MOST);
    }
}
