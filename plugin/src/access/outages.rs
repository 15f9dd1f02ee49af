//! Registries that could not be reached a moment ago: while there is grace, not every request has to
//! find that out for itself.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// How long what failed is taken to be down.
const KEEP: Duration = Duration::from_secs(5);
/// Registries remembered at most.
const MOST: usize = 256;

/// When which registry was last found to be down.
#[derive(Debug, Default)]
pub(super) struct Outages(Mutex<HashMap<String, Instant>>);

impl Outages {
    pub(super) fn note(&self, registry: &str) {
        let mut known = self.lock();
        if known.len() >= MOST {
            known.clear();
        }
        known.insert(registry.to_owned(), Instant::now());
    }

    pub(super) fn is_down(&self, registry: &str) -> bool {
        let known = self.lock();
        known.get(registry).is_some_and(|at| at.elapsed() < KEEP)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_failed_is_down_and_memory_is_bounded() {
        let outages = Outages::default();
        outages.note("r.io");
        assert!(outages.is_down("r.io"));
        assert!(!outages.is_down("s.io"));
        for i in 0..2 * MOST {
            outages.note(&i.to_string());
        }
        assert!(outages.lock().len() <= MOST);
    }
}
