//! What a bed leaves when even its init was killed: a directory and empty control groups.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{Run, run::base_dirs};

const RECORD: &str = "init.pid";

/// A bed that was found on the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    pub id: String,
    /// Its init still runs: a bed of another testbed process, or a kept one.
    pub is_running: bool,
    pub is_removed: bool,
}

/// Notes which process is the init, with its start time, since process ids are used again.
pub(super) fn record(dir: &Path, pid: i32) -> Result<()> {
    let start = start_time(pid).context("the bed's init died at once")?;
    let owner = std::process::id();
    let owner_start = start_time(owner.cast_signed()).unwrap_or_default();
    fs::write(
        dir.join(RECORD),
        format!("{pid} {start} {owner} {owner_start}\n"),
    )?;
    Ok(())
}

/// Removes what dead beds left behind; with `kept`, also ends beds whose testbed is gone but
/// which were kept on purpose. Beds of running testbeds are left alone.
///
/// # Errors
/// When the directory of the beds cannot be read.
pub fn clean(kept: bool) -> Result<Vec<Leftover>> {
    let mut found = Vec::new();
    let bases = base_dirs()
        .into_iter()
        .filter_map(|base| fs::read_dir(base).ok());
    for entry in bases.flatten() {
        let entry = entry.context("cannot list the beds")?;
        let Ok(id) = entry.file_name().into_string() else {
            continue;
        };
        let record = Record::read(&entry.path());
        let is_running = record.as_ref().is_some_and(Record::is_init_running);
        let is_owned = record.as_ref().is_some_and(Record::is_owner_running);
        let is_removed = !is_running || (kept && !is_owned);
        if is_removed {
            if let Some(record) = record.filter(|_| is_running) {
                record.end();
            }
            remove(&entry.path(), &id);
        }
        found.push(Leftover {
            id,
            is_running,
            is_removed,
        });
    }
    Ok(found)
}

/// Removes the directory and the control groups of a bed without processes.
pub(super) fn remove(dir: &Path, id: &str) {
    for _ in 0..50 {
        if fs::remove_dir_all(dir).is_ok() || !dir.exists() {
            break;
        }
        thread::sleep(Duration::from_millis(100));
    }
    for group in cgroup_roots()
        .into_iter()
        .map(|root| root.join(Run::cgroup(id)))
    {
        remove_cgroup(&group);
    }
}

/// The mount points of the control group hierarchies: one, or one per controller.
fn cgroup_roots() -> Vec<PathBuf> {
    let base = PathBuf::from("/sys/fs/cgroup");
    let children = fs::read_dir(&base).into_iter().flatten().flatten();
    children
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .chain([base])
        .collect()
}

/// A control group is removed by removing its directories, innermost first.
fn remove_cgroup(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_cgroup(&entry.path());
        }
    }
    // A group that does not exist, or is still in use, is nobody's fault here.
    fs::remove_dir(group).ok();
}

struct Record {
    pid: i32,
    start: u64,
    owner: i32,
    owner_start: u64,
}

impl Record {
    fn read(dir: &Path) -> Option<Self> {
        let text = fs::read_to_string(dir.join(RECORD)).ok()?;
        let mut words = text.split_whitespace();
        Some(Self {
            pid: words.next()?.parse().ok()?,
            start: words.next()?.parse().ok()?,
            owner: words.next()?.parse().ok()?,
            owner_start: words.next()?.parse().ok()?,
        })
    }

    fn is_init_running(&self) -> bool {
        start_time(self.pid) == Some(self.start)
    }

    fn is_owner_running(&self) -> bool {
        start_time(self.owner) == Some(self.owner_start)
    }

    fn end(&self) {
        // Between check and kill the process could end; its id is not used again that quickly.
        kill(Pid::from_raw(self.pid), Signal::SIGKILL).ok();
        while self.is_init_running() {
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Start time of a process that is not a zombie, in ticks since boot.
fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ');
    let state = fields.next()?;
    (state != "Z" && state != "X").then(|| fields.nth(18)?.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_start_time_is_known_and_stays() {
        let me = std::process::id().cast_signed();
        assert!(start_time(me).is_some());
        assert_eq!(start_time(me), start_time(me));
    }

    #[test]
    fn unrecorded_process_counts_as_gone() {
        let record = Record {
            pid: 1,
            start: u64::MAX,
            owner: 1,
            owner_start: u64::MAX,
        };
        assert!(!record.is_init_running() && !record.is_owner_running());
    }
}
