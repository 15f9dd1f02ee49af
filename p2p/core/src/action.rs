//! What the swarm asks of its shell.

use std::time::Duration;

use hawker_model::{Geometry, HostId, PieceIndex, TaskId};

use crate::{Envelope, Source};

/// Something the shell is to do. A failure comes back as an input.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Connect to `host`, or say that it is connected already: `handle_connected` or
    /// `handle_dial_failed`.
    Dial { host: HostId },
    /// Ask for a sign of life on the connection: `handle_silent` if none comes within so long, and
    /// `handle_heard` when one comes after that.
    Ping { host: HostId, within: Duration },
    /// Nobody needs the connection any more: close it, then `handle_disconnected`.
    HangUp { host: HostId, reason: &'static str },
    /// Send a message that carries no piece.
    Send { host: HostId, envelope: Envelope },
    /// Read the piece from the store and send it: `handle_uploaded` once it is on the wire (or
    /// failed), which frees the slot.
    Upload {
        host: HostId,
        task: TaskId,
        piece: PieceIndex,
    },
    /// Check a received piece (`check_piece` with the list's values) and write it:
    /// `handle_stored`, `handle_rejected` or `handle_store_failed`. The swarm does not hold the
    /// bytes; the shell does since it handed over the `Piece` message.
    Store {
        task: TaskId,
        piece: PieceIndex,
        from: HostId,
    },
    /// The geometry is known: create the blob's file. No answer; `Store` may follow at once.
    Create { task: TaskId, geometry: Geometry },
    /// Ask the origin for pieces `first..end` (all from `first` on, when the geometry is unknown or
    /// `end` is `None`), in order. `handle_origin_head` first, where the geometry was unknown;
    /// then `handle_origin_stored` per piece, and `handle_origin_done` at the end or failure. At
    /// most one fetch per task runs; a new one replaces it.
    FetchOrigin {
        task: TaskId,
        source: Source,
        behalf: Behalf,
        first: PieceIndex,
        end: Option<PieceIndex>,
    },
    /// Stop the task's fetch from the origin.
    CancelOrigin { task: TaskId },
    /// Ask the scheduler for parents: also when those it gave are exhausted.
    Lookup { task: TaskId },
    /// Tell the scheduler how the task stands here, so that others are sent to us.
    Announce {
        task: TaskId,
        pieces: u32,
        complete: bool,
    },
    /// Tell the scheduler that we neither serve the task any more nor want it. If we do serve it,
    /// `Announce` follows.
    Withdraw { task: TaskId },
    /// The origin refused this source, which a reader brought: ask our owner for a fresh one, then
    /// `handle_renewed`. At most one per source at a time.
    Renew { task: TaskId, source: Source },
    /// Tell the scheduler about a peer that sent what does not check.
    Report {
        task: TaskId,
        host: HostId,
        reason: Misbehaviour,
        /// The piece that did not match, where it was one.
        piece: Option<PieceIndex>,
    },
    /// Every piece of the task is stored and checked, so its digest is proven.
    Complete { task: TaskId },
    /// The task cannot be had. Readers get the reason; the next `handle_open` starts afresh.
    Failed { task: TaskId, reason: TaskFailure },
    /// What is stored of the task was checked against a list that proved false: delete it all.
    /// Readers get the reason. Followed by `FetchOrigin` or `Failed`.
    Discard { task: TaskId, because: TaskFailure },
}

/// For whom the origin is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behalf {
    /// A reader of this host brought the source: what is configured here may be shown beside it.
    Reader,
    /// Other hosts alone brought it: nothing of ours may be shown, since nobody knows what of that
    /// they may have.
    Others,
}

/// What a peer did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misbehaviour {
    /// A piece that does not match its chain value, while another source's copy does.
    CorruptPiece,
    /// A list with a bad signature, or one that contradicts the task's digest or proven values while
    /// its giver, or its signer, claims to know the whole blob.
    FalseList,
    /// Requests answered with nothing.
    Stalled,
    /// Messages that do not fit the protocol.
    Protocol,
    /// More than anybody can use.
    Flood,
}

/// Why a task failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TaskFailure {
    #[error("no peer has it and no origin is known")]
    NoSource,
    #[error("the origin denied access: {0}")]
    Denied(String),
    #[error("the origin does not have it: {0}")]
    NotFound(String),
    #[error("the origin failed: {0}")]
    Origin(String),
    #[error("the origin's bytes do not have the digest asked for: {0}")]
    WrongDigest(String),
    /// The task goes on, from nothing.
    #[error("wrong digest: the piece list that the bytes were checked against proved false")]
    FalseList,
    #[error("the blob store failed: {0}")]
    Store(String),
}
