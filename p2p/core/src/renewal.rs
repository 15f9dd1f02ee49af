//! Fresh credentials that are waited for: of whoever brought those that were refused.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use hawker_model::HostId;

use crate::SourceMark;

/// How long hosts have to bring a fresh credential.
const PATIENCE: Duration = Duration::from_secs(2);
/// So often in a row, without a piece in between.
const MOST_ROUNDS: u32 = 4;

#[derive(Debug, Default)]
pub(crate) struct Renewal {
    /// While all sources are refused and fresh ones are waited for.
    until: Option<Instant>,
    /// Hosts that were called back and have not answered.
    hosts: BTreeSet<HostId>,
    /// Sources that our owner is asked to renew, with the hosts that want to know.
    owner: BTreeMap<SourceMark, BTreeSet<HostId>>,
    rounds: u32,
}

impl Renewal {
    /// Whether the task waits for fresh credentials, and lives as long as it does.
    pub(crate) fn is_open(&self) -> bool {
        self.until.is_some()
    }

    /// Whether the wait is over: all have answered, or the time is up.
    pub(crate) fn is_over(&self, now: Instant) -> bool {
        let answered = self.hosts.is_empty() && self.owner.is_empty();
        self.until.is_some_and(|until| answered || until <= now)
    }

    /// Waits, if there is anybody to wait for: `hosts` were called back. Says whether it does.
    pub(crate) fn begin(&mut self, hosts: BTreeSet<HostId>, now: Instant) -> bool {
        self.hosts.extend(hosts);
        let nobody = self.hosts.is_empty() && self.owner.is_empty();
        if nobody || self.rounds >= MOST_ROUNDS {
            return false;
        }
        self.rounds += 1;
        self.until = Some(now + PATIENCE);
        true
    }

    /// A source is there, or none will come.
    pub(crate) fn end(&mut self) {
        self.until = None;
        self.hosts.clear();
    }

    /// A host has answered, or is gone.
    pub(crate) fn note_answer(&mut self, host: &HostId) {
        self.hosts.remove(host);
    }

    /// Notes that the owner is to be asked, and who wants to know; says whether that is new.
    pub(crate) fn ask_owner(&mut self, mark: SourceMark, host: Option<&HostId>) -> bool {
        let new = !self.owner.contains_key(&mark);
        self.owner.entry(mark).or_default().extend(host.cloned());
        new
    }

    /// Whether the owner is being asked.
    pub(crate) fn is_asked(&self, mark: &SourceMark) -> bool {
        self.owner.contains_key(mark)
    }

    /// The owner has answered: who wanted to know. `None` when nobody asked, or not any more.
    pub(crate) fn owner_answered(&mut self, mark: &SourceMark) -> Option<BTreeSet<HostId>> {
        self.owner.remove(mark)
    }

    /// A credential was good: the next refusal is a new matter.
    pub(crate) fn forget_rounds(&mut self) {
        self.rounds = 0;
    }
}
