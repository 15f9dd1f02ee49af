//! The swarm's messages as frames.

use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use hawker_model::{
    ChainState, Geometry, MAX_PIECE_LEN, MAX_STATES_PER_BATCH, OriginName, PieceIndex, PieceSet,
    SignedStates, TaskId,
};
use hawker_swarm::{Envelope, ManifestWish, Message, Refusal, Secret, Source, SourceMark};

use super::{
    Kind, MAX_ACCEPT_LEN, MAX_AUTHORIZATION_LEN, MAX_GAINED, MAX_PIECES, MAX_SIGNER_LEN,
    MAX_URL_LEN,
    body::{Body, BodyError, at_most},
    claim::{decode_claim, decode_verdict, put_claim},
    framed,
    resolve::{decode_resolve, decode_resolved, is_accept, put_resolve},
    signers::Signers,
};

/// Length of an Ed25519 signature.
const SIGNATURE_LEN: usize = 64;
/// In place of a certificate's length: its number follows in the other bits.
const NUMBERED: u16 = 1 << 15;

/// Whether a source's `Authorization` goes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Credentials {
    /// The other side is known and nobody listens.
    Send,
    /// Anybody may listen.
    Strip,
}

/// Why a message cannot be sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("message cannot be sent: {what} {found} is not between {min} and {max}")]
pub struct UnsendableError {
    what: &'static str,
    found: usize,
    min: usize,
    max: usize,
}

/// Appends a message; what must follow it on the wire is returned: a piece's data, otherwise
/// nothing. A long `Gained` becomes several frames, an empty one none. Of a list's signer the number
/// goes out that `signers` has for it, if there are any: if the other side understands that. On
/// error nothing is appended.
pub fn encode_message(
    envelope: &Envelope,
    credentials: Credentials,
    signers: Option<&mut Signers>,
    out: &mut BytesMut,
) -> Result<Bytes, UnsendableError> {
    check(&envelope.message)?;
    let task = &envelope.task;
    match &envelope.message {
        Message::Gained { pieces } => {
            for some in pieces.chunks(MAX_GAINED) {
                framed_task(Kind::Gained, task, out, |out| put_gained(some, out));
            }
        }
        Message::List { batch } => {
            let number = signers.as_ref().and_then(|it| it.number(&batch.signer));
            framed_task(Kind::List, task, out, |out| put_batch(batch, number, out));
            if let Some(signers) = signers {
                signers.note(&batch.signer);
            }
        }
        Message::Piece { piece, data } => {
            put_piece_header(task, *piece, data.len(), out);
            return Ok(data.clone());
        }
        message => framed_task(kind(message), task, out, |out| {
            put_message(message, credentials, out);
        }),
    }
    Ok(Bytes::new())
}

/// Appends everything of a piece's frame but the data, which must follow. On error nothing is
/// appended.
pub(crate) fn encode_piece_header(
    task: &TaskId,
    piece: PieceIndex,
    data_len: usize,
    out: &mut BytesMut,
) -> Result<(), UnsendableError> {
    check_piece(piece)?;
    check_data_len(data_len)?;
    put_piece_header(task, piece, data_len, out);
    Ok(())
}

fn kind(message: &Message) -> Kind {
    match message {
        Message::Join { .. } => Kind::Join,
        Message::Head { .. } => Kind::Head,
        Message::Have { .. } => Kind::Have,
        Message::Gained { .. } => Kind::Gained,
        Message::List { .. } => Kind::List,
        Message::Request { .. } => Kind::Request,
        Message::RequestAny { .. } => Kind::RequestAny,
        Message::Cancel { .. } => Kind::Cancel,
        Message::Piece { .. } => Kind::Piece,
        Message::Refuse { .. } => Kind::Refuse,
        Message::Leave => Kind::Leave,
        Message::Renew { .. } => Kind::Renew,
        Message::Claim { .. } => Kind::Claim,
        Message::Heard { .. } => Kind::Heard,
        Message::Verdict { .. } => Kind::Verdict,
        Message::Resolve { .. } => Kind::Resolve,
        Message::Resolved { .. } => Kind::Resolved,
        Message::Doubt { .. } => Kind::Doubt,
    }
}

fn framed_task(kind: Kind, task: &TaskId, out: &mut BytesMut, body: impl FnOnce(&mut BytesMut)) {
    framed(kind, out, |out| {
        out.put_slice(&task.to_bytes());
        body(out);
    });
}

/// Everything of a piece's frame but the data.
fn put_piece_header(task: &TaskId, piece: PieceIndex, data_len: usize, out: &mut BytesMut) {
    // `check` keeps it below 4 MiB.
    out.put_u32_le((1 + super::PIECE_BODY_LEN + data_len) as u32);
    out.put_u8(Kind::Piece as u8);
    out.put_slice(&task.to_bytes());
    out.put_u32_le(piece.0);
}

fn put_gained(pieces: &[PieceIndex], out: &mut BytesMut) {
    out.put_u16_le(pieces.len() as u16);
    for piece in pieces {
        out.put_u32_le(piece.0);
    }
}

fn put_message(message: &Message, credentials: Credentials, out: &mut BytesMut) {
    match message {
        Message::Join { source } => put_source(source.as_ref(), credentials, out),
        Message::Head { geometry } => {
            out.put_u64_le(geometry.length());
            out.put_u32_le(geometry.piece_len());
        }
        Message::Have { pieces } => {
            out.put_u32_le(pieces.capacity());
            out.put_slice(&pieces.to_bytes());
        }
        Message::Request { piece } | Message::Cancel { piece } | Message::Doubt { piece } => {
            out.put_u32_le(piece.0);
        }
        Message::RequestAny { credit } => out.put_u16_le(*credit),
        Message::Refuse { piece, reason } => {
            out.put_u8(refusal_to_byte(*reason));
            out.put_u8(piece.is_some().into());
            if let Some(piece) = piece {
                out.put_u32_le(piece.0);
            }
        }
        Message::Renew { refused } => out.put_slice(refused.as_bytes()),
        Message::Claim { .. } | Message::Heard { .. } | Message::Verdict { .. } => {
            put_claim(message, credentials, out);
        }
        Message::Resolve { .. } | Message::Resolved { .. } => {
            put_resolve(message, credentials, out);
        }
        // The last three take their own ways in `encode_message`.
        Message::Leave | Message::Gained { .. } | Message::List { .. } | Message::Piece { .. } => {}
    }
}

fn put_source(source: Option<&Source>, credentials: Credentials, out: &mut BytesMut) {
    out.put_u8(source.is_some().into());
    if let Some(source) = source {
        put_given_source(source, credentials, out);
    }
}

pub(super) fn put_given_source(source: &Source, credentials: Credentials, out: &mut BytesMut) {
    out.put_u16_le(source.url.len() as u16);
    out.put_slice(source.url.as_bytes());
    let sent = source.authorization.as_ref();
    let sent = sent.filter(|_| credentials == Credentials::Send);
    out.put_u8(sent.is_some().into());
    if let Some(secret) = sent {
        out.put_u16_le(secret.expose().len() as u16);
        out.put_slice(secret.expose().as_bytes());
    }
}

fn put_batch(batch: &SignedStates, number: Option<u16>, out: &mut BytesMut) {
    let origin = batch.origin.as_ref().map_or("", OriginName::as_str);
    out.reserve(batch.states.len() * 32 + origin.len() + batch.signer.len() + 128);
    out.put_u32_le(batch.first.0);
    out.put_u16_le(batch.states.len() as u16);
    for state in &batch.states {
        out.put_slice(state.as_bytes());
    }
    // No name is longer than `OriginName::MAX_LEN`; none is empty.
    out.put_u16_le(origin.len() as u16);
    out.put_slice(origin.as_bytes());
    match number {
        Some(number) => out.put_u16_le(NUMBERED | number),
        None => {
            out.put_u16_le(batch.signer.len() as u16);
            out.put_slice(&batch.signer);
        }
    }
    out.put_u8(batch.signature.len() as u8);
    out.put_slice(&batch.signature);
}

/// Whether a source is neither empty nor too long to be sent.
pub fn fits(source: &Source) -> bool {
    check_source(source).is_ok()
}

fn check_source(source: &Source) -> Result<(), UnsendableError> {
    let secret = source.authorization.as_ref().map_or("", Secret::expose);
    within("URL length", source.url.len(), 1, MAX_URL_LEN)?;
    within(
        "authorization length",
        secret.len(),
        0,
        MAX_AUTHORIZATION_LEN,
    )
}

/// Whether a wish can be sent.
pub fn wish_fits(wish: &ManifestWish) -> bool {
    check_wish(wish).is_ok()
}

fn check_wish(wish: &ManifestWish) -> Result<(), UnsendableError> {
    check_source(&wish.source)?;
    match is_accept(&wish.accept) {
        true => Ok(()),
        false => Err(UnsendableError {
            what: "printable Accept length",
            found: wish.accept.len(),
            min: 0,
            max: MAX_ACCEPT_LEN,
        }),
    }
}

/// Whether the other side's decoder would take it.
fn check(message: &Message) -> Result<(), UnsendableError> {
    match message {
        Message::Join {
            source: Some(source),
        }
        | Message::Claim { source, .. } => check_source(source),
        Message::Resolve { wish, .. } => check_wish(wish),
        Message::Have { pieces } => {
            within("pieces", pieces.capacity() as usize, 0, MAX_PIECES as usize)
        }
        Message::Gained { pieces } => pieces.iter().try_for_each(|piece| check_piece(*piece)),
        Message::List { batch } => check_batch(batch),
        Message::Request { piece } | Message::Cancel { piece } | Message::Doubt { piece } => {
            check_piece(*piece)
        }
        Message::Refuse { piece, .. } => piece.map_or(Ok(()), check_piece),
        Message::Piece { piece, data } => {
            check_piece(*piece)?;
            check_data_len(data.len())
        }
        Message::Join { source: None }
        | Message::Head { .. }
        | Message::RequestAny { .. }
        | Message::Leave
        | Message::Renew { .. }
        | Message::Heard { .. }
        | Message::Verdict { .. }
        | Message::Resolved { .. } => Ok(()),
    }
}

fn check_piece(piece: PieceIndex) -> Result<(), UnsendableError> {
    within("piece", piece.as_usize(), 0, MAX_PIECES as usize - 1)
}

fn check_data_len(len: usize) -> Result<(), UnsendableError> {
    within("piece length", len, 1, MAX_PIECE_LEN as usize)
}

fn check_batch(batch: &SignedStates) -> Result<(), UnsendableError> {
    let count = batch.states.len();
    check_piece(batch.first)?;
    within("chain values", count, 1, MAX_STATES_PER_BATCH)?;
    let end = batch.first.as_usize() + count;
    within("end of the list", end, 1, MAX_PIECES as usize)?;
    within("certificate length", batch.signer.len(), 0, MAX_SIGNER_LEN)?;
    match batch.signature.len() {
        0 => Ok(()),
        len => within("signature length", len, SIGNATURE_LEN, SIGNATURE_LEN),
    }
}

fn within(what: &'static str, found: usize, min: usize, max: usize) -> Result<(), UnsendableError> {
    match (min..=max).contains(&found) {
        true => Ok(()),
        false => Err(UnsendableError {
            what,
            found,
            min,
            max,
        }),
    }
}

/// Decodes the body of a message other than `Piece`, behind others of the connection that carried
/// `signers`.
pub(super) fn decode_message(
    kind: Kind,
    bytes: &[u8],
    signers: &mut Signers,
) -> Result<Envelope, BodyError> {
    let mut body = Body::new(bytes);
    let task = body.task()?;
    let message = match kind {
        Kind::Join => Message::Join {
            source: decode_source(&mut body)?,
        },
        Kind::Head => Message::Head {
            geometry: Geometry::new(body.u64()?, body.u32()?)?,
        },
        Kind::Have => Message::Have {
            pieces: decode_have(&mut body)?,
        },
        Kind::Gained => Message::Gained {
            pieces: decode_gained(&mut body)?,
        },
        Kind::List => Message::List {
            batch: decode_batch(&mut body, signers)?,
        },
        Kind::Request => Message::Request {
            piece: body.piece()?,
        },
        Kind::RequestAny => Message::RequestAny {
            credit: body.u16()?,
        },
        Kind::Cancel => Message::Cancel {
            piece: body.piece()?,
        },
        Kind::Doubt => Message::Doubt {
            piece: body.piece()?,
        },
        Kind::Refuse => decode_refuse(&mut body)?,
        Kind::Leave => Message::Leave,
        Kind::Claim => decode_claim(&mut body)?,
        Kind::Heard => Message::Heard {
            number: body.u64()?,
        },
        Kind::Verdict => decode_verdict(&mut body)?,
        Kind::Resolve => decode_resolve(&mut body)?,
        Kind::Resolved => decode_resolved(&mut body)?,
        Kind::Renew => Message::Renew {
            refused: SourceMark::from_bytes(body.state()?),
        },
        other => {
            // The decoder sends no other kind here.
            return Err(BodyError::Value {
                what: "kind",
                found: other as u32,
            });
        }
    };
    body.end()?;
    Ok(Envelope { task, message })
}

/// Decodes what precedes a piece's data.
pub(super) fn decode_piece(bytes: &[u8]) -> Result<(TaskId, PieceIndex), BodyError> {
    let mut body = Body::new(bytes);
    let header = (body.task()?, body.piece()?);
    body.end()?;
    Ok(header)
}

fn decode_source(body: &mut Body<'_>) -> Result<Option<Source>, BodyError> {
    if !body.flag("presence of a source")? {
        return Ok(None);
    }
    decode_given_source(body).map(Some)
}

pub(super) fn decode_given_source(body: &mut Body<'_>) -> Result<Source, BodyError> {
    let url = body.string("URL length", MAX_URL_LEN)?;
    if url.is_empty() {
        return Err(BodyError::Empty("URL"));
    }
    let authorization = match body.flag("presence of an authorization")? {
        false => None,
        true => {
            let secret = body.string("authorization length", MAX_AUTHORIZATION_LEN)?;
            Some(Secret::new(secret))
        }
    };
    Ok(Source {
        url: url.to_owned(),
        authorization,
    })
}

fn decode_have(body: &mut Body<'_>) -> Result<PieceSet, BodyError> {
    let capacity = body.u32()?;
    at_most("pieces", capacity as usize, MAX_PIECES as usize)?;
    // The length of the rest is checked before the set is made.
    Ok(PieceSet::from_bytes(capacity, body.rest())?)
}

fn decode_gained(body: &mut Body<'_>) -> Result<Vec<PieceIndex>, BodyError> {
    let count = usize::from(body.u16()?);
    at_most("pieces", count, MAX_GAINED)?;
    if count == 0 {
        return Err(BodyError::Empty("piece"));
    }
    (0..count).map(|_| body.piece()).collect()
}

fn decode_batch(body: &mut Body<'_>, signers: &mut Signers) -> Result<SignedStates, BodyError> {
    let first = body.piece()?;
    let count = usize::from(body.u16()?);
    at_most("chain values", count, MAX_STATES_PER_BATCH)?;
    if count == 0 {
        return Err(BodyError::Empty("chain value"));
    }
    at_most(
        "end of the list",
        first.as_usize() + count,
        MAX_PIECES as usize,
    )?;
    let states: Result<Vec<_>, _> = (0..count)
        .map(|_| body.state().map(ChainState::from_bytes))
        .collect();
    let states = states?;
    let origin = match body.string("origin length", OriginName::MAX_LEN)? {
        "" => None,
        name => Some(OriginName::parse(name)?),
    };
    let signer = decode_signer(body, signers)?;
    let signature_len = body.u8()?;
    if signature_len != 0 && usize::from(signature_len) != SIGNATURE_LEN {
        return Err(BodyError::Value {
            what: "signature length",
            found: signature_len.into(),
        });
    }
    Ok(SignedStates {
        first,
        states,
        origin,
        signer,
        signature: body.bytes(signature_len.into())?.to_vec(),
    })
}

fn decode_signer(body: &mut Body<'_>, signers: &mut Signers) -> Result<Arc<[u8]>, BodyError> {
    let len = body.u16()?;
    if len & NUMBERED != 0 {
        let number = len & !NUMBERED;
        return signers
            .get(number)
            .map(Arc::clone)
            .ok_or_else(|| BodyError::Value {
                what: "number of a certificate",
                found: number.into(),
            });
    }
    let len = usize::from(len);
    at_most("certificate length", len, MAX_SIGNER_LEN)?;
    let whole = body.bytes(len)?;
    let known = signers.number(whole).and_then(|it| signers.get(it));
    let signer = known.map_or_else(|| Arc::from(whole), Arc::clone);
    signers.note(&signer);
    Ok(signer)
}

fn decode_refuse(body: &mut Body<'_>) -> Result<Message, BodyError> {
    let reason = refusal_from_byte(body.u8()?)?;
    let piece = match body.flag("presence of a piece")? {
        true => Some(body.piece()?),
        false => None,
    };
    Ok(Message::Refuse { piece, reason })
}

fn refusal_to_byte(reason: Refusal) -> u8 {
    match reason {
        Refusal::Busy => 1,
        Refusal::Missing => 2,
        Refusal::Denied => 3,
        Refusal::NotFound => 4,
        Refusal::OriginFailed => 5,
        Refusal::UnknownTask => 6,
    }
}

fn refusal_from_byte(byte: u8) -> Result<Refusal, BodyError> {
    Ok(match byte {
        1 => Refusal::Busy,
        2 => Refusal::Missing,
        3 => Refusal::Denied,
        4 => Refusal::NotFound,
        5 => Refusal::OriginFailed,
        6 => Refusal::UnknownTask,
        other => {
            return Err(BodyError::Value {
                what: "reason",
                found: other.into(),
            });
        }
    })
}
