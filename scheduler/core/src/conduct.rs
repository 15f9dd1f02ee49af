//! Who was reported by whom, and who is isolated for it.
//!
//! The word of one host convicts nobody, and hosts that conspire do not get far:
//! * who accuses many is heard only beside somebody who does not;
//! * two hosts that accuse yet another host together are one voice: so two conspirators isolate one
//!   host while their words are remembered, and k of them one for each pair of them;
//! * who is accused itself, or was isolated lately, counts half, and who is isolated not at all;
//! * never is more than a third of the hosts isolated at once.
//!
//! What a third of all hosts says is believed, whatever else they say: in a small cluster the same
//! few meet every liar. Several hosts that got the *same* wrong piece may have met a disk with a
//! flipped bit: for that alone twice as many must report. Records outlive sessions, so that a bad
//! host does not come clean by connecting again; a record without reports or isolation is dropped.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use hawker_model::{HostId, TaskId};

use crate::{
    TrackerConfig,
    accusers::{Accusers, Charge},
};

/// Longest isolation.
const MAX_ISOLATION: Duration = Duration::from_secs(24 * 3600);
/// How long a host counts as a second offender after its isolation.
const PROBATION: Duration = Duration::from_secs(3600);
/// One of so many hosts may be isolated at once, and what one of so many says is believed.
pub(crate) const SHARE: usize = 3;

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

impl Accusation {
    /// Whether only a member of the task's swarm can know: of anything else the accused may have said
    /// it about a task that it made up.
    pub(crate) fn is_about_pieces(&self) -> bool {
        match self.what {
            Misbehaviour::CorruptPiece | Misbehaviour::FalseList | Misbehaviour::Stalled => true,
            Misbehaviour::Protocol | Misbehaviour::Flood => false,
        }
    }

    fn charge(&self) -> Charge {
        match self.what {
            Misbehaviour::Stalled => Charge::Slowness,
            _ => Charge::Lie,
        }
    }
}

/// How a report is taken up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ruling {
    /// It is remembered.
    Noted,
    /// It counts for nothing, or nothing by itself: its author is isolated, or accuses too many.
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
    pub(crate) records: BTreeMap<HostId, Record>,
    pub(crate) accusers: Accusers,
}

/// What there is about one host.
#[derive(Debug, Default)]
pub(crate) struct Record {
    /// The worst recent report of each reporter.
    pub(crate) reports: BTreeMap<HostId, Report>,
    pub(crate) isolated_until: Option<Instant>,
    /// What it is isolated for.
    guilt: Option<Charge>,
    pub(crate) probation_until: Option<Instant>,
    /// Isolations in a row.
    offences: u32,
}

/// What one reporter said of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Report {
    at: Instant,
    task: TaskId,
    accusation: Accusation,
}

impl Report {
    pub(crate) fn charge(&self) -> Charge {
        self.accusation.charge()
    }

    /// The one wrong piece that it is about, if it is about one.
    pub(crate) fn piece(&self) -> Option<(TaskId, u32)> {
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
        let (charge, memory) = (accusation.charge(), config.report_memory);
        let heard =
            !self.is_isolated(reporter) && self.accusers.note(reporter, about, charge, memory, now);
        if !heard {
            return Ruling::Ignored;
        }
        let at = now;
        let report = Report {
            at,
            task,
            accusation,
        };
        let record = self.records.entry(about.clone()).or_default();
        record.forget_old(config, now);
        record.note(reporter, report);
        let most = circumstances.hosts.div_ceil(SHARE);
        if circumstances.isolated < most
            && let Some(guilt) = self.guilt(config, about, circumstances)
            && let Some(record) = self.records.get_mut(about)
        {
            return Ruling::Isolated(record.isolate(guilt, config, now));
        }
        match self.accusers.is_sound(reporter, about, charge) {
            true => Ruling::Noted,
            false => Ruling::Ignored,
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

    /// All that are isolated, also those that left.
    pub(crate) fn isolated(&self) -> impl Iterator<Item = (&HostId, Instant)> {
        let records = self.records.iter();
        records.filter_map(|(host, record)| Some((host, record.isolated_until?)))
    }

    /// Those that are isolated for lies.
    pub(crate) fn liars(&self) -> impl Iterator<Item = &HostId> {
        let records = self.records.iter();
        let liars = records.filter(|(_, record)| record.is_of_liar());
        liars.map(|(host, _)| host)
    }

    pub(crate) fn is_liar(&self, host: &HostId) -> bool {
        self.records.get(host).is_some_and(Record::is_of_liar)
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
        self.accusers.sweep(config.report_memory, now);
        paroled
    }
}

impl Record {
    /// Who called it a liar, and why.
    pub(crate) fn lies(&self) -> impl Iterator<Item = (&HostId, &Report)> {
        let reports = self.reports.iter();
        reports.filter(|(_, report)| report.charge() == Charge::Lie)
    }

    /// A lie is not forgotten for a slowness.
    fn note(&mut self, reporter: &HostId, report: Report) {
        let before = self.reports.get(reporter).map(Report::charge);
        if before.is_none_or(|before| before <= report.charge()) {
            self.reports.insert(reporter.clone(), report);
        }
    }

    /// Says how many have reported it.
    fn isolate(&mut self, guilt: Charge, config: &TrackerConfig, now: Instant) -> usize {
        self.guilt = Some(guilt);
        let factor = 1 << self.offences.min(16);
        let time = config.isolation.saturating_mul(factor).min(MAX_ISOLATION);
        self.isolated_until = Some(now + time);
        self.offences += 1;
        std::mem::take(&mut self.reports).len()
    }

    fn is_of_liar(&self) -> bool {
        self.isolated_until.is_some() && self.guilt == Some(Charge::Lie)
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
    use proptest::prelude::*;

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
        hosts: usize,
        /// Isolated hosts that are no longer there.
        gone: usize,
        now: Instant,
    }

    impl Court {
        fn new() -> Self {
            Self {
                conduct: Conduct::default(),
                config: TrackerConfig::default(),
                hosts: HOSTS,
                gone: 0,
                now: start(),
            }
        }

        fn hear(&mut self, reporter: &str, about: &str, said: Accusation) -> Ruling {
            let report = (&host(reporter), task(b"a"), said);
            let circumstances = Circumstances {
                children: 0,
                hosts: self.hosts,
                isolated: self.conduct.isolated().count() - self.gone,
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
    fn two_who_accuse_everybody_isolate_one_host_in_whatever_order_they_speak() {
        let names: Vec<String> = (0..20).map(|number| format!("h{number}")).collect();
        let after_each_other = ["malice", "spite"].map(|who| names.iter().map(move |h| (who, h)));
        let by_turns = names.iter().flat_map(|h| [("malice", h), ("spite", h)]);
        let orders = [
            after_each_other.into_iter().flatten().collect::<Vec<_>>(),
            by_turns.collect(),
        ];
        for order in orders {
            for what in [Misbehaviour::FalseList, Misbehaviour::Stalled] {
                let mut court = Court::new();
                for (reporter, about) in &order {
                    court.hear(reporter, about, accuse(what, None));
                }
                assert_eq!(court.conduct.isolated().count(), 1, "{what:?}");
            }
        }
    }

    #[test]
    fn what_a_third_of_a_small_cluster_says_is_believed_of_every_liar() {
        let mut court = Court::new();
        court.hosts = 9;
        for number in 0..6 {
            let liar = format!("liar{number}");
            for victim in ["a", "b", "c"] {
                court.hear(victim, &liar, LIE);
            }
            assert!(court.conduct.is_isolated(&host(&liar)), "{liar}");
            court.gone += 1;
        }
    }

    #[test]
    fn who_has_met_many_liars_is_heard_beside_another() {
        let mut court = Court::new();
        for number in 0..9 {
            court.hear("victim", &format!("liar{number}"), LIE);
        }
        assert_eq!(court.hear("victim", "last", LIE), Ruling::Ignored);
        assert_eq!(court.hear("another", "last", LIE), Ruling::Isolated(2));
    }

    #[test]
    fn two_of_bad_standing_cannot_call_a_host_slow() {
        let mut court = Court::new();
        for (accuser, accused) in [("a", "x"), ("b", "y")] {
            court.hear(accuser, accused, LIE);
        }
        let slow = accuse(Misbehaviour::Stalled, None);
        assert_eq!(court.hear("x", "seed", slow), Ruling::Noted);
        assert_eq!(court.hear("y", "seed", slow), Ruling::Noted);
        assert_eq!(court.hear("c", "seed", slow), Ruling::Isolated(3));
    }

    #[test]
    fn nothing_is_kept_of_accusations_that_no_longer_count() {
        let mut court = Court::new();
        court.convict();
        court.parole(court.config.report_memory);
        assert!(court.conduct.accusers.is_empty());
    }

    /// Everything that some say of others, in any order.
    fn in_any_order(
        sayings: impl Iterator<Item = (String, String)>,
    ) -> impl Strategy<Value = Vec<(String, String)>> {
        Just(sayings.collect::<Vec<_>>()).prop_shuffle()
    }

    fn each_of_each(who: &str, count: usize, whom: &str, all: usize) -> Vec<(String, String)> {
        let pairs = (0..count).flat_map(|w| (0..all).map(move |a| (w, a)));
        let named = pairs.map(|(w, a)| (format!("{who}{w}"), format!("{whom}{a}")));
        named.collect()
    }

    proptest! {
        #[test]
        fn conspirators_isolate_one_host_for_each_pair_of_them(
            (number, said) in (2_usize..=5).prop_flat_map(|number| {
                let said = each_of_each("c", number, "h", 12).into_iter();
                (Just(number), in_any_order(said))
            }),
            slow in any::<bool>(),
        ) {
            let mut court = Court::new();
            let what = if slow { Misbehaviour::Stalled } else { Misbehaviour::FalseList };
            for (reporter, about) in said {
                court.hear(&reporter, &about, accuse(what, None));
            }
            prop_assert!(court.conduct.isolated().count() <= number * (number - 1) / 2);
        }

        #[test]
        fn liars_are_isolated_whatever_they_say_of_their_victims(
            said in in_any_order({
                let truth = each_of_each("h", 20, "liar", 4);
                truth.into_iter().chain(each_of_each("liar", 4, "h", 20))
            }),
        ) {
            let mut court = Court::new();
            for (reporter, about) in said {
                court.hear(&reporter, &about, LIE);
            }
            for liar in 0..4 {
                let liar = host(&format!("liar{liar}"));
                prop_assert!(court.conduct.is_isolated(&liar));
            }
            prop_assert!(court.conduct.isolated().count() <= 4 + 4 * 3 / 2);
        }
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
        assert!(court.conduct.isolated().count() <= HOSTS.div_ceil(SHARE));
    }

    #[test]
    fn a_lie_is_not_forgotten_for_a_slowness() {
        let mut court = Court::new();
        court.hear("a", "bad", LIE);
        court.hear("a", "bad", accuse(Misbehaviour::Stalled, None));
        assert_eq!(court.hear("b", "bad", LIE), Ruling::Isolated(2));
    }
}
