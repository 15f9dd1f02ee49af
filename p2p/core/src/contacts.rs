//! The peers that the scheduler named for a task, and when to ask for others.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use hawker_model::{HostId, Role};

use crate::Parent;

/// A connection that stood for so long is not expected to break again at once.
const STEADY: Duration = Duration::from_secs(4);
const PAUSE_LOST: Duration = Duration::from_millis(100);
/// So many times longer each time, if it had answered on it, and if not.
const LONGER: u32 = 2;
const LONGER_UNANSWERED: u32 = 4;
const MOST_TIMES_LONGER: u32 = 4;
/// Connections that break within so long may have broken for one reason.
const TOGETHER: Duration = Duration::from_secs(1);
/// So long a host whose connection broke may well come back.
const EXPECTED: Duration = Duration::from_secs(3);

#[derive(Debug)]
struct Contact {
    role: Role,
    /// Place in the scheduler's order, which ranks them.
    rank: u32,
    retry_at: Option<Instant>,
    failures: u32,
    /// It refused us, or left.
    refused: bool,
    /// When a connection to it broke last,
    lost_at: Option<Instant>,
    /// and how often one has broken soon after the one before.
    losses: u32,
}

#[derive(Debug, Default)]
pub(crate) struct Contacts {
    known: BTreeMap<HostId, Contact>,
    pub(crate) dialing: BTreeSet<HostId>,
    /// When the scheduler answered last.
    pub(crate) answered_at: Option<Instant>,
    lookups: u32,
    next_lookup: Option<Instant>,
    next_rank: u32,
}

impl Contacts {
    pub(crate) fn add(&mut self, parents: Vec<Parent>) {
        for Parent { host, role } in parents {
            let rank = self.next_rank;
            self.next_rank += 1;
            let contact = self.known.entry(host).or_insert(Contact {
                role,
                rank,
                retry_at: None,
                failures: 0,
                refused: false,
                lost_at: None,
                losses: 0,
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

    /// Whether seeds are among them, and none has refused us: that would be a sign of life.
    pub(crate) fn misses_seeds(&self) -> bool {
        let mut seeds = self
            .known
            .values()
            .filter(|c| c.role == Role::Seed)
            .peekable();
        seeds.peek().is_some() && seeds.all(|seed| !seed.refused)
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
            contact.refused = false;
            contact.failures = (contact.failures + 1).min(5);
            contact.retry_at = Some(now + pause * (1 << (contact.failures - 1)));
        }
    }

    /// A contact refused us, or left: not again for `pause`, unless [`Self::forgive`] comes before.
    pub(crate) fn note_refused(&mut self, host: &HostId, pause: Duration, now: Instant) {
        self.put_off(host, pause, now);
        if let Some(contact) = self.known.get_mut(host) {
            contact.refused = true;
        }
    }

    /// What refusals were said to may be different now.
    pub(crate) fn forgive(&mut self) {
        let refused = self.known.values_mut().filter(|contact| contact.refused);
        for contact in refused {
            (contact.refused, contact.retry_at) = (false, None);
        }
    }

    /// A contact has given something.
    pub(crate) fn note_use(&mut self, host: &HostId) {
        if let Some(contact) = self.known.get_mut(host) {
            (contact.failures, contact.losses) = (0, 0);
        }
    }

    /// A connection that stood broke: the contact may be taken up again at once, or after a moment if
    /// one has broken shortly before, longer each time that it has given nothing; and longer still if
    /// it had not even `answered`, as who wants nothing of us.
    pub(crate) fn note_lost(&mut self, host: &HostId, answered: bool, now: Instant) {
        self.dialing.remove(host);
        let Some(contact) = self.known.get_mut(host) else {
            return;
        };
        let before = contact.lost_at.replace(now);
        let soon = before.is_some_and(|at| now < at + STEADY);
        if answered && !soon {
            contact.losses = 0;
        }
        let longer = if answered { LONGER } else { LONGER_UNANSWERED };
        let pause =
            PAUSE_LOST * longer.pow(contact.losses.saturating_sub(1).min(MOST_TIMES_LONGER));
        contact.retry_at = match soon || contact.losses > 0 {
            true => Some(now + pause),
            false => None,
        };
        contact.losses += 1;
    }

    /// A connection broke to one of several: that one is not missed at once.
    pub(crate) fn note_gone(&mut self, host: &HostId, pause: Duration, now: Instant) {
        self.put_off(host, pause, now);
        if let Some(contact) = self.known.get_mut(host) {
            contact.lost_at = Some(now);
        }
    }

    /// Nobody is left: those that were lost a moment before may be taken up again at once.
    pub(crate) fn miss_all(&mut self, now: Instant) {
        for contact in self.known.values_mut() {
            let lost = contact.lost_at.is_some_and(|at| now < at + TOGETHER);
            if lost && contact.losses == 0 {
                contact.retry_at = None;
            }
        }
    }

    /// Whether one whose connection broke may come back soon.
    pub(crate) fn expects_any(&self, now: Instant) -> bool {
        let mut known = self.known.values();
        known.any(|contact| {
            let lost = contact.lost_at.is_some_and(|at| now < at + EXPECTED);
            lost && !contact.refused
        })
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
    fn a_contact_that_is_lost_is_taken_up_at_once_and_again_only_after_a_moment() {
        let (now, moment) = (sample::start(), Duration::from_millis(1));
        let (mut contacts, host) = (Contacts::default(), sample::host("a"));
        let role = Role::Node;
        contacts.add(vec![Parent { host, role }]);
        let host = sample::host("a");
        let is_free = |contacts: &Contacts, at| !contacts.candidates(at).is_empty();
        contacts.put_off(&host, Duration::from_secs(9), now);
        contacts.note_lost(&host, true, now);
        assert!(is_free(&contacts, now));
        for _ in 0..3 {
            contacts.note_lost(&host, true, now + moment);
        }
        assert!(!is_free(&contacts, now + moment + PAUSE_LOST * 3));
        assert!(is_free(&contacts, now + moment + PAUSE_LOST * 4));
        contacts.note_use(&host);
        contacts.note_lost(&host, true, now + moment);
        assert!(!is_free(&contacts, now + moment));
        assert!(is_free(&contacts, now + moment + PAUSE_LOST));
        let later = now + moment + STEADY;
        contacts.note_lost(&host, true, later);
        assert!(is_free(&contacts, later));
    }

    #[test]
    fn who_refused_may_be_forgiven_and_who_is_out_of_reach_may_not() {
        let (now, pause) = (sample::start(), Duration::from_secs(2));
        let mut contacts = Contacts::default();
        let parents = ["a", "b"].map(|name| Parent {
            host: sample::host(name),
            role: Role::Seed,
        });
        contacts.add(parents.to_vec());
        contacts.note_refused(&sample::host("a"), pause, now);
        contacts.put_off(&sample::host("b"), pause, now);
        assert_eq!(contacts.candidates(now), []);
        contacts.forgive();
        assert_eq!(contacts.candidates(now), [(sample::host("a"), Role::Seed)]);
    }

    #[test]
    fn who_never_answers_is_taken_up_less_and_less_often() {
        let (mut now, mut contacts) = (sample::start(), Contacts::default());
        let (host, role) = (sample::host("a"), Role::Seed);
        contacts.add(vec![Parent { host, role }]);
        let (host, start) = (sample::host("a"), now);
        let mut dials = 0;
        while now < start + Duration::from_secs(60) {
            if !contacts.candidates(now).is_empty() {
                dials += 1;
                contacts.note_lost(&host, false, now);
            }
            now += Duration::from_millis(10);
        }
        assert!((5..=8).contains(&dials), "{dials} in a minute");
    }

    #[test]
    fn those_that_were_lost_together_are_taken_up_together() {
        let (now, pause) = (sample::start(), Duration::from_secs(2));
        let mut contacts = Contacts::default();
        let parents = ["a", "b", "c"].map(|name| Parent {
            host: sample::host(name),
            role: Role::Node,
        });
        contacts.add(parents.to_vec());
        contacts.note_gone(&sample::host("a"), pause, now);
        let later = now + TOGETHER;
        contacts.note_gone(&sample::host("b"), pause, later);
        contacts.note_lost(&sample::host("c"), true, later);
        contacts.miss_all(later);
        let free = contacts.candidates(later).into_iter();
        let free: Vec<_> = free.map(|(host, _)| host).collect();
        assert_eq!(free, [sample::host("b"), sample::host("c")]);
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
