//! Sparse files, in the four forms that GNU tar has written: its own header type `S`, and PAX
//! versions 0.0, 0.1 and 1.0.

use std::ops::Range;

use super::{
    super::error::TarFault,
    header::{BLOCK, Block},
    number,
};

/// Where a sparse file has data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::unpack) struct Extent {
    pub(in crate::unpack) offset: u64,
    pub(in crate::unpack) len: u64,
}

/// What PAX records say about holes.
#[derive(Debug, Default)]
pub(super) struct PaxSparse {
    major: Vec<u8>,
    minor: Vec<u8>,
    pub(super) name: Option<Range<usize>>,
    size: Option<i64>,
    real_size: Option<i64>,
    blocks: Option<i64>,
    /// Offsets and lengths in turn.
    map: Vec<i64>,
    /// Whether `map` is being put together from the single records of version 0.0.
    single: bool,
}

/// Which PAX form a file has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// 0.0 and 0.1: the map is in the records.
    Records,
    /// 1.0: the map comes before the data.
    Data,
}

impl PaxSparse {
    /// One record, without `GNU.sparse.` before its key.
    pub(super) fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), TarFault> {
        let number = || match value {
            b"" => Ok(None),
            _ => number::decimal(value).map(Some).ok_or(TarFault::SparseMap),
        };
        match key {
            b"major" => self.major = value.to_vec(),
            b"minor" => self.minor = value.to_vec(),
            b"size" => self.size = number()?,
            b"realsize" => self.real_size = number()?,
            b"numblocks" => self.blocks = number()?,
            b"map" if !self.single => self.map = list(value)?,
            b"offset" => self.take_single(value, 0)?,
            b"numbytes" => self.take_single(value, 1)?,
            _ => {}
        }
        Ok(())
    }

    /// Offset and length come in turn.
    fn take_single(&mut self, value: &[u8], turn: usize) -> Result<(), TarFault> {
        if !self.single {
            self.single = true;
            self.map.clear();
        }
        if self.map.len() % 2 != turn {
            return Err(TarFault::SparseMap);
        }
        let value = number::decimal(value).ok_or(TarFault::SparseMap)?;
        self.map.push(value);
        Ok(())
    }

    /// Whether the file is sparse at all. Versions that nobody knows are not, as in Go.
    pub(super) fn form(&self) -> Option<Form> {
        match (&self.major[..], &self.minor[..]) {
            (b"0", b"0" | b"1") => Some(Form::Records),
            (b"1", b"0") => Some(Form::Data),
            (b"", b"") if !self.map.is_empty() => Some(Form::Records),
            _ => None,
        }
    }

    /// The file's size, holes included, if the records have it.
    pub(super) fn size(&self) -> Result<Option<u64>, TarFault> {
        let size = self.size.or(self.real_size);
        let size = size.map(|size| u64::try_from(size).map_err(|_| TarFault::SparseMap));
        size.transpose()
    }

    /// The map of [`Form::Records`].
    pub(super) fn map(&self) -> Result<Vec<Extent>, TarFault> {
        let len = i64::try_from(self.map.len() / 2).ok();
        if !self.map.len().is_multiple_of(2) || self.blocks != len {
            return Err(TarFault::SparseMap);
        }
        self.map
            .chunks_exact(2)
            .map(|pair| extent(pair[0], pair[1]))
            .collect()
    }
}

fn list(value: &[u8]) -> Result<Vec<i64>, TarFault> {
    if value.is_empty() {
        return Ok(Vec::new());
    }
    value
        .split(|byte| *byte == b',')
        .map(|number| number::decimal(number).ok_or(TarFault::SparseMap))
        .collect()
}

fn extent(offset: i64, len: i64) -> Result<Extent, TarFault> {
    match (u64::try_from(offset), u64::try_from(len)) {
        (Ok(offset), Ok(len)) => Ok(Extent { offset, len }),
        _ => Err(TarFault::SparseMap),
    }
}

/// The size of a GNU sparse file, holes included, from its header.
pub(super) fn gnu_size(block: &Block) -> Result<u64, TarFault> {
    let size = number::field(&block.0[483..495]).ok_or(TarFault::SparseMap)?;
    u64::try_from(size).map_err(|_| TarFault::SparseMap)
}

/// The pieces of a GNU map within a header; whether more follow in a block of their own.
pub(super) fn gnu_header(block: &Block, map: &mut Vec<Extent>) -> Result<bool, TarFault> {
    gnu_pieces(&block.0[386..482], map)?;
    Ok(block.0[482] != 0)
}

/// The same in a block of its own.
pub(super) fn gnu_continued(block: &Block, map: &mut Vec<Extent>) -> Result<bool, TarFault> {
    gnu_pieces(&block.0[..504], map)?;
    Ok(block.0[504] != 0)
}

fn gnu_pieces(pieces: &[u8], map: &mut Vec<Extent>) -> Result<(), TarFault> {
    for piece in pieces.chunks_exact(24) {
        if piece[0] == 0 {
            break;
        }
        let (offset, len) = piece.split_at(12);
        let number = |field| number::field(field).ok_or(TarFault::SparseMap);
        map.push(extent(number(offset)?, number(len)?)?);
    }
    Ok(())
}

/// The map of [`Form::Data`] while its blocks come in: decimal lines, first how many pieces.
#[derive(Debug, Default)]
pub(super) struct DataMap {
    pieces: Option<usize>,
    numbers: Vec<i64>,
    line: Vec<u8>,
}

impl DataMap {
    /// Takes one block. True when the map is complete; the rest of that block is filling.
    pub(super) fn take(&mut self, block: &[u8; BLOCK]) -> Result<bool, TarFault> {
        for byte in block {
            if *byte != b'\n' {
                self.line.push(*byte);
                continue;
            }
            let number = number::decimal(&self.line).ok_or(TarFault::SparseMap)?;
            self.line.clear();
            match self.pieces {
                None => self.pieces = usize::try_from(number).ok(),
                Some(_) => self.numbers.push(number),
            }
            let pieces = self.pieces.ok_or(TarFault::SparseMap)?;
            if self.numbers.len() / 2 == pieces {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(super) fn map(&self) -> Result<Vec<Extent>, TarFault> {
        let pairs = self.numbers.chunks_exact(2);
        pairs.map(|pair| extent(pair[0], pair[1])).collect()
    }
}

/// Holds a map to what it must be: in order, without overlap, within `size`, and made of exactly
/// `stored` bytes.
pub(super) fn check(map: &[Extent], size: u64, stored: u64) -> Result<(), TarFault> {
    let mut end = 0;
    let mut sum = 0_u64;
    for extent in map {
        if extent.offset < end {
            return Err(TarFault::SparseMap);
        }
        end = extent
            .offset
            .checked_add(extent.len)
            .filter(|end| *end <= size)
            .ok_or(TarFault::SparseMap)?;
        // No overflow: pieces that do not overlap are within `size`.
        sum += extent.len;
    }
    match sum == stored {
        true => Ok(()),
        false => Err(TarFault::SparseMap),
    }
}
