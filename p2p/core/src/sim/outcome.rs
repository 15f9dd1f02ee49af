//! What came of a scenario.

use std::{collections::BTreeMap, time::Duration};

use hawker_model::{HostId, Role};

use crate::{Misbehaviour, TaskFailure};

/// The result of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// As in the scenario, for reports.
    pub seed: u64,
    /// Bytes of all blobs.
    pub length: u64,
    pub bound: Duration,
    pub hosts: Vec<HostOutcome>,
    /// Bytes that left the origin.
    pub origin_bytes: u64,
    /// Whether it gave other bytes to anybody.
    pub origin_lies: bool,
    /// Bytes of chain values that hosts sent, with signatures and certificates.
    pub list_bytes: u64,
    /// How many pieces of one host (the second) did not pass at another.
    pub rejected: BTreeMap<(HostId, HostId), u32>,
    /// How many pieces of a liar (the second) came at another host, wanted or not.
    pub given: BTreeMap<(HostId, HostId), u32>,
    /// What hosts reported about others.
    pub reports: Vec<(HostId, Misbehaviour)>,
    /// Bytes that went from one zone to another.
    pub crossed_bytes: u64,
    /// How busy all uplinks together were, in spans of a tenth of the bound.
    pub uplinks: Vec<f64>,
    pub events: u64,
}

/// How one host fared.
#[derive(Clone, Debug)]
pub struct HostOutcome {
    pub host: HostId,
    pub role: Role,
    /// From its arrival until it had everything.
    pub took: Option<Duration>,
    /// From its arrival until it had each blob.
    pub blobs: Vec<Option<Duration>>,
    /// From its arrival until it had its first piece.
    pub first: Option<Duration>,
    /// The longest time that its client waited for a piece, or for the end.
    pub pause: Duration,
    pub failed: Option<TaskFailure>,
    /// Whether all that it stored is right.
    pub right: bool,
    pub alive: bool,
    pub honest: bool,
    /// Bytes of pieces that it sent.
    pub sent_bytes: u64,
    /// The scenario's end, for one that is still at it.
    pub pieces: u32,
}

impl Outcome {
    fn nodes(&self) -> impl Iterator<Item = &HostOutcome> {
        let nodes = self.hosts.iter().filter(|host| host.role == Role::Node);
        nodes.filter(|host| host.alive && host.honest)
    }

    /// The honest nodes alive at the end that do not have the whole blob with right bytes.
    pub fn left_behind(&self) -> Vec<&HostOutcome> {
        self.nodes()
            .filter(|host| host.took.is_none() || !host.right)
            .collect()
    }

    /// The honest hosts that were said to have lied.
    pub fn wronged(&self) -> Vec<&HostId> {
        let lied = |what: &Misbehaviour| *what != Misbehaviour::Stalled;
        let honest = |id: &HostId| {
            self.hosts
                .iter()
                .any(|host| host.honest && host.host == *id)
        };
        let wronged = self
            .reports
            .iter()
            .filter(|(id, what)| lied(what) && honest(id));
        wronged.map(|(id, _)| id).collect()
    }

    /// The time of the slowest node, if all finished.
    pub fn last(&self) -> Option<Duration> {
        self.nodes()
            .map(|host| host.took)
            .max_by_key(|took| took.unwrap_or(Duration::MAX))?
    }

    /// When the last node got its first piece.
    pub fn last_first(&self) -> Option<Duration> {
        self.nodes().filter_map(|host| host.first).max()
    }

    /// In how many seconds the first node and the last one had each blob; infinity: never.
    pub fn spans(&self) -> Vec<(f64, f64)> {
        let count = self.nodes().map(|host| host.blobs.len()).max();
        let seconds = |took: Option<Duration>| took.map_or(f64::INFINITY, |it| it.as_secs_f64());
        let span = |blob: usize| {
            let blobs = self.nodes().filter_map(|host| host.blobs.get(blob));
            let took = blobs.map(|took| seconds(*took));
            let least_and_most = |(least, most): (f64, f64), it| (least.min(it), most.max(it));
            took.fold((f64::INFINITY, 0.0), least_and_most)
        };
        (0..count.unwrap_or_default()).map(span).collect()
    }

    /// The time in which this share of the nodes that finished did so.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let mut took: Vec<_> = self.nodes().filter_map(|host| host.took).collect();
        took.sort();
        let at = (took.len() as f64 * share).ceil() as usize;
        took.get(at.saturating_sub(1)).copied()
    }

    /// The median time of the nodes that finished.
    pub fn median(&self) -> Option<Duration> {
        self.quantile(0.5)
    }

    /// The last finisher's time as a multiple of the bound.
    pub fn ratio(&self) -> f64 {
        let last = self.last().map_or(f64::INFINITY, |last| last.as_secs_f64());
        last / self.bound.as_secs_f64()
    }

    /// Whole blobs that left the origin.
    pub fn origin_copies(&self) -> f64 {
        self.origin_bytes as f64 / self.length as f64
    }

    /// Bytes of pieces sent by anyone, over those that were needed: what duplicates cost.
    pub fn overhead(&self) -> f64 {
        let sent: u64 = self.hosts.iter().map(|host| host.sent_bytes).sum();
        let pieces: u64 = self.nodes().map(|host| u64::from(host.pieces)).sum();
        let whole = self
            .hosts
            .iter()
            .map(|host| host.pieces)
            .max()
            .unwrap_or(1)
            .max(1);
        sent as f64 / (pieces as f64 / f64::from(whole) * self.length as f64)
    }

    /// Bytes of chain values over bytes of pieces that nodes needed.
    pub fn list_share(&self) -> f64 {
        self.list_bytes as f64 / (self.nodes().count() as f64 * self.length as f64)
    }

    /// Whole blobs that went from one zone to another.
    pub fn crossings(&self) -> f64 {
        self.crossed_bytes as f64 / self.length as f64
    }

    /// Whole blobs that left the seeds.
    pub fn seed_copies(&self) -> f64 {
        let seeds = self.hosts.iter().filter(|host| host.role == Role::Seed);
        seeds.map(|host| host.sent_bytes).sum::<u64>() as f64 / self.length as f64
    }
}
