//! What a registry gives for a wish: read whole, and checked.

use bytes::{Bytes, BytesMut};
use hawker_model::Digest;
use hawker_p2p::{GivenManifest, ManifestWish, OriginError, PassBody, frame::MAX_MANIFEST_LEN};
use http::{HeaderMap, HeaderValue, Response, header};
use http_body_util::BodyExt;

use super::{Access, AccessError};
use crate::access::DIGEST_HEADER;

/// In whose name a registry is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::access) enum Name {
    /// That of the wish.
    Theirs,
    /// Nobody's, whatever the wish shows.
    Nobodys,
}

impl Access {
    /// Asks the registry, which has as long as for any question.
    pub(super) async fn ask_for_manifest(
        &self,
        wish: &ManifestWish,
        name: Name,
    ) -> Result<GivenManifest, AccessError> {
        let asking = async {
            let origin = self.origin();
            let answer = match name {
                Name::Theirs => origin.manifest_for_others(wish).await?,
                Name::Nobodys => origin.manifest_for_nobody(wish).await?,
            };
            Ok(read(wish, answer).await?)
        };
        let asked = tokio::time::timeout(self.0.patience, asking).await;
        let given = asked.unwrap_or(Err(AccessError::Slow));
        self.0.metrics.resolved(name, &given);
        given
    }
}

/// One that is too long is given without its bytes.
async fn read(
    wish: &ManifestWish,
    answer: Response<PassBody>,
) -> Result<GivenManifest, OriginError> {
    let malformed = |reason: &str| OriginError::Malformed {
        url: wish.source.url.clone(),
        reason: reason.to_owned(),
    };
    let (parts, body) = answer.into_parts();
    let told = Told::of(&parts.headers);
    let media_type = told.media_type.ok_or_else(|| malformed("no media type"))?;
    let wanted = wish.digest().or(told.digest);
    if told.digest.is_some() && told.digest != wanted {
        return Err(malformed("another digest than the one asked for"));
    }
    let bytes = match wish.whole && told.length.is_none_or(|length| length <= MOST) {
        true => collect(body).await?,
        false => None,
    };
    let digest = match &bytes {
        Some(bytes) => Some(Digest::of(bytes)),
        None => wanted,
    };
    let digest = digest.ok_or_else(|| malformed("no digest of a tag's manifest"))?;
    if wanted.is_some_and(|wanted| wanted != digest) {
        return Err(malformed("a manifest with another digest"));
    }
    let length = match &bytes {
        Some(bytes) => Some(bytes.len() as u64),
        None => told.length,
    };
    Ok(GivenManifest {
        digest,
        media_type,
        length: length.ok_or_else(|| malformed("no length"))?,
        bytes,
    })
}

const MOST: u64 = MAX_MANIFEST_LEN as u64;

/// What an answer's headers tell.
struct Told {
    media_type: Option<String>,
    digest: Option<Digest>,
    length: Option<u64>,
}

impl Told {
    fn of(headers: &HeaderMap) -> Self {
        let text = |value: Option<&HeaderValue>| value?.to_str().ok().map(str::to_owned);
        let digest = text(headers.get(DIGEST_HEADER));
        let length = text(headers.get(header::CONTENT_LENGTH));
        Self {
            media_type: text(headers.get(header::CONTENT_TYPE)),
            digest: digest.and_then(|digest| Digest::parse(&digest).ok()),
            length: length.and_then(|length| length.parse().ok()),
        }
    }
}

/// All of a body; `None` if it is longer than may be handed on.
async fn collect(mut body: PassBody) -> Result<Option<Bytes>, OriginError> {
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else {
            continue;
        };
        if bytes.len() + data.len() > MAX_MANIFEST_LEN {
            return Ok(None);
        }
        bytes.extend_from_slice(&data);
    }
    Ok(Some(bytes.freeze()))
}
