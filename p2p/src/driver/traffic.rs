//! What the network carries now, beside its limits.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use hawker_model::TaskId;

use super::Driver;
use crate::{
    counters::BytesBySource,
    status::{Flow, Traffic},
};

/// The traffic as last measured, for whoever asks. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct TrafficBoard(Arc<Mutex<Traffic>>);

impl TrafficBoard {
    pub(crate) fn now(&self) -> Traffic {
        // It is replaced whole.
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, traffic: Traffic) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = traffic;
    }
}

/// Compares counters with what they said at the look before.
#[derive(Debug)]
pub(super) struct TrafficMeter {
    looked_at: Instant,
    total: BytesBySource,
    tasks: BTreeMap<TaskId, BytesBySource>,
    board: TrafficBoard,
}

impl TrafficMeter {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            looked_at: now,
            total: BytesBySource::default(),
            tasks: BTreeMap::new(),
            board: TrafficBoard::default(),
        }
    }

    pub(super) fn board(&self) -> TrafficBoard {
        self.board.clone()
    }

    fn look(
        &mut self,
        total: BytesBySource,
        tasks: impl Iterator<Item = (TaskId, BytesBySource)>,
        now: Instant,
    ) {
        let elapsed = now.saturating_duration_since(self.looked_at);
        let mut traffic = Traffic::default();
        let moved = moved(total, self.total);
        for (flow, bytes) in flows(&mut traffic).into_iter().zip(moved) {
            flow.all = per_second(bytes, elapsed);
        }
        let before = std::mem::take(&mut self.tasks);
        for (task, counted) in tasks {
            // What came anew since has moved all it has; what began afresh counts from its start.
            let known = before.get(&task).copied().unwrap_or_default();
            let moved = self::moved(counted, known);
            for (flow, bytes) in flows(&mut traffic).into_iter().zip(moved) {
                flow.busiest_task = flow.busiest_task.max(per_second(bytes, elapsed));
            }
            self.tasks.insert(task, counted);
        }
        (self.looked_at, self.total) = (now, total);
        self.board.set(traffic);
    }
}

impl Driver {
    pub(super) fn measure_traffic(&mut self, now: Instant) {
        let entries = self.entries.iter();
        let tasks = entries.map(|(task, entry)| (*task, entry.state.counters.snapshot()));
        self.traffic.look(self.counters.snapshot(), tasks, now);
    }
}

fn flows(traffic: &mut Traffic) -> [&mut Flow; 3] {
    let Traffic {
        download,
        upload,
        back_to_source,
    } = traffic;
    [download, upload, back_to_source]
}

/// Bytes that came from hosts, went to hosts, and came from origins.
fn moved(now: BytesBySource, before: BytesBySource) -> [u64; 3] {
    let came = |it: BytesBySource| it.parent + it.seed + it.rejected;
    let pairs = [
        (came(now), came(before)),
        (now.sent, before.sent),
        (now.origin, before.origin),
    ];
    pairs.map(|(now, before)| now.checked_sub(before).unwrap_or(now))
}

fn per_second(bytes: u64, elapsed: Duration) -> u64 {
    let micros = elapsed.as_micros().max(1);
    u64::try_from(u128::from(bytes) * 1_000_000 / micros).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use hawker_model::Digest;

    use super::*;

    fn bytes(parent: u64, sent: u64) -> BytesBySource {
        BytesBySource {
            parent,
            sent,
            ..BytesBySource::default()
        }
    }

    #[test]
    fn traffic_is_what_moved_since_the_look_before_and_that_of_the_busiest_task() {
        let [a, b] = [b"a", b"b"].map(|name| TaskId::Blob(Digest::of(name)));
        let start = Instant::now();
        let mut meter = TrafficMeter::new(start);
        let board = meter.board();
        let at = |seconds| start + Duration::from_secs(seconds);
        meter.look(bytes(1000, 0), [(a, bytes(1000, 0))].into_iter(), at(2));
        assert_eq!(
            board.now().download,
            Flow {
                all: 500,
                busiest_task: 500
            }
        );
        let tasks = [(a, bytes(1400, 0)), (b, bytes(600, 100))];
        meter.look(bytes(2000, 100), tasks.into_iter(), at(4));
        assert_eq!(
            board.now().download,
            Flow {
                all: 500,
                busiest_task: 300
            }
        );
        assert_eq!(
            board.now().upload,
            Flow {
                all: 50,
                busiest_task: 50
            }
        );
        meter.look(bytes(2000, 100), [].into_iter(), at(6));
        assert_eq!(board.now(), Traffic::default());
    }

    #[test]
    fn a_task_that_began_afresh_counts_from_its_start() {
        let (task, start) = (TaskId::Blob(Digest::of(b"a")), Instant::now());
        let mut meter = TrafficMeter::new(start);
        let board = meter.board();
        let second = Duration::from_secs(1);
        meter.look(
            bytes(900, 0),
            [(task, bytes(900, 0))].into_iter(),
            start + second,
        );
        meter.look(
            bytes(1000, 0),
            [(task, bytes(100, 0))].into_iter(),
            start + 2 * second,
        );
        assert_eq!(
            board.now().download,
            Flow {
                all: 100,
                busiest_task: 100
            }
        );
    }
}
