//! What comes on one connection.

use std::sync::Arc;

use hawker_swarm::Envelope;
use tokio::sync::{Semaphore, mpsc};

use crate::{
    driver::{event::Event, outbox::carried},
    transport::{FrameReader, Peer, WireError},
};

pub(super) struct Reading {
    pub(super) peer: Peer,
    pub(super) link: u64,
    pub(super) events: mpsc::Sender<Event>,
    /// For pieces that the loop has not taken yet.
    pub(super) budget: Arc<Semaphore>,
}

impl Reading {
    pub(super) async fn run(self, mut reader: FrameReader) {
        let reason = loop {
            match reader.next().await {
                Ok(Some(envelope)) => {
                    if !self.pass_on(envelope).await {
                        return;
                    }
                }
                Ok(None) => break "closed by the peer".to_owned(),
                Err(error) => {
                    let words = match &error {
                        WireError::Frame(_) => Some("what you sent is no message"),
                        WireError::Tardy(_) => Some("you began a piece and sent too little of it"),
                        _ => None,
                    };
                    if let Some(words) = words {
                        self.tell_breach(words, error.to_string()).await;
                    }
                    break error.to_string();
                }
            }
        };
        let (host, link) = (self.peer.host, self.link);
        let _ = self
            .events
            .send(Event::Disconnected { host, link, reason })
            .await;
    }

    async fn tell_breach(&self, words: &'static str, reason: String) {
        let (host, link) = (self.peer.host.clone(), self.link);
        let breach = Event::Breach {
            host,
            link,
            words,
            reason,
        };
        let _ = self.events.send(breach).await;
    }

    /// Waits for room; says whether the loop is still there.
    async fn pass_on(&self, envelope: Envelope) -> bool {
        let permit = match carried(&envelope.message) {
            0 => None,
            carried => {
                // At most 4 MiB (MAX_PIECE_LEN), which is below the budget.
                let len = u32::try_from(carried).unwrap_or(u32::MAX);
                match Arc::clone(&self.budget).acquire_many_owned(len).await {
                    Ok(permit) => Some(permit),
                    Err(_) => return false,
                }
            }
        };
        let (host, role) = (self.peer.host.clone(), self.peer.role);
        self.events
            .send(Event::Frame {
                host,
                role,
                envelope,
                permit,
            })
            .await
            .is_ok()
    }
}
