//! What hosts say of each other, and what comes of it.

use std::time::Instant;

use hawker_model::{HostId, TaskId};

use crate::{
    Accusation, Action, Tracker,
    conduct::{Circumstances, Ruling},
};

impl Tracker {
    /// A host says that another did wrong.
    pub fn handle_report(
        &mut self,
        reporter: &HostId,
        task: TaskId,
        (about, accusation): (&HostId, Accusation),
        now: Instant,
    ) {
        if !self.hear(reporter, now) || reporter == about || !self.hosts.contains_key(about) {
            return;
        }
        self.counters.reports += 1;
        // Who has nothing to do with the task cannot have met the other in it.
        if accusation.is_about_pieces() && !self.is_member(reporter, task) {
            self.counters.ignored_reports += 1;
            return;
        }
        let parted = self.part(reporter, about, task, accusation);
        let circumstances = Circumstances {
            children: self.children(about),
            hosts: self.hosts.len(),
            isolated: self.live_isolated(),
        };
        let report = (reporter, task, accusation);
        let ruling = self
            .conduct
            .report(&self.config, about, report, circumstances, now);
        match ruling {
            Ruling::Isolated(reports) => self.isolate(about.clone(), reports, now),
            Ruling::Noted => {}
            Ruling::Ignored => self.counters.ignored_reports += 1,
        }
        for task in parted {
            self.repair(task);
        }
    }

    fn is_member(&self, host: &HostId, task: TaskId) -> bool {
        let swarm = self.swarms.get(&task);
        swarm.is_some_and(|swarm| swarm.members.contains_key(host))
    }

    /// Drops the links between two hosts of which one reports the other: in the task that it is
    /// about, or wherever they meet. Says in which tasks there were any.
    fn part(
        &mut self,
        reporter: &HostId,
        about: &HostId,
        task: TaskId,
        accusation: Accusation,
    ) -> Vec<TaskId> {
        let tasks = match (accusation.is_about_pieces(), self.hosts.get(reporter)) {
            (false, Some(host)) => host.tasks.iter().copied().collect(),
            _ => vec![task],
        };
        let unlink = |task: &TaskId| {
            let swarm = self.swarms.get_mut(task);
            swarm.is_some_and(|swarm| swarm.unlink(reporter, about))
        };
        tasks.into_iter().filter(unlink).collect()
    }

    fn isolate(&mut self, host: HostId, reports: usize, now: Instant) {
        self.counters.isolations += 1;
        if self.conduct.is_liar(&host) {
            self.end_search(&host);
        }
        self.cut_off(&host);
        self.review_seeds();
        self.review_liars(now);
        self.actions.push_back(Action::Isolated { host, reports });
    }

    /// Live hosts that are isolated.
    fn live_isolated(&self) -> usize {
        let isolated = self.conduct.isolated();
        isolated
            .filter(|(host, _)| self.hosts.contains_key(*host))
            .count()
    }

    /// How many links lead to `host`, over all tasks.
    fn children(&self, host: &HostId) -> usize {
        let Some(tasks) = self.hosts.get(host).map(|host| &host.tasks) else {
            return 0;
        };
        let swarms = tasks.iter().filter_map(|task| self.swarms.get(task));
        let members = swarms.filter_map(|swarm| swarm.members.get(host));
        members.map(|member| member.links.len()).sum()
    }
}
