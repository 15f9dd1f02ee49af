//! What happens.

use hawker_model::PieceIndex;

use super::{
    blob::{BlobNo, Bytes},
    net::{Chunk, Load},
};
use crate::{Duty, Parent, SourceMark};

/// Nanoseconds since the start.
pub(crate) type Time = u64;

/// A host by its place in the scenario.
pub(crate) type HostNo = usize;

/// There are many at a time: each is kept small, a cache line at most.
#[derive(Debug)]
pub(crate) enum Event {
    Arrive(HostNo),
    Die(HostNo),
    /// Its client gives up.
    GiveUp(HostNo),
    /// Some connection breaks.
    Cut,
    Wake(HostNo),
    Connected {
        dialer: HostNo,
        to: HostNo,
    },
    DialFailed {
        dialer: HostNo,
        to: HostNo,
    },
    Disconnected {
        host: HostNo,
        peer: HostNo,
    },
    /// A host that was asked for a sign of life gave none.
    Silent {
        host: HostNo,
        peer: HostNo,
    },
    /// It does after all.
    Heard {
        host: HostNo,
        peer: HostNo,
    },
    /// A frame, on the connection with this number.
    Deliver {
        from: HostNo,
        to: HostNo,
        link: u64,
        blob: BlobNo,
        load: Load,
    },
    /// The last byte of a chunk has left its sender.
    Departed(Chunk),
    UplinkFree(HostNo),
    Stored {
        host: HostNo,
        blob: BlobNo,
        piece: PieceIndex,
        from: HostNo,
        bytes: Bytes,
    },
    OriginHead {
        host: HostNo,
        blob: BlobNo,
        fetch: u64,
    },
    OriginPiece {
        host: HostNo,
        blob: BlobNo,
        fetch: u64,
    },
    Lookup {
        host: HostNo,
        blob: BlobNo,
    },
    /// It is looked whether a host has got enough neighbours since its lookup.
    MakeUp {
        host: HostNo,
        blob: BlobNo,
    },
    /// A host's owner answers.
    Renewed {
        host: HostNo,
        blob: BlobNo,
        refused: Box<SourceMark>,
    },
    Parents {
        host: HostNo,
        blob: BlobNo,
        parents: Vec<Parent>,
        duty: Duty,
    },
}

impl Event {
    /// The host that has to do something when it happens.
    pub(crate) fn host(&self) -> Option<HostNo> {
        match self {
            Self::Arrive(host) | Self::Die(host) | Self::GiveUp(host) | Self::Wake(host) => {
                Some(*host)
            }
            Self::UplinkFree(host) => Some(*host),
            Self::Connected { to: host, .. } | Self::DialFailed { dialer: host, .. } => Some(*host),
            Self::Deliver { to: host, .. } | Self::Disconnected { host, .. } => Some(*host),
            Self::Silent { host, .. } | Self::Heard { host, .. } => Some(*host),
            Self::Departed(chunk) => Some(chunk.from),
            Self::Stored { host, .. } | Self::Renewed { host, .. } => Some(*host),
            Self::OriginHead { host, .. } | Self::OriginPiece { host, .. } => Some(*host),
            Self::Parents { host, .. } => Some(*host),
            Self::Cut | Self::Lookup { .. } | Self::MakeUp { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_fits_into_a_cache_line() {
        assert!(size_of::<Event>() <= 64, "{}", size_of::<Event>());
    }
}
