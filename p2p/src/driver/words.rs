//! What peers say, and whether it is believed.

use std::time::Instant;

use hawker_model::{HostId, Role, SignedStates, TaskId};
use hawker_swarm::{Envelope, Message, Misbehaviour, Price};
use tokio::sync::OwnedSemaphorePermit;

use super::{
    Driver,
    entry::{Entry, Held},
    event::Arrived,
    signer::Unbelieved,
};

/// What a batch of a list may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ListNews {
    /// Its signature was not looked at: it tells nothing that the swarm does not know.
    Nothing,
    /// Whoever signed it may vouch for what it says.
    Signed,
}

impl Driver {
    pub(super) fn handle_frame(
        &mut self,
        host: HostId,
        role: Role,
        envelope: Envelope,
        permit: Option<OwnedSemaphorePermit>,
        now: Instant,
    ) {
        let (task, message) = (envelope.task, envelope.message.name());
        tracing::trace!(%task, %host, message, "hear");
        self.desk.claims.handle_word(&host, role, now);
        let Some(envelope) = self.take_claim(&host, envelope, now) else {
            return;
        };
        let task = envelope.task;
        let finding = self.entries.get(&task).is_some_and(Entry::is_finding);
        let join = matches!(envelope.message, Message::Join { .. });
        if finding || (join && !self.swarm.contains(&task)) {
            self.handle_or_hold(
                task,
                Held::Frame {
                    host,
                    role,
                    envelope,
                    permit,
                },
                now,
            );
        } else {
            self.handle_message(host, role, envelope, permit, now);
        }
    }

    pub(super) fn handle_message(
        &mut self,
        host: HostId,
        role: Role,
        envelope: Envelope,
        permit: Option<OwnedSemaphorePermit>,
        now: Instant,
    ) {
        match &envelope.message {
            Message::List { batch } => {
                let Some(news) = self.believe_list(&host, &envelope.task, batch, now) else {
                    return;
                };
                if news == ListNews::Signed
                    && let Some(blob) = self.blob(&envelope.task)
                {
                    // The swarm holds the same list and judges a contradiction.
                    let _ = blob.add_batch(batch.clone());
                }
            }
            Message::Piece { piece, data } => {
                let agreed = self.swarm.agreed_len(&host, &envelope.task, *piece);
                if agreed.is_some_and(|len| len as usize != data.len()) {
                    let (len, piece) = (data.len(), *piece);
                    tracing::warn!(%host, %piece, len, "a piece of the wrong length");
                    let what = Misbehaviour::Protocol;
                    return self
                        .swarm
                        .handle_misbehaviour(&host, envelope.task, what, now);
                }
                let arrived = Arrived {
                    data: data.clone(),
                    role,
                    _permit: permit,
                };
                self.arrived = Some((envelope.task, *piece, arrived));
            }
            _ => {}
        }
        self.swarm.handle_message(&host, envelope, now);
    }

    /// What a batch may be used for; `None`: nothing. Who passes on what nobody has signed is
    /// convicted.
    fn believe_list(
        &mut self,
        host: &HostId,
        task: &TaskId,
        batch: &SignedStates,
        now: Instant,
    ) -> Option<ListNews> {
        let about_ours = self.swarm.agreed_len(host, task, batch.first).is_some();
        if self.swarm.list(task).is_some() && !about_ours {
            // Signed for another length than the one we believe in.
            self.swarm.note_nuisance(host, *task, Price::Work, now);
            return None;
        }
        match self.check_list(task, batch) {
            Ok((news, signer)) => {
                if let Some(signer) = signer {
                    self.swarm.note_signer(&batch.signer, signer);
                }
                Some(news)
            }
            Err(Unbelieved { why, is_forged }) => {
                tracing::warn!(%host, %task, error = why, "refused a piece list");
                match is_forged {
                    true => {
                        self.swarm
                            .handle_misbehaviour(host, *task, Misbehaviour::FalseList, now)
                    }
                    false => self.swarm.note_nuisance(host, *task, Price::Work, now),
                }
                None
            }
        }
    }

    /// Checks a batch's signature, unless it tells nothing new. The store must not see one whose
    /// signature was not checked: it would believe the origin that is named in it.
    fn check_list(
        &self,
        task: &TaskId,
        batch: &SignedStates,
    ) -> Result<(ListNews, Option<HostId>), Unbelieved> {
        let Some(list) = self.swarm.list(task) else {
            return Ok((ListNews::Nothing, None));
        };
        let known = list
            .states()
            .get(batch.first.as_usize()..batch.end() as usize);
        if known == Some(batch.states.as_slice()) {
            return Ok((ListNews::Nothing, None));
        }
        let fetcher = self
            .entries
            .get(task)
            .and_then(|entry| entry.fetcher.as_ref());
        self.signer
            .check(task, list.geometry(), batch, fetcher)
            .map(|signer| (ListNews::Signed, signer))
    }
}
