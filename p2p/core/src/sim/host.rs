//! A simulated host: its swarm, its store, its connections.

use std::{sync::Arc, time::Instant};

use hawker_model::{HostId, PieceIndex, PieceList, PieceSet, Role};

use super::{
    blob::{Blob, BlobNo, Bytes, FORGED, TRUE, certificate},
    event::{HostNo, Time},
    net::Net,
    origin::Fetch,
    scenario::{HostPlan, Lie, Reads},
};
use crate::{Envelope, Opening, Secret, Source, Stored, Swarm, SwarmConfig, TaskFailure, Want};

#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) swarm: Swarm,
    pub(crate) net: Net,
    pub(crate) alive: bool,
    /// The piece that came just now, and that nobody has asked to be stored.
    pub(crate) received: Option<Received>,
    pub(crate) wake_at: Option<Time>,
    pub(crate) parts: Vec<Part>,
    pub(crate) first_at: Option<Time>,
    /// Since when its client waits for a piece, and how long it waited at most.
    pub(crate) waits_since: Option<Time>,
    pub(crate) pause: Time,
    pub(crate) failed: Option<TaskFailure>,
    pub(crate) sent_bytes: u64,
    /// A liar's message that another one overtakes.
    pub(crate) kept: Option<Envelope>,
    pub(crate) id: HostId,
    pub(crate) certificate: Arc<[u8]>,
    pub(crate) plan: HostPlan,
}

/// A piece with its sender.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Received {
    pub(crate) blob: BlobNo,
    pub(crate) piece: PieceIndex,
    pub(crate) from: HostNo,
    pub(crate) bytes: Bytes,
}

/// What a host has of one blob.
#[derive(Debug, Default)]
pub(crate) struct Part {
    /// Stored pieces by index.
    pub(crate) store: Vec<Option<Bytes>>,
    pub(crate) fetch: Option<Fetch>,
    /// Where its reader is.
    pub(crate) cursor: u32,
    pub(crate) completed_at: Option<Time>,
}

impl Host {
    pub(crate) fn new(id: HostId, plan: HostPlan, config: SwarmConfig, seed: u64) -> Self {
        Self {
            swarm: Swarm::new(config, seed),
            net: Net::default(),
            alive: true,
            received: None,
            wake_at: None,
            parts: Vec::new(),
            first_at: None,
            waits_since: None,
            pause: 0,
            failed: None,
            sent_bytes: 0,
            kept: None,
            certificate: certificate(&id),
            id,
            plan,
        }
    }

    pub(crate) fn part(&self, blob: BlobNo) -> &Part {
        &self.parts[usize::from(blob)]
    }

    pub(crate) fn part_mut(&mut self, blob: BlobNo) -> &mut Part {
        &mut self.parts[usize::from(blob)]
    }

    /// It wants the blob, or has it.
    pub(crate) fn arrive(&mut self, number: BlobNo, blob: &Blob, now: Instant) {
        let bytes = match self.plan.lie {
            Some(Lie::FalseList) => Some(FORGED),
            _ => self.plan.stored.then_some(TRUE),
        };
        let stored = bytes.map(|bytes| self.fill(number, blob, bytes));
        if !self.swarm.contains(&blob.task) && stored.is_none() {
            self.part_mut(number).store.fill(None);
        }
        let want = match (stored.is_some(), self.plan.source) {
            (true, _) => Want::Serve,
            (false, true) => Want::Fetch,
            (false, false) if self.plan.role == Role::Node => Want::Fetch,
            (false, false) => return,
        };
        let source = self.plan.source.then(|| source(self.plan.credential));
        let opening = Opening {
            source,
            stored,
            want,
        };
        self.swarm.handle_open(blob.task, opening, now);
    }

    fn fill(&mut self, number: BlobNo, blob: &Blob, bytes: Bytes) -> Stored {
        let count = blob.geometry.piece_count();
        self.part_mut(number).store = vec![Some(bytes); count as usize];
        let mut list = PieceList::new(&blob.task, blob.geometry);
        let added = list.add(blob.batch(0, count, bytes, &self.certificate));
        debug_assert_eq!(added, Ok(true));
        Stored {
            pieces: PieceSet::full(count),
            list,
        }
    }

    /// Its reader goes on as far as it can, and then waits.
    pub(crate) fn read_on(&mut self, number: BlobNo, blob: &Blob, now: Instant) {
        let reads = match self.plan.reads {
            Reads::All => true,
            Reads::First => number == 0,
            Reads::Nothing => false,
        };
        let part = self.part_mut(number);
        if !reads || part.completed_at.is_some() {
            return;
        }
        while matches!(part.store.get(part.cursor as usize), Some(Some(_))) {
            part.cursor += 1;
        }
        let rest = part.cursor..blob.geometry.piece_count();
        self.swarm.handle_waiting(blob.task, rest, now);
    }

    /// Its client got a piece, or waits no longer.
    pub(crate) fn end_wait(&mut self, now: Time) {
        if let Some(since) = self.waits_since.replace(now) {
            self.pause = self.pause.max(now - since);
        }
    }

    /// When it had all blobs.
    pub(crate) fn completed_at(&self) -> Option<Time> {
        let times = self.parts.iter().map(|part| part.completed_at);
        times.collect::<Option<Vec<_>>>()?.into_iter().max()
    }

    /// Whether nothing wrong is stored.
    pub(crate) fn is_right(&self) -> bool {
        self.stored().all(|bytes| bytes == TRUE)
    }

    /// What is stored of all blobs.
    pub(crate) fn stored(&self) -> impl Iterator<Item = Bytes> {
        let pieces = self.parts.iter().flat_map(|part| &part.store);
        pieces.flatten().copied()
    }
}

pub(crate) fn source(credential: &str) -> Source {
    let authorization = (!credential.is_empty()).then(|| Secret::new(credential));
    Source {
        url: "https://origin.example/blob".to_owned(),
        authorization,
    }
}
