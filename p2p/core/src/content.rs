//! What is known and stored of a task once its geometry is known.

use std::collections::BTreeSet;

use hawker_model::{
    Geometry, HostId, ListError, PieceIndex, PieceList, PieceSet, SignedStates, TaskId,
};

use crate::{Stored, picker::Picker, short_map::ShortMap};

#[derive(Debug)]
pub(crate) struct Content {
    pub(crate) geometry: Geometry,
    pub(crate) pieces: PieceSet,
    pub(crate) list: PieceList,
    pub(crate) picker: Picker,
    /// Received, being checked and written by the shell.
    pub(crate) storing: ShortMap<PieceIndex, HostId>,
    /// Pieces in the order in which they were stored, and who gave them: what gossip tells.
    pub(crate) log: Vec<(PieceIndex, Option<HostId>)>,
    /// Who gave the chain values up to (not including) a piece; nobody for our own.
    givers: Vec<(u32, Option<HostId>)>,
    /// Givers that have gone since: if they come back, it may be with another list.
    gone: BTreeSet<HostId>,
    /// The store knew chain values from the start.
    inherited: bool,
    /// The peer that told the geometry; nobody for our own word, or the origin's.
    pub(crate) told_by: Option<HostId>,
}

impl Content {
    pub(crate) fn new(task: &TaskId, geometry: Geometry) -> Self {
        let pieces = PieceSet::empty(geometry.piece_count());
        let list = PieceList::new(task, geometry);
        Self::of(Stored { pieces, list })
    }

    pub(crate) fn of(stored: Stored) -> Self {
        let Stored { pieces, list } = stored;
        Self {
            geometry: *list.geometry(),
            picker: Picker::new(&pieces),
            storing: ShortMap::default(),
            log: Vec::new(),
            givers: Vec::new(),
            gone: BTreeSet::new(),
            inherited: !list.is_empty(),
            told_by: None,
            pieces,
            list,
        }
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.pieces.is_full() && self.list.is_complete()
    }

    pub(crate) fn add_batch(
        &mut self,
        batch: SignedStates,
        from: Option<&HostId>,
    ) -> Result<bool, ListError> {
        self.check_range(&batch)?;
        let end = batch.end();
        let new = self.list.add(batch)?;
        if new {
            self.givers.push((end, from.cloned()));
        }
        Ok(new)
    }

    /// What [`Self::add_batch`] would say of a batch.
    pub(crate) fn check_batch(&self, batch: &SignedStates) -> Result<bool, ListError> {
        self.check_range(batch)?;
        self.list.check(batch)
    }

    fn check_range(&self, batch: &SignedStates) -> Result<(), ListError> {
        let (first, count) = (batch.first, batch.states.len());
        let fits = count <= self.geometry.piece_count() as usize;
        match self.geometry.contains(first) && fits {
            true => Ok(()),
            false => Err(ListError::OutOfRange { first, count }),
        }
    }

    /// Takes up chain values that the store has and we do not; says whether the two agree.
    pub(crate) fn inherit(&mut self, stored: &PieceList) -> bool {
        if *stored.geometry() != self.geometry {
            return false;
        }
        for batch in stored.batches_from(self.list.len()) {
            match self.add_batch(batch.clone(), None) {
                Ok(new) => self.inherited |= new,
                Err(_) => return false,
            }
        }
        true
    }

    /// Who gave the chain value of `piece`, unless we computed or stored it ourselves.
    pub(crate) fn giver(&self, piece: PieceIndex) -> Option<&HostId> {
        let at = self.givers.partition_point(|(end, _)| *end <= piece.0);
        let giver = self.givers.get(at);
        giver.and_then(|(_, host)| host.as_ref())
    }

    /// Whether a giver has been here ever since it gave chain values.
    pub(crate) fn stands_by(&self, giver: &HostId) -> bool {
        !self.gone.contains(giver)
    }

    /// A host is gone, for now.
    pub(crate) fn note_gone(&mut self, host: &HostId) {
        if self
            .givers
            .iter()
            .any(|(_, giver)| giver.as_ref() == Some(host))
        {
            self.gone.insert(host.clone());
        }
    }

    /// The first piece of which a batch says another value than the one that we know.
    pub(crate) fn contradiction(&self, batch: &SignedStates) -> Option<PieceIndex> {
        let known = self.list.states().iter().skip(batch.first.as_usize());
        let at = known
            .zip(&batch.states)
            .position(|(ours, theirs)| ours != theirs)?;
        Some(PieceIndex(batch.first.0.saturating_add(at as u32)))
    }

    /// Whether any chain value was told by someone else, or is from an earlier run.
    pub(crate) fn has_foreign_states(&self) -> bool {
        let ours = self.givers.iter().all(|(_, host)| host.is_none());
        self.inherited || !ours
    }

    /// Whether a piece is neither stored nor being stored.
    pub(crate) fn lacks(&self, piece: PieceIndex) -> bool {
        !self.pieces.contains(piece) && !self.storing.contains_key(&piece)
    }

    /// How many pieces of a host are being checked and written.
    pub(crate) fn unsettled(&self, host: &HostId) -> usize {
        self.storing.values().filter(|from| *from == host).count()
    }

    /// Whether the chain values around a piece are known, so that it can be checked.
    pub(crate) fn can_check(&self, piece: PieceIndex) -> bool {
        piece.0 < self.list.len()
    }
}
