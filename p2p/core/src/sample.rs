//! Values for tests.

use std::time::Instant;

use hawker_model::{Digest, HostId, TaskId};

pub(crate) fn host(name: &str) -> HostId {
    HostId::parse(name).unwrap()
}

pub(crate) fn task() -> TaskId {
    TaskId::Blob(Digest::of(b"sample"))
}

/// Two tasks.
pub(crate) fn tasks() -> [TaskId; 2] {
    [b"one", b"two"].map(|name| TaskId::Blob(Digest::of(name)))
}

#[allow(clippy::disallowed_methods, reason = "an Instant has no other origin")]
pub(crate) fn start() -> Instant {
    Instant::now()
}
