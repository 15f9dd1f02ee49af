//! What a host may cost us for nothing: so much at once, and so much for ever.
//!
//! Every message that brings neither side forward has a price ([`Worth`]). What honest hosts say in
//! vain, because words cross on the way, is far below what is forgiven; who floods is found out after
//! some milliseconds of work.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use hawker_model::{HostId, TaskId};

/// Forgiven at once.
const BURST: f64 = 16_384.0;
/// Forgiven in each second.
const PER_SECOND: f64 = 2_048.0;
/// Unsettled pieces that did not match, over all tasks, before nothing is taken from a host.
const STRIKES: usize = 3;
const STRIKE_MEMORY: Duration = Duration::from_secs(600);
/// Times that a host was given up on for stalling, within [`STALL_MEMORY`].
const STALLS: u32 = 3;
const STALL_MEMORY: Duration = Duration::from_secs(600);

/// Bytes of pieces that were asked of a host and taken back, at most: they may still come.
const MOST_FORGONE: u64 = 64 << 20;

/// What a message was good for. Whoever handles one has to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Worth {
    /// It brought one of the two forward, or ends itself.
    Something,
    /// It costs its sender so much.
    Nothing(Price),
}

/// What a message that was of no use costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Price {
    /// Read and forgotten.
    Word,
    /// Looked up, or answered.
    Answer,
    /// A signature was checked, a line was logged, sets of pieces were compared.
    Work,
    /// So many bytes of a piece or a manifest that went over the wire for nothing.
    Bytes(u32),
}

impl Price {
    fn points(self) -> f64 {
        match self {
            Self::Word => 1.0,
            Self::Answer => 4.0,
            Self::Work => 64.0,
            Self::Bytes(bytes) => (f64::from(bytes) / 1024.0).max(8.0),
        }
    }
}

/// What each host did lately that was of no use, or that is in doubt.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    spent: BTreeMap<HostId, (f64, Instant)>,
    strikes: BTreeMap<HostId, Vec<(TaskId, Instant)>>,
    stalls: BTreeMap<HostId, Stalls>,
    /// Bytes of pieces that were asked of a host and taken back.
    forgone: BTreeMap<HostId, u64>,
}

/// Times that a host was given up on: how often, since when, and when last.
#[derive(Debug)]
struct Stalls {
    count: u32,
    since: Instant,
    last: Instant,
}

impl Patience {
    /// Charges a host; says whether that was too much.
    pub(crate) fn charge(&mut self, host: &HostId, price: Price, now: Instant) -> bool {
        let price = price.points();
        let Some((spent, at)) = self.spent.get_mut(host) else {
            self.spent.insert(host.clone(), (price, now));
            return false;
        };
        let forgiven = now.saturating_duration_since(*at).as_secs_f64() * PER_SECOND;
        *spent = (*spent - forgiven).max(0.0) + price;
        *at = now;
        *spent > BURST
    }

    /// A piece of a host did not match. Says whether that was one too many.
    pub(crate) fn strike(&mut self, host: &HostId, task: TaskId, now: Instant) -> bool {
        let strikes = self.strikes.entry(host.clone()).or_default();
        strikes.retain(|(_, at)| now < *at + STRIKE_MEMORY);
        strikes.push((task, now));
        strikes.len() >= STRIKES
    }

    /// Whether too many pieces of a host did not match: nothing is taken from it.
    pub(crate) fn is_struck_out(&self, host: &HostId) -> bool {
        let strikes = self.strikes.get(host);
        strikes.is_some_and(|strikes| strikes.len() >= STRIKES)
    }

    /// What a host sent in a task was right by the list that it has.
    pub(crate) fn pardon(&mut self, host: &HostId, task: &TaskId) {
        if let Some(strikes) = self.strikes.get_mut(host) {
            strikes.retain(|(of, _)| of != task);
        }
    }

    /// What did not match in a task is settled, or was checked against a false list.
    pub(crate) fn settle(&mut self, task: &TaskId) {
        for strikes in self.strikes.values_mut() {
            strikes.retain(|(of, _)| of != task);
        }
        self.strikes.retain(|_, strikes| !strikes.is_empty());
    }

    /// A host gave nothing of what it owed. Says whether that was once too often: what several tasks
    /// see within `once` is one pause.
    pub(crate) fn note_stall(&mut self, host: &HostId, once: Duration, now: Instant) -> bool {
        let first = Stalls {
            count: 0,
            since: now,
            last: now,
        };
        let stalls = self.stalls.entry(host.clone()).or_insert(first);
        if now >= stalls.since + STALL_MEMORY {
            (stalls.count, stalls.since) = (0, now);
        }
        if stalls.count == 0 || now >= stalls.last + once {
            stalls.count += 1;
            stalls.last = now;
        }
        stalls.count >= STALLS
    }

    /// So many bytes that were asked of a host are not wanted any more, but may be on their way.
    pub(crate) fn forgo(&mut self, host: &HostId, bytes: u64) {
        if bytes > 0 {
            let forgone = self.forgone.entry(host.clone()).or_default();
            *forgone = (*forgone + bytes).min(MOST_FORGONE);
        }
    }

    /// Bytes came that are not on order: says what they cost, which is nothing if they were.
    pub(crate) fn weigh(&mut self, host: &HostId, bytes: u32) -> Worth {
        let forgone = self.forgone.get_mut(host);
        match forgone.and_then(|left| Some((left.checked_sub(bytes.into())?, left))) {
            Some((rest, left)) => {
                *left = rest;
                Worth::Something
            }
            None => Worth::Nothing(Price::Bytes(bytes)),
        }
    }

    /// The connection is gone, and what was on its way on it.
    pub(crate) fn disconnect(&mut self, host: &HostId) {
        self.forgone.remove(host);
    }

    /// The host is shut out: it begins afresh when it comes back.
    pub(crate) fn forget(&mut self, host: &HostId) {
        self.spent.remove(host);
        self.strikes.remove(host);
        self.stalls.remove(host);
        self.forgone.remove(host);
    }

    /// Forgets what is forgiven.
    pub(crate) fn sweep(&mut self, now: Instant) {
        let over = Duration::from_secs_f64(BURST / PER_SECOND);
        self.spent.retain(|_, (_, at)| now < *at + over);
        self.stalls
            .retain(|_, stalls| now < stalls.since + STALL_MEMORY);
        for strikes in self.strikes.values_mut() {
            strikes.retain(|(_, at)| now < *at + STRIKE_MEMORY);
        }
        self.strikes.retain(|_, strikes| !strikes.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    #[test]
    fn a_flood_is_too_much_soon_and_a_trickle_never() {
        let (mut patience, mut now) = (Patience::default(), sample::start());
        let (flood, trickle) = (sample::host("flood"), sample::host("trickle"));
        let asked = (0..).find(|_| patience.charge(&flood, Price::Word, now));
        assert_eq!(asked, Some(BURST as u32));
        for _ in 0..100_000 {
            now += Duration::from_millis(1);
            assert!(!patience.charge(&trickle, Price::Word, now));
        }
        patience.sweep(now + Duration::from_secs(60));
        assert!(patience.spent.is_empty());
    }

    #[test]
    fn what_was_checked_against_a_false_list_counts_against_nobody() {
        let (mut patience, host) = (Patience::default(), sample::host("a"));
        let task = |n: u8| TaskId::Blob(hawker_model::Digest::from_bytes([n; 32]));
        let now = sample::start();
        assert!(!patience.strike(&host, task(1), now));
        assert!(!patience.strike(&host, task(2), now));
        patience.settle(&task(1));
        assert!(!patience.strike(&host, task(3), now));
        assert!(patience.strike(&host, task(3), now));
    }

    #[test]
    fn what_was_never_settled_is_forgotten_in_time() {
        let (mut patience, host) = (Patience::default(), sample::host("a"));
        let mut now = sample::start();
        for n in 0..9 {
            let task = TaskId::Blob(hawker_model::Digest::from_bytes([n; 32]));
            assert!(!patience.strike(&host, task, now));
            now += STRIKE_MEMORY / 2;
        }
        patience.sweep(now + STRIKE_MEMORY);
        assert!(patience.strikes.is_empty());
    }

    #[test]
    fn who_stalls_again_and_again_is_not_waited_for() {
        let (mut patience, mut now) = (Patience::default(), sample::start());
        let (host, once) = (sample::host("a"), Duration::from_secs(5));
        assert!(!patience.note_stall(&host, once, now));
        now += once;
        assert!(!patience.note_stall(&host, once, now));
        now += once;
        assert!(patience.note_stall(&host, once, now));
        let later = now + STALL_MEMORY;
        assert!(!patience.note_stall(&host, once, later));
    }

    #[test]
    fn what_several_tasks_see_of_one_pause_is_one_stall() {
        let (mut patience, now) = (Patience::default(), sample::start());
        let (host, once) = (sample::host("a"), Duration::from_secs(5));
        let later = |millis| now + Duration::from_millis(millis);
        let pauses = (0..9).map(|task| patience.note_stall(&host, once, later(task * 500)));
        assert_eq!(pauses.filter(|aside| *aside).count(), 0);
        assert!(!patience.note_stall(&host, once, later(5000)));
        assert!(patience.note_stall(&host, once, later(10_000)));
    }

    #[test]
    fn what_was_asked_for_and_taken_back_may_come_once() {
        let (mut patience, host) = (Patience::default(), sample::host("a"));
        patience.forgo(&host, 150);
        assert_eq!(patience.weigh(&host, 100), Worth::Something);
        let costs = Worth::Nothing(Price::Bytes(100));
        assert_eq!(patience.weigh(&host, 100), costs);
        patience.forgo(&host, u64::from(u32::MAX));
        assert_eq!(patience.forgone.get(&host), Some(&MOST_FORGONE));
        patience.disconnect(&host);
        assert_eq!(patience.weigh(&host, 100), costs);
    }
}
