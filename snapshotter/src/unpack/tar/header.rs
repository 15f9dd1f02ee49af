//! One block of 512 bytes as a header, in all dialects: V7, ustar, GNU and star.

use super::{
    super::error::TarFault,
    number::{self, NANOS},
};

/// Bytes of a block.
pub(in crate::unpack) const BLOCK: usize = 512;

/// One block.
pub(super) struct Block(pub(super) [u8; BLOCK]);

impl Default for Block {
    fn default() -> Self {
        Self([0; BLOCK])
    }
}

impl Block {
    pub(super) fn is_zero(&self) -> bool {
        self.0 == [0; BLOCK]
    }

    /// Whether the sum of the bytes is the one written in it. Ancient writers added signed bytes.
    fn has_its_checksum(&self) -> bool {
        let bytes = || self.0[..148].iter().chain(&self.0[156..]);
        let blanks = 8 * i64::from(b' ');
        let Some(written) = number::octal(&self.0[148..156]) else {
            return false;
        };
        written == blanks + i64::from(bytes().map(|byte| u32::from(*byte)).sum::<u32>())
            || written
                == blanks
                    + bytes()
                        .map(|byte| i64::from(byte.cast_signed()))
                        .sum::<i64>()
    }
}

/// Which fields a header has behind those of V7.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    V7,
    Ustar,
    Gnu,
    Star,
}

/// What one header says, names apart.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) dialect: Dialect,
    pub(super) kind: u8,
    pub(super) size: u64,
    pub(super) mode: i64,
    pub(super) uid: i64,
    pub(super) gid: i64,
    pub(super) modified: i128,
    pub(super) accessed: Option<i128>,
    pub(super) device: (i64, i64),
}

impl Header {
    /// Reads a block; the names are put where the caller wants them.
    pub(super) fn parse(
        block: &Block,
        path: &mut Vec<u8>,
        link: &mut Vec<u8>,
    ) -> Result<Self, TarFault> {
        if !block.has_its_checksum() {
            return Err(TarFault::Checksum);
        }
        let bytes = &block.0;
        let dialect = dialect(bytes);
        let mut accessed = None;
        path.clear();
        match dialect {
            Dialect::V7 => {}
            Dialect::Ustar => put_prefix(path, &bytes[345..500]),
            Dialect::Star => {
                put_prefix(path, &bytes[345..476]);
                accessed = Some(seconds(&bytes[476..488], "the access time")?);
            }
            Dialect::Gnu => match gnu_accessed(bytes) {
                Ok(time) => accessed = time,
                Err(NotATime) if bytes[345..500].is_ascii() => put_prefix(path, &bytes[345..500]),
                Err(NotATime) => {}
            },
        }
        path.extend_from_slice(text(&bytes[..100]));
        link.clear();
        link.extend_from_slice(text(&bytes[157..257]));
        Self::numbers(bytes, dialect, accessed)
    }

    fn numbers(
        bytes: &[u8; BLOCK],
        dialect: Dialect,
        accessed: Option<i128>,
    ) -> Result<Self, TarFault> {
        let size = number(&bytes[124..136], "the size")?;
        let device = match dialect {
            Dialect::V7 => (0, 0),
            _ => (
                number(&bytes[329..337], "the device's major number")?,
                number(&bytes[337..345], "the device's minor number")?,
            ),
        };
        Ok(Self {
            dialect,
            kind: bytes[156],
            size: u64::try_from(size).map_err(|_| TarFault::Number("the size"))?,
            mode: number(&bytes[100..108], "the mode")?,
            uid: number(&bytes[108..116], "the owner")?,
            gid: number(&bytes[116..124], "the group")?,
            modified: seconds(&bytes[136..148], "the time")?,
            accessed,
            device,
        })
    }
}

fn dialect(bytes: &[u8; BLOCK]) -> Dialect {
    match &bytes[257..263] {
        b"ustar\0" if bytes[508..] == *b"tar\0" => Dialect::Star,
        b"ustar\0" => Dialect::Ustar,
        b"ustar " if bytes[263..265] == *b" \0" => Dialect::Gnu,
        _ => Dialect::V7,
    }
}

struct NotATime;

/// The access time of a GNU header. Go before 1.8 wrote the ustar prefix into GNU headers, over
/// both times: then neither is a number, and the field is a prefix after all.
fn gnu_accessed(bytes: &[u8; BLOCK]) -> Result<Option<i128>, NotATime> {
    let time = |field: &[u8]| match field[0] {
        0 => Ok(None),
        _ => match number::field(field) {
            Some(seconds) => Ok(Some(i128::from(seconds) * NANOS)),
            None => Err(NotATime),
        },
    };
    let accessed = time(&bytes[345..357])?;
    time(&bytes[357..369])?;
    Ok(accessed)
}

fn number(field: &[u8], what: &'static str) -> Result<i64, TarFault> {
    number::field(field).ok_or(TarFault::Number(what))
}

fn seconds(field: &[u8], what: &'static str) -> Result<i128, TarFault> {
    number(field, what).map(|seconds| i128::from(seconds) * NANOS)
}

fn put_prefix(path: &mut Vec<u8>, field: &[u8]) {
    let prefix = text(field);
    if !prefix.is_empty() {
        path.extend_from_slice(prefix);
        path.push(b'/');
    }
}

/// A text field, up to its NUL if it has one.
fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}
