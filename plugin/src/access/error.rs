//! Why there is no right, or why what there is a right to is not handed out.

use hawker_p2p::OriginError;
use hawker_swarm::TaskFailure;

/// Why there is no right.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum AccessError {
    #[error("the registry did not answer in time")]
    Slow,
    /// As a seed heard it from the origin.
    #[error("the registry refuses access with status {status}")]
    Refused {
        status: u16,
        challenges: Vec<String>,
    },
    #[error(transparent)]
    Origin(#[from] OriginError),
}

impl AccessError {
    /// Whether the origin said no to this credential.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::Refused { .. } | Self::Origin(OriginError::Denied { .. })
        )
    }

    /// Whether the origin said that there is no such thing.
    pub(crate) fn is_missing(&self) -> bool {
        matches!(self, Self::Origin(OriginError::NotFound { .. }))
    }

    /// Whether the origin cannot be reached, or is broken: what it granted before may go on for its
    /// grace.
    pub(crate) fn is_outage(&self) -> bool {
        match self {
            Self::Slow => true,
            Self::Refused { .. } => false,
            Self::Origin(error) => error.is_outage(),
        }
    }
}

/// Why bytes that are here are not handed out: nothing shows that the asker's own origin holds them.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum PossessionError {
    /// It holds something else.
    #[error(
        "{place} names content that it does not hold: what it gives for {content} differs from what \
         other registries gave for it. If they mirror each other, give both the same trust_group in \
         [registries] of hawkerd's settings"
    )]
    Refuted { place: String, content: String },
    /// It could not be compared.
    #[error("it cannot be shown that {place} holds {content} as well: {reason}")]
    Unproven {
        place: String,
        content: String,
        reason: String,
    },
    /// It was a false piece list that our bytes fitted: they are gone, and others take their place.
    #[error("the piece list of {content} proved false")]
    FalseList { content: String },
    /// The origin refused what was shown for the comparison.
    #[error(transparent)]
    Refused(AccessError),
}

/// Why a reading ends.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error(transparent)]
    Network(#[from] TaskFailure),
    #[error(transparent)]
    Possession(#[from] PossessionError),
}

impl ReadError {
    /// Whether the bytes proved to be others than were asked for.
    pub(crate) fn is_of_bytes(&self) -> bool {
        self.is_false_list() || matches!(self, Self::Network(TaskFailure::WrongDigest(_)))
    }

    /// Whether the bytes were checked against a list that proved false, and others will come.
    pub(crate) fn is_false_list(&self) -> bool {
        matches!(
            self,
            Self::Network(TaskFailure::FalseList)
                | Self::Possession(PossessionError::FalseList { .. })
        )
    }
}
