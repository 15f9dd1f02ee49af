//! Reading the fields of a frame's body.

use hawker_model::{
    GeometryError, HostIdError, OriginNameError, PieceIndex, PieceSetError, TaskId, TaskIdError,
};

use super::{MAX_PIECES, MAX_TEXT_LEN};

/// Why a body does not have the fields of its kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    #[error("it ends within a field")]
    Short,
    #[error("{0} bytes follow its last field")]
    Trailing(usize),
    #[error("{what} {found} is more than {max}")]
    TooMany {
        what: &'static str,
        found: usize,
        max: usize,
    },
    #[error("no {0} in it")]
    Empty(&'static str),
    #[error("{what} has the value {found}, which means nothing")]
    Value { what: &'static str, found: u32 },
    #[error("the bytes of its manifest have another digest")]
    WrongDigest,
    #[error("its text is not UTF-8")]
    Text,
    #[error("its text has control characters")]
    Control,
    #[error(transparent)]
    Task(#[from] TaskIdError),
    #[error(transparent)]
    Host(#[from] HostIdError),
    #[error(transparent)]
    Geometry(#[from] GeometryError),
    #[error(transparent)]
    Origin(#[from] OriginNameError),
    #[error(transparent)]
    Pieces(#[from] PieceSetError),
}

/// The unread rest of a body. A read that fails leaves it as it was.
pub(super) struct Body<'a>(&'a [u8]);

impl<'a> Body<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn bytes(&mut self, len: usize) -> Result<&'a [u8], BodyError> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(BodyError::Short)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], BodyError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(BodyError::Short)?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(super) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    pub(super) fn u8(&mut self) -> Result<u8, BodyError> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    pub(super) fn u16(&mut self) -> Result<u16, BodyError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(super) fn u32(&mut self) -> Result<u32, BodyError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, BodyError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(super) fn state(&mut self) -> Result<[u8; 32], BodyError> {
        self.array()
    }

    /// A byte that is 0 or 1.
    pub(super) fn flag(&mut self, what: &'static str) -> Result<bool, BodyError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            found => Err(BodyError::Value {
                what,
                found: found.into(),
            }),
        }
    }

    pub(super) fn task(&mut self) -> Result<TaskId, BodyError> {
        Ok(TaskId::from_bytes(self.bytes(TaskId::ENCODED_LEN)?)?)
    }

    pub(super) fn piece(&mut self) -> Result<PieceIndex, BodyError> {
        let found = self.u32()?;
        at_most("piece", found as usize, MAX_PIECES as usize - 1)?;
        Ok(PieceIndex(found))
    }

    /// A u16 length, then as many bytes of UTF-8.
    pub(super) fn string(&mut self, what: &'static str, max: usize) -> Result<&'a str, BodyError> {
        let len = usize::from(self.u16()?);
        at_most(what, len, max)?;
        std::str::from_utf8(self.bytes(len)?).map_err(|_| BodyError::Text)
    }

    /// A string without control characters.
    pub(super) fn printable(
        &mut self,
        what: &'static str,
        max: usize,
    ) -> Result<&'a str, BodyError> {
        let text = self.string(what, max)?;
        match text.contains(char::is_control) {
            true => Err(BodyError::Control),
            false => Ok(text),
        }
    }

    /// A text for people. Control characters, which could forge lines of a log, become spaces.
    pub(super) fn text(&mut self) -> Result<String, BodyError> {
        let text = self.string("text length", MAX_TEXT_LEN)?;
        Ok(text.replace(char::is_control, " "))
    }

    pub(super) fn end(self) -> Result<(), BodyError> {
        match self.0.len() {
            0 => Ok(()),
            left => Err(BodyError::Trailing(left)),
        }
    }
}

pub(super) fn at_most(what: &'static str, found: usize, max: usize) -> Result<(), BodyError> {
    match found <= max {
        true => Ok(()),
        false => Err(BodyError::TooMany { what, found, max }),
    }
}
