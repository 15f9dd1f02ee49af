//! What was found out a moment ago, so that not every request has to find it out for itself.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::right_key::Holder;

/// Entries at most.
const MOST: usize = 4096;

/// Of whom, or of what, it was found out, and until when that counts.
#[derive(Debug, Default)]
pub(super) struct Noted(Mutex<HashMap<Holder, Instant>>);

impl Noted {
    pub(super) fn holds(&self, name: &Holder) -> bool {
        let until = self.lock().get(name).copied();
        until.is_some_and(|until| Instant::now() < until)
    }

    /// It counts for so long from now on.
    pub(super) fn note(&self, name: Holder, kept: Duration) {
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

    fn lock(&self) -> MutexGuard<'_, HashMap<Holder, Instant>> {
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
        let name = |repository: &str| Holder::of_repository(repository, None);
        noted.note(name("r.io/a"), KEPT);
        assert!(noted.holds(&name("r.io/a")) && !noted.holds(&name("r.io/b")));
        noted.note(name("r.io/a"), Duration::ZERO);
        assert!(!noted.holds(&name("r.io/a")));
    }

    #[test]
    fn memory_is_bounded_and_what_is_new_is_known() {
        let noted = Noted::default();
        for number in 0..3 * MOST {
            let name = Holder::of_repository(&number.to_string(), None);
            noted.note(name, KEPT);
            assert!(noted.holds(&name));
        }
        assert!(noted.lock().len() <= MOST);
    }
}
