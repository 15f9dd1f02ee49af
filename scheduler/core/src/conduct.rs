//! Who was reported by whom, and who is isolated for it.
//!
//! The word of one host convicts nobody. Records outlive sessions, so that a bad host does not
//! come clean by connecting again; a record without reports or isolation is dropped.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use hawker_model::HostId;

use crate::TrackerConfig;

/// Longest isolation.
const MAX_ISOLATION: Duration = Duration::from_secs(24 * 3600);
/// How long a host counts as a second offender after its isolation.
const PROBATION: Duration = Duration::from_secs(3600);

/// What a host is reported for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Misbehaviour {
    /// A piece that fails its check while another copy passes.
    CorruptPiece,
    /// A piece list that contradicts the digest or carries a bad signature.
    FalseList,
    /// Requests answered with nothing. A loaded host does that too: see [`Conduct::report`].
    Stalled,
    /// Messages outside the peer protocol.
    Protocol,
}

/// The records of all reported hosts.
#[derive(Debug, Default)]
pub(crate) struct Conduct {
    records: BTreeMap<HostId, Record>,
}

#[derive(Debug, Default)]
struct Record {
    /// The last report of each reporter.
    reports: BTreeMap<HostId, (Instant, Misbehaviour)>,
    isolated_until: Option<Instant>,
    probation_until: Option<Instant>,
    /// Isolations in a row.
    offences: u32,
}

impl Conduct {
    /// Notes a report. `Some(reporters)` when it isolates the host. `children` is how many other
    /// hosts are linked with it: stalling must be seen by a third of them, for a seed under load must not be
    /// taken out of service, and its blobs fetched again elsewhere, because two of many found it
    /// slow.
    pub(crate) fn report(
        &mut self,
        config: &TrackerConfig,
        about: &HostId,
        (reporter, what): (&HostId, Misbehaviour),
        children: usize,
        now: Instant,
    ) -> Option<usize> {
        let record = self.records.entry(about.clone()).or_default();
        if record.isolated_until.is_some() {
            return None;
        }
        record.forget_old(config, now);
        record.reports.insert(reporter.clone(), (now, what));
        let all = record.reports.len();
        let stalls = record.reports.values();
        let stalls = stalls
            .filter(|(_, what)| *what == Misbehaviour::Stalled)
            .count();
        let least = config.reports_to_isolate;
        let guilty = all - stalls >= least || (all >= least && all * 3 >= children + all);
        if !guilty {
            return None;
        }
        record.isolate(config, now);
        Some(all)
    }

    pub(crate) fn is_isolated(&self, host: &HostId) -> bool {
        let record = self.records.get(host);
        record.is_some_and(|record| record.isolated_until.is_some())
    }

    pub(crate) fn isolated(&self) -> usize {
        let records = self.records.values();
        records.filter(|r| r.isolated_until.is_some()).count()
    }

    /// Ends isolations that are over and says whose; drops records that say nothing any more.
    pub(crate) fn parole(&mut self, config: &TrackerConfig, now: Instant) -> Vec<HostId> {
        let mut paroled = Vec::new();
        for (host, record) in &mut self.records {
            record.forget_old(config, now);
            if record.isolated_until.is_some_and(|until| until <= now) {
                record.isolated_until = None;
                record.probation_until = Some(now + PROBATION);
                paroled.push(host.clone());
            }
            if record.probation_until.is_some_and(|until| until <= now) {
                record.probation_until = None;
                record.offences = 0;
            }
        }
        self.records.retain(|_, record| !record.is_clean());
        paroled
    }
}

impl Record {
    fn isolate(&mut self, config: &TrackerConfig, now: Instant) {
        let factor = 1 << self.offences.min(16);
        let time = config.isolation.saturating_mul(factor).min(MAX_ISOLATION);
        self.isolated_until = Some(now + time);
        self.offences += 1;
        self.reports.clear();
    }

    fn forget_old(&mut self, config: &TrackerConfig, now: Instant) {
        let old = |at: Instant| now.saturating_duration_since(at) >= config.report_memory;
        self.reports.retain(|_, (at, _)| !old(*at));
    }

    fn is_clean(&self) -> bool {
        self.reports.is_empty() && self.isolated_until.is_none() && self.probation_until.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn host(name: &str) -> HostId {
        HostId::parse(name).unwrap()
    }

    #[allow(clippy::disallowed_methods)]
    fn start() -> Instant {
        Instant::now()
    }

    /// Two hosts report a third.
    fn convict(conduct: &mut Conduct, config: &TrackerConfig, now: Instant) -> bool {
        let reports = ["a", "b"].map(|reporter| {
            let what = (&host(reporter), Misbehaviour::CorruptPiece);
            conduct.report(config, &host("bad"), what, 0, now)
        });
        reports[1].is_some()
    }

    #[test]
    fn isolation_doubles_for_who_offends_again() {
        let (config, now) = (TrackerConfig::default(), start());
        let mut conduct = Conduct::default();
        assert!(convict(&mut conduct, &config, now));
        let over = now + config.isolation;
        assert!(conduct.parole(&config, over - SECOND).is_empty());
        assert_eq!(conduct.parole(&config, over), vec![host("bad")]);
        assert!(convict(&mut conduct, &config, over));
        assert!(conduct.parole(&config, over + config.isolation).is_empty());
        assert_eq!(
            conduct.parole(&config, over + config.isolation * 2).len(),
            1
        );
    }

    #[test]
    fn reports_far_apart_do_not_add_up() {
        let (config, now) = (TrackerConfig::default(), start());
        let mut conduct = Conduct::default();
        let mut report = |reporter: &str, now| {
            let what = (&host(reporter), Misbehaviour::FalseList);
            conduct.report(&config, &host("bad"), what, 0, now)
        };
        assert_eq!(report("a", now), None);
        assert_eq!(report("b", now + config.report_memory), None);
        assert_eq!(report("c", now + config.report_memory), Some(2));
    }

    #[test]
    fn records_that_say_nothing_any_more_are_dropped() {
        let (config, now) = (TrackerConfig::default(), start());
        let mut conduct = Conduct::default();
        assert!(convict(&mut conduct, &config, now));
        conduct.parole(&config, now + config.isolation);
        assert_eq!(conduct.records.len(), 1);
        conduct.parole(&config, now + config.isolation + PROBATION);
        assert!(conduct.records.is_empty());
    }
}
