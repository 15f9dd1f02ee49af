//! What happens when.

use std::{cmp::Reverse, collections::BinaryHeap};

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

/// When an event is due, and where it lies: little, since it is moved often.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    at: Time,
    order: u64,
    place: u32,
}

/// Events in the order of their time; those of one time in the order in which they were added.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    heap: BinaryHeap<Reverse<Entry>>,
    events: Vec<Option<Event>>,
    /// Places without an event.
    free: Vec<u32>,
    added: u64,
}

impl Queue {
    pub(crate) fn add(&mut self, at: Time, event: Event) {
        let order = self.added;
        self.added += 1;
        let place = self.free.pop().unwrap_or(self.events.len() as u32);
        match self.events.get_mut(place as usize) {
            Some(free) => *free = Some(event),
            None => self.events.push(Some(event)),
        }
        self.heap.push(Reverse(Entry { at, order, place }));
    }

    pub(crate) fn next(&mut self) -> Option<(Time, Event)> {
        let Reverse(Entry { at, place, .. }) = self.heap.pop()?;
        self.free.push(place);
        let event = self.events.get_mut(place as usize)?.take()?;
        Some((at, event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_in_the_order_of_their_time_and_then_of_their_coming() {
        let mut queue = Queue::default();
        for (at, host) in [(5, 0), (3, 1), (5, 2), (3, 3)] {
            queue.add(at, Event::Wake(host));
        }
        let (first, _) = queue.next().unwrap();
        queue.add(4, Event::Wake(4));
        let rest = std::iter::from_fn(|| queue.next());
        let rest = rest.map(|(at, event)| match event {
            Event::Wake(host) => (at, host),
            _ => (at, HostNo::MAX),
        });
        assert_eq!(first, 3);
        assert_eq!(rest.collect::<Vec<_>>(), [(3, 3), (4, 4), (5, 0), (5, 2)]);
    }
}
