//! What several daemons logged since a moment, in the order of time.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Lines of logs.
#[derive(Debug)]
pub(super) struct Timeline {
    /// Since midnight.
    began: Duration,
    lines: Vec<(Duration, String)>,
}

impl Timeline {
    /// Of what is logged from now on.
    pub(super) fn begin() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        Self::since(now.unwrap_or_default())
    }

    fn since(epoch: Duration) -> Self {
        let seconds = epoch.as_secs() % DAY.as_secs();
        Self {
            began: Duration::new(seconds, epoch.subsec_nanos()),
            lines: Vec::new(),
        }
    }

    /// Adds a daemon's lines.
    pub(super) fn add(&mut self, name: &str, log: &str) {
        for line in log.lines() {
            let Some((stamp, text)) = line.split_once(' ') else {
                continue;
            };
            let since = time_of_day(stamp).and_then(|at| at.checked_sub(self.began));
            if let Some(since) = since {
                let text = format!("{name:10} {}", text.trim());
                self.lines.push((since, text));
            }
        }
        self.lines.sort();
    }

    pub(super) fn render(&self) -> String {
        let line =
            |(since, text): &(Duration, String)| format!("{:8} us  {text}\n", since.as_micros());
        self.lines.iter().map(line).collect()
    }
}

/// Of `2026-11-21T23:31:03.123456Z`.
fn time_of_day(stamp: &str) -> Option<Duration> {
    let (_, time) = stamp.strip_suffix('Z')?.split_once('T')?;
    let mut parts = time.split(':');
    let hours: u64 = parts.next()?.parse().ok()?;
    let minutes: u64 = parts.next()?.parse().ok()?;
    let seconds: f64 = parts.next()?.parse().ok()?;
    let whole = Duration::from_secs(hours * 3600 + minutes * 60);
    Some(whole + Duration::try_from_secs_f64(seconds).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_all_are_in_the_order_of_time_and_older_ones_left_out() {
        let mut timeline = Timeline::since(DAY * 3 + Duration::from_secs(3600));
        timeline.add(
            "a",
            "2026-11-21T00:59:59.9Z  old\n2026-11-21T01:00:00.000300Z  INFO x\nno stamp",
        );
        timeline.add("b", "2026-11-21T01:00:00.000200Z DEBUG y\n");
        let text = timeline.render();
        let lines: Vec<_> = text.lines().map(str::trim).collect();
        assert_eq!(
            lines,
            ["200 us  b          DEBUG y", "300 us  a          INFO x"]
        );
    }
}
