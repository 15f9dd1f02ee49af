//! Claims that other hosts brought to this seed and that are being judged.
//!
//! One host cannot make a seed judge without end: so many claims at a time are its share, and there
//! is a bound for all.

use std::collections::{BTreeMap, BTreeSet};

use hawker_model::{HostId, Role};

/// Claims of one host that are judged at the same time: few of what our owner judges at once (256 in
/// hawkerd), so that one whose origins all hang leaves most of it to others.
pub(crate) const MOST_PER_HOST: usize = 32;
/// Claims of all hosts.
const MOST: usize = 8192;

/// What to do with a claim that came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Say that it was heard, and judge it.
    Judge,
    /// Say that it is not judged: too many of all hosts are.
    Refuse,
    /// Say that it is not judged. No host brings it that keeps to its share, and asks seeds alone.
    Excess,
    /// It is being judged already: say that it was heard.
    Known,
}

/// The claims under judgement, by who brought them.
#[derive(Debug)]
pub struct Docket {
    role: Role,
    open: BTreeMap<HostId, BTreeSet<u64>>,
}

impl Docket {
    /// Of a host of this role; only seeds judge.
    pub fn new(role: Role) -> Self {
        let open = BTreeMap::new();
        Self { role, open }
    }

    /// A host brings a claim under a number of its choice.
    pub fn admit(&mut self, host: &HostId, number: u64) -> Admission {
        let of_host = self.open.get(host);
        if of_host.is_some_and(|open| open.contains(&number)) {
            return Admission::Known;
        }
        if self.role != Role::Seed || of_host.map_or(0, BTreeSet::len) >= MOST_PER_HOST {
            return Admission::Excess;
        }
        if self.len() >= MOST {
            return Admission::Refuse;
        }
        self.open.entry(host.clone()).or_default().insert(number);
        Admission::Judge
    }

    /// A claim is judged; says whether its host still waits for the verdict.
    pub fn settle(&mut self, host: &HostId, number: u64) -> bool {
        let Some(open) = self.open.get_mut(host) else {
            return false;
        };
        let waits = open.remove(&number);
        if open.is_empty() {
            self.open.remove(host);
        }
        waits
    }

    /// A host is gone, and with it its claims: their numbers.
    pub fn drop_host(&mut self, host: &HostId) -> BTreeSet<u64> {
        self.open.remove(host).unwrap_or_default()
    }

    fn len(&self) -> usize {
        self.open.values().map(BTreeSet::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    #[test]
    fn a_flood_of_claims_by_one_host_is_refused_and_others_are_judged() {
        let (mut docket, flood) = (Docket::new(Role::Seed), sample::host("flood"));
        let judged = (0..10_000).filter(|n| docket.admit(&flood, *n) == Admission::Judge);
        assert_eq!(judged.count(), MOST_PER_HOST);
        assert_eq!(docket.admit(&flood, 10_000), Admission::Excess);
        assert_eq!(docket.admit(&sample::host("other"), 1), Admission::Judge);
        assert!(docket.settle(&flood, 3));
        assert_eq!(docket.admit(&flood, 20_000), Admission::Judge);
    }

    #[test]
    fn a_claim_is_judged_once_and_its_verdict_is_for_who_still_waits() {
        let (mut docket, host) = (Docket::new(Role::Seed), sample::host("a"));
        assert_eq!(docket.admit(&host, 1), Admission::Judge);
        assert_eq!(docket.admit(&host, 1), Admission::Known);
        assert_eq!(docket.drop_host(&host).len(), 1);
        assert!(!docket.settle(&host, 1));
        assert_eq!(docket.len(), 0);
    }

    #[test]
    fn a_node_judges_nothing() {
        let mut docket = Docket::new(Role::Node);
        assert_eq!(docket.admit(&sample::host("a"), 1), Admission::Excess);
    }

    #[test]
    fn who_keeps_to_its_share_is_not_to_blame_when_others_fill_the_docket() {
        let mut docket = Docket::new(Role::Seed);
        for number in 0..MOST {
            let crowd = sample::host(&format!("h{}", number / MOST_PER_HOST));
            assert_eq!(docket.admit(&crowd, number as u64), Admission::Judge);
        }
        assert_eq!(docket.admit(&sample::host("late"), 1), Admission::Refuse);
        assert_eq!(docket.admit(&sample::host("h0"), 9999), Admission::Excess);
    }
}
