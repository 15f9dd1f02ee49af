//! What reaches the loop: commands of the API, and events of the work it started.

use std::{net::SocketAddr, ops::Range, sync::Arc};

use bytes::Bytes;
use hawker_identity::CertificateId;
use hawker_model::{Geometry, HostId, PieceIndex, Role, SignedStates, TaskId};
use hawker_swarm::{Abilities, Envelope, Limits, Message, Rate, Source, SourceMark, TaskFailure};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::claims::Ask;
use crate::{
    blob::{Reader, TaskState},
    request::NodeRequest,
    status::NodeStatus,
    store::{BlobError, BlobFile, WritePieceError, Written},
    transport::Connection,
};

/// What the API asks. Unbounded, but one per call or reader.
#[derive(Debug)]
pub(crate) enum Command {
    /// All of a blob is in the store now, and not through us.
    Adopted {
        blob: Arc<BlobFile>,
    },
    /// A seed is to be asked.
    Ask(Box<Ask>),
    Close {
        task: TaskId,
    },
    /// Tasks will be opened soon.
    Expect,
    Open {
        task: TaskId,
        source: Option<Source>,
        reader: Reader,
        reply: oneshot::Sender<(Arc<TaskState>, Reader)>,
    },
    /// The disk did not give back what was stored.
    Lost {
        task: TaskId,
    },
    /// The origin was quicker with the claim than its seed: nobody waits for that any more.
    Outrun {
        number: u64,
    },
    /// Unless it is in use.
    Remove {
        task: TaskId,
        reply: oneshot::Sender<Result<bool, BlobError>>,
    },
    /// The owner listens from now on.
    Requests(mpsc::Sender<NodeRequest>),
    Status {
        reply: oneshot::Sender<NodeStatus>,
    },
    /// The limits are others from now on.
    SetLimits(Limits),
    Stop,
    /// Nobody waits for the claim any more.
    Unask {
        number: u64,
    },
    /// A reader wants the task to come no faster.
    Wish {
        task: TaskId,
        rate: Rate,
    },
    /// That reader is gone.
    WishEnded {
        task: TaskId,
        rate: Rate,
    },
    Waiting {
        task: TaskId,
        pieces: Range<u32>,
    },
}

/// What the loop's tasks report.
#[derive(Debug)]
pub(crate) enum Event {
    /// A handshake ended well, dialled or accepted.
    Connected(Box<Connection>),
    /// What came on a connection is not the protocol, or not as it allows.
    Breach {
        host: HostId,
        link: u64,
        /// For the host.
        words: &'static str,
        /// For us.
        reason: String,
    },
    /// The blob's file was made, or not.
    Created {
        task: TaskId,
        epoch: u64,
        result: Result<Arc<BlobFile>, String>,
    },
    DialFailed {
        host: HostId,
        error: String,
    },
    Disconnected {
        host: HostId,
        link: u64,
        reason: String,
    },
    /// A peer that was asked for a sign of life gives none.
    Silent {
        host: HostId,
        link: u64,
    },
    /// It does again.
    Heard {
        host: HostId,
        link: u64,
    },
    Fetch {
        task: TaskId,
        fetch: u64,
        event: FetchEvent,
    },
    /// The store was asked for a task we did not know.
    Found {
        task: TaskId,
        found: Option<Arc<BlobFile>>,
    },
    Frame {
        host: HostId,
        role: Role,
        envelope: Envelope,
        permit: Option<OwnedSemaphorePermit>,
    },
    /// The owner has, or has not, answered what another host asked.
    Judged {
        host: HostId,
        number: u64,
        task: TaskId,
        /// For the host that asked.
        answer: Message,
    },
    /// The disk did not give back a piece that was to be sent.
    Lost {
        task: TaskId,
    },
    /// The owner has, or has not, a fresh source for a refused one.
    Renewed {
        task: TaskId,
        refused: SourceMark,
        fresh: Option<Source>,
    },
    /// The file of a task that was discarded is gone, or has proven right.
    Removed {
        task: TaskId,
        left: Option<Arc<BlobFile>>,
    },
    Stored {
        stored: StoredPiece,
        result: Result<Written, WritePieceError>,
    },
    Uploaded {
        host: HostId,
        task: TaskId,
        piece: PieceIndex,
    },
}

/// What a fetch from the origin reports, in order.
#[derive(Debug)]
pub(crate) enum FetchEvent {
    Done(Result<(), TaskFailure>),
    Head {
        geometry: Geometry,
        blob: Arc<BlobFile>,
    },
    /// A limit holds it up.
    Held,
    /// Pieces are stored; `batch` carries those of their chain values that were not known before.
    Stored {
        pieces: Range<u32>,
        batch: Option<SignedStates>,
    },
}

/// The piece a store job was about.
#[derive(Debug)]
pub(crate) struct StoredPiece {
    pub(crate) task: TaskId,
    /// Which life of the task's file it was meant for.
    pub(crate) epoch: u64,
    pub(crate) piece: PieceIndex,
    pub(crate) from: HostId,
    pub(crate) role: Role,
    pub(crate) len: usize,
}

/// A piece's bytes on their way to the store, with their share of the receive budget.
#[derive(Debug)]
pub(crate) struct Arrived {
    pub(crate) data: Bytes,
    pub(crate) role: Role,
    pub(crate) _permit: Option<OwnedSemaphorePermit>,
}

impl Arrived {
    /// Does something with the bytes. They have their share of the budget until that is done: a
    /// closure that takes a field alone would give the share back before it runs.
    pub(crate) fn spend<T>(self, work: impl FnOnce(&[u8]) -> T) -> T {
        work(&self.data)
    }
}

/// Where a connection leads, and what proves it.
#[derive(Clone, Debug)]
pub(crate) struct LinkPeer {
    pub(crate) role: Role,
    pub(crate) abilities: Abilities,
    pub(crate) address: SocketAddr,
    pub(crate) certificate: Option<CertificateId>,
}

#[cfg(test)]
mod tests {
    use tokio::sync::Semaphore;

    use super::*;

    #[test]
    fn a_piece_has_its_share_of_the_budget_until_it_is_spent() {
        let budget = Arc::new(Semaphore::new(5));
        let permit = Arc::clone(&budget).try_acquire_many_owned(5).unwrap();
        let arrived = Arrived {
            data: Bytes::from_static(b"piece"),
            role: Role::Node,
            _permit: Some(permit),
        };
        let left = Arc::clone(&budget);
        let job = move || arrived.spend(|data| (data.len(), left.available_permits()));
        assert_eq!(budget.available_permits(), 0);
        assert_eq!(job(), (5, 0));
        assert_eq!(budget.available_permits(), 5);
    }
}
