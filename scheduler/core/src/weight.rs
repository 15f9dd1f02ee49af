//! What the reports about a host weigh together.

use std::collections::BTreeSet;

use hawker_model::HostId;

use crate::{
    TrackerConfig,
    accusers::Charge,
    conduct::{Circumstances, Conduct, Record, SHARE},
};

/// What the word of a host counts that nothing is said against, and what that of another does.
const FULL: usize = 2;
const HALF: usize = 1;

impl Conduct {
    /// For what a host is to be isolated, if what is said about it is enough.
    pub(crate) fn guilt(
        &self,
        config: &TrackerConfig,
        about: &HostId,
        circumstances: Circumstances,
    ) -> Option<Charge> {
        let record = self.records.get(about)?;
        if self.has_lied(config, about, record, circumstances) {
            return Some(Charge::Lie);
        }
        self.is_slow(config, about, record, circumstances)
            .then_some(Charge::Slowness)
    }

    fn has_lied(
        &self,
        config: &TrackerConfig,
        about: &HostId,
        record: &Record,
        circumstances: Circumstances,
    ) -> bool {
        let pieces: BTreeSet<_> = record.lies().map(|(_, report)| report.piece()).collect();
        let one_piece = pieces.len() == 1 && !pieces.contains(&None);
        let least = config.reports_to_isolate.max(1);
        let needed = least * FULL * if one_piece { 2 } else { 1 };
        let said = record.lies().map(|(reporter, _)| (reporter, Charge::Lie));
        self.weigh(about, said.collect(), circumstances.hosts) >= needed
    }

    /// A third of those who are in contact with it find it slow, and as many as for a lie.
    fn is_slow(
        &self,
        config: &TrackerConfig,
        about: &HostId,
        record: &Record,
        circumstances: Circumstances,
    ) -> bool {
        let said = record.reports.iter();
        let said: Vec<_> = said.map(|(reporter, r)| (reporter, r.charge())).collect();
        let in_contact = circumstances.children + said.len();
        let slow = said.iter().any(|(_, charge)| *charge == Charge::Slowness);
        let weight = self.weigh(about, said, circumstances.hosts);
        let least = config.reports_to_isolate.max(1) * FULL;
        slow && weight >= least && weight * SHARE >= in_contact * FULL
    }

    /// What all these words against a host count.
    fn weigh(&self, about: &HostId, said: Vec<(&HostId, Charge)>, hosts: usize) -> usize {
        let standings = said.iter().map(|(reporter, _)| self.standing(reporter));
        let all: usize = standings.sum();
        match all >= hosts.div_ceil(SHARE) * FULL {
            true => all,
            false => self.weigh_voices(about, said),
        }
    }

    /// What those of them count who have nothing in common; nothing if each of them accuses many.
    fn weigh_voices(&self, about: &HostId, mut said: Vec<(&HostId, Charge)>) -> usize {
        let unsound = |reporter: &HostId, charge| !self.accusers.is_sound(reporter, about, charge);
        said.sort_by_cached_key(|(reporter, charge)| {
            let standing = FULL - self.standing(reporter);
            let others = self.accusers.count(reporter, *charge);
            (unsound(reporter, *charge), standing, others)
        });
        let mut voices: Vec<(&HostId, Charge)> = Vec::new();
        for (reporter, charge) in said {
            if voices.is_empty() && unsound(reporter, charge) {
                return 0;
            }
            let one = |voice: &(&HostId, Charge)| {
                let pair = (reporter, voice.0);
                self.accusers.agree_on_more(pair, about, charge)
            };
            if !voices.iter().any(one) {
                voices.push((reporter, charge));
            }
        }
        let standings = voices.iter().map(|(reporter, _)| self.standing(reporter));
        standings.sum()
    }

    /// What a host's word counts, in halves.
    fn standing(&self, reporter: &HostId) -> usize {
        let Some(record) = self.records.get(reporter) else {
            return FULL;
        };
        // Who accuses many takes nobody's good name.
        let accused = record
            .lies()
            .any(|(by, _)| self.accusers.is_sound(by, reporter, Charge::Lie));
        match (record.isolated_until, record.probation_until) {
            (Some(_), _) => 0,
            (None, Some(_)) => HALF,
            (None, None) if accused => HALF,
            (None, None) => FULL,
        }
    }
}
