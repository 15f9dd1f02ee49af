//! Entering a host's namespaces: one thread steps in, does its work, and ends.

use std::{fs::File, thread};

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns, unshare};

/// Descriptors of the namespaces of one host.
#[derive(Debug)]
pub(super) struct Namespaces {
    pid: File,
    net: File,
    uts: File,
    mount: File,
}

impl Namespaces {
    /// Those of process `pid`, and the PID namespace of the bed for new processes.
    pub(super) fn of(pid: i32, bed: &File) -> Result<Self> {
        let open = |kind: &str| {
            let path = format!("/proc/{pid}/ns/{kind}");
            File::open(&path).with_context(|| format!("cannot open {path}"))
        };
        let pid = bed.try_clone()?;
        Ok(Self {
            pid,
            net: open("net")?,
            uts: open("uts")?,
            mount: open("mnt")?,
        })
    }

    /// Runs `work` on a thread that lives in these namespaces: sockets that it opens and paths
    /// that it names are the host's.
    pub(super) fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        on_thread(|| {
            self.join()?;
            Ok(work())
        })
    }

    /// The same for work that starts a process, which is then one of the bed's. Such a thread
    /// cannot start threads: those would be in two PID namespaces at once.
    pub(super) fn enter_to_start<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        on_thread(|| {
            setns(&self.pid, CloneFlags::CLONE_NEWPID).context("failed to enter the bed")?;
            self.join()?;
            Ok(work())
        })
    }

    fn join(&self) -> Result<()> {
        // A thread that shares its working directory with others may not change its mounts.
        unshare(CloneFlags::CLONE_FS).context("failed to unshare the working directory")?;
        setns(&self.net, CloneFlags::CLONE_NEWNET).context("failed to enter the network")?;
        setns(&self.uts, CloneFlags::CLONE_NEWUTS).context("failed to enter the host name")?;
        setns(&self.mount, CloneFlags::CLONE_NEWNS).context("failed to enter the mounts")?;
        Ok(())
    }
}

fn on_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let joined = thread::scope(|scope| scope.spawn(work).join());
    joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
