//! Sockets that systemd listens on and passes (sd_listen_fds(3)).

use std::{
    collections::BTreeSet,
    io,
    os::{
        fd::{FromRawFd as _, RawFd},
        unix::net::UnixListener as StdListener,
    },
    path::Path,
    sync::{Mutex, PoisonError},
};

use nix::sys::socket::{UnixAddr, getsockname};
use tokio::net::UnixListener;

/// What has been taken: a descriptor has one owner.
static TAKEN: Mutex<BTreeSet<RawFd>> = Mutex::new(BTreeSet::new());

/// The passed listener that is bound to `path`; `None` when systemd passes none such.
pub(super) fn take(path: &Path) -> io::Result<Option<UnixListener>> {
    for fd in sd_notify::listen_fds()? {
        let bound = getsockname::<UnixAddr>(fd);
        if !bound.is_ok_and(|address| address.path() == Some(path)) {
            continue;
        }
        let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        if !taken.insert(fd) {
            return Err(io::Error::other("it has been taken before"));
        }
        let listener = own(fd);
        listener.set_nonblocking(true)?;
        return UnixListener::from_std(listener).map(Some);
    }
    Ok(None)
}

#[allow(unsafe_code, reason = "a descriptor arrives as a number")]
fn own(fd: RawFd) -> StdListener {
    // SAFETY: systemd opened `fd` for this process (`listen_fds` checks LISTEN_PID), nothing else
    // here uses it, and `TAKEN` lets it through once.
    unsafe { StdListener::from_raw_fd(fd) }
}
