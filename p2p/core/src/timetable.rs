//! Which task is due when.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use hawker_model::TaskId;

/// The clocks of the tasks that wait for time to pass, in order: those of many cost little.
#[derive(Debug, Default)]
pub(crate) struct Timetable {
    by_task: BTreeMap<TaskId, Instant>,
    by_time: BTreeSet<(Instant, TaskId)>,
}

impl Timetable {
    /// Sets a task's clock, or takes it away.
    pub(crate) fn set(&mut self, task: TaskId, due: Option<Instant>) {
        let before = match due {
            Some(at) => self.by_task.insert(task, at),
            None => self.by_task.remove(&task),
        };
        if before == due {
            return;
        }
        if let Some(at) = before {
            self.by_time.remove(&(at, task));
        }
        if let Some(at) = due {
            self.by_time.insert((at, task));
        }
    }

    /// When the next one is due.
    pub(crate) fn first(&self) -> Option<Instant> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// Those that are due.
    pub(crate) fn due(&self, now: Instant) -> Vec<TaskId> {
        let due = self.by_time.iter().take_while(|(at, _)| *at <= now);
        due.map(|(_, task)| *task).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hawker_model::Digest;

    use super::*;
    use crate::sample;

    #[test]
    fn tasks_are_due_in_the_order_of_their_clocks_as_last_set() {
        let task = |text: &str| TaskId::Blob(Digest::of(text.as_bytes()));
        let start = sample::start();
        let at = |seconds| Some(start + Duration::from_secs(seconds));
        let mut timetable = Timetable::default();
        timetable.set(task("a"), at(5));
        timetable.set(task("b"), at(3));
        timetable.set(task("c"), at(4));
        timetable.set(task("b"), at(9));
        timetable.set(task("c"), at(4));
        assert_eq!(timetable.first(), at(4));
        let due = |timetable: &Timetable, seconds| at(seconds).map(|now| timetable.due(now));
        assert_eq!(due(&timetable, 3), Some(vec![]));
        assert_eq!(due(&timetable, 5), Some(vec![task("c"), task("a")]));
        timetable.set(task("c"), None);
        timetable.set(task("c"), None);
        assert_eq!(due(&timetable, 5), Some(vec![task("a")]));
    }
}
