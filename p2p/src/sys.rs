//! System calls that neither std nor nix has as safe functions. See ARCHITECTURE.md: the crate's one
//! file with unsafe code, each block with its proof.
#![allow(unsafe_code, reason = "the one file for it")]

use std::{fs::File, io, os::fd::AsRawFd};

use nix::libc;

mod ioctl {
    // _IOW(0x94, 9, int): linux/fs.h, FICLONE.
    nix::ioctl_write_int!(ficlone, 0x94, 9);
}

/// The least of the idle class: linux/ioprio.h.
const IOPRIO_CLASS_IDLE: libc::c_int = 3 << 13;
const IOPRIO_WHO_PROCESS: libc::c_int = 1;

/// Lets `to`, which is empty, share the bytes of `from` until one of them is written to. Only file
/// systems with shared extents can (XFS, Btrfs, bcachefs), within themselves.
pub(crate) fn clone_file(from: &File, to: &File) -> io::Result<()> {
    // SAFETY: FICLONE takes a descriptor as its argument and touches no memory of ours; both are
    // open as long as the borrows last.
    unsafe { ioctl::ficlone(to.as_raw_fd(), from.as_raw_fd() as libc::c_ulong) }?;
    Ok(())
}

/// From now on the calling thread gets the processor and the disk only when nobody else wants them,
/// as far as the system allows.
pub(crate) fn be_idle() {
    let param = libc::sched_param { sched_priority: 0 };
    // SAFETY: 0 is the calling thread, and `param` is a whole value that outlives the call.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const param) };
    // SAFETY: takes three numbers; 0 is the calling thread.
    unsafe {
        libc::syscall(
            libc::SYS_ioprio_set,
            IOPRIO_WHO_PROCESS,
            0,
            IOPRIO_CLASS_IDLE,
        )
    };
}
