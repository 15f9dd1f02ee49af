//! SHA-256 midstates as piece hashes.
//!
//! SHA-256 (FIPS 180-4) is a chain: `state[i+1] = compress(state[i], block[i])`, from a fixed
//! initial state, over the message and its padding. The *chain value* of a piece is the state after
//! its last byte; of the last piece, the state after the padding too, which is the blob's digest.
//! So a piece is checked alone, on any core and out of order, from the chain value before it and
//! its own; and once every piece has passed, the digest of the whole blob *is* proven, without
//! reading it a second time.

use std::fmt;

use sha2::block_api::compress256;

use crate::{Digest, Geometry, PieceIndex, digest::to_hex};

pub(crate) const BLOCK_LEN: usize = 64;
/// FIPS 180-4, 5.3.3.
pub(crate) const INITIAL: [u32; 8] = [
    0x6a09_e667,
    0xbb67_ae85,
    0x3c6e_f372,
    0xa54f_f53a,
    0x510e_527f,
    0x9b05_688c,
    0x1f83_d9ab,
    0x5be0_cd19,
];

/// The state of SHA-256 at a piece's end, as the eight words in big endian: the form in which the
/// last one is the digest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChainState([u8; 32]);

impl ChainState {
    /// The state before the first byte.
    pub fn initial() -> Self {
        Self::from_words(INITIAL)
    }

    /// A state told by someone else.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The digest that this state is, if it is the last piece's.
    pub fn to_digest(self) -> Digest {
        Digest::from_bytes(self.0)
    }

    pub(crate) fn from_words(words: [u32; 8]) -> Self {
        let mut bytes = [0; 32];
        for (bytes, word) in bytes.chunks_exact_mut(4).zip(words) {
            bytes.copy_from_slice(&word.to_be_bytes());
        }
        Self(bytes)
    }

    fn to_words(self) -> [u32; 8] {
        let mut words = [0; 8];
        for (word, bytes) in words.iter_mut().zip(self.0.chunks_exact(4)) {
            *word = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        words
    }
}

impl fmt::Debug for ChainState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&to_hex(&self.0))
    }
}

impl From<Digest> for ChainState {
    /// The chain value of the last piece of the blob with this digest.
    fn from(digest: Digest) -> Self {
        Self(*digest.as_bytes())
    }
}

/// A piece's bytes do not lead from the chain value before it to its own.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("piece {piece} of {len} bytes does not match its chain value")]
pub struct PieceMismatch {
    pub piece: PieceIndex,
    pub len: usize,
}

/// Checks one piece: whether `data` leads from `before` (the chain value of the previous piece, or
/// [`ChainState::initial`]) to `after`. About 1.8 GB/s on a core with SHA-NI.
pub fn check_piece(
    geometry: &Geometry,
    piece: PieceIndex,
    before: ChainState,
    after: ChainState,
    data: &[u8],
) -> Result<(), PieceMismatch> {
    let mut chain = Chain {
        geometry: *geometry,
        next: piece,
        state: before,
    };
    match chain.advance(data) {
        Ok(found) if found == after => Ok(()),
        _ => Err(PieceMismatch {
            piece,
            len: data.len(),
        }),
    }
}

/// Computes chain values piece after piece: what a fetcher of the origin runs over the stream.
#[derive(Clone, Debug)]
pub struct Chain {
    geometry: Geometry,
    next: PieceIndex,
    state: ChainState,
}

impl Chain {
    /// From the blob's first byte.
    pub fn new(geometry: Geometry) -> Self {
        Self::resume(geometry, PieceIndex(0), ChainState::initial())
    }

    /// From the start of `next`, whose predecessor's chain value is `before`.
    pub fn resume(geometry: Geometry, next: PieceIndex, before: ChainState) -> Self {
        Self {
            geometry,
            next,
            state: before,
        }
    }

    /// The geometry of the blob it runs over.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// The chain value before the piece expected next.
    pub fn state(&self) -> ChainState {
        self.state
    }

    /// The piece expected next.
    pub fn next(&self) -> PieceIndex {
        self.next
    }

    /// Takes the whole next piece and returns its chain value. Fails, unchanged, when `data` is
    /// not as long as that piece or there is no such piece.
    pub fn advance(&mut self, data: &[u8]) -> Result<ChainState, PieceMismatch> {
        let piece = self.next;
        if !self.geometry.contains(piece) || data.len() != self.geometry.len_of(piece) as usize {
            return Err(PieceMismatch {
                piece,
                len: data.len(),
            });
        }
        let mut words = self.state.to_words();
        let (blocks, rest) = data.as_chunks::<BLOCK_LEN>();
        compress256(&mut words, blocks);
        if self.geometry.is_last(piece) {
            compress_tail(&mut words, rest, self.geometry.length());
        }
        // Every other piece is a multiple of 64 bytes (Geometry), so `rest` is empty there.
        self.state = ChainState::from_words(words);
        self.next = piece.next();
        Ok(self.state)
    }
}

/// FIPS 180-4, 5.1.1: the rest, a 1 bit, zeros, and the message's length in bits.
pub(crate) fn compress_tail(words: &mut [u32; 8], rest: &[u8], length: u64) {
    let mut tail = [[0; BLOCK_LEN]; 2];
    let flat = tail.as_flattened_mut();
    flat[..rest.len()].copy_from_slice(rest);
    flat[rest.len()] = 0x80;
    let blocks = if rest.len() + 9 <= BLOCK_LEN { 1 } else { 2 };
    flat[blocks * BLOCK_LEN - 8..blocks * BLOCK_LEN].copy_from_slice(&(length * 8).to_be_bytes());
    compress256(words, &tail[..blocks]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i * 31 + i / 251) as u8).collect()
    }

    fn states(data: &[u8], geometry: Geometry) -> Vec<ChainState> {
        let mut chain = Chain::new(geometry);
        geometry
            .pieces()
            .map(|piece| {
                let range = geometry.range(piece);
                chain
                    .advance(&data[range.start as usize..range.end as usize])
                    .unwrap()
            })
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn the_last_chain_value_is_the_digest(len in 1usize..300_000) {
            let data = bytes(len);
            let geometry = Geometry::for_length(len as u64).unwrap();
            let states = states(&data, geometry);
            prop_assert_eq!(states.last().unwrap().to_digest(), Digest::of(&data));
        }
    }

    #[test]
    fn every_length_around_a_block_pads_right() {
        for len in (1..200).chain(65_536 - 70..65_536 + 70) {
            let data = bytes(len);
            let geometry = Geometry::for_length(len as u64).unwrap();
            assert_eq!(
                states(&data, geometry).last().unwrap().to_digest(),
                Digest::of(&data)
            );
        }
    }

    #[test]
    fn pieces_are_checked_alone_and_a_flipped_bit_is_found() {
        let data = bytes(200_000);
        let geometry = Geometry::for_length(200_000).unwrap();
        let states = states(&data, geometry);
        for piece in geometry.pieces().collect::<Vec<_>>().into_iter().rev() {
            let range = geometry.range(piece);
            let mut own = data[range.start as usize..range.end as usize].to_vec();
            let before = match piece.0 {
                0 => ChainState::initial(),
                n => states[n as usize - 1],
            };
            let after = states[piece.as_usize()];
            assert_eq!(check_piece(&geometry, piece, before, after, &own), Ok(()));
            own[17] ^= 1;
            assert!(check_piece(&geometry, piece, before, after, &own).is_err());
            own.pop();
            assert!(check_piece(&geometry, piece, before, after, &own).is_err());
        }
    }
}
