//! Hosts that did wrong, and until when nothing is taken from them.
//!
//! A first fault that may be an accident (a flipped bit on a disk) costs half a minute; each further
//! one twice as much. What nobody does by accident costs the whole time at once.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use hawker_model::HostId;

/// The shortest time.
const SHORTEST: Duration = Duration::from_secs(30);
/// So long after the end of its last quarantine a host is as good as new.
const MEMORY: Duration = Duration::from_secs(3600);

/// How bad it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gravity {
    /// It may have been an accident.
    Slight,
    /// It was no accident.
    Grave,
}

#[derive(Debug)]
struct Term {
    until: Instant,
    offences: u32,
}

#[derive(Debug, Default)]
pub(crate) struct Quarantine {
    terms: BTreeMap<HostId, Term>,
}

impl Quarantine {
    /// Shuts a host out for a time that depends on what it did and did before; `most` at most.
    pub(crate) fn shut_out(
        &mut self,
        host: HostId,
        gravity: Gravity,
        most: Duration,
        now: Instant,
    ) -> Duration {
        let term = self.terms.entry(host).or_insert(Term {
            until: now,
            offences: 0,
        });
        let time = match gravity {
            Gravity::Slight => SHORTEST
                .saturating_mul(1 << term.offences.min(16))
                .min(most),
            Gravity::Grave => most,
        };
        term.offences += 1;
        term.until = term.until.max(now + time);
        time
    }

    pub(crate) fn holds(&self, host: &HostId, now: Instant) -> bool {
        self.terms.get(host).is_some_and(|term| now < term.until)
    }

    /// Those that are shut out.
    pub(crate) fn hosts(&self, now: Instant) -> Vec<HostId> {
        let held = self.terms.iter().filter(|(_, term)| now < term.until);
        held.map(|(host, _)| host.clone()).collect()
    }

    /// Forgets those whose time is long over.
    pub(crate) fn sweep(&mut self, now: Instant) {
        self.terms.retain(|_, term| now < term.until + MEMORY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    const MOST: Duration = Duration::from_secs(600);

    #[test]
    fn a_host_is_held_for_its_time_only() {
        let (now, host) = (sample::start(), sample::host("liar"));
        let mut quarantine = Quarantine::default();
        quarantine.shut_out(host.clone(), Gravity::Grave, MOST, now);
        assert!(quarantine.holds(&host, now));
        assert_eq!(quarantine.hosts(now), std::slice::from_ref(&host));
        assert!(!quarantine.holds(&host, now + MOST));
        quarantine.sweep(now + MOST + MEMORY);
        assert!(quarantine.terms.is_empty());
    }

    #[test]
    fn a_first_accident_costs_little_and_each_further_one_twice_as_much() {
        let (now, host) = (sample::start(), sample::host("unlucky"));
        let mut quarantine = Quarantine::default();
        let mut again = || quarantine.shut_out(host.clone(), Gravity::Slight, MOST, now);
        let times: Vec<_> = (0..6).map(|_| again().as_secs()).collect();
        assert_eq!(times, [30, 60, 120, 240, 480, 600]);
    }
}
