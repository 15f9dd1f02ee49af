//! Whose rights were ended lately.

use std::{collections::HashMap, time::Instant};

use super::Holder;

/// Holders remembered at most: less than a MiB.
const MOST: usize = 8192;

/// When which holder's rights were last ended.
#[derive(Default)]
pub(super) struct Ended(HashMap<Holder, Instant>);

impl Ended {
    pub(super) fn note(&mut self, holder: Holder, now: Instant) {
        if self.0.len() >= MOST {
            // The older half goes.
            let mut times: Vec<_> = self.0.values().copied().collect();
            let (_, middle, _) = times.select_nth_unstable(MOST / 2);
            let middle = *middle;
            self.0.retain(|_, at| *at > middle);
        }
        self.0.insert(holder, now);
    }

    pub(super) fn find(&self, holder: &Holder) -> Option<Instant> {
        self.0.get(holder).copied()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn memory_is_bounded_and_the_newest_stay() {
        let (mut ended, now) = (Ended::default(), Instant::now());
        let holder = |i: usize| Holder::of_repository(&i.to_string(), None);
        for i in 0..2 * MOST {
            ended.note(holder(i), now + Duration::from_nanos(i as u64));
            assert!(ended.0.len() <= MOST);
        }
        assert!(ended.find(&holder(2 * MOST - 1)).is_some());
        assert!(ended.find(&holder(0)).is_none());
    }
}
