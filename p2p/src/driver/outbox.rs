//! Content that waits to be sent: how much of it, for one peer and for all.
//!
//! A piece is read when its turn comes, but a manifest waits whole, and so do a registry's challenges.
//! A peer that asks for many and reads none must not fill the memory, nor take all the room: what
//! finds none is not given, and its host asks the registry itself.

use std::sync::Arc;

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
#[derive(Debug)]
pub(super) struct Outbox(Arc<Semaphore>);

impl Default for Outbox {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MOST)))
    }
}

impl Outbox {
    /// Bytes that still may wait.
    #[cfg(test)]
    pub(super) fn free(&self) -> usize {
        self.0.available_permits()
    }

    /// A connection's part.
    pub(super) fn drawer(&self) -> Drawer {
        Drawer {
            of_all: Arc::clone(&self.0),
            own: Arc::new(Semaphore::new(MOST_OF_ONE)),
        }
    }
}

/// The room of one connection.
#[derive(Debug)]
pub(super) struct Drawer {
    of_all: Arc<Semaphore>,
    own: Arc<Semaphore>,
}

/// A message that waits, with its room, which is free again when it is dropped.
#[derive(Debug)]
pub(super) struct Parcel {
    envelope: Envelope,
    _room: Option<[OwnedSemaphorePermit; 2]>,
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
            _ => self.room(len),
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

    fn room(&self, len: usize) -> Option<[OwnedSemaphorePermit; 2]> {
        let len = u32::try_from(len).ok()?;
        let take = |room: &Arc<Semaphore>| Arc::clone(room).try_acquire_many_owned(len).ok();
        Some([take(&self.own)?, take(&self.of_all)?])
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
            resolution: Some(Resolution::Given(manifest)),
            ..
        } => manifest.bytes.as_ref().map_or(0, Bytes::len),
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
}
