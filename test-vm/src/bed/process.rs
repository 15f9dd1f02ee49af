//! A daemon of a host: log, end, and what it used.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, ExitStatus},
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, SysconfVar, sysconf},
};

/// A running program of a host.
#[derive(Debug)]
pub struct Process {
    host: String,
    name: String,
    pid: i32,
    child: Mutex<Option<Child>>,
    log: PathBuf,
}

/// What a process has used since it started.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    /// User and system time in seconds, with that of the programs it has waited for.
    pub cpu_seconds: f64,
    /// Highest resident memory in bytes.
    pub peak_memory_len: u64,
    /// Resident memory now in bytes.
    pub memory_len: u64,
    /// Bytes that it has made the file system write; none where that is memory.
    pub written_len: u64,
}

impl Process {
    pub(super) fn new(host: &str, name: &str, child: Child, log: PathBuf) -> Self {
        let pid = child.id().cast_signed();
        let child = Mutex::new(Some(child));
        Self {
            host: host.to_owned(),
            name: name.to_owned(),
            pid,
            child,
            log,
        }
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Id as the machine sees it.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// All that it has printed.
    #[must_use]
    pub fn log_text(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The last lines of the log under a heading; empty when there is nothing to show.
    #[must_use]
    pub fn log_tail(&self, lines: usize) -> String {
        let text = self.log_text();
        let all: Vec<_> = text.lines().collect();
        if all.is_empty() {
            return String::new();
        }
        let tail = all[all.len().saturating_sub(lines)..].join("\n");
        format!("--- {} of {} ---\n{tail}\n", self.name, self.host)
    }

    #[must_use]
    pub fn is_running(&self) -> bool {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        child
            .as_mut()
            .is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// # Errors
    /// When the process has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        if !self.is_running() {
            bail!("{} of {} has ended", self.name, self.host);
        }
        kill(Pid::from_raw(self.pid), signal).context("failed to signal")
    }

    /// SIGKILL, and waits for the end. The programs that it started go on.
    pub fn kill(&self) {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mut child) = child.take() {
            child.kill().ok();
            child.wait().ok();
        }
    }

    /// SIGTERM, and waits for the end.
    ///
    /// # Errors
    /// When it has not ended at the limit.
    pub fn terminate(&self, limit: Duration) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        self.wait(limit)
    }

    /// # Errors
    /// When it has not ended at the limit.
    pub fn wait(&self, limit: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        let running = child
            .as_mut()
            .context("the process was ended by the testbed")?;
        loop {
            if let Some(status) = running.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("{} of {} still runs after {limit:?}", self.name, self.host);
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until `is_ready` holds; fails with the log when the process ends before.
    ///
    /// # Errors
    /// When the process ends or the limit passes.
    pub fn wait_until(&self, limit: Duration, is_ready: impl Fn() -> bool) -> Result<()> {
        let deadline = Instant::now() + limit;
        while !is_ready() {
            if !self.is_running() {
                bail!(
                    "{} of {} ended\n{}",
                    self.name,
                    self.host,
                    self.log_tail(30)
                );
            }
            if Instant::now() > deadline {
                let tail = self.log_tail(30);
                bail!(
                    "{} of {} was not ready in {limit:?}\n{tail}",
                    self.name,
                    self.host
                );
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// # Errors
    /// When the process has ended.
    pub fn usage(&self) -> Result<Usage> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid))?;
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let cpu_seconds = parse_cpu_seconds(&stat).context("unreadable stat")?;
        let kib = |key| parse_count(&status, key).unwrap_or_default();
        let (peak_memory_len, memory_len) = (kib("VmHWM:") * 1024, kib("VmRSS:") * 1024);
        let io = fs::read_to_string(format!("/proc/{}/io", self.pid))?;
        let count = |key| parse_count(&io, key).unwrap_or_default();
        // What was removed before it was written is told apart.
        let written_len = count("write_bytes:").saturating_sub(count("cancelled_write_bytes:"));
        Ok(Usage {
            cpu_seconds,
            peak_memory_len,
            memory_len,
            written_len,
        })
    }

    /// Lets the process run on after the testbed.
    pub(super) fn forget(&self) {
        self.child
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
    }
}

fn parse_cpu_seconds(stat: &str) -> Option<f64> {
    let (_, fields) = stat.rsplit_once(") ")?;
    let fields = fields.split(' ').skip(11).take(4);
    let times: Vec<f64> = fields.map(str::parse).collect::<Result<_, _>>().ok()?;
    let ticks = sysconf(SysconfVar::CLK_TCK).ok()??;
    (times.len() == 4).then(|| times.iter().sum::<f64>() / ticks as f64)
}

fn parse_count(status: &str, key: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_read_behind_a_name_with_blanks() {
        let stat = "7 (a b) c) S 1 7 7 0 -1 4194304 1 0 0 0 200 50 30 20 20 0 1 0 99 0 0";
        let ticks = sysconf(SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100);
        assert_eq!(parse_cpu_seconds(stat), Some(300.0 / ticks as f64));
    }

    #[test]
    fn memory_is_read_from_status() {
        let status = "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t 1024 kB\n";
        assert_eq!(parse_count(status, "VmHWM:"), Some(2048));
        assert_eq!(parse_count(status, "VmSwap:"), None);
    }
}
