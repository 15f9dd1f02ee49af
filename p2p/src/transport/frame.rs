//! Frames as bytes: version 3 of the wire protocol (`p2p/docs/wire.md`).
//!
//! A frame is its length (u32, of what follows), its kind (u8) and its body. Numbers are little
//! endian. Every length is checked against the limit of its kind before anything is allocated, and
//! every value before it becomes a type of the swarm. Nothing here touches a socket.

mod body;
mod claim;
mod hello;
mod message;
mod resolve;
mod signers;
#[cfg(test)]
mod tests;

use bytes::{BufMut as _, BytesMut};
use hawker_model::{MAX_PIECE_LEN, MAX_STATES_PER_BATCH, OriginName, PieceIndex, TaskId};
use hawker_swarm::Envelope;

pub use body::BodyError;
pub use claim::{MAX_CHALLENGE_LEN, MAX_CHALLENGES};
pub use hello::Hello;
pub use message::{Credentials, UnsendableError, encode_message, fits, wish_fits};
pub use signers::Signers;

use body::Body;
pub(crate) use claim::keep_sendable;
pub(crate) use message::encode_piece_header;
use message::{decode_message, decode_piece};

/// What both sides send before their first frame.
pub const PREFACE: [u8; 8] = *b"HAWKER\r\n";
/// The newest version of the protocol that is spoken here.
pub const VERSION: u16 = 3;
/// The oldest.
pub const MIN_VERSION: u16 = 3;
/// Pieces of a task, at most; no index reaches it.
pub const MAX_PIECES: u32 = 1 << 20;
/// Most indexes in one `Gained`.
pub const MAX_GAINED: usize = 4096;
/// Longest URL of a source, in bytes.
pub const MAX_URL_LEN: usize = 8 << 10;
/// Longest `Authorization` of a source, in bytes.
pub const MAX_AUTHORIZATION_LEN: usize = 16 << 10;
/// Longest `Accept` of a wish for a manifest, in bytes.
pub const MAX_ACCEPT_LEN: usize = 4 << 10;
/// Longest manifest in a frame, in bytes: nearly all are much shorter.
pub const MAX_MANIFEST_LEN: usize = 256 << 10;
/// Longest media type of a manifest, in bytes.
pub const MAX_MEDIA_TYPE_LEN: usize = 256;
/// Longest certificate of a list's signer, in bytes of DER.
pub const MAX_SIGNER_LEN: usize = 8 << 10;
/// Longest text of an `Error` or `Goodbye`, in bytes.
pub const MAX_TEXT_LEN: usize = 1024;
/// Bytes before a piece's data: length, kind, task, index.
pub const PIECE_HEADER_LEN: usize = LENGTH_LEN + 1 + PIECE_BODY_LEN;

pub(crate) const LENGTH_LEN: usize = 4;
/// A piece frame's body without the data.
pub(crate) const PIECE_BODY_LEN: usize = TaskId::ENCODED_LEN + 4;

/// One frame, without a piece's data on the way in (see [`crate::transport::Decoder`]).
#[derive(Clone, Debug, PartialEq)]
pub enum Frame {
    /// The first frame of either side.
    Hello(Hello),
    /// Why the sender ends the connection; nothing follows.
    Error { code: ErrorCode, text: String },
    /// The sender ends the connection in peace; nothing follows.
    Goodbye { reason: String },
    /// Asks for a `Pong` with the same number.
    Ping { nonce: u64 },
    /// Answers a `Ping`.
    Pong { nonce: u64 },
    /// About one task.
    Message(Envelope),
    /// Of a kind that this version does not know and may ignore.
    Ignored { kind: u8 },
}

/// Why a side ends the connection, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorCode {
    /// No common version of the protocol.
    Version,
    /// Another host was wanted.
    WrongHost,
    /// A host of this role has no business here.
    WrongRole,
    /// The hello contradicts the certificate.
    FalseHello,
    /// Both sides have the same name.
    SameName,
    /// Bytes that are no frame of the protocol, or one out of place.
    Protocol,
    /// Too many connections.
    Busy,
    /// One that this version does not know.
    Other(u16),
}

impl ErrorCode {
    /// The number on the wire.
    pub fn to_u16(self) -> u16 {
        match self {
            Self::Version => 1,
            Self::WrongHost => 2,
            Self::WrongRole => 3,
            Self::FalseHello => 4,
            Self::SameName => 5,
            Self::Protocol => 6,
            Self::Busy => 7,
            Self::Other(code) => code,
        }
    }

    /// The reverse of [`Self::to_u16`].
    pub fn from_u16(code: u16) -> Self {
        match code {
            1 => Self::Version,
            2 => Self::WrongHost,
            3 => Self::WrongRole,
            4 => Self::FalseHello,
            5 => Self::SameName,
            6 => Self::Protocol,
            7 => Self::Busy,
            other => Self::Other(other),
        }
    }
}

/// Why bytes are no frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("the peer speaks TLS, and this host is set to transport \"plain\"")]
    SpeaksTls,
    #[error("the peer speaks HTTP: this is Hawker's peer port")]
    SpeaksHttp,
    #[error("the peer does not speak Hawker's protocol")]
    Stranger,
    #[error("frame of unknown kind {0:#04x}")]
    UnknownKind(u8),
    #[error("{kind} frame of {len} bytes is not between {min} and {max}")]
    Length {
        kind: Kind,
        len: usize,
        min: usize,
        max: usize,
    },
    #[error("{kind} frame: {reason}")]
    Body { kind: Kind, reason: BodyError },
    #[error("{0} frame before the hello")]
    BeforeHello(Kind),
    #[error("a second hello")]
    SecondHello,
}

/// What a frame is; the number is its byte on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Hello = 0x01,
    Error = 0x02,
    Goodbye = 0x03,
    Ping = 0x04,
    Pong = 0x05,
    Join = 0x10,
    Head = 0x11,
    Have = 0x12,
    Gained = 0x13,
    List = 0x14,
    Request = 0x15,
    RequestAny = 0x16,
    Cancel = 0x17,
    Piece = 0x18,
    Refuse = 0x19,
    Leave = 0x1a,
    Claim = 0x1b,
    Heard = 0x1c,
    Verdict = 0x1d,
    Renew = 0x1e,
    /// Any kind from 0x80 on that this version does not know.
    Optional = 0x80,
    Doubt = 0x81,
    Resolve = 0x82,
    Resolved = 0x83,
}

impl Kind {
    /// The kind of a byte; `None` for one that must be known and is not.
    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            0x01 => Self::Hello,
            0x02 => Self::Error,
            0x03 => Self::Goodbye,
            0x04 => Self::Ping,
            0x05 => Self::Pong,
            0x10 => Self::Join,
            0x11 => Self::Head,
            0x12 => Self::Have,
            0x13 => Self::Gained,
            0x14 => Self::List,
            0x15 => Self::Request,
            0x16 => Self::RequestAny,
            0x17 => Self::Cancel,
            0x18 => Self::Piece,
            0x19 => Self::Refuse,
            0x1a => Self::Leave,
            0x1b => Self::Claim,
            0x1c => Self::Heard,
            0x1d => Self::Verdict,
            0x1e => Self::Renew,
            0x81 => Self::Doubt,
            0x82 => Self::Resolve,
            0x83 => Self::Resolved,
            0x80.. => Self::Optional,
            _ => return None,
        })
    }

    /// Whether a frame of this kind may carry a credential.
    pub(crate) fn may_be_secret(self) -> bool {
        matches!(self, Self::Join | Self::Claim | Self::Resolve)
    }

    /// The least and the greatest length of the body.
    pub(crate) fn body_len(self) -> (usize, usize) {
        const TASK: usize = TaskId::ENCODED_LEN;
        const PIECE: usize = TASK + 4;
        const STATES: usize = MAX_STATES_PER_BATCH;
        const CLAIM: usize = TASK + 8;
        let max_source = 2 + MAX_URL_LEN + 1 + 2 + MAX_AUTHORIZATION_LEN;
        match self {
            Self::Hello => (15, 1024),
            Self::Error => (4, 4 + MAX_TEXT_LEN),
            Self::Goodbye => (2, 2 + MAX_TEXT_LEN),
            Self::Ping | Self::Pong => (8, 8),
            Self::Join => (TASK + 1, TASK + 1 + max_source),
            Self::Head => (TASK + 12, TASK + 12),
            Self::Have => (TASK + 4, TASK + 4 + MAX_PIECES as usize / 8),
            Self::Gained => (TASK + 6, TASK + 2 + 4 * MAX_GAINED),
            Self::List => (
                PIECE + 2 + 32 + 2 + 2 + 1,
                PIECE + 2 + 32 * STATES + 2 + OriginName::MAX_LEN + 2 + MAX_SIGNER_LEN + 1 + 64,
            ),
            Self::Request | Self::Cancel | Self::Doubt => (PIECE, PIECE),
            Self::RequestAny => (TASK + 2, TASK + 2),
            Self::Piece => (PIECE + 1, PIECE + MAX_PIECE_LEN as usize),
            Self::Refuse => (TASK + 2, TASK + 6),
            Self::Leave => (TASK, TASK),
            Self::Claim => (CLAIM + 2 + 1 + 1, CLAIM + max_source),
            Self::Heard => (CLAIM, CLAIM),
            Self::Verdict => (
                CLAIM + 1,
                CLAIM + 1 + 2 + 1 + MAX_CHALLENGES * (2 + MAX_CHALLENGE_LEN),
            ),
            Self::Renew => (TASK + 32, TASK + 32),
            Self::Resolve => (
                CLAIM + 2 + 1 + 1 + 2 + 1,
                CLAIM + max_source + 2 + MAX_ACCEPT_LEN + 1,
            ),
            Self::Resolved => (
                CLAIM + 1,
                CLAIM + 1 + 32 + 2 + MAX_MEDIA_TYPE_LEN + 8 + 1 + MAX_MANIFEST_LEN,
            ),
            Self::Optional => (0, 64 << 10),
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(self, f)
    }
}

/// Appends a `Hello`.
pub fn encode_hello(hello: &Hello, out: &mut BytesMut) {
    framed(Kind::Hello, out, |out| hello.encode(out));
}

/// Appends an `Error`; a text too long is cut.
pub fn encode_error(code: ErrorCode, text: &str, out: &mut BytesMut) {
    framed(Kind::Error, out, |out| {
        out.put_u16_le(code.to_u16());
        put_text(text, out);
    });
}

/// Appends a `Goodbye`; a reason too long is cut.
pub fn encode_goodbye(reason: &str, out: &mut BytesMut) {
    framed(Kind::Goodbye, out, |out| put_text(reason, out));
}

/// Appends a `Ping`.
pub fn encode_ping(nonce: u64, out: &mut BytesMut) {
    framed(Kind::Ping, out, |out| out.put_u64_le(nonce));
}

/// Appends a `Pong`.
pub fn encode_pong(nonce: u64, out: &mut BytesMut) {
    framed(Kind::Pong, out, |out| out.put_u64_le(nonce));
}

/// Decodes the body of a whole frame other than `Piece`, whose data takes another way, behind others
/// that carried `signers`.
pub(crate) fn decode_body(
    (byte, kind): (u8, Kind),
    body: &[u8],
    signers: &mut Signers,
) -> Result<Frame, FrameError> {
    let decoded = match kind {
        Kind::Optional => Ok(Frame::Ignored { kind: byte }),
        Kind::Hello => Hello::decode(Body::new(body)).map(Frame::Hello),
        Kind::Error | Kind::Goodbye | Kind::Ping | Kind::Pong => decode_control(kind, body),
        _ => decode_message(kind, body, signers).map(Frame::Message),
    };
    decoded.map_err(|reason| FrameError::Body { kind, reason })
}

/// Decodes what precedes a piece's data.
pub(crate) fn decode_piece_header(body: &[u8]) -> Result<(TaskId, PieceIndex), FrameError> {
    let kind = Kind::Piece;
    decode_piece(body).map_err(|reason| FrameError::Body { kind, reason })
}

fn decode_control(kind: Kind, bytes: &[u8]) -> Result<Frame, BodyError> {
    let mut body = Body::new(bytes);
    let frame = match kind {
        Kind::Error => Frame::Error {
            code: ErrorCode::from_u16(body.u16()?),
            text: body.text()?,
        },
        Kind::Goodbye => Frame::Goodbye {
            reason: body.text()?,
        },
        Kind::Ping => Frame::Ping { nonce: body.u64()? },
        _ => Frame::Pong { nonce: body.u64()? },
    };
    body.end()?;
    Ok(frame)
}

/// Appends length, kind and what `body` appends.
pub(crate) fn framed(kind: Kind, out: &mut BytesMut, body: impl FnOnce(&mut BytesMut)) {
    let start = out.len();
    out.put_u32_le(0);
    out.put_u8(kind as u8);
    body(out);
    let len = (out.len() - start - LENGTH_LEN) as u32;
    out[start..start + LENGTH_LEN].copy_from_slice(&len.to_le_bytes());
}

/// A text with its length, cut where it is too long.
fn put_text(text: &str, out: &mut BytesMut) {
    let text = &text[..text.floor_char_boundary(MAX_TEXT_LEN)];
    out.put_u16_le(text.len() as u16);
    out.put_slice(text.as_bytes());
}
