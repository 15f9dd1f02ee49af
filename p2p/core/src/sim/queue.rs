//! Which event is next.

use std::{cmp::Reverse, collections::BinaryHeap};

use super::event::{Event, Time};

/// Events within so many nanoseconds (a power of two) are put in order when their time has come,
const SPAN_BITS: u32 = 16;
/// and those of so many spans wait in one list each; later ones wait together.
const SPANS: u64 = 4096;

/// When an event is due, and where it lies: little, since it is moved often.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    at: Time,
    order: u64,
    place: u32,
}

impl Entry {
    fn span(&self) -> u64 {
        self.at >> SPAN_BITS
    }
}

/// Events in the order of their time; those of one time in the order in which they were added.
///
/// A calendar: only the events of the present span are in a heap, which is small, so that an event
/// costs the same however many there are.
#[derive(Debug)]
pub(crate) struct Queue {
    /// The present span, and what is due in it or was before.
    span: u64,
    now: BinaryHeap<Reverse<Entry>>,
    /// What is due in the spans after it, by the span's last digits.
    soon: Vec<Vec<Entry>>,
    soon_len: usize,
    /// What is due after those.
    late: BinaryHeap<Reverse<Entry>>,
    events: Vec<Option<Event>>,
    /// Places without an event.
    free: Vec<u32>,
    added: u64,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            span: 0,
            now: BinaryHeap::new(),
            soon: vec![Vec::new(); SPANS as usize],
            soon_len: 0,
            late: BinaryHeap::new(),
            events: Vec::new(),
            free: Vec::new(),
            added: 0,
        }
    }
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
        self.put(Entry { at, order, place });
    }

    fn put(&mut self, entry: Entry) {
        if entry.span() <= self.span {
            self.now.push(Reverse(entry));
        } else if entry.span() < self.span + SPANS {
            self.soon[(entry.span() % SPANS) as usize].push(entry);
            self.soon_len += 1;
        } else {
            self.late.push(Reverse(entry));
        }
    }

    pub(crate) fn next(&mut self) -> Option<(Time, Event)> {
        while self.now.is_empty() {
            self.turn_over()?;
        }
        let Reverse(Entry { at, place, .. }) = self.now.pop()?;
        self.free.push(place);
        let event = self.events.get_mut(place as usize)?.take()?;
        Some((at, event))
    }

    /// Goes on to the next span; `None`: nothing is left.
    fn turn_over(&mut self) -> Option<()> {
        let late = self.late.peek().map(|Reverse(entry)| entry.span());
        self.span = match self.soon_len {
            0 => late?,
            _ => self.span + 1,
        };
        let due = &mut self.soon[(self.span % SPANS) as usize];
        self.soon_len -= due.len();
        self.now.extend(due.drain(..).map(Reverse));
        while let Some(Reverse(entry)) = self.late.peek()
            && entry.span() < self.span + SPANS
            && let Some(Reverse(entry)) = self.late.pop()
        {
            self.put(entry);
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng, rngs::SmallRng};

    use super::*;
    use crate::sim::event::HostNo;

    fn host_of(event: Event) -> HostNo {
        match event {
            Event::Wake(host) => host,
            _ => HostNo::MAX,
        }
    }

    #[test]
    fn events_come_in_the_order_of_their_time_and_then_of_their_coming() {
        let mut queue = Queue::default();
        for (at, host) in [(5, 0), (3, 1), (5, 2), (3, 3)] {
            queue.add(at, Event::Wake(host));
        }
        let (first, _) = queue.next().unwrap();
        queue.add(4, Event::Wake(4));
        let rest = std::iter::from_fn(|| queue.next());
        let rest = rest.map(|(at, event)| (at, host_of(event)));
        assert_eq!(first, 3);
        assert_eq!(rest.collect::<Vec<_>>(), [(3, 3), (4, 4), (5, 0), (5, 2)]);
    }

    #[test]
    fn events_far_apart_come_in_order_whenever_they_are_added() {
        let mut rng = SmallRng::seed_from_u64(7);
        let (mut queue, mut came, mut now) = (Queue::default(), Vec::new(), 0);
        for host in 0..20_000 {
            let far = rng.random_range(0..40);
            let at = now + rng.random_range(0..1u64 << far);
            queue.add(at, Event::Wake(host));
            if host % 3 == 0 {
                let (at, event) = queue.next().unwrap();
                assert!(at >= now, "{at} after {now}");
                now = at;
                came.push((at, host_of(event)));
            }
        }
        came.extend(std::iter::from_fn(|| queue.next()).map(|(at, event)| (at, host_of(event))));
        assert_eq!(came.len(), 20_000);
        assert!(came.is_sorted());
    }
}
