//! What a liar tells of its blob.

use std::sync::Arc;

use anyhow::{Context, Result};
use bytes::Bytes;
use hawker_identity::Identity;
use hawker_model::{ChainState, Digest, Geometry, PieceIndex, SignedStates, TaskId};
use hawker_p2p::Recorder;
use hawker_swarm::{Message, Refusal};

use super::Kind;

/// Longer than any piece that is asked for here.
const ENDLESS: usize = 4 << 20;

/// A blob, its list, and the lie.
#[derive(Debug)]
pub(super) struct Tale {
    kind: Kind,
    task: TaskId,
    geometry: Geometry,
    /// What is given: the true bytes, or such as fit the list.
    bytes: Bytes,
    list: SignedStates,
}

impl Tale {
    pub(super) fn new(kind: Kind, blob: Vec<u8>, identity: &Identity) -> Result<Self> {
        let digest = Digest::of(&blob);
        let task = TaskId::Blob(digest);
        let geometry = Geometry::for_length(blob.len() as u64)?;
        let forges = matches!(kind, Kind::FalseList | Kind::LyingSeed);
        let bytes = match forges {
            true => blob.iter().map(|byte| !byte).collect(),
            false => blob,
        };
        let mut recorder = Recorder::new();
        recorder.update(&bytes);
        let mut states = recorder
            .finish()
            .chain(&geometry)
            .context("no chain for this geometry")?;
        if let Some(last) = states.last_mut() {
            *last = ChainState::from(digest);
        }
        let mut list = SignedStates {
            first: PieceIndex(0),
            states,
            origin: None,
            signer: Arc::from([]),
            signature: Vec::new(),
        };
        let signed = identity.sign(&list.message(&task, &geometry));
        (list.signer, list.signature) = (signed.certificate, signed.signature);
        Ok(Self {
            kind,
            task,
            geometry,
            bytes: bytes.into(),
            list,
        })
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    pub(super) fn task(&self) -> TaskId {
        self.task
    }

    pub(super) fn geometry(&self) -> Geometry {
        self.geometry
    }

    pub(super) fn list(&self) -> SignedStates {
        self.list.clone()
    }

    /// The answer to a request, if there is any.
    pub(super) fn answer(&self, piece: PieceIndex) -> Option<Message> {
        let range = self.geometry.range(piece);
        let data = self.bytes.slice(range.start as usize..range.end as usize);
        let data = match self.kind {
            Kind::FalseList | Kind::LyingSeed | Kind::Flood => data,
            Kind::WrongBytes => {
                let mut wrong = data.to_vec();
                wrong[0] ^= 1;
                wrong.into()
            }
            Kind::Short => data.slice(..data.len() / 2),
            Kind::Endless => vec![0; ENDLESS].into(),
            Kind::Stall => return None,
            Kind::FalseHave => {
                let (piece, reason) = (Some(piece), Refusal::Missing);
                return Some(Message::Refuse { piece, reason });
            }
        };
        Some(Message::Piece { piece, data })
    }
}
