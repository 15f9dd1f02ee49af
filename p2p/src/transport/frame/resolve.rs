//! The frames by which hosts ask seeds for manifests.

use bytes::{BufMut as _, Bytes, BytesMut};
use hawker_model::Digest;
use hawker_swarm::{GivenManifest, ManifestWish, Message, Resolution};

use super::{
    MAX_ACCEPT_LEN, MAX_MANIFEST_LEN, MAX_MEDIA_TYPE_LEN, MAX_TEXT_LEN,
    body::{Body, BodyError, at_most},
    claim::{DENIED, FAILED, GRANTED, NOT_FOUND, UNJUDGED, decode_denial, put_denial, put_failure},
    message::{Credentials, decode_given_source, put_given_source},
};

/// Appends the fields after the task.
pub(super) fn put_resolve(message: &Message, credentials: Credentials, out: &mut BytesMut) {
    match message {
        Message::Resolve { number, wish } => {
            out.put_u64_le(*number);
            put_given_source(&wish.source, credentials, out);
            put_string(&wish.accept, out);
            out.put_u8(wish.whole.into());
        }
        Message::Resolved { number, resolution } => {
            out.put_u64_le(*number);
            put_resolution(resolution.as_ref(), out);
        }
        // The encoder brings no other here.
        _ => {}
    }
}

/// A manifest that does not fit is said to have failed: an answer that cannot be sent would be
/// waited for.
fn put_resolution(resolution: Option<&Resolution>, out: &mut BytesMut) {
    match resolution {
        None => out.put_u8(UNJUDGED),
        Some(Resolution::Given(manifest)) if fits(manifest) => {
            out.put_u8(GRANTED);
            put_manifest(manifest, out);
        }
        Some(Resolution::Given(_)) => put_failure("the manifest fits into no frame", out),
        Some(Resolution::Denied { status, challenges }) => put_denial(*status, challenges, out),
        Some(Resolution::NotFound) => out.put_u8(NOT_FOUND),
        Some(Resolution::Failed(why)) => put_failure(why, out),
    }
}

fn put_manifest(manifest: &GivenManifest, out: &mut BytesMut) {
    out.put_slice(manifest.digest.as_bytes());
    put_string(&manifest.media_type, out);
    out.put_u64_le(manifest.length);
    out.put_u8(manifest.bytes.is_some().into());
    out.put_slice(manifest.bytes.as_deref().unwrap_or_default());
}

/// What may be in a frame is no longer than a u16 says.
fn put_string(text: &str, out: &mut BytesMut) {
    out.put_u16_le(text.len() as u16);
    out.put_slice(text.as_bytes());
}

/// Whether the other side's decoder would take it.
fn fits(manifest: &GivenManifest) -> bool {
    let media_type = manifest.media_type.as_str();
    let is_told = (1..=MAX_MEDIA_TYPE_LEN).contains(&media_type.len());
    let is_whole = manifest.bytes.as_ref().is_none_or(|bytes| {
        bytes.len() <= MAX_MANIFEST_LEN && bytes.len() as u64 == manifest.length
    });
    is_told && !media_type.contains(char::is_control) && is_whole
}

/// Whether a wish's `Accept` can be sent.
pub(super) fn is_accept(accept: &str) -> bool {
    accept.len() <= MAX_ACCEPT_LEN && !accept.contains(char::is_control)
}

pub(super) fn decode_resolve(body: &mut Body<'_>) -> Result<Message, BodyError> {
    Ok(Message::Resolve {
        number: body.u64()?,
        wish: ManifestWish {
            source: decode_given_source(body)?,
            accept: body.printable("Accept length", MAX_ACCEPT_LEN)?.to_owned(),
            whole: body.flag("wish for the bytes")?,
        },
    })
}

pub(super) fn decode_resolved(body: &mut Body<'_>) -> Result<Message, BodyError> {
    let number = body.u64()?;
    let resolution = match body.u8()? {
        UNJUDGED => None,
        GRANTED => Some(Resolution::Given(decode_manifest(body)?)),
        DENIED => {
            let (status, challenges) = decode_denial(body)?;
            Some(Resolution::Denied { status, challenges })
        }
        NOT_FOUND => Some(Resolution::NotFound),
        FAILED => Some(Resolution::Failed(
            body.printable("text length", MAX_TEXT_LEN)?.to_owned(),
        )),
        other => {
            return Err(BodyError::Value {
                what: "outcome",
                found: other.into(),
            });
        }
    };
    Ok(Message::Resolved { number, resolution })
}

fn decode_manifest(body: &mut Body<'_>) -> Result<GivenManifest, BodyError> {
    let digest = Digest::from_bytes(body.state()?);
    let media_type = body.printable("media type length", MAX_MEDIA_TYPE_LEN)?;
    if media_type.is_empty() {
        return Err(BodyError::Empty("media type"));
    }
    let length = body.u64()?;
    let bytes = match body.flag("presence of a manifest")? {
        true => Some(decode_bytes(body, digest, length)?),
        false => None,
    };
    Ok(GivenManifest {
        digest,
        media_type: media_type.to_owned(),
        length,
        bytes,
    })
}

/// The rest of the frame: nobody hands out a manifest that is not what its digest says.
fn decode_bytes(body: &mut Body<'_>, digest: Digest, length: u64) -> Result<Bytes, BodyError> {
    let bytes = body.rest();
    at_most("manifest length", bytes.len(), MAX_MANIFEST_LEN)?;
    if bytes.len() as u64 != length {
        return Err(BodyError::Short);
    }
    match Digest::of(bytes) == digest {
        true => Ok(Bytes::copy_from_slice(bytes)),
        false => Err(BodyError::WrongDigest),
    }
}
