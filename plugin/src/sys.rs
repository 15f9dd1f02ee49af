//! System calls that neither std nor nix has as safe functions, each block with its proof.
#![allow(unsafe_code, reason = "the file for it")]

use std::{io, ptr, time::Duration};

use nix::libc;

/// How a thread comes before others.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Precedence {
    /// Less is sooner, and more of a processor. Below zero with a right only.
    pub(crate) nice: i32,
    /// So long it runs before the others have their turn. Whoever has a shorter slice than the one
    /// that runs has its turn at once (Linux 6.12 and later; before, it means nothing).
    pub(crate) slice: Duration,
}

impl Precedence {
    /// Gives it to the calling thread; those that it starts are like all others. As much of it as
    /// the system allows.
    ///
    /// # Errors
    /// When not all of it is allowed.
    pub(crate) fn take(self) -> io::Result<()> {
        let nice = set_nice(self.nice);
        // Who has no right to a nice value may have a slice all the same.
        let slice = set_slice(self.slice, if nice.is_ok() { self.nice } else { 0 });
        nice.and(slice)
    }
}

fn set_nice(nice: i32) -> io::Result<()> {
    // SAFETY: takes three numbers; 0 is the calling thread.
    match unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn set_slice(slice: Duration, nice: i32) -> io::Result<()> {
    let attributes = libc::sched_attr {
        size: size_of::<libc::sched_attr>() as u32,
        sched_policy: libc::SCHED_OTHER as u32,
        sched_flags: libc::SCHED_FLAG_RESET_ON_FORK as u64,
        sched_nice: nice,
        sched_priority: 0,
        sched_runtime: u64::try_from(slice.as_nanos()).unwrap_or(u64::MAX),
        sched_deadline: 0,
        sched_period: 0,
    };
    let (attributes, this_thread, no_flags) = (ptr::from_ref(&attributes), 0, 0);
    // SAFETY: reads `size` bytes of a structure that lives until it returns, and nothing else.
    match unsafe { libc::syscall(libc::SYS_sched_setattr, this_thread, attributes, no_flags) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
