//! What the tracker asks of its shell.

use std::{net::SocketAddr, sync::Arc};

use hawker_model::{HostId, Role, TaskId};

/// Something the shell is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Tell `to` about neighbours, in addition to those it knows. The list may be empty: then only
    /// the duty counts.
    Parents {
        to: HostId,
        task: TaskId,
        parents: Vec<Peer>,
        duty: Duty,
        /// Who reads the origin; `None` while complete copies make that unnecessary.
        fetcher: Option<HostId>,
    },
    /// Tell `to` which seeds live and can be reached. Replaces what it was told before.
    Seeds { to: HostId, seeds: Arc<[Peer]> },
    /// Tell `to` which hosts are isolated for lies. Replaces what it was told before.
    Liars { to: HostId, liars: Arc<[HostId]> },
    /// The host said nothing for too long and was forgotten: end its session.
    Silent { host: HostId },
    /// For the log: `host` is to bring the task from the origin.
    Chosen {
        task: TaskId,
        host: HostId,
        role: Role,
    },
    /// For the log: several hosts reported `host`; nobody is sent to it for a while.
    Isolated { host: HostId, reports: usize },
    /// For the log: the isolation is over.
    Paroled { host: HostId },
}

/// A neighbour and where to reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    pub host: HostId,
    pub role: Role,
    /// At least one.
    pub addresses: Vec<SocketAddr>,
}

/// What the receiver of parents is to do about the origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duty {
    /// Somebody else brings the bytes.
    Wait,
    /// The receiver is the one host that fetches the task from the origin; or it is isolated for
    /// lies, and fetches for itself.
    Fetch,
}
