//! What peers say to each other about tasks. The byte form is the transport's (`p2p/docs/wire.md`).

use bytes::Bytes;
use hawker_model::{Geometry, PieceIndex, PieceSet, SignedStates, TaskId};

use crate::{ManifestWish, Resolution, Source, SourceMark, Verdict};

/// One message about one task. Either side of a connection may send any of them.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// "I take part in this task: tell me what you have." Answered with the other's own `Join`
    /// (once), `Head`, `List` and `Have`, or with `Refuse`. A seed that does not know the task
    /// starts to fetch it when `source` says where from. Said again with each other source, and as
    /// the answer to `Renew`.
    Join { source: Option<Source> },
    /// How the task is cut. Precedes every message that names a piece.
    Head { geometry: Geometry },
    /// Everything the sender has.
    Have { pieces: PieceSet },
    /// What the sender has got since.
    Gained { pieces: Vec<PieceIndex> },
    /// Signed chain values, in order.
    List { batch: SignedStates },
    /// Asks for one piece. Answered with `Piece` or `Refuse`, in any order.
    Request { piece: PieceIndex },
    /// Asks for `credit` pieces of the *sender's* choice: it sends those it has sent least often
    /// first, so that each piece leaves a seed once before one leaves it twice. The number replaces
    /// the one of the last such message; each piece so sent takes one off. What was sent before the
    /// message came arrives beside it.
    RequestAny { credit: u16 },
    /// Takes a request back. The piece may still come.
    Cancel { piece: PieceIndex },
    /// A piece's bytes, exactly as many as the geometry says.
    Piece { piece: PieceIndex, data: Bytes },
    /// The piece that came does not match its chain value: whoever sent it should look at its own
    /// copy. Not answered, and no matter of the swarm.
    Doubt { piece: PieceIndex },
    /// No.
    Refuse {
        piece: Option<PieceIndex>,
        reason: Refusal,
    },
    /// "Forget me in this task": complete, given up or evicted.
    Leave,
    /// The origin refused this source, which the receiver brought. Answered with a `Join` that has a
    /// fresh one, or none.
    Renew { refused: SourceMark },
    /// Asks a seed whether whoever shows the source's credential may have the task. Answered with
    /// `Heard` at once and with `Verdict` in the end, which bear the same number. These, `Resolve` and
    /// `Resolved` are no part of the swarm: see [`crate::Claims`].
    Claim { number: u64, source: Source },
    /// The claim, or what is to be resolved, is being looked into.
    Heard { number: u64 },
    /// What came of it; `None`: nothing, since too many claims are open.
    Verdict {
        number: u64,
        verdict: Option<Verdict>,
    },
    /// Asks a seed what the registry gives for a manifest; the task is [`ManifestWish::place`].
    /// Answered with `Heard` at once and with `Resolved` in the end. Only for hosts that announce
    /// that they answer it ([`crate::Abilities`]).
    Resolve { number: u64, wish: ManifestWish },
    /// What came of it; `None`: nothing, as for a claim. Bytes in it have its digest.
    Resolved {
        number: u64,
        resolution: Option<Resolution>,
    },
}

impl Message {
    /// What kind it is, for the log.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Join { .. } => "Join",
            Self::Head { .. } => "Head",
            Self::Have { .. } => "Have",
            Self::Gained { .. } => "Gained",
            Self::List { .. } => "List",
            Self::Request { .. } => "Request",
            Self::RequestAny { .. } => "RequestAny",
            Self::Cancel { .. } => "Cancel",
            Self::Piece { .. } => "Piece",
            Self::Doubt { .. } => "Doubt",
            Self::Refuse { .. } => "Refuse",
            Self::Leave => "Leave",
            Self::Renew { .. } => "Renew",
            Self::Claim { .. } => "Claim",
            Self::Heard { .. } => "Heard",
            Self::Verdict { .. } => "Verdict",
            Self::Resolve { .. } => "Resolve",
            Self::Resolved { .. } => "Resolved",
        }
    }
}

/// Why a peer is refused something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Too many requests wait already; ask again later or elsewhere.
    Busy,
    /// The piece is not here.
    Missing,
    /// The origin refused this credential (401, 403), or none was given where one is needed.
    Denied,
    /// The origin does not have it (404), or gave something that cannot be shared.
    NotFound,
    /// The origin cannot be reached or fails.
    OriginFailed,
    /// The task is not known here and no source was given.
    UnknownTask,
}

/// Names a message's task.
#[derive(Clone, Debug, PartialEq)]
pub struct Envelope {
    pub task: TaskId,
    pub message: Message,
}
