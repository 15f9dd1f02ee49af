//! Limits and times of the tracker.

use std::time::Duration;

/// Settings of a [`crate::Tracker`].
#[derive(Clone, Debug)]
pub struct TrackerConfig {
    /// How many neighbours a host has on average. At first it is named as many in a small swarm, half
    /// of them in a large one, and a quarter beside the fetcher.
    pub neighbours: usize,
    /// Neighbours of one host and task beyond which it is named only where nobody else is left.
    pub max_neighbours: usize,
    /// Hosts that are sent straight to the fetcher of a task; the others hang on those.
    pub fetcher_children: usize,
    /// After the start: for so long hosts are still announcing what they have.
    pub settle_time: Duration,
    /// The longest that a lookup waits for that. Hosts fall back to the origin after 500 ms.
    pub lookup_hold: Duration,
    /// So long after its lookup a host that has fewer than `neighbours` by then is given the rest. If
    /// that came sooner, hosts that start one after another would only know those that started with
    /// them, who have as little.
    pub make_up_after: Duration,
    /// An elected fetcher that gets nothing for so long is replaced when somebody complains.
    pub fetcher_patience: Duration,
    /// A host that says nothing for so long is dead.
    pub silent_after: Duration,
    /// Reports by distinct hosts that isolate a host.
    pub reports_to_isolate: usize,
    /// How long reports count.
    pub report_memory: Duration,
    /// How long a first isolation lasts; it doubles each time, up to a day.
    pub isolation: Duration,
}

impl Default for TrackerConfig {
    fn default() -> Self {
        Self {
            neighbours: 10,
            max_neighbours: 24,
            fetcher_children: 32,
            settle_time: Duration::from_secs(2),
            lookup_hold: Duration::from_millis(300),
            make_up_after: Duration::from_millis(800),
            fetcher_patience: Duration::from_secs(3),
            silent_after: Duration::from_secs(10),
            reports_to_isolate: 2,
            report_memory: Duration::from_secs(120),
            isolation: Duration::from_secs(300),
        }
    }
}
