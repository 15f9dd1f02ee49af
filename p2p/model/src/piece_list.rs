//! The list of a task's chain values while it grows, and the signed batches it travels in.

use std::sync::Arc;

use crate::{ChainState, Geometry, OriginName, PieceIndex, TaskId};

/// Most chain values in one batch: 128 KiB of them.
pub const MAX_STATES_PER_BATCH: usize = 4096;

/// Consecutive chain values, signed by whoever computed them at the origin.
///
/// The signature only says who answers for the values; the bytes of the blob prove them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedStates {
    /// The piece that the first value belongs to.
    pub first: PieceIndex,
    /// One value per piece from `first` on; 1 to [`MAX_STATES_PER_BATCH`].
    pub states: Vec<ChainState>,
    /// Where the signer read the bytes of all these pieces; `None`: from no origin, or unknown.
    pub origin: Option<OriginName>,
    /// The signer's certificate, DER; empty on a network without TLS.
    pub signer: Arc<[u8]>,
    /// Ed25519 over [`Self::message`]; empty on a network without TLS.
    pub signature: Vec<u8>,
}

impl SignedStates {
    /// The index after the last piece of the batch; the greatest there is, where a stranger's
    /// batch claims to reach beyond it.
    pub fn end(&self) -> u32 {
        let count = u32::try_from(self.states.len()).unwrap_or(u32::MAX);
        self.first.0.saturating_add(count)
    }

    /// What is signed: a domain separator, task, geometry, first piece, origin, then the values
    /// (`docs/wire.md`, "Piece list").
    pub fn message(&self, task: &TaskId, geometry: &Geometry) -> Vec<u8> {
        let mut message = Vec::with_capacity(512 + self.states.len() * 32);
        message.extend_from_slice(b"hawker piece list v2\0");
        message.extend_from_slice(&task.to_bytes());
        message.extend_from_slice(&geometry.length().to_le_bytes());
        message.extend_from_slice(&geometry.piece_len().to_le_bytes());
        message.extend_from_slice(&self.first.0.to_le_bytes());
        message.extend_from_slice(&(self.states.len() as u32).to_le_bytes());
        let origin = self.origin.as_ref().map_or("", OriginName::as_str);
        // No name is longer than 300 bytes; none is empty.
        message.extend_from_slice(&(origin.len() as u16).to_le_bytes());
        message.extend_from_slice(origin.as_bytes());
        for state in &self.states {
            message.extend_from_slice(state.as_bytes());
        }
        message
    }
}

/// The known chain values of one task: always a prefix, since they are computed in order.
#[derive(Clone, Debug)]
pub struct PieceList {
    geometry: Geometry,
    /// What the last value must be, where the task's id says it.
    last: Option<ChainState>,
    states: Vec<ChainState>,
    batches: Vec<SignedStates>,
}

impl PieceList {
    /// No value known yet.
    pub fn new(task: &TaskId, geometry: Geometry) -> Self {
        let last = task.digest().map(ChainState::from);
        Self {
            geometry,
            last,
            states: Vec::new(),
            batches: Vec::new(),
        }
    }

    /// The geometry the list is for.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// How many values are known, from the first piece on.
    #[inline]
    pub fn len(&self) -> u32 {
        self.states.len() as u32
    }

    /// Whether no value is known.
    pub fn is_empty(&self) -> bool {
        self.states.is_empty()
    }

    /// Whether every piece's value is known.
    pub fn is_complete(&self) -> bool {
        self.len() == self.geometry.piece_count()
    }

    /// The known values.
    pub fn states(&self) -> &[ChainState] {
        &self.states
    }

    /// The values before and after `piece`, if both are known.
    #[inline]
    pub fn around(&self, piece: PieceIndex) -> Option<(ChainState, ChainState)> {
        let after = *self.states.get(piece.as_usize())?;
        Some((self.before(piece)?, after))
    }

    /// The value before `piece`, if it is known.
    #[inline]
    pub fn before(&self, piece: PieceIndex) -> Option<ChainState> {
        match piece.0.checked_sub(1) {
            None => Some(ChainState::initial()),
            Some(previous) => self.states.get(previous as usize).copied(),
        }
    }

    /// Adds a batch whose signature was checked; says whether it told anything new. What overlaps
    /// must agree; a batch that begins beyond the end is an error, not kept.
    pub fn add(&mut self, batch: SignedStates) -> Result<bool, ListError> {
        let new = self.check(&batch)?;
        if new {
            let known = self.states.len() - batch.first.as_usize();
            self.states.extend_from_slice(&batch.states[known..]);
            self.batches.push(batch);
        }
        Ok(new)
    }

    /// What [`Self::add`] would say of a batch.
    pub fn check(&self, batch: &SignedStates) -> Result<bool, ListError> {
        let (first, end) = (batch.first.as_usize(), batch.end() as usize);
        if batch.states.is_empty() || end > self.geometry.piece_count() as usize {
            return Err(ListError::OutOfRange {
                first: batch.first,
                count: batch.states.len(),
            });
        }
        if first > self.states.len() {
            return Err(ListError::Gap {
                known: self.len(),
                first: batch.first,
            });
        }
        let overlap = self.states.len().min(end) - first;
        if self.states[first..first + overlap] != batch.states[..overlap] {
            return Err(ListError::Conflict { first: batch.first });
        }
        let ends_list = end == self.geometry.piece_count() as usize;
        if ends_list && self.last.is_some() && batch.states.last() != self.last.as_ref() {
            return Err(ListError::WrongDigest);
        }
        Ok(end > self.states.len())
    }

    /// The values from piece `from` on, in as few batches as may be: neighbouring ones of the same
    /// origin that are ours become one, which begins at `from` and is not signed yet.
    pub fn joined_from(
        &self,
        from: u32,
        is_ours: impl Fn(&SignedStates) -> bool,
    ) -> Vec<SignedStates> {
        let mut joined: Vec<SignedStates> = Vec::new();
        for batch in self.batches_from(from) {
            if !is_ours(batch) {
                joined.push(batch.clone());
                continue;
            }
            let start = batch.first.0.max(from);
            let states = self.states[start as usize..batch.end() as usize].iter();
            let fits = |last: &&mut SignedStates| {
                last.signer.is_empty()
                    && last.end() == start
                    && last.origin == batch.origin
                    && last.states.len() + states.len() <= MAX_STATES_PER_BATCH
            };
            match joined.last_mut().filter(fits) {
                Some(last) => last.states.extend(states),
                None => joined.push(SignedStates {
                    first: PieceIndex(start),
                    states: states.copied().collect(),
                    origin: batch.origin.clone(),
                    signer: Arc::from([]),
                    signature: Vec::new(),
                }),
            }
        }
        joined
    }

    /// The batches that tell values from piece `from` on, in order.
    pub fn batches_from(&self, from: u32) -> impl Iterator<Item = &SignedStates> {
        let first = self.batches.partition_point(|batch| batch.end() <= from);
        self.batches[first..].iter()
    }
}

/// Why a batch does not fit a list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ListError {
    #[error("chain values from piece {first} contradict those already known")]
    Conflict { first: PieceIndex },
    #[error("chain values from piece {first} leave a gap: {known} are known")]
    Gap { known: u32, first: PieceIndex },
    #[error("{count} chain values from piece {first} are none or beyond the last piece")]
    OutOfRange { first: PieceIndex, count: usize },
    #[error("the last chain value is not the task's digest")]
    WrongDigest,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Digest;

    fn batch(first: u32, values: &[u8]) -> SignedStates {
        let states = values
            .iter()
            .map(|v| ChainState::from_bytes([*v; 32]))
            .collect();
        let (signer, signature) = (Arc::from([]), Vec::new());
        SignedStates {
            first: PieceIndex(first),
            states,
            origin: None,
            signer,
            signature,
        }
    }

    fn list() -> PieceList {
        let task = TaskId::Blob(Digest::from_bytes([4; 32]));
        PieceList::new(&task, Geometry::for_length(4 << 16).unwrap())
    }

    #[test]
    fn grows_as_a_prefix_and_ends_in_the_digest() {
        let mut list = list();
        assert_eq!(list.add(batch(0, &[1, 2])), Ok(true));
        assert_eq!(list.add(batch(0, &[1])), Ok(false));
        assert_eq!(list.add(batch(1, &[2, 3])), Ok(true));
        assert_eq!(list.add(batch(3, &[9])), Err(ListError::WrongDigest));
        assert_eq!(list.add(batch(3, &[4])), Ok(true));
        assert!(list.is_complete());
        assert_eq!(list.batches_from(2).count(), 2);
        assert_eq!(list.around(PieceIndex(0)).unwrap().0, ChainState::initial());
    }

    #[test]
    fn own_batches_are_told_as_one_and_those_of_others_as_they_were_signed() {
        let mut list = list();
        let foreign = SignedStates {
            signer: Arc::from([1]),
            ..batch(2, &[3])
        };
        for batch in [batch(0, &[1]), batch(1, &[2]), foreign, batch(3, &[4])] {
            assert_eq!(list.add(batch), Ok(true));
        }
        let is_ours = |batch: &SignedStates| batch.signer.is_empty();
        let told = |from| {
            let joined = list.joined_from(from, is_ours);
            joined.iter().map(|b| (b.first.0, b.states.len())).collect()
        };
        let told: [Vec<_>; 3] = [0, 1, 3].map(told);
        assert_eq!(told[0], [(0, 2), (2, 1), (3, 1)]);
        assert_eq!(told[1], [(1, 1), (2, 1), (3, 1)]);
        assert_eq!(told[2], [(3, 1)]);
        let elsewhere = list.joined_from(0, |_| false);
        assert!(elsewhere.iter().eq(list.batches_from(0)));
    }

    #[test]
    fn own_batches_of_two_origins_stay_apart() {
        let mut list = list();
        for (first, url) in [(0, "http://a"), (1, "http://b"), (2, "http://b")] {
            let batch = SignedStates {
                origin: OriginName::of_url(url),
                ..batch(first, &[first as u8])
            };
            assert_eq!(list.add(batch), Ok(true));
        }
        let joined = list.joined_from(0, |_| true);
        let ends: Vec<_> = joined.iter().map(SignedStates::end).collect();
        assert_eq!(ends, [1, 3]);
    }

    #[test]
    fn the_message_tells_every_field_apart() {
        let task = TaskId::Blob(Digest::from_bytes([4; 32]));
        let geometry = Geometry::for_length(4 << 16).unwrap();
        let unknown = batch(0, &[1, 2]);
        let of = |url| SignedStates {
            origin: OriginName::of_url(url),
            ..unknown.clone()
        };
        let messages = [
            unknown.clone(),
            of("https://a.example"),
            of("https://b.example"),
            of("http://a.example"),
            batch(1, &[1, 2]),
            batch(0, &[1]),
        ]
        .map(|batch| batch.message(&task, &geometry));
        for (at, message) in messages.iter().enumerate() {
            assert!(!messages[..at].contains(message));
        }
        let origin = b"\x11\0https://a.example";
        assert_eq!(messages[1][74..93], *origin);
        assert_eq!(messages[1].len(), messages[0].len() + 17);
    }

    #[test]
    fn a_batch_that_claims_the_last_index_there_is_is_refused() {
        let mut list = list();
        for first in [u32::MAX, u32::MAX - 1, 1 << 31] {
            let batch = batch(first, &[1, 2, 3]);
            assert!(batch.end() >= first);
            assert!(matches!(list.add(batch), Err(ListError::OutOfRange { .. })));
        }
        assert!(!list.geometry().is_last(PieceIndex(u32::MAX)));
        assert_eq!(PieceIndex(u32::MAX).next(), PieceIndex(u32::MAX));
    }

    #[test]
    fn gaps_conflicts_and_overruns_are_refused() {
        let mut list = list();
        assert_eq!(
            list.add(batch(1, &[2])),
            Err(ListError::Gap {
                known: 0,
                first: PieceIndex(1)
            })
        );
        assert_eq!(list.add(batch(0, &[1, 2])), Ok(true));
        assert_eq!(
            list.add(batch(1, &[7])),
            Err(ListError::Conflict {
                first: PieceIndex(1)
            })
        );
        assert!(list.add(batch(0, &[1, 2, 3, 4, 5])).is_err());
        assert!(list.add(batch(0, &[])).is_err());
        assert_eq!(list.len(), 2);
    }
}
