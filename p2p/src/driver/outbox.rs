//! Content that waits to be sent: how much of it, for one peer and for all.
//!
//! A piece is read when its turn comes, but a manifest waits whole, and so do a registry's challenges.
//! A peer that asks for many and reads none must not fill the memory, nor take all the room: what
//! finds none is not given, and its host asks the registry itself. The bytes of one manifest that waits
//! for many hosts are held once, and so they count once among those of all: a seed gives it to all who
//! pull the same image at the same moment.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use bytes::Bytes;
use hawker_swarm::{Envelope, Message, Resolution, Verdict};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::transport::frame::keep_sendable;

/// Bytes of content that may wait for all peers.
const MOST: usize = 16 << 20;
/// Bytes of it that may wait on one connection: four manifests of the longest kind, or what a host's
/// 32 questions are usually answered with.
const MOST_OF_ONE: usize = 1 << 20;

/// The room of all connections.
#[derive(Clone, Debug)]
pub(super) struct Outbox {
    free: Arc<Semaphore>,
    waiting: Arc<Mutex<Waiting>>,
}

/// The room of each manifest that waits, by where its bytes are and how many: while they wait nothing
/// else is there.
type Waiting = HashMap<(usize, usize), Weak<Room>>;

/// Room that is taken, for all who wait for the same bytes.
#[derive(Debug)]
struct Room {
    _taken: OwnedSemaphorePermit,
    _entry: Option<Entry>,
}

/// That a room can be found; until it is dropped.
#[derive(Debug)]
struct Entry {
    place: (usize, usize),
    waiting: Arc<Mutex<Waiting>>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut waiting = lock(&self.waiting);
        // Others may wait for the same bytes again by now, in a room of their own.
        let is_over = |room: &Weak<Room>| room.strong_count() == 0;
        if waiting.get(&self.place).is_some_and(is_over) {
            waiting.remove(&self.place);
        }
    }
}

impl Default for Outbox {
    fn default() -> Self {
        Self {
            free: Arc::new(Semaphore::new(MOST)),
            waiting: Arc::default(),
        }
    }
}

impl Outbox {
    /// Bytes that still may wait.
    #[cfg(test)]
    pub(super) fn free(&self) -> usize {
        self.free.available_permits()
    }

    /// A connection's part.
    pub(super) fn drawer(&self) -> Drawer {
        Drawer {
            of_all: self.clone(),
            own: Arc::new(Semaphore::new(MOST_OF_ONE)),
        }
    }

    /// Room for bytes that many may wait for.
    fn room_for(&self, bytes: &Bytes) -> Option<Arc<Room>> {
        let place = (bytes.as_ptr().addr(), bytes.len());
        let mut waiting = lock(&self.waiting);
        if let Some(room) = waiting.get(&place).and_then(Weak::upgrade) {
            return Some(room);
        }
        let taken = take(&self.free, bytes.len())?;
        let entry = Entry {
            place,
            waiting: Arc::clone(&self.waiting),
        };
        let room = Arc::new(Room {
            _taken: taken,
            _entry: Some(entry),
        });
        waiting.insert(place, Arc::downgrade(&room));
        Some(room)
    }

    /// Room for what one alone waits for.
    fn room_of_one(&self, len: usize) -> Option<Arc<Room>> {
        Some(Arc::new(Room {
            _taken: take(&self.free, len)?,
            _entry: None,
        }))
    }
}

fn lock(waiting: &Mutex<Waiting>) -> MutexGuard<'_, Waiting> {
    // It is whole after each step.
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

fn take(room: &Arc<Semaphore>, len: usize) -> Option<OwnedSemaphorePermit> {
    let len = u32::try_from(len).ok()?;
    Arc::clone(room).try_acquire_many_owned(len).ok()
}

/// The room of one connection.
#[derive(Debug)]
pub(super) struct Drawer {
    of_all: Outbox,
    own: Arc<Semaphore>,
}

/// A message that waits, with its room, which is free again when it is dropped.
#[derive(Debug)]
pub(super) struct Parcel {
    envelope: Envelope,
    _room: Option<(OwnedSemaphorePermit, Arc<Room>)>,
}

impl Drawer {
    /// Takes room for a message's content. What finds none is taken out of its answer, which then says
    /// that this host does not judge the question. Does not wait.
    pub(super) fn pack(&self, mut envelope: Envelope) -> Parcel {
        if let Some(challenges) = challenges(&mut envelope.message) {
            keep_sendable(challenges);
        }
        let len = carried(&envelope.message);
        let room = match len {
            0 => None,
            _ => self.room(&envelope.message, len),
        };
        let envelope = match room.is_none() && len > 0 {
            true => without_content(envelope),
            false => envelope,
        };
        Parcel {
            envelope,
            _room: room,
        }
    }

    /// Of the connection's room, and of that of all.
    fn room(&self, message: &Message, len: usize) -> Option<(OwnedSemaphorePermit, Arc<Room>)> {
        let own = take(&self.own, len)?;
        let of_all = match manifest(message) {
            Some(bytes) => self.of_all.room_for(bytes),
            None => self.of_all.room_of_one(len),
        };
        Some((own, of_all?))
    }
}

impl Parcel {
    pub(super) fn envelope(&self) -> &Envelope {
        &self.envelope
    }
}

/// Bytes of content in a message: the rest of any is small.
pub(super) fn carried(message: &Message) -> usize {
    match message {
        Message::Piece { data, .. } => data.len(),
        Message::Resolved {
            resolution: Some(Resolution::Given(_)),
            ..
        } => manifest(message).map_or(0, Bytes::len),
        Message::Resolved {
            resolution: Some(Resolution::Denied { challenges, .. }),
            ..
        }
        | Message::Verdict {
            verdict: Some(Verdict::Denied { challenges, .. }),
            ..
        } => challenges.iter().map(String::len).sum(),
        _ => 0,
    }
}

/// The bytes of a manifest that is given.
fn manifest(message: &Message) -> Option<&Bytes> {
    match message {
        Message::Resolved {
            resolution: Some(Resolution::Given(manifest)),
            ..
        } => manifest.bytes.as_ref(),
        _ => None,
    }
}

/// What a registry asks for who may not have something.
fn challenges(message: &mut Message) -> Option<&mut Vec<String>> {
    match message {
        Message::Resolved {
            resolution: Some(Resolution::Denied { challenges, .. }),
            ..
        }
        | Message::Verdict {
            verdict: Some(Verdict::Denied { challenges, .. }),
            ..
        } => Some(challenges),
        _ => None,
    }
}

fn without_content(envelope: Envelope) -> Envelope {
    let Envelope { task, message } = envelope;
    let message = match message {
        Message::Resolved { number, .. } => {
            tracing::debug!(%task, "too many answers wait to be sent: one is not given");
            let resolution = None;
            Message::Resolved { number, resolution }
        }
        Message::Verdict { number, .. } => {
            tracing::debug!(%task, "too many verdicts wait to be sent: one is not given");
            let verdict = None;
            Message::Verdict { number, verdict }
        }
        // Pieces are read and sent without waiting here.
        message => message,
    };
    Envelope { task, message }
}

#[cfg(test)]
mod tests {
    use hawker_model::{Digest, TaskId};
    use hawker_swarm::GivenManifest;

    use super::*;

    const LEN: usize = 256 << 10;

    fn answer(len: usize) -> Envelope {
        let bytes = Bytes::from(vec![b' '; len]);
        let manifest = GivenManifest {
            digest: Digest::of(&bytes),
            media_type: "a/b".to_owned(),
            length: len as u64,
            bytes: Some(bytes),
        };
        let message = Message::Resolved {
            number: 7,
            resolution: Some(Resolution::Given(manifest)),
        };
        let task = TaskId::Blob(Digest::of(b"layer"));
        Envelope { task, message }
    }

    fn is_given(parcel: &Parcel) -> bool {
        carried(&parcel.envelope.message) > 0
    }

    #[test]
    fn manifests_that_wait_have_a_bound_for_each_peer_and_for_all_and_are_not_given_beyond_it() {
        let outbox = Outbox::default();
        let drawers: Vec<_> = (0..50).map(|_| outbox.drawer()).collect();
        let mut waiting = Vec::new();
        for drawer in &drawers {
            let packed = (0..63).map(|_| drawer.pack(answer(LEN)));
            let (given, other): (Vec<_>, Vec<_>) = packed.partition(is_given);
            assert!(given.len() <= MOST_OF_ONE / LEN);
            let unjudged = Message::Resolved {
                number: 7,
                resolution: None,
            };
            assert!(other.iter().all(|one| one.envelope.message == unjudged));
            waiting.extend(given);
        }
        assert_eq!(waiting.len(), MOST / LEN);
        // Nor do challenges wait, but those that go out at all.
        let denied = |len: usize| Envelope {
            message: Message::Verdict {
                number: 7,
                verdict: Some(Verdict::Denied {
                    status: 401,
                    challenges: vec!["x".repeat(len); 100],
                }),
            },
            ..answer(1)
        };
        let free = Outbox::default().drawer();
        assert_eq!(carried(&free.pack(denied(4096)).envelope.message), 8 * 4096);
        assert_eq!(carried(&free.pack(denied(400_000)).envelope.message), 0);
        assert_eq!(carried(&drawers[0].pack(denied(4096)).envelope.message), 0);
        // What carries nothing needs no room.
        let told = Envelope {
            message: Message::Leave,
            ..answer(1)
        };
        assert_eq!(drawers[0].pack(told.clone()).envelope, told);
        waiting.pop();
        let packed = drawers.iter().map(|drawer| drawer.pack(answer(LEN)));
        assert_eq!(packed.filter(is_given).count(), drawers.len() - 16 + 1);
    }

    #[test]
    fn one_manifest_waits_for_any_number_of_hosts_and_takes_its_room_once() {
        let outbox = Outbox::default();
        let (asked, free) = (answer(LEN), outbox.free());
        let drawers: Vec<_> = (0..300).map(|_| outbox.drawer()).collect();
        let packed = drawers.iter().map(|drawer| drawer.pack(asked.clone()));
        let mut waiting: Vec<_> = packed.collect();
        assert!(waiting.iter().all(is_given));
        assert_eq!(outbox.free(), free - LEN);
        // A connection still has its own bound.
        let more: Vec<_> = (0..9).map(|_| drawers[0].pack(asked.clone())).collect();
        let given = more.iter().filter(|parcel| is_given(parcel)).count();
        assert_eq!(given, MOST_OF_ONE / LEN - 1);
        drop(more);
        // Another of the same length is another.
        waiting.push(drawers[1].pack(answer(LEN)));
        assert_eq!(outbox.free(), free - 2 * LEN);
        waiting.truncate(1);
        assert_eq!(outbox.free(), free - LEN);
        waiting.clear();
        assert_eq!(outbox.free(), free);
        assert!(lock(&outbox.waiting).is_empty());
    }
}
