//! System calls that nix has no safe form of. The only file of this crate with `unsafe`.
#![allow(
    unsafe_code,
    reason = "an ioctl of the tun device, extended attributes, a child's signals, priorities"
)]

use std::{
    ffi::CString,
    fs::{File, OpenOptions},
    io,
    os::{
        fd::AsRawFd,
        unix::{ffi::OsStrExt, process::CommandExt},
    },
    path::Path,
    process::Command,
};

use anyhow::{Context, ensure};
use nix::{libc, sys::signal::SigSet};

/// Has the calling thread come before others, as hawkerd's thread that answers containerd does; those
/// that it starts do not.
pub(crate) fn take_precedence() -> io::Result<()> {
    let attributes = libc::sched_attr {
        size: size_of::<libc::sched_attr>() as u32,
        sched_policy: libc::SCHED_OTHER as u32,
        sched_flags: libc::SCHED_FLAG_RESET_ON_FORK as u64,
        sched_nice: -10,
        sched_priority: 0,
        // With a slice of 0.1 ms it need not wait until others have had theirs.
        sched_runtime: 100_000,
        sched_deadline: 0,
        sched_period: 0,
    };
    let (attributes, this_thread, no_flags) = (std::ptr::from_ref(&attributes), 0, 0);
    // SAFETY: reads `size` bytes of a structure that lives until it returns, and nothing else.
    match unsafe { libc::syscall(libc::SYS_sched_setattr, this_thread, attributes, no_flags) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// `struct ifreq` as TUNSETIFF reads it: a name and flags in a union of 24 bytes.
#[repr(C)]
struct TunRequest {
    name: [u8; 16],
    flags: i16,
    rest: [u8; 22],
}

const IFF_TAP: i16 = 0x0002;
const IFF_NO_PI: i16 = 0x1000;

nix::ioctl_readwrite_bad!(tun_set_iff, 0x4004_54ca, TunRequest);

/// Makes a tap device of that name in the network namespace of the calling thread. It lives as
/// long as the file. Each read is one Ethernet frame, each write as well.
pub(crate) fn open_tap(name: &str) -> io::Result<File> {
    let mut request = TunRequest {
        name: [0; 16],
        flags: IFF_TAP | IFF_NO_PI,
        rest: [0; 22],
    };
    if name.len() >= request.name.len() {
        return Err(io::Error::other(format!(
            "device name {name:?} is too long"
        )));
    }
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun")?;
    // SAFETY: TUNSETIFF reads and writes one `struct ifreq` (40 bytes) at the address, which is
    // that of `request`, as large as that and alive during the call; the descriptor is open.
    unsafe { tun_set_iff(file.as_raw_fd(), &raw mut request) }.map_err(io::Error::from)?;
    Ok(file)
}

/// Lets a program get every signal, whatever the testbed itself has blocked.
pub(crate) fn unblock_signals(command: &mut Command) -> &mut Command {
    let unblock = || SigSet::empty().thread_set_mask().map_err(io::Error::from);
    // SAFETY: between fork and exec the closure makes one system call, and allocates nothing.
    unsafe { command.pre_exec(unblock) }
}

/// # Errors
/// When the process is not root: namespaces, mounts and links need it.
pub fn require_root() -> anyhow::Result<()> {
    let euid = nix::unistd::geteuid();
    ensure!(
        euid.is_root(),
        "the testbed makes namespaces and mounts: run it as root"
    );
    std::fs::metadata("/proc/self/ns/net").context("this kernel has no network namespaces")?;
    Ok(())
}

/// Names and values of the extended attributes of a file itself, sorted.
pub(crate) fn attributes(path: &Path) -> io::Result<Vec<(String, Vec<u8>)>> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: the path ends with a zero byte; the kernel writes at most `len` bytes to `buffer`,
    // which has as many, or none when it is null and `len` is 0.
    let list = grow(|buffer, len| unsafe { libc::llistxattr(path.as_ptr(), buffer.cast(), len) })?;
    let mut attributes = Vec::new();
    for name in list
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
    {
        let key = CString::new(name)?;
        // SAFETY: as above, and the name ends with a zero byte as well.
        let value = grow(|buffer, len| unsafe {
            libc::lgetxattr(path.as_ptr(), key.as_ptr(), buffer.cast(), len)
        })?;
        attributes.push((String::from_utf8_lossy(name).into_owned(), value));
    }
    attributes.sort();
    Ok(attributes)
}

/// Calls first for the length, then with a buffer of that length.
fn grow(call: impl Fn(*mut u8, usize) -> isize) -> io::Result<Vec<u8>> {
    let checked = |len: isize| usize::try_from(len).map_err(|_| io::Error::last_os_error());
    let mut buffer = vec![0; checked(call(std::ptr::null_mut(), 0))?];
    if !buffer.is_empty() {
        let len = checked(call(buffer.as_mut_ptr(), buffer.len()))?;
        buffer.truncate(len);
    }
    Ok(buffer)
}
