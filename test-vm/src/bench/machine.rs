//! What the whole machine does meanwhile: a benchmark on a busy machine measures the machine.

use std::fs;

use anyhow::{Context, Result};

/// Under this share of idle processor time a run says nothing about Hawker.
pub(super) const MIN_IDLE: f64 = 0.15;

/// A reading of the processors' time since boot.
#[derive(Debug, Clone, Copy)]
pub(super) struct Processors {
    idle: u64,
    total: u64,
}

impl Processors {
    pub(super) fn read() -> Result<Self> {
        let text = fs::read_to_string("/proc/stat")?;
        Self::parse(&text).context("unreadable /proc/stat")
    }

    fn parse(text: &str) -> Option<Self> {
        let fields = text
            .lines()
            .next()?
            .strip_prefix("cpu ")?
            .split_whitespace();
        let fields: Vec<u64> = fields.map(str::parse).collect::<Result<_, _>>().ok()?;
        // user nice system idle iowait irq softirq steal; guest is part of user.
        let idle = fields.get(3)? + fields.get(4)?;
        Some(Self {
            idle,
            total: fields.iter().take(8).sum(),
        })
    }

    /// Share of the time since an earlier reading in which the processors were idle.
    pub(super) fn idle_since(self, earlier: Self) -> f64 {
        let total = self.total.saturating_sub(earlier.total).max(1);
        self.idle.saturating_sub(earlier.idle) as f64 / total as f64
    }
}

/// Touches so much memory, at most half of what is free, and gives it back: the kernel hands it out
/// again next. A virtual machine gets memory that it has not used lately from its host page by page,
/// at a tenth of the speed of writing to it, and a run would measure that.
pub(super) fn warm_memory(len: u64) -> Result<()> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let free = text.lines().find_map(|line| {
        let kib = line.strip_prefix("MemFree:")?.strip_suffix("kB")?;
        kib.trim().parse::<u64>().ok()
    });
    let most = free.context("unreadable /proc/meminfo")? * 1024 / 2;
    let len = usize::try_from(len.min(most)).context("more memory than an address reaches")?;
    std::hint::black_box(vec![1_u8; len]);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_share_is_that_between_two_readings() {
        let at = |text| Processors::parse(text);
        let earlier = at("cpu  100 0 100 100 0 0 0 0 0 0\ncpu0 1");
        let later = at("cpu  150 0 120 120 10 0 0 0 50 0\ncpu0 1");
        let share = later
            .zip(earlier)
            .map(|(later, earlier)| later.idle_since(earlier));
        assert_eq!(share, Some(0.3));
    }
}
