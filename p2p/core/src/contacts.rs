//! The peers that the scheduler named for a task, and when to ask for others.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use hawker_model::{HostId, Role};

use crate::Parent;

#[derive(Debug)]
struct Contact {
    role: Role,
    /// Place in the scheduler's order, which ranks them.
    rank: u32,
    retry_at: Option<Instant>,
    failures: u32,
}

#[derive(Debug, Default)]
pub(crate) struct Contacts {
    known: BTreeMap<HostId, Contact>,
    pub(crate) dialing: BTreeSet<HostId>,
    /// The scheduler has answered.
    pub(crate) answered: bool,
    /// When it last did.
    pub(crate) answered_at: Option<Instant>,
    lookups: u32,
    next_lookup: Option<Instant>,
    next_rank: u32,
}

impl Contacts {
    pub(crate) fn add(&mut self, parents: Vec<Parent>) {
        self.answered = true;
        for Parent { host, role } in parents {
            let rank = self.next_rank;
            self.next_rank += 1;
            let contact = self.known.entry(host).or_insert(Contact {
                role,
                rank,
                retry_at: None,
                failures: 0,
            });
            (contact.role, contact.rank) = (role, rank);
        }
    }

    /// Whether nobody was named.
    pub(crate) fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// The nodes among them.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = &HostId> {
        let nodes = self.known.iter().filter(|(_, c)| c.role == Role::Node);
        nodes.map(|(host, _)| host)
    }

    /// Those worth a try now: seeds first, then as the scheduler ranks them.
    pub(crate) fn candidates(&self, now: Instant) -> Vec<(HostId, Role)> {
        let free = |host: &HostId, contact: &Contact| {
            !self.dialing.contains(host) && contact.retry_at.is_none_or(|at| at <= now)
        };
        let mut free: Vec<_> = self.known.iter().filter(|(h, c)| free(h, c)).collect();
        free.sort_by_key(|(_, contact)| (contact.role != Role::Seed, contact.rank));
        let named = |(host, contact): (&HostId, &Contact)| (host.clone(), contact.role);
        free.into_iter().map(named).collect()
    }

    /// A contact was of no use: not again for `pause`, longer each time.
    pub(crate) fn put_off(&mut self, host: &HostId, pause: Duration, now: Instant) {
        self.dialing.remove(host);
        if let Some(contact) = self.known.get_mut(host) {
            contact.failures = (contact.failures + 1).min(5);
            contact.retry_at = Some(now + pause * (1 << (contact.failures - 1)));
        }
    }

    pub(crate) fn forget(&mut self, host: &HostId) {
        self.known.remove(host);
    }

    /// Whether it is time to ask the scheduler (again); if so, notes that it was done.
    pub(crate) fn lookup_due(&mut self, jitter: Duration, now: Instant) -> bool {
        if self.next_lookup.is_some_and(|at| now < at) {
            return false;
        }
        let pause = Duration::from_secs(1 << self.lookups.min(5)) + jitter;
        self.lookups += 1;
        self.next_lookup = Some(now + pause);
        true
    }

    /// A seed was lost: ask as soon as may be.
    pub(crate) fn hurry(&mut self, now: Instant) {
        self.lookups = 0;
        self.next_lookup = self.next_lookup.map(|at| at.min(now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    #[test]
    fn seeds_come_first_and_useless_contacts_wait() {
        let now = sample::start();
        let mut contacts = Contacts::default();
        let parent = |name, role| Parent {
            host: sample::host(name),
            role,
        };
        contacts.add(vec![
            parent("b", Role::Node),
            parent("a", Role::Node),
            parent("s", Role::Seed),
        ]);
        let names = |contacts: &Contacts, now| {
            let candidates = contacts.candidates(now).into_iter();
            candidates.map(|(h, _)| h.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(names(&contacts, now), ["s", "b", "a"]);
        let pause = Duration::from_secs(2);
        contacts.put_off(&sample::host("b"), pause, now);
        assert_eq!(names(&contacts, now), ["s", "a"]);
        assert_eq!(names(&contacts, now + pause), ["s", "b", "a"]);
    }

    #[test]
    fn lookups_back_off() {
        let (mut contacts, mut now, mut asked) = (Contacts::default(), sample::start(), 0);
        for _ in 0..600 {
            now += Duration::from_millis(100);
            asked += u32::from(contacts.lookup_due(Duration::ZERO, now));
        }
        assert_eq!(asked, 6);
    }
}
