//! A simulated host: its swarm, its store, its connections.

use std::{collections::BTreeMap, time::Instant};

use hawker_model::{HostId, PieceIndex, PieceList, PieceSet};

use super::{
    blob::{Blob, Bytes, FORGED, TRUE},
    event::{HostNo, Time},
    net::Net,
    origin::Fetch,
    scenario::{HostPlan, Lie},
};
use crate::{Envelope, Opening, Secret, Source, Stored, Swarm, SwarmConfig, TaskFailure, Want};

#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) id: HostId,
    pub(crate) plan: HostPlan,
    pub(crate) swarm: Swarm,
    pub(crate) net: Net,
    pub(crate) alive: bool,
    /// Stored pieces by index.
    pub(crate) store: Vec<Option<Bytes>>,
    /// Received, not yet asked to be stored.
    pub(crate) received: BTreeMap<(PieceIndex, HostNo), Bytes>,
    pub(crate) fetch: Option<Fetch>,
    pub(crate) wake_at: Option<Time>,
    /// Where its reader is.
    pub(crate) cursor: u32,
    pub(crate) first_at: Option<Time>,
    pub(crate) completed_at: Option<Time>,
    pub(crate) failed: Option<TaskFailure>,
    pub(crate) sent_bytes: u64,
    /// A liar's message that another one overtakes.
    pub(crate) kept: Option<Envelope>,
}

impl Host {
    pub(crate) fn new(id: HostId, plan: HostPlan, config: SwarmConfig, seed: u64) -> Self {
        Self {
            id,
            plan,
            swarm: Swarm::new(config, seed),
            net: Net::default(),
            alive: true,
            store: Vec::new(),
            received: BTreeMap::new(),
            fetch: None,
            wake_at: None,
            cursor: 0,
            first_at: None,
            completed_at: None,
            failed: None,
            sent_bytes: 0,
            kept: None,
        }
    }

    /// It wants the blob, or has it.
    pub(crate) fn arrive(&mut self, blob: &Blob, now: Instant) {
        let bytes = match self.plan.lie {
            Some(Lie::FalseList) => Some(FORGED),
            _ => self.plan.stored.then_some(TRUE),
        };
        let stored = bytes.map(|bytes| self.fill(blob, bytes));
        let want = match (stored.is_some(), self.plan.source) {
            (true, _) => Want::Serve,
            (false, true) => Want::Fetch,
            (false, false) if self.plan.role == hawker_model::Role::Node => Want::Fetch,
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

    fn fill(&mut self, blob: &Blob, bytes: Bytes) -> Stored {
        let count = blob.geometry.piece_count();
        self.store = vec![Some(bytes); count as usize];
        let mut list = PieceList::new(&blob.task, blob.geometry);
        let added = list.add(blob.batch(0, count, bytes, &self.id));
        debug_assert_eq!(added, Ok(true));
        Stored {
            pieces: PieceSet::full(count),
            list,
        }
    }

    /// Its reader goes on as far as it can, and then waits.
    pub(crate) fn read_on(&mut self, blob: &Blob, now: Instant) {
        let at = |piece: u32| self.store.get(piece as usize);
        if !self.plan.reads || self.completed_at.is_some() {
            return;
        }
        while matches!(at(self.cursor), Some(Some(_))) {
            self.cursor += 1;
        }
        let rest = self.cursor..blob.geometry.piece_count();
        self.swarm.handle_waiting(blob.task, rest, now);
    }

    /// Whether nothing wrong is stored.
    pub(crate) fn is_right(&self) -> bool {
        self.store.iter().flatten().all(|bytes| *bytes == TRUE)
    }
}

pub(crate) fn source(credential: &str) -> Source {
    let authorization = (!credential.is_empty()).then(|| Secret::new(credential));
    Source {
        url: "https://origin.example/blob".to_owned(),
        authorization,
    }
}
