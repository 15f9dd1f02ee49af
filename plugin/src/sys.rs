//! System calls that neither std nor nix has as safe functions, each block with its proof.
#![allow(unsafe_code, reason = "the file for it")]

use std::io;

use nix::libc;

/// Gives the calling thread this nice value; on Linux each thread has its own.
pub(crate) fn set_thread_nice(nice: i32) -> io::Result<()> {
    // SAFETY: takes three numbers; 0 is the calling thread.
    match unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
