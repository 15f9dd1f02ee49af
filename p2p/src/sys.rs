//! System calls that neither std nor nix has as safe functions. See ARCHITECTURE.md: the crate's one
//! file with unsafe code, each block with its proof.
#![allow(unsafe_code, reason = "the one file for it")]

use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd},
};

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

/// Reads from `offset` on what is in memory, without waiting for the disk: `WouldBlock` when nothing
/// is, `Unsupported` on file systems that cannot tell.
pub(crate) fn read_in_memory(file: &File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    let part = libc::iovec {
        iov_base: buf.as_mut_ptr().cast(),
        iov_len: buf.len(),
    };
    let offset = offset.cast_signed();
    // SAFETY: the kernel writes at most `iov_len` bytes at `iov_base`, which are `buf`, borrowed
    // mutably for the call; `part` is one whole value that outlives it; the descriptor is open.
    let read = unsafe {
        libc::preadv2(
            file.as_raw_fd(),
            &raw const part,
            1,
            offset,
            libc::RWF_NOWAIT,
        )
    };
    usize::try_from(read).map_err(|_| io::Error::last_os_error())
}

/// Sends at most `len` bytes of `file`, from `offset` on, without copying them here. `Ok(0)`: the
/// file ends before.
pub(crate) fn send_file(to: &impl AsFd, file: &File, offset: u64, len: usize) -> io::Result<usize> {
    let mut offset = offset.cast_signed();
    let to = to.as_fd().as_raw_fd();
    // SAFETY: the kernel reads and writes one `off_t` at the pointer, which is `offset`, alive and
    // ours during the call; both descriptors are open as long as the borrows last.
    let sent = unsafe { libc::sendfile(to, file.as_raw_fd(), &raw mut offset, len) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
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
