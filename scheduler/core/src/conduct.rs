//! Who was reported by whom, and who is isolated for it.
//!
//! The word of one host convicts nobody, and hosts that conspire do not get far: who accuses many is
//! not heard, who is accused itself counts half, who is isolated not at all, and never is more than
//! a third of the hosts isolated at once. Several hosts that got the *same* wrong piece may have met
//! a disk with a flipped bit: for that alone twice as many must report. Records outlive sessions, so
//! that a bad host does not come clean by connecting again; a record without reports or isolation is
//! dropped.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use hawker_model::{HostId, TaskId};

use crate::TrackerConfig;

/// Longest isolation.
const MAX_ISOLATION: Duration = Duration::from_secs(24 * 3600);
/// How long a host counts as a second offender after its isolation.
const PROBATION: Duration = Duration::from_secs(3600);
/// Hosts that one host may accuse while its reports count.
const MOST_ACCUSED: usize = 3;
/// One of so many hosts may be isolated at once.
const SHARE: usize = 3;

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
    /// More messages than anybody can use.
    Flood,
}

/// What one host says about another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accusation {
    pub what: Misbehaviour,
    /// The piece that was wrong.
    pub piece: Option<u32>,
}

/// How a report is taken up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ruling {
    /// It is remembered.
    Noted,
    /// It counts for nothing: its author is isolated, or accuses everybody.
    Ignored,
    /// So many hosts have reported it: it is isolated from now on.
    Isolated(usize),
}

/// What there is about the accused besides the reports.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Circumstances {
    /// How many others are linked with it: stalling must be seen by a third of them, for a seed
    /// under load must not be taken out of service, and its blobs fetched again elsewhere, because
    /// two of many found it slow.
    pub(crate) children: usize,
    /// Live hosts, and those of them that are isolated.
    pub(crate) hosts: usize,
    pub(crate) isolated: usize,
}

/// The records of all reported hosts.
#[derive(Debug, Default)]
pub(crate) struct Conduct {
    records: BTreeMap<HostId, Record>,
}

#[derive(Debug, Default)]
struct Record {
    /// The worst recent report of each reporter.
    reports: BTreeMap<HostId, Report>,
    isolated_until: Option<Instant>,
    probation_until: Option<Instant>,
    /// Isolations in a row.
    offences: u32,
}

#[derive(Clone, Copy, Debug)]
struct Report {
    at: Instant,
    task: TaskId,
    accusation: Accusation,
}

impl Report {
    fn is_stall(&self) -> bool {
        self.accusation.what == Misbehaviour::Stalled
    }

    /// The one wrong piece that it is about, if it is about one.
    fn piece(&self) -> Option<(TaskId, u32)> {
        let corrupt = self.accusation.what == Misbehaviour::CorruptPiece;
        let piece = self.accusation.piece.filter(|_| corrupt)?;
        Some((self.task, piece))
    }
}

impl Conduct {
    /// Notes a report.
    pub(crate) fn report(
        &mut self,
        config: &TrackerConfig,
        about: &HostId,
        (reporter, task, accusation): (&HostId, TaskId, Accusation),
        circumstances: Circumstances,
        now: Instant,
    ) -> Ruling {
        if self.is_isolated(about) {
            return Ruling::Noted;
        }
        if self.is_isolated(reporter) || self.accuses_many(config, reporter, about, now) {
            return Ruling::Ignored;
        }
        let record = self.records.entry(about.clone()).or_default();
        record.forget_old(config, now);
        let at = now;
        record.note(
            reporter,
            Report {
                at,
                task,
                accusation,
            },
        );
        let most = circumstances.hosts.div_ceil(SHARE);
        if circumstances.isolated >= most || !self.is_guilty(config, about, circumstances) {
            return Ruling::Noted;
        }
        match self.records.get_mut(about) {
            Some(record) => Ruling::Isolated(record.isolate(config, now)),
            None => Ruling::Noted,
        }
    }

    /// Whether a host has accused many others lately.
    fn accuses_many(
        &self,
        config: &TrackerConfig,
        reporter: &HostId,
        about: &HostId,
        now: Instant,
    ) -> bool {
        let recent = |report: &Report| {
            !report.is_stall() && now.saturating_duration_since(report.at) < config.report_memory
        };
        let others = self.records.iter().filter(|(host, _)| *host != about);
        // Whom others accuse as well is no sign of malice.
        let alone = |record: &Record| record.reports.len() == 1;
        let accused = others.filter(|(_, record)| {
            alone(record) && record.reports.get(reporter).is_some_and(recent)
        });
        accused.count() >= MOST_ACCUSED
    }

    fn is_guilty(
        &self,
        config: &TrackerConfig,
        about: &HostId,
        circumstances: Circumstances,
    ) -> bool {
        let Some(record) = self.records.get(about) else {
            return false;
        };
        let (stalls, lies): (Vec<_>, Vec<_>) = record
            .reports
            .iter()
            .partition(|(_, report)| report.is_stall());
        // In halves.
        let weight: usize = lies
            .iter()
            .map(|(reporter, _)| self.standing(reporter))
            .sum();
        let pieces: BTreeSet<_> = lies.iter().map(|(_, report)| report.piece()).collect();
        let one_piece = pieces.len() == 1 && !pieces.contains(&None);
        let least = config.reports_to_isolate;
        let needed = least * if one_piece { 4 } else { 2 };
        let all = stalls.len() + lies.len();
        let slow = all >= least && all * 3 >= circumstances.children + all;
        weight >= needed.max(1) || (slow && !stalls.is_empty())
    }

    /// What a host's word counts, in halves.
    fn standing(&self, reporter: &HostId) -> usize {
        let Some(record) = self.records.get(reporter) else {
            return 2;
        };
        let accused = record.reports.values().any(|report| !report.is_stall());
        match (record.isolated_until, record.probation_until) {
            (Some(_), _) => 0,
            (None, Some(_)) => 1,
            (None, None) if accused => 1,
            (None, None) => 2,
        }
    }

    /// How many hosts report a host at present.
    pub(crate) fn reporters(&self, host: &HostId) -> usize {
        self.records
            .get(host)
            .map_or(0, |record| record.reports.len())
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
    /// A lie is not forgotten for a slowness.
    fn note(&mut self, reporter: &HostId, report: Report) {
        let before = self.reports.get(reporter);
        if !report.is_stall() || before.is_none_or(Report::is_stall) {
            self.reports.insert(reporter.clone(), report);
        }
    }

    /// Says how many have reported it.
    fn isolate(&mut self, config: &TrackerConfig, now: Instant) -> usize {
        let factor = 1 << self.offences.min(16);
        let time = config.isolation.saturating_mul(factor).min(MAX_ISOLATION);
        self.isolated_until = Some(now + time);
        self.offences += 1;
        std::mem::take(&mut self.reports).len()
    }

    fn forget_old(&mut self, config: &TrackerConfig, now: Instant) {
        let old = |at: Instant| now.saturating_duration_since(at) >= config.report_memory;
        self.reports.retain(|_, report| !old(report.at));
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

    fn accuse(what: Misbehaviour, piece: Option<u32>) -> Accusation {
        Accusation { what, piece }
    }

    fn task(name: &[u8]) -> TaskId {
        TaskId::Blob(hawker_model::Digest::of(name))
    }

    const HOSTS: usize = 100;

    /// A conduct under test, with what everybody says.
    struct Court {
        conduct: Conduct,
        config: TrackerConfig,
        now: Instant,
    }

    impl Court {
        fn new() -> Self {
            Self {
                conduct: Conduct::default(),
                config: TrackerConfig::default(),
                now: start(),
            }
        }

        fn hear(&mut self, reporter: &str, about: &str, said: Accusation) -> Ruling {
            let report = (&host(reporter), task(b"a"), said);
            let circumstances = Circumstances {
                children: 0,
                hosts: HOSTS,
                isolated: self.conduct.isolated(),
            };
            self.conduct
                .report(&self.config, &host(about), report, circumstances, self.now)
        }

        /// Two hosts report a third; says whether that isolates it.
        fn convict(&mut self) -> bool {
            let corrupt = |piece| accuse(Misbehaviour::CorruptPiece, Some(piece));
            self.hear("a", "bad", corrupt(1));
            self.hear("b", "bad", corrupt(2)) == Ruling::Isolated(2)
        }

        fn parole(&mut self, after: Duration) -> usize {
            self.now += after;
            self.conduct.parole(&self.config, self.now).len()
        }
    }

    const LIE: Accusation = Accusation {
        what: Misbehaviour::FalseList,
        piece: None,
    };

    #[test]
    fn isolation_doubles_for_who_offends_again() {
        let mut court = Court::new();
        let isolation = court.config.isolation;
        assert!(court.convict());
        assert_eq!(court.parole(isolation - SECOND), 0);
        assert_eq!(court.parole(SECOND), 1);
        assert!(court.convict());
        assert_eq!(court.parole(isolation), 0);
        assert_eq!(court.parole(isolation), 1);
    }

    #[test]
    fn reports_far_apart_do_not_add_up() {
        let mut court = Court::new();
        assert_eq!(court.hear("a", "bad", LIE), Ruling::Noted);
        court.now += court.config.report_memory;
        assert_eq!(court.hear("b", "bad", LIE), Ruling::Noted);
        assert_eq!(court.hear("c", "bad", LIE), Ruling::Isolated(2));
    }

    #[test]
    fn records_that_say_nothing_any_more_are_dropped() {
        let mut court = Court::new();
        assert!(court.convict());
        court.parole(court.config.isolation);
        assert_eq!(court.conduct.records.len(), 1);
        court.parole(PROBATION);
        assert!(court.conduct.records.is_empty());
    }

    #[test]
    fn one_flipped_bit_isolates_nobody_until_many_have_met_it() {
        let mut court = Court::new();
        let rotten = accuse(Misbehaviour::CorruptPiece, Some(7));
        for reporter in ["a", "b", "c"] {
            assert_eq!(court.hear(reporter, "unlucky", rotten), Ruling::Noted);
        }
        assert_eq!(court.hear("d", "unlucky", rotten), Ruling::Isolated(4));
    }

    #[test]
    fn the_word_of_the_accused_counts_half_and_that_of_the_isolated_nothing() {
        let mut court = Court::new();
        assert_eq!(court.hear("honest", "liar", LIE), Ruling::Noted);
        // The liar and its friend strike back.
        assert_eq!(court.hear("liar", "honest", LIE), Ruling::Noted);
        assert_eq!(court.hear("friend", "honest", LIE), Ruling::Noted);
        assert_eq!(court.hear("other", "liar", LIE), Ruling::Noted);
        assert_eq!(court.hear("third", "liar", LIE), Ruling::Isolated(3));
        assert_eq!(court.hear("liar", "other", LIE), Ruling::Ignored);
        assert!(!court.conduct.is_isolated(&host("honest")));
    }

    #[test]
    fn who_accuses_everybody_is_not_heard() {
        let mut court = Court::new();
        let names: Vec<String> = (0..20).map(|number| format!("h{number}")).collect();
        for name in &names {
            court.hear("malice", name, LIE);
        }
        let isolated = names
            .iter()
            .filter(|name| court.hear("spite", name, LIE) == Ruling::Isolated(2));
        assert_eq!(isolated.count(), MOST_ACCUSED);
    }

    #[test]
    fn conspirators_never_isolate_more_than_a_third() {
        let mut court = Court::new();
        for number in 0..60 {
            for reporter in 0..20 {
                let (reporter, about) = (format!("c{reporter}"), format!("h{number}"));
                court.hear(&reporter, &about, LIE);
            }
        }
        assert!(court.conduct.isolated() <= HOSTS.div_ceil(SHARE));
    }

    #[test]
    fn a_lie_is_not_forgotten_for_a_slowness() {
        let mut court = Court::new();
        court.hear("a", "bad", LIE);
        court.hear("a", "bad", accuse(Misbehaviour::Stalled, None));
        assert_eq!(court.hear("b", "bad", LIE), Ruling::Isolated(2));
    }
}
