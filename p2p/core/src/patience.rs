//! What a host may cost us for nothing: so much at once, and so much for ever.
//!
//! Every message that brings neither side forward has a price. What honest hosts say in vain, because
//! words cross on the way, is far below what is forgiven; who floods is found out after some
//! milliseconds of work.

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

/// What a message that was of no use costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Price {
    /// Read and forgotten.
    Word = 1,
    /// Looked up, or answered.
    Answer = 4,
    /// A piece's bytes.
    Piece = 8,
    /// A signature was checked, a line was logged.
    Work = 64,
}

/// What each host did lately that was of no use, or that is in doubt.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    spent: BTreeMap<HostId, (f64, Instant)>,
    strikes: BTreeMap<HostId, Vec<(TaskId, Instant)>>,
    stalls: BTreeMap<HostId, (u32, Instant)>,
}

impl Patience {
    /// Charges a host; says whether that was too much.
    pub(crate) fn charge(&mut self, host: &HostId, price: Price, now: Instant) -> bool {
        let price = f64::from(price as u16);
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

    /// What did not match in a task is settled, or was checked against a false list.
    pub(crate) fn settle(&mut self, task: &TaskId) {
        for strikes in self.strikes.values_mut() {
            strikes.retain(|(of, _)| of != task);
        }
        self.strikes.retain(|_, strikes| !strikes.is_empty());
    }

    /// A host gave nothing of what it owed. Says whether that was once too often.
    pub(crate) fn note_stall(&mut self, host: &HostId, now: Instant) -> bool {
        let (count, since) = self.stalls.entry(host.clone()).or_insert((0, now));
        if now >= *since + STALL_MEMORY {
            (*count, *since) = (0, now);
        }
        *count += 1;
        *count >= STALLS
    }

    /// The host is shut out: it begins afresh when it comes back.
    pub(crate) fn forget(&mut self, host: &HostId) {
        self.spent.remove(host);
        self.strikes.remove(host);
        self.stalls.remove(host);
    }

    /// Forgets what is forgiven.
    pub(crate) fn sweep(&mut self, now: Instant) {
        let over = Duration::from_secs_f64(BURST / PER_SECOND);
        self.spent.retain(|_, (_, at)| now < *at + over);
        self.stalls
            .retain(|_, (_, since)| now < *since + STALL_MEMORY);
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
        let (mut patience, now) = (Patience::default(), sample::start());
        let host = sample::host("a");
        assert!(!patience.note_stall(&host, now));
        assert!(!patience.note_stall(&host, now));
        assert!(patience.note_stall(&host, now));
        let later = now + STALL_MEMORY;
        assert!(!patience.note_stall(&host, later));
    }
}
