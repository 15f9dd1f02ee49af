//! Whom each host accuses, apart from what came of it: who accuses many is not heard alone, and two
//! who accuse the same hosts are one voice.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use hawker_model::HostId;

/// Hosts that one host may accuse of one thing while its word counts for itself.
pub(crate) const MOST_ACCUSED: usize = 3;
/// Accusations of one host that are kept; what it says beyond is not heard at all.
const MOST_KEPT: usize = 64;

/// What an accusation is about: a host that finds many slow is not to be silent about a liar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Charge {
    Slowness,
    Lie,
}

#[derive(Debug)]
struct Accused {
    host: HostId,
    charge: Charge,
    /// When it was last said.
    at: Instant,
}

/// The accusations of all hosts. They are kept for as long as reports count, also when the accused
/// is isolated by then.
#[derive(Debug, Default)]
pub(crate) struct Accusers {
    /// In the order in which they were first said.
    by: BTreeMap<HostId, Vec<Accused>>,
}

impl Accusers {
    /// Notes what a host says. False if it says too much.
    pub(crate) fn note(
        &mut self,
        accuser: &HostId,
        about: &HostId,
        charge: Charge,
        memory: Duration,
        now: Instant,
    ) -> bool {
        let all = self.by.entry(accuser.clone()).or_default();
        forget_old(all, memory, now);
        let known = all
            .iter_mut()
            .find(|accused| accused.host == *about && accused.charge == charge);
        if let Some(accused) = known {
            accused.at = now;
            return true;
        }
        let room = all.len() < MOST_KEPT;
        if room {
            let host = about.clone();
            let at = now;
            all.push(Accused { host, charge, at });
        }
        room
    }

    /// Whether a host's word about another counts for itself: that one is among the first it accuses.
    pub(crate) fn is_sound(&self, accuser: &HostId, about: &HostId, charge: Charge) -> bool {
        let mut first = self.of(accuser, charge).take(MOST_ACCUSED);
        first.any(|accused| accused == about)
    }

    /// Whether two accusers of a host accuse yet another together.
    pub(crate) fn agree_on_more(
        &self,
        (one, other): (&HostId, &HostId),
        about: &HostId,
        charge: Charge,
    ) -> bool {
        let mut more = self.of(one, charge).filter(|accused| *accused != about);
        more.any(|accused| self.of(other, charge).any(|its| its == accused))
    }

    /// How many hosts a host accuses.
    pub(crate) fn count(&self, accuser: &HostId, charge: Charge) -> usize {
        self.of(accuser, charge).count()
    }

    fn of(&self, accuser: &HostId, charge: Charge) -> impl Iterator<Item = &HostId> {
        let all = self.by.get(accuser).into_iter().flatten();
        let fit = all.filter(move |accused| accused.charge == charge);
        fit.map(|accused| &accused.host)
    }

    /// Forgets what is too old to count.
    pub(crate) fn sweep(&mut self, memory: Duration, now: Instant) {
        for all in self.by.values_mut() {
            forget_old(all, memory, now);
        }
        self.by.retain(|_, all| !all.is_empty());
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.by.is_empty()
    }
}

fn forget_old(all: &mut Vec<Accused>, memory: Duration, now: Instant) {
    all.retain(|accused| now.saturating_duration_since(accused.at) < memory);
}
