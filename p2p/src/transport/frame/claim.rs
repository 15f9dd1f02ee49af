//! The frames by which hosts ask seeds for a judgement.

use bytes::{BufMut as _, BytesMut};
use hawker_swarm::{Message, Verdict};

use super::{
    MAX_TEXT_LEN,
    body::{Body, BodyError, at_most},
    message::{Credentials, decode_given_source, put_given_source},
    put_text,
};

/// Challenges in one verdict.
pub const MAX_CHALLENGES: usize = 8;
/// Longest challenge, in bytes.
pub const MAX_CHALLENGE_LEN: usize = 4 << 10;

pub(super) const UNJUDGED: u8 = 0;
pub(super) const GRANTED: u8 = 1;
pub(super) const DENIED: u8 = 2;
pub(super) const NOT_FOUND: u8 = 3;
pub(super) const FAILED: u8 = 4;

/// Appends the fields after the task.
pub(super) fn put_claim(message: &Message, credentials: Credentials, out: &mut BytesMut) {
    match message {
        Message::Claim { number, source } => {
            out.put_u64_le(*number);
            put_given_source(source, credentials, out);
        }
        Message::Heard { number } => out.put_u64_le(*number),
        Message::Verdict { number, verdict } => {
            out.put_u64_le(*number);
            put_verdict(verdict.as_ref(), out);
        }
        // The encoder brings no other here.
        _ => {}
    }
}

/// Challenges that are too long, too many or not of printable characters are left out: a verdict
/// that cannot be sent would be waited for.
fn put_verdict(verdict: Option<&Verdict>, out: &mut BytesMut) {
    match verdict {
        None => out.put_u8(UNJUDGED),
        Some(Verdict::Granted { length, held }) => {
            out.put_u8(GRANTED);
            out.put_u8((*held).into());
            out.put_u8(length.is_some().into());
            if let Some(length) = length {
                out.put_u64_le(*length);
            }
        }
        Some(Verdict::Denied { status, challenges }) => put_denial(*status, challenges, out),
        Some(Verdict::NotFound) => out.put_u8(NOT_FOUND),
        Some(Verdict::Failed(why)) => put_failure(why, out),
    }
}

/// Drops the challenges that no frame takes.
pub(crate) fn keep_sendable(challenges: &mut Vec<String>) {
    let fits = |text: &String| text.len() <= MAX_CHALLENGE_LEN && !text.contains(char::is_control);
    challenges.retain(fits);
    challenges.truncate(MAX_CHALLENGES);
}

pub(super) fn put_denial(status: u16, challenges: &[String], out: &mut BytesMut) {
    let mut fit = challenges.to_vec();
    keep_sendable(&mut fit);
    out.put_u8(DENIED);
    out.put_u16_le(status);
    out.put_u8(fit.len() as u8);
    for challenge in fit {
        out.put_u16_le(challenge.len() as u16);
        out.put_slice(challenge.as_bytes());
    }
}

pub(super) fn put_failure(why: &str, out: &mut BytesMut) {
    out.put_u8(FAILED);
    put_text(&why.replace(char::is_control, " "), out);
}

pub(super) fn decode_claim(body: &mut Body<'_>) -> Result<Message, BodyError> {
    Ok(Message::Claim {
        number: body.u64()?,
        source: decode_given_source(body)?,
    })
}

pub(super) fn decode_verdict(body: &mut Body<'_>) -> Result<Message, BodyError> {
    let number = body.u64()?;
    let verdict = match body.u8()? {
        UNJUDGED => None,
        GRANTED => Some(decode_grant(body)?),
        DENIED => {
            let (status, challenges) = decode_denial(body)?;
            Some(Verdict::Denied { status, challenges })
        }
        NOT_FOUND => Some(Verdict::NotFound),
        FAILED => Some(Verdict::Failed(
            body.printable("text length", MAX_TEXT_LEN)?.to_owned(),
        )),
        other => {
            return Err(BodyError::Value {
                what: "outcome",
                found: other.into(),
            });
        }
    };
    Ok(Message::Verdict { number, verdict })
}

fn decode_grant(body: &mut Body<'_>) -> Result<Verdict, BodyError> {
    let held = body.flag("held")?;
    let length = match body.flag("presence of a length")? {
        true => Some(body.u64()?),
        false => None,
    };
    Ok(Verdict::Granted { length, held })
}

/// A status, and challenges.
pub(super) fn decode_denial(body: &mut Body<'_>) -> Result<(u16, Vec<String>), BodyError> {
    let status = body.u16()?;
    let count = usize::from(body.u8()?);
    at_most("challenges", count, MAX_CHALLENGES)?;
    let challenge = |_| {
        let text = body.printable("challenge length", MAX_CHALLENGE_LEN)?;
        Ok(text.to_owned())
    };
    let challenges: Result<_, BodyError> = (0..count).map(challenge).collect();
    Ok((status, challenges?))
}
