//! One entry, put together from all headers that describe it.

use std::ops::Range;

use super::{super::error::Refusal, sparse::Extent};

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::unpack) enum Kind {
    #[default]
    File,
    Directory,
    Symlink,
    HardLink,
    Char,
    Block,
    Fifo,
}

/// One entry. Reused for the next, so that an ordinary entry allocates nothing.
#[derive(Debug, Default)]
pub(in crate::unpack) struct Entry {
    /// The path as the tar has it.
    pub(in crate::unpack) path: Vec<u8>,
    /// The target of a link, as the tar has it.
    pub(in crate::unpack) link: Vec<u8>,
    pub(in crate::unpack) kind: Kind,
    /// Permissions with set-id and sticky bits, and nothing else.
    pub(in crate::unpack) mode: u32,
    pub(in crate::unpack) uid: u32,
    pub(in crate::unpack) gid: u32,
    /// Since 1970, in nanoseconds; not bounded.
    pub(in crate::unpack) modified: i128,
    pub(in crate::unpack) accessed: Option<i128>,
    /// Bytes of the file as it reads, holes included.
    pub(in crate::unpack) size: u64,
    /// Major and minor.
    pub(in crate::unpack) device: (i64, i64),
    /// Where a sparse file has data; everywhere when there is no such map.
    pub(super) extents: Option<Vec<Extent>>,
    /// The PAX records, which attributes lie in.
    pub(super) records: Vec<u8>,
    pub(super) attributes: Vec<(Range<usize>, Range<usize>)>,
}

impl Entry {
    /// Extended attributes: name and value.
    pub(in crate::unpack) fn attributes(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let spans = self.attributes.iter();
        spans.map(|(name, value)| (&self.records[name.clone()], &self.records[value.clone()]))
    }

    pub(in crate::unpack) fn has_attributes(&self) -> bool {
        !self.attributes.is_empty()
    }

    /// The map of a sparse file: offset and length of what is not a hole, in order.
    pub(in crate::unpack) fn extents(&self) -> Option<&[Extent]> {
        self.extents.as_deref()
    }

    /// As at the start, with the memory kept.
    pub(super) fn clear(&mut self) {
        self.path.clear();
        self.link.clear();
        self.attributes.clear();
        self.accessed = None;
        self.extents = None;
    }
}

pub(super) fn replace(text: &mut Vec<u8>, records: &[u8], span: Option<&Range<usize>>) {
    if let Some(span) = span {
        text.clear();
        text.extend_from_slice(&records[span.clone()]);
    }
}

pub(super) fn kind(kind: u8, path: &[u8]) -> Result<Kind, Refusal> {
    Ok(match kind {
        // Before there was a type for directories, they were files with a slash.
        0 if path.ends_with(b"/") => Kind::Directory,
        0 | b'0' | b'S' => Kind::File,
        b'1' => Kind::HardLink,
        b'2' => Kind::Symlink,
        b'3' => Kind::Char,
        b'4' => Kind::Block,
        b'5' => Kind::Directory,
        b'6' => Kind::Fifo,
        _ => return Err(Refusal::Kind(char::from(kind))),
    })
}

/// The greatest number means "leave it" to the kernel.
pub(super) fn owner(number: i64) -> Result<u32, Refusal> {
    match u32::try_from(number) {
        Ok(u32::MAX) | Err(_) => Err(Refusal::Owner),
        Ok(number) => Ok(number),
    }
}
