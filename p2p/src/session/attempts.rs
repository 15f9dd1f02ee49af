//! How often a task was looked up in a row: what tells the scheduler that its parents were useless.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use hawker_model::TaskId;

/// A lookup after this is not a complaint about the last one.
const MEMORY: Duration = Duration::from_secs(30);
/// Entries beyond which old ones are dropped.
const MANY: usize = 1024;

/// The lookups of late.
#[derive(Debug, Default)]
pub(super) struct Attempts(BTreeMap<TaskId, (u32, Instant)>);

impl Attempts {
    /// The number of the lookup made now: 0 for a first one.
    pub(super) fn next(&mut self, task: TaskId, now: Instant) -> u32 {
        let recent = |at: Instant| now.saturating_duration_since(at) < MEMORY;
        if self.0.len() >= MANY {
            self.0.retain(|_, (_, at)| recent(*at));
        }
        let attempt = match self.0.get(&task) {
            Some((last, at)) if recent(*at) => last.saturating_add(1),
            _ => 0,
        };
        self.0.insert(task, (attempt, now));
        attempt
    }

    /// The task's next lookup is a first one.
    pub(super) fn forget(&mut self, task: &TaskId) {
        self.0.remove(task);
    }

    /// So is every task's: a scheduler that knows nothing has named no useless parents.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hawker_model::Digest;

    #[test]
    fn lookups_in_a_row_are_counted_and_late_ones_are_not() {
        let (mut attempts, now) = (Attempts::default(), Instant::now());
        let task = TaskId::Blob(Digest::of(b"a"));
        assert_eq!(attempts.next(task, now), 0);
        assert_eq!(attempts.next(task, now), 1);
        assert_eq!(attempts.next(task, now + MEMORY), 0);
        attempts.forget(&task);
        assert_eq!(attempts.next(task, now), 0);
    }
}
