//! The values in the state database as bytes (`docs/store.md`). Pure.
//!
//! Each value ends in a check sum over its key and itself, so that a row that rotted or came from
//! elsewhere is noticed: it decodes to `None`, and what it spoke of does not count as stored.

use std::sync::Arc;

use hawker_model::{
    ChainState, Digest, Geometry, MAX_STATES_PER_BATCH, OriginName, PieceIndex, PieceSet,
    SignedStates, TaskId,
};

use super::{
    kin::{Kin, Stamp},
    provenance::{Provenance, Run},
};

const SUM_LEN: usize = 8;
const COMPLETE: u8 = 1;
const PINNED: u8 = 2;
const UNCHECKED: u8 = 4;
const LINKED: u8 = 8;
const CLONED: u8 = 16;

pub(super) type TaskKey = [u8; TaskId::ENCODED_LEN];
pub(super) type BatchKey = [u8; TaskId::ENCODED_LEN + 4];

/// Key of the batch of `task` that begins at `first`: batches sort by it.
pub(super) fn batch_key(task: &TaskId, first: u32) -> BatchKey {
    let mut key = [0; TaskId::ENCODED_LEN + 4];
    key[..TaskId::ENCODED_LEN].copy_from_slice(&task.to_bytes());
    key[TaskId::ENCODED_LEN..].copy_from_slice(&first.to_be_bytes());
    key
}

/// What table `blobs` says of one blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) geometry: Geometry,
    /// All bytes are on the disk and checked.
    pub(super) complete: bool,
    pub(super) pinned: bool,
    /// The claimed pieces outlived a crash and were not checked since.
    pub(super) unchecked: bool,
    /// Whose file it also is.
    pub(super) kin: Option<Kin>,
    /// Microseconds since 1970.
    pub(super) created: u64,
    /// Microseconds since 1970.
    pub(super) last_used: u64,
}

impl Row {
    pub(super) fn encode(&self, key: &TaskKey) -> Vec<u8> {
        let flag = |on: bool, bit: u8| if on { bit } else { 0 };
        let kin = match self.kin {
            None => 0,
            Some(Kin::Linked(_)) => LINKED,
            Some(Kin::Cloned(_)) => CLONED,
        };
        let mut bytes = Vec::with_capacity(29 + Stamp::ENCODED_LEN + SUM_LEN);
        bytes.extend_from_slice(&self.geometry.length().to_le_bytes());
        bytes.extend_from_slice(&self.geometry.piece_len().to_le_bytes());
        bytes.push(
            flag(self.complete, COMPLETE)
                | flag(self.pinned, PINNED)
                | flag(self.unchecked, UNCHECKED)
                | kin,
        );
        bytes.extend_from_slice(&self.created.to_le_bytes());
        bytes.extend_from_slice(&self.last_used.to_le_bytes());
        if let Some(kin) = self.kin {
            bytes.extend_from_slice(&kin.stamp().to_bytes());
        }
        seal(key, bytes)
    }

    pub(super) fn decode(key: &TaskKey, bytes: &[u8]) -> Option<Self> {
        let mut bytes = Reader(unseal(key, bytes)?);
        let geometry = Geometry::new(bytes.u64()?, bytes.u32()?).ok()?;
        let flags = bytes.u8()?;
        let (created, last_used) = (bytes.u64()?, bytes.u64()?);
        let kin = match flags & (LINKED | CLONED) {
            0 => None,
            LINKED => Some(Kin::Linked(bytes.stamp()?)),
            CLONED => Some(Kin::Cloned(bytes.stamp()?)),
            _ => return None,
        };
        let row = Self {
            geometry,
            complete: flags & COMPLETE != 0,
            pinned: flags & PINNED != 0,
            unchecked: flags & UNCHECKED != 0,
            kin,
            created,
            last_used,
        };
        (bytes.is_done() && flags < 32).then_some(row)
    }
}

pub(super) fn encode_pieces(key: &TaskKey, pieces: &PieceSet) -> Vec<u8> {
    seal(key, pieces.to_bytes())
}

pub(super) fn decode_pieces(key: &TaskKey, capacity: u32, bytes: &[u8]) -> Option<PieceSet> {
    PieceSet::from_bytes(capacity, unseal(key, bytes)?).ok()
}

pub(super) fn encode_batch(key: &BatchKey, batch: &SignedStates) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(64 + batch.states.len() * 32 + batch.signer.len());
    bytes.extend_from_slice(&(batch.states.len() as u32).to_le_bytes());
    for state in &batch.states {
        bytes.extend_from_slice(state.as_bytes());
    }
    put_origin(batch.origin.as_ref(), &mut bytes);
    bytes.extend_from_slice(&(batch.signer.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&batch.signer);
    bytes.extend_from_slice(&(batch.signature.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&batch.signature);
    seal(key, bytes)
}

pub(super) fn decode_batch(key: &BatchKey, bytes: &[u8]) -> Option<SignedStates> {
    let mut bytes = Reader(unseal(key, bytes)?);
    let first = Reader(&key[TaskId::ENCODED_LEN..])
        .array()
        .map(u32::from_be_bytes)?;
    let count = bytes.u32()? as usize;
    // No task has more pieces than 2^20 (`Geometry`), so the end of a batch never overflows.
    if count > MAX_STATES_PER_BATCH || first >= 1 << 20 {
        return None;
    }
    let states = (0..count).map(|_| Some(ChainState::from_bytes(bytes.array()?)));
    let states = states.collect::<Option<_>>()?;
    let origin = bytes.origin()?;
    let signer_len = bytes.u32()? as usize;
    let signer = Arc::from(bytes.take(signer_len)?);
    let signature_len = bytes.u32()? as usize;
    let signature = bytes.take(signature_len)?.to_vec();
    bytes.is_done().then_some(SignedStates {
        first: PieceIndex(first),
        states,
        origin,
        signer,
        signature,
    })
}

pub(super) fn encode_provenance(key: &TaskKey, provenance: &Provenance) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(64 + SUM_LEN);
    // Both are bounded (`Provenance`).
    bytes.push(provenance.holders().len() as u8);
    for holder in provenance.holders() {
        put_origin(Some(holder), &mut bytes);
    }
    bytes.extend_from_slice(&(provenance.runs().len() as u16).to_le_bytes());
    for run in provenance.runs() {
        bytes.extend_from_slice(&run.end.to_le_bytes());
        put_origin(run.origin.as_ref(), &mut bytes);
    }
    seal(key, bytes)
}

pub(super) fn decode_provenance(key: &TaskKey, bytes: &[u8]) -> Option<Provenance> {
    let mut bytes = Reader(unseal(key, bytes)?);
    let holders = (0..bytes.u8()?).map(|_| bytes.origin()?);
    let holders = holders.collect::<Option<_>>()?;
    let runs = (0..bytes.u16()?).map(|_| {
        Some(Run {
            end: bytes.u32()?,
            origin: bytes.origin()?,
        })
    });
    let runs = runs.collect::<Option<_>>()?;
    let provenance = Provenance::restore(runs, holders);
    provenance.filter(|_| bytes.is_done())
}

/// Its length, then its name; the length 0 for none.
fn put_origin(origin: Option<&OriginName>, bytes: &mut Vec<u8>) {
    let name = origin.map_or("", OriginName::as_str);
    // No name is longer than 300 bytes.
    bytes.extend_from_slice(&(name.len() as u16).to_le_bytes());
    bytes.extend_from_slice(name.as_bytes());
}

fn seal(key: &[u8], mut bytes: Vec<u8>) -> Vec<u8> {
    let sum = sum(key, &bytes);
    bytes.extend_from_slice(&sum);
    bytes
}

fn unseal<'a>(key: &[u8], bytes: &'a [u8]) -> Option<&'a [u8]> {
    let (bytes, found) = bytes.split_last_chunk::<SUM_LEN>()?;
    (*found == sum(key, bytes)).then_some(bytes)
}

/// The first bytes of SHA-256 over the key's length, the key and the value.
fn sum(key: &[u8], value: &[u8]) -> [u8; SUM_LEN] {
    let whole = [&[key.len() as u8], key, value].concat();
    let mut sum = [0; SUM_LEN];
    sum.copy_from_slice(&Digest::of(&whole).as_bytes()[..SUM_LEN]);
    sum
}

/// Takes bytes from the front; `None` once there are too few.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    /// `Some(None)`: that it is unknown.
    fn origin(&mut self) -> Option<Option<OriginName>> {
        let len = self.u16()?;
        let name = std::str::from_utf8(self.take(len.into())?).ok()?;
        match name {
            "" => Some(None),
            name => OriginName::parse(name).ok().map(Some),
        }
    }

    fn stamp(&mut self) -> Option<Stamp> {
        Some(Stamp::from_parts(self.u64()?, self.u64()?, self.u32()?))
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn is_done(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn task(byte: u8) -> TaskId {
        TaskId::Url([byte; 32])
    }

    fn any_origin() -> impl Strategy<Value = OriginName> {
        "https?://[a-f]{1,3}\\.example(:8[0-9]{3})?"
            .prop_map(|name| OriginName::parse(&name).unwrap())
    }

    proptest! {
        #[test]
        fn rows_survive_their_bytes(
            length in 0u64..1 << 36,
            flags in any::<(bool, bool, bool)>(),
            times in any::<(u64, u64)>(),
            kin in (0u8..3, any::<(u64, u64, u32)>()),
        ) {
            let stamp = Stamp::from_parts(kin.1.0, kin.1.1, kin.1.2);
            let key = task(1).to_bytes();
            let row = Row {
                geometry: Geometry::for_length(length).unwrap(),
                complete: flags.0,
                pinned: flags.1,
                unchecked: flags.2,
                kin: [None, Some(Kin::Linked(stamp)), Some(Kin::Cloned(stamp))][usize::from(kin.0)],
                created: times.0,
                last_used: times.1,
            };
            let mut bytes = row.encode(&key);
            prop_assert_eq!(Row::decode(&key, &bytes), Some(row));
            prop_assert_eq!(Row::decode(&task(2).to_bytes(), &bytes), None);
            bytes[3] ^= 1;
            prop_assert_eq!(Row::decode(&key, &bytes), None);
        }

        #[test]
        fn batches_survive_their_bytes(
            first in 0u32..1 << 20,
            states in prop::collection::vec(any::<[u8; 32]>(), 0..20),
            signer in prop::collection::vec(any::<u8>(), 0..80),
            signature in prop::collection::vec(any::<u8>(), 0..80),
            origin in prop::option::of(any_origin()),
        ) {
            let batch = SignedStates {
                first: PieceIndex(first),
                states: states.into_iter().map(ChainState::from_bytes).collect(),
                origin,
                signer: signer.into(),
                signature,
            };
            let key = batch_key(&task(1), first);
            prop_assert_eq!(decode_batch(&key, &encode_batch(&key, &batch)), Some(batch));
        }

        #[test]
        fn provenance_survives_its_bytes(
            steps in prop::collection::vec((1u32..9, prop::option::of(any_origin())), 0..20),
            holders in prop::collection::vec(any_origin(), 0..20),
        ) {
            let mut provenance = Provenance::default();
            for (more, origin) in steps {
                provenance.extend(provenance.end() + more, origin);
            }
            for holder in holders {
                provenance.note_holder(holder);
            }
            let key = task(1).to_bytes();
            let mut bytes = encode_provenance(&key, &provenance);
            prop_assert_eq!(decode_provenance(&key, &bytes), Some(provenance));
            bytes[0] ^= 1;
            prop_assert_eq!(decode_provenance(&key, &bytes), None);
        }

        #[test]
        fn any_bytes_are_a_value_or_none(
            bytes in prop::collection::vec(any::<u8>(), 0..120),
            first in any::<u32>(),
        ) {
            let (key, batch) = (task(1).to_bytes(), batch_key(&task(1), first));
            prop_assert_eq!(Row::decode(&key, &bytes), None);
            prop_assert_eq!(decode_pieces(&key, 64, &bytes), None);
            prop_assert_eq!(decode_batch(&batch, &bytes), None);
            prop_assert_eq!(decode_provenance(&key, &bytes), None);
            // With a right check sum the fields themselves are looked at.
            let _ = Row::decode(&key, &seal(&key, bytes.clone()));
            let _ = decode_pieces(&key, 64, &seal(&key, bytes.clone()));
            let _ = decode_provenance(&key, &seal(&key, bytes.clone()));
            let _ = decode_batch(&batch, &seal(&batch, bytes));
        }
    }

    #[test]
    fn batches_sort_by_task_then_first_piece() {
        let keys = [
            batch_key(&task(1), 0),
            batch_key(&task(1), 255),
            batch_key(&task(1), 256),
            batch_key(&task(2), 0),
        ];
        assert!(keys.is_sorted());
    }
}
