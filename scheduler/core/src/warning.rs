//! The hosts that are isolated for lies: every host is told of them, at first and whenever they
//! change, so that those who know one already part with it as well. Of those that were found slow
//! nobody is told: who is in contact with one sees for itself how it does, and to cut all its
//! transfers would make it worse.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use hawker_model::{HostId, TaskId};

use crate::{Action, Duty, Tracker};

/// No more are told.
const MOST: usize = 1024;
/// Not more often than this: each time costs a message to every host.
const PAUSE: Duration = Duration::from_secs(1);

/// What hosts were last told.
#[derive(Debug)]
pub(crate) struct Warning {
    liars: Arc<[HostId]>,
    at: Option<Instant>,
}

impl Default for Warning {
    fn default() -> Self {
        Self {
            liars: Arc::from([]),
            at: None,
        }
    }
}

impl Tracker {
    /// Tells everybody if there is news, unless that was done just now: then the next tick does.
    pub(crate) fn review_liars(&mut self, now: Instant) {
        let at = self.warning.at;
        if at.is_some_and(|at| now.saturating_duration_since(at) < PAUSE) {
            return;
        }
        let liars: Arc<[HostId]> = self.conduct.liars().take(MOST).cloned().collect();
        if liars == self.warning.liars {
            return;
        }
        let at = Some(now);
        self.warning = Warning { liars, at };
        for to in self.hosts.keys() {
            self.actions.push_back(Action::Liars {
                to: to.clone(),
                liars: Arc::clone(&self.warning.liars),
            });
        }
    }

    /// A liar wants a task: whoever it were linked with would refuse it, so it is to fetch for itself
    /// what it may fetch, without waiting for anybody.
    pub(crate) fn send_away(&mut self, liar: &HostId, task: TaskId) {
        self.counters.pushes += 1;
        self.actions.push_back(Action::Parents {
            to: liar.clone(),
            task,
            parents: Vec::new(),
            duty: Duty::Fetch,
            fetcher: Some(liar.clone()),
        });
    }

    /// A liar seeks nothing of others any more.
    pub(crate) fn end_search(&mut self, liar: &HostId) {
        let Some(tasks) = self.hosts.get(liar).map(|host| &host.tasks) else {
            return;
        };
        for task in tasks {
            let swarm = self.swarms.get_mut(task);
            if let Some(member) = swarm.and_then(|swarm| swarm.members.get_mut(liar)) {
                (member.seeking, member.held, member.waits) = (false, false, false);
            }
        }
    }

    /// A host that has just come is told, if there is anything to tell.
    pub(crate) fn tell_liars(&mut self, to: &HostId) {
        let liars = Arc::clone(&self.warning.liars);
        if !liars.is_empty() {
            let to = to.clone();
            self.actions.push_back(Action::Liars { to, liars });
        }
    }
}
