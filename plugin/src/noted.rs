//! What was found out a moment ago, so that not every request has to find it out for itself.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Entries at most.
const MOST: usize = 4096;

/// Of whom, or of what, it was found out, and until when that counts.
#[derive(Debug)]
pub(crate) struct Noted<T>(Mutex<HashMap<T, Instant>>);

impl<T> Default for Noted<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Eq + Hash> Noted<T> {
    pub(crate) fn holds(&self, name: &T) -> bool {
        let until = self.lock().get(name).copied();
        until.is_some_and(|until| Instant::now() < until)
    }

    /// It counts for so long from now on.
    pub(crate) fn note(&self, name: T, kept: Duration) {
        let (mut noted, now) = (self.lock(), Instant::now());
        if noted.len() >= MOST {
            noted.retain(|_, until| now < *until);
        }
        if noted.len() >= MOST {
            // What is forgotten is found out again.
            noted.clear();
        }
        noted.insert(name, now + kept);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<T, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEPT: Duration = Duration::from_secs(60);

    #[test]
    fn only_what_was_noted_holds_and_only_so_long() {
        let noted = Noted::default();
        noted.note("a", KEPT);
        assert!(noted.holds(&"a") && !noted.holds(&"b"));
        noted.note("a", Duration::ZERO);
        assert!(!noted.holds(&"a"));
    }

    #[test]
    fn memory_is_bounded_and_what_is_new_is_known() {
        let noted = Noted::default();
        for number in 0..3 * MOST {
            noted.note(number, KEPT);
            assert!(noted.holds(&number));
        }
        assert!(noted.lock().len() <= MOST);
    }
}
