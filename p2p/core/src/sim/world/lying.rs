//! What liars make of what their swarm wants said and sent.

use rand::RngExt;

use hawker_model::{HostId, PieceIndex, PieceSet, TaskId};

use super::World;
use crate::{
    Envelope, Message, Refusal,
    sim::{
        blob::{BlobNo, Bytes, CORRUPT, FORGED, TRUE},
        event::HostNo,
        host::source,
        scenario::{Gush, Lie},
    },
};

/// Messages that a flood puts behind each of the first that are said on a connection: together more
/// than anybody bears.
const GUSH: usize = 8_000;
const GUSHES: u32 = 3;

impl World {
    /// The messages that leave in place of one.
    pub(super) fn twist(&mut self, host: HostNo, to: HostNo, said: Envelope) -> Vec<Envelope> {
        let (Some(lie), Some(blob)) = (self.hosts[host].plan.lie, self.number_of(&said.task))
        else {
            return vec![said];
        };
        let task = said.task;
        let say = |message| Envelope { task, message };
        match (lie, &said.message) {
            (Lie::FalseHave, Message::Head { .. }) => vec![said, say(self.everything(blob))],
            (Lie::Busy, Message::Head { .. }) => vec![said, say(self.everything(blob))],
            (Lie::Disorder, Message::List { .. }) => match self.hosts[host].kept.take() {
                Some(kept) => vec![said, kept],
                None => {
                    self.hosts[host].kept = Some(said);
                    Vec::new()
                }
            },
            (Lie::Equivocate, Message::List { batch }) if to % 2 == 1 => {
                let (first, end) = (batch.first.0, batch.end());
                let signer = &self.hosts[host].certificate;
                let batch = self.blob(blob).batch(first, end, FORGED, signer);
                vec![say(Message::List { batch })]
            }
            (Lie::Flood(gush), _) if self.has_gush_left(host, to) => {
                let gush = self.gush(host, blob, gush);
                std::iter::once(said).chain(gush).collect()
            }
            (Lie::Random, _) => self.garble(host, blob, said),
            _ => vec![said],
        }
    }

    fn has_gush_left(&mut self, host: HostNo, to: HostNo) -> bool {
        let lane = self.hosts[host].net.lanes.get_mut(to);
        lane.is_some_and(|lane| {
            lane.gushes += 1;
            lane.gushes <= GUSHES
        })
    }

    /// A flood behind one message.
    fn gush(&mut self, host: HostNo, blob: BlobNo, gush: Gush) -> Vec<Envelope> {
        let messages = self.drops(host, blob, gush).into_iter();
        let messages = messages.cycle().take(GUSH);
        let task = self.blob(blob).task;
        let strange = |number: usize| match gush {
            Gush::Strange => TaskId::Url([0; 32]),
            Gush::Strangers => TaskId::Url([number as u8; 32]),
            _ => task,
        };
        let say = |(number, message)| Envelope {
            task: strange(number),
            message,
        };
        messages.enumerate().map(say).collect()
    }

    /// What is said again and again.
    fn drops(&self, host: HostNo, blob: BlobNo, gush: Gush) -> Vec<Message> {
        let (geometry, piece) = (self.blob(blob).geometry, PieceIndex(0));
        let (count, reason) = (geometry.piece_count(), Refusal::Busy);
        let join = Message::Join { source: None };
        let gained = Message::Gained {
            pieces: vec![piece],
        };
        let refuse = |piece| Message::Refuse { piece, reason };
        let nothing = Message::Have {
            pieces: PieceSet::empty(count),
        };
        match gush {
            Gush::Joins | Gush::Strangers => vec![join],
            Gush::Rejoins => vec![Message::Leave, join],
            Gush::Heads => vec![Message::Head { geometry }],
            Gush::Haves => vec![self.everything(blob)],
            Gush::Tides => vec![self.everything(blob), nothing],
            Gush::Gained | Gush::Strange => vec![gained],
            Gush::Lists => {
                let signer = &self.hosts[host].certificate;
                let batch = self.blob(blob).batch(0, 1, TRUE, signer);
                vec![Message::List { batch }]
            }
            Gush::Requests => vec![Message::Request { piece }],
            Gush::Missing => vec![Message::Request {
                piece: PieceIndex(count.saturating_sub(1)),
            }],
            Gush::Credits => vec![Message::RequestAny { credit: 9 }],
            Gush::Cancels => vec![Message::Cancel { piece }],
            Gush::Pieces => vec![Message::Piece {
                piece,
                data: Default::default(),
            }],
            Gush::Refusals => vec![refuse(Some(piece))],
            Gush::Dismissals => vec![refuse(None)],
            Gush::Leaves => vec![Message::Leave],
            Gush::Renewals => vec![Message::Renew {
                refused: source("other").mark(),
            }],
        }
    }

    fn everything(&self, blob: BlobNo) -> Message {
        let pieces = PieceSet::full(self.blob(blob).geometry.piece_count());
        Message::Have { pieces }
    }

    /// Anything, but in the language of the protocol.
    fn garble(&mut self, host: HostNo, blob: BlobNo, said: Envelope) -> Vec<Envelope> {
        let (task, dice) = (said.task, self.rng.random_range(0..20));
        let signer = &self.hosts[host].certificate;
        let message = match (&said.message, dice) {
            (_, 0) => return Vec::new(),
            (_, 1) => return vec![said.clone(), said],
            (Message::Have { .. } | Message::Gained { .. }, 2..8) => self.everything(blob),
            (Message::List { batch }, 2..8) => {
                let bytes = Bytes(dice);
                let batch = self
                    .blob(blob)
                    .batch(batch.first.0, batch.end(), bytes, signer);
                Message::List { batch }
            }
            (_, 8) => Message::Leave,
            _ => return vec![said],
        };
        vec![Envelope { task, message }]
    }

    /// The bytes that leave in place of those stored; `None`: nothing does.
    pub(super) fn falsify(
        &mut self,
        host: HostNo,
        to: HostNo,
        piece: PieceIndex,
        bytes: Bytes,
    ) -> Option<Bytes> {
        let plan = &self.hosts[host].plan;
        if plan.rotten == Some(piece.0) {
            return Some(CORRUPT);
        }
        match plan.lie {
            Some(Lie::Corrupt) => Some(CORRUPT),
            Some(Lie::Silent) => None,
            Some(Lie::Equivocate) if to % 2 == 1 => Some(FORGED),
            Some(Lie::Random) => match self.rng.random_range(0..10) {
                0..4 => Some(CORRUPT),
                4 => None,
                _ => Some(bytes),
            },
            _ => Some(bytes),
        }
    }

    /// Whether a request is refused as if there were no time for it.
    pub(super) fn pretends_to_be_busy(&self, host: HostNo) -> bool {
        self.hosts[host].plan.lie == Some(Lie::Busy)
    }

    /// Notes that a piece of one host did not pass at another.
    pub(super) fn note_rejected(&mut self, host: HostNo, from: &HostId) {
        let victim = self.hosts[host].id.clone();
        *self.rejected.entry((victim, from.clone())).or_default() += 1;
    }

    /// Notes that a liar's piece came.
    pub(super) fn note_given(&mut self, from: HostNo, to: HostNo) {
        if self.sites[from].lie.is_some() {
            let (victim, liar) = (self.hosts[to].id.clone(), self.hosts[from].id.clone());
            *self.given.entry((victim, liar)).or_default() += 1;
        }
    }

    /// Who goes on from a false chain value computes false ones, whatever the origin gives.
    pub(super) fn note_false_start(&mut self, host: HostNo, blob: BlobNo) {
        let (content, state) = (&self.blobs[usize::from(blob)], &mut self.hosts[host]);
        let part = &mut state.parts[usize::from(blob)];
        let (Some(fetch), Some(list)) = (&mut part.fetch, state.swarm.list(&content.task)) else {
            return;
        };
        let next = PieceIndex(fetch.next);
        let before = list.before(next).filter(|_| next.0 == list.len());
        fetch.deceived |= before.is_some_and(|before| !content.is_true_before(next, before));
    }

    /// What the origin gives to a fetch.
    pub(super) fn origin_bytes(&self, host: HostNo, blob: BlobNo) -> Bytes {
        let fetch = self.hosts[host].part(blob).fetch.as_ref();
        match fetch.is_some_and(|fetch| fetch.deceived) {
            true => Bytes(200),
            false => TRUE,
        }
    }
}
