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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_fits_into_a_cache_line() {
        assert!(size_of::<Event>() <= 64, "{}", size_of::<Event>());
    }
}
