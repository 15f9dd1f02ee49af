//! Bytes in, frames out: what a connection has received and not yet understood.
//!
//! Small frames are gathered in one buffer that is used again and again. A piece's data gets a
//! buffer of its own ([`piece_memory`]) once there is room for it, which the socket is read into
//! directly: only what came along with the header is copied once. Memory held is at most one read, one
//! frame other than `Piece` (270 KiB), one piece (4 MiB) and the certificates that have a number (64
//! KiB). Frames that may carry a credential
//! are wiped.

use bytes::{Buf as _, BufMut, BytesMut, buf::Limit};
use hawker_model::{PieceIndex, TaskId};
use hawker_swarm::{Envelope, Message};
use zeroize::Zeroize as _;

use super::{
    frame::{
        Frame, FrameError, Kind, LENGTH_LEN, PIECE_BODY_LEN, PIECE_HEADER_LEN, PREFACE, Signers,
        decode_body, decode_piece_header,
    },
    piece_memory::{self, Lent},
};

/// How much is read at once where the end is not known.
const READ_LEN: usize = 8 << 10;

/// How much of a piece is read at once. Under TLS the writer waits meanwhile: 0.3 ms.
const PIECE_READ_LEN: usize = 256 << 10;

/// The receiving half of the protocol, without the socket.
#[derive(Debug)]
pub struct Decoder {
    buffer: BytesMut,
    stage: Stage,
    piece: Option<PieceData>,
    signers: Signers,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Preface,
    Hello,
    Open,
}

/// A piece whose data is arriving.
#[derive(Debug)]
struct PieceData {
    task: TaskId,
    piece: PieceIndex,
    len: usize,
    /// Once it is let in.
    data: Option<Lent>,
}

impl PieceData {
    fn missing(&self) -> usize {
        self.len - self.data.as_ref().map_or(0, |data| data.len())
    }
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    /// For a connection on which nothing has been received.
    pub fn new() -> Self {
        Self {
            buffer: BytesMut::new(),
            stage: Stage::Preface,
            piece: None,
            signers: Signers::default(),
        }
    }

    /// Where the next bytes from the socket belong.
    pub fn space(&mut self) -> Limit<&mut BytesMut> {
        let missing = self.piece.as_ref().map_or(0, PieceData::missing);
        let data = self.piece.as_mut().and_then(|piece| piece.data.as_mut());
        match data {
            Some(data) if missing > 0 => (&mut **data).limit(missing.min(PIECE_READ_LEN)),
            _ => {
                self.buffer.reserve(READ_LEN);
                (&mut self.buffer).limit(READ_LEN)
            }
        }
    }

    /// Length of the piece whose header has come and whose data wants room: nothing is to be read
    /// before it is let in.
    pub fn at_the_door(&self) -> Option<usize> {
        let piece = self.piece.as_ref()?;
        piece.data.is_none().then_some(piece.len)
    }

    /// There is room for the data of the piece [`Self::at_the_door`].
    pub fn let_in(&mut self) {
        let Some(piece) = self.piece.as_mut().filter(|piece| piece.data.is_none()) else {
            return;
        };
        let mut data = piece_memory::take(piece.len);
        let here = piece.len.min(self.buffer.len());
        data.extend_from_slice(&self.buffer[..here]);
        self.buffer.advance(here);
        piece.data = Some(data);
    }

    /// How much has come of the piece that is arriving, if one is.
    pub fn arrived(&self) -> Option<usize> {
        let data = self.piece.as_ref()?.data.as_ref();
        Some(data.map_or(0, |data| data.len()))
    }

    /// The next frame, if it is there whole. After an error the connection is of no use. A piece has
    /// to be let in before it comes ([`Self::at_the_door`]).
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        if self.stage == Stage::Preface && !self.take_preface()? {
            return Ok(None);
        }
        if self.piece.is_some() {
            return Ok(self.take_piece());
        }
        let Some((len, byte)) = self.header() else {
            return Ok(None);
        };
        let kind = Kind::from_byte(byte).ok_or(FrameError::UnknownKind(byte))?;
        self.check_place(kind)?;
        let body_len = check_length(kind, len)?;
        if kind == Kind::Piece {
            return self.begin_piece(body_len);
        }
        let whole = LENGTH_LEN + 1 + body_len;
        if self.buffer.len() < whole {
            // At most the limit of the kind.
            self.buffer.reserve(whole - self.buffer.len());
            return Ok(None);
        }
        let body = &self.buffer[LENGTH_LEN + 1..whole];
        let frame = decode_body((byte, kind), body, &mut self.signers);
        if kind.may_be_secret() {
            self.buffer[..whole].zeroize();
        }
        let frame = frame?;
        self.buffer.advance(whole);
        if kind == Kind::Hello {
            self.stage = Stage::Open;
        }
        Ok(Some(frame))
    }

    /// Whether nothing of an unfinished frame is held: where a connection may end.
    pub fn is_between_frames(&self) -> bool {
        self.buffer.is_empty() && self.piece.is_none()
    }

    /// Memory held.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        let piece = self.piece.as_ref();
        let data = piece.and_then(|piece| piece.data.as_ref());
        self.buffer.capacity() + data.map_or(0, |data| data.capacity())
    }

    fn take_preface(&mut self) -> Result<bool, FrameError> {
        let seen = self.buffer.len().min(PREFACE.len());
        if self.buffer[..seen] != PREFACE[..seen] {
            return Err(stranger(&self.buffer));
        }
        if seen < PREFACE.len() {
            return Ok(false);
        }
        self.buffer.advance(PREFACE.len());
        self.stage = Stage::Hello;
        Ok(true)
    }

    /// Length and kind of the frame at the front.
    fn header(&self) -> Option<(usize, u8)> {
        let (len, rest) = self.buffer.split_first_chunk::<LENGTH_LEN>()?;
        Some((u32::from_le_bytes(*len) as usize, *rest.first()?))
    }

    fn check_place(&self, kind: Kind) -> Result<(), FrameError> {
        match (self.stage, kind) {
            (Stage::Open, Kind::Hello) => Err(FrameError::SecondHello),
            (Stage::Open, _) | (_, Kind::Hello | Kind::Error) => Ok(()),
            _ => Err(FrameError::BeforeHello(kind)),
        }
    }

    fn begin_piece(&mut self, body_len: usize) -> Result<Option<Frame>, FrameError> {
        if self.buffer.len() < PIECE_HEADER_LEN {
            return Ok(None);
        }
        let (task, piece) = decode_piece_header(&self.buffer[LENGTH_LEN + 1..PIECE_HEADER_LEN])?;
        self.buffer.advance(PIECE_HEADER_LEN);
        self.piece = Some(PieceData {
            task,
            piece,
            len: body_len - PIECE_BODY_LEN,
            data: None,
        });
        Ok(None)
    }

    /// The piece, once its data is there.
    fn take_piece(&mut self) -> Option<Frame> {
        let is_whole = |piece: &mut PieceData| piece.data.is_some() && piece.missing() == 0;
        let done = self.piece.take_if(is_whole)?;
        let message = Message::Piece {
            piece: done.piece,
            data: done.data?.share(),
        };
        Some(Frame::Message(Envelope {
            task: done.task,
            message,
        }))
    }
}

/// The length of the body, which the kind allows.
fn check_length(kind: Kind, len: usize) -> Result<usize, FrameError> {
    let (min, max) = kind.body_len();
    match len.checked_sub(1) {
        Some(body) if (min..=max).contains(&body) => Ok(body),
        _ => Err(FrameError::Length {
            kind,
            len,
            min: min + 1,
            max: max + 1,
        }),
    }
}

/// What speaks there, by its first bytes.
fn stranger(bytes: &[u8]) -> FrameError {
    const TLS_ALERT: u8 = 0x15;
    const TLS_HANDSHAKE: u8 = 0x16;
    let methods = [
        &b"GET"[..],
        b"HEA",
        b"POS",
        b"PUT",
        b"PRI",
        b"OPT",
        b"CON",
        b"HTT",
    ];
    match bytes {
        [TLS_ALERT | TLS_HANDSHAKE, ..] => FrameError::SpeaksTls,
        bytes if methods.iter().any(|method| bytes.starts_with(method)) => FrameError::SpeaksHttp,
        _ => FrameError::Stranger,
    }
}
