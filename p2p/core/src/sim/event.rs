//! What happens when.

use std::{cmp::Ordering, collections::BinaryHeap};

use hawker_model::PieceIndex;

use super::{blob::Bytes, net::Chunk};
use crate::{Duty, Envelope, Parent, SourceMark};

/// Nanoseconds since the start.
pub(crate) type Time = u64;

/// A host by its place in the scenario.
pub(crate) type HostNo = usize;

#[derive(Debug)]
pub(crate) enum Event {
    Arrive(HostNo),
    Die(HostNo),
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
    /// A message, with the bytes of a piece, on the connection with this number.
    Deliver {
        from: HostNo,
        to: HostNo,
        link: u64,
        envelope: Envelope,
        bytes: Bytes,
    },
    /// The last byte of a chunk has left its sender.
    Departed(Box<Chunk>),
    UplinkFree(HostNo),
    Stored {
        host: HostNo,
        piece: PieceIndex,
        from: HostNo,
        bytes: Bytes,
    },
    OriginHead {
        host: HostNo,
        fetch: u64,
    },
    OriginPiece {
        host: HostNo,
        fetch: u64,
    },
    Lookup(HostNo),
    /// It is looked whether a host has got enough neighbours since its lookup.
    MakeUp(HostNo),
    /// A host's owner answers.
    Renewed {
        host: HostNo,
        refused: SourceMark,
    },
    Parents {
        host: HostNo,
        parents: Vec<Parent>,
        duty: Duty,
    },
}

#[derive(Debug)]
struct Entry {
    at: Time,
    order: u64,
    event: Event,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    /// The heap gives its greatest entry: the earliest.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

/// Events in the order of their time; those of one time in the order in which they were added.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    heap: BinaryHeap<Entry>,
    added: u64,
}

impl Queue {
    pub(crate) fn add(&mut self, at: Time, event: Event) {
        let order = self.added;
        self.added += 1;
        self.heap.push(Entry { at, order, event });
    }

    pub(crate) fn next(&mut self) -> Option<(Time, Event)> {
        self.heap.pop().map(|entry| (entry.at, entry.event))
    }
}
