//! Rates that single readers have asked for.
//!
//! They hold while everybody on this host who waits for the task has asked for one: nobody is slowed
//! down by another's wish. Of several the fastest holds.

use std::{collections::BTreeMap, time::Instant};

use hawker_model::TaskId;
use hawker_swarm::Rate;

use super::Driver;

/// The wishes of readers, by task.
#[derive(Debug, Default)]
pub(super) struct Wishes(BTreeMap<TaskId, Vec<Rate>>);

impl Wishes {
    fn add(&mut self, task: TaskId, rate: Rate) {
        self.0.entry(task).or_default().push(rate);
    }

    fn remove(&mut self, task: &TaskId, rate: Rate) {
        let Some(rates) = self.0.get_mut(task) else {
            return;
        };
        if let Some(at) = rates.iter().position(|wish| *wish == rate) {
            rates.swap_remove(at);
        }
        if rates.is_empty() {
            self.0.remove(task);
        }
    }

    /// What holds for so many readers.
    fn rate(&self, task: &TaskId, readers: usize) -> Option<Rate> {
        let rates = self.0.get(task).filter(|rates| rates.len() >= readers)?;
        rates.iter().copied().max_by_key(Rate::bytes_per_second)
    }
}

impl Driver {
    pub(super) fn handle_wish(&mut self, task: TaskId, rate: Rate, now: Instant) {
        self.wishes.add(task, rate);
        self.pace(task, now);
    }

    pub(super) fn handle_wish_ended(&mut self, task: TaskId, rate: Rate, now: Instant) {
        self.wishes.remove(&task, rate);
        self.set_pace(task, now);
    }

    /// Readers have come or gone.
    pub(super) fn pace(&mut self, task: TaskId, now: Instant) {
        if self.wishes.0.contains_key(&task) {
            self.set_pace(task, now);
        }
    }

    fn set_pace(&mut self, task: TaskId, now: Instant) {
        let readers = self.entries.get(&task).map_or(0, |entry| entry.readers);
        let rate = self.wishes.rate(&task, readers);
        self.swarm.set_task_rate(task, rate, now);
        self.origin_pace.set_own(task, rate);
    }
}

#[cfg(test)]
mod tests {
    use hawker_model::Digest;

    use super::*;

    #[test]
    fn a_reader_s_rate_holds_while_nobody_else_waits_without_one() {
        let task = TaskId::Blob(Digest::of(b"a"));
        let [slow, fast] = [10, 20].map(|rate| Rate::new(rate).unwrap());
        let mut wishes = Wishes::default();
        wishes.add(task, slow);
        assert_eq!(wishes.rate(&task, 1), Some(slow));
        assert_eq!(wishes.rate(&task, 2), None);
        wishes.add(task, fast);
        assert_eq!(wishes.rate(&task, 2), Some(fast));
        wishes.remove(&task, fast);
        assert_eq!(wishes.rate(&task, 1), Some(slow));
        wishes.remove(&task, slow);
        assert_eq!(wishes.rate(&task, 0), None);
        assert!(wishes.0.is_empty());
    }
}
