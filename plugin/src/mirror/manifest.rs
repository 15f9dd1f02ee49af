//! Manifests: from the seed that asks the origin for all hosts, or from the origin with the client's
//! own request; checked before a byte of them is answered.
//!
//! One by digest that the origin has just given to the same credential is answered from memory. A
//! tag is always asked for. While the origin cannot be reached, both come from memory for those who
//! were given them before, as long as their right has grace.

use std::time::Instant;

use bytes::{Bytes, BytesMut};
use hawker_model::{Digest, Repository, Target};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use http_body_util::BodyExt;
use tracing::{info, warn};

use super::{Mirror, call::Call, failure::Failure, manifest_cache::Cached, reply};
use crate::{
    access::{DIGEST_HEADER, Grantor, Visitor},
    body::{self, Body, BodyError},
    layers::ImageName,
    metrics::Served,
};

/// The distribution spec asks registries for 4 MiB.
const MAX_MANIFEST_LEN: usize = 8 << 20;

impl Mirror {
    /// Answers for a manifest.
    pub(super) async fn manifest(
        &self,
        call: &Call,
        repository: &Repository,
        target: &Target,
    ) -> Result<Response<Body>, Failure> {
        let access = self.layers.access();
        let visitor = access.visitor(&call.registry, repository, call.credential.as_ref())?;
        if let Target::Digest(digest) = target
            && let Some(cached) = self.cached(call, digest)
            && access.may_see(&visitor, *digest)
        {
            let image = self.saw_manifest(
                call,
                repository,
                &visitor,
                Some(*digest),
                Some(&cached.bytes),
            );
            self.promise(call, &image).await;
            return Ok(self.of_cache(call, cached));
        }
        let asked = Instant::now();
        let (by, answered) = self.ask_for(call, repository, &visitor, target).await;
        match answered {
            Ok(answer) if answer.status().is_server_error() => {
                let kept = self.kept_in_grace(call, &visitor, target);
                Ok(kept.unwrap_or(answer))
            }
            Ok(answer) => {
                self.take(call, (repository, target), &visitor, answer, (by, asked))
                    .await
            }
            Err(error) if error.is_outage() => {
                let kept = self.kept_in_grace(call, &visitor, target);
                kept.ok_or_else(|| error.into())
            }
            Err(error) => {
                // A seed heard it, and this host cannot ask.
                if error.is_refusal() {
                    self.layers.access().note_refused(&visitor);
                }
                Err(error.into())
            }
        }
    }

    /// The origin's answer, or what a seed tells that it is, to what was asked then, learnt from and
    /// checked.
    async fn take(
        &self,
        call: &Call,
        (repository, target): (&Repository, &Target),
        visitor: &Visitor,
        answer: Response<Body>,
        (by, asked): (Grantor, Instant),
    ) -> Result<Response<Body>, Failure> {
        if answer.status() != StatusCode::OK {
            self.heed_refusal(visitor, answer.status());
            return Ok(answer);
        }
        let told = promised(target, answer.headers());
        if call.method == Method::HEAD {
            if let (Target::Tag(tag), Some(digest)) = (target, told) {
                self.manifests.note_tag(visitor.holder(), tag, digest);
            }
            self.saw_manifest(call, repository, visitor, told, None);
            return Ok(answer);
        }
        let (mut parts, body) = answer.into_parts();
        let bytes = collect(body).await.map_err(|error| match error {
            CollectError::TooLong => Failure::Unavailable(format!(
                "the manifest is longer than {MAX_MANIFEST_LEN} bytes"
            )),
            CollectError::Cut(error) => {
                Failure::Unavailable(format!("the registry cut the manifest: {error}"))
            }
        })?;
        check(&bytes, told).inspect_err(|error| {
            warn!(registry = %call.registry, %repository, %target, %error, "a manifest is wrong");
        })?;
        let digest = Digest::of(&bytes);
        self.layers.access().note_manifest(visitor, digest, asked);
        self.keep(call, visitor, target, digest, &parts.headers, &bytes);
        let image = self.saw_manifest(call, repository, visitor, Some(digest), Some(&bytes));
        self.promise(call, &image).await;
        parts
            .headers
            .insert(header::CONTENT_LENGTH, bytes.len().into());
        let served = match by {
            Grantor::Seed => Served::Network,
            Grantor::Origin => Served::Pass,
        };
        self.metrics.served(served).inc_by(bytes.len() as u64);
        Ok(Response::from_parts(parts, body::full(bytes)))
    }

    /// What was refused has no rights left.
    pub(super) fn heed_refusal(&self, visitor: &Visitor, status: StatusCode) {
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            self.layers.access().note_refused(visitor);
        }
    }

    /// Keeps what the origin gave to this visitor, for whoever may have it.
    fn keep(
        &self,
        call: &Call,
        visitor: &Visitor,
        target: &Target,
        digest: Digest,
        headers: &HeaderMap,
        bytes: &Bytes,
    ) {
        let media_type = headers.get(header::CONTENT_TYPE);
        let Some(Ok(media_type)) = media_type.map(HeaderValue::to_str) else {
            return;
        };
        if let Target::Tag(tag) = target {
            self.manifests.note_tag(visitor.holder(), tag, digest);
        }
        self.manifests.keep(Cached {
            registry: call.registry.clone(),
            digest,
            media_type: media_type.to_owned(),
            bytes: bytes.clone(),
        });
    }

    /// The manifest in memory, where that answers the request as it was made.
    fn cached(&self, call: &Call, digest: &Digest) -> Option<Cached> {
        let cached = self.manifests.find(&call.registry, digest);
        let cached = cached.filter(|_| call.is_plain())?;
        accepts(&call.headers, &cached.media_type).then_some(cached)
    }

    /// What the registry, which cannot be reached, gave this very visitor before.
    fn kept_in_grace(
        &self,
        call: &Call,
        visitor: &Visitor,
        target: &Target,
    ) -> Option<Response<Body>> {
        let digest = match target {
            Target::Digest(digest) => *digest,
            Target::Tag(tag) => self.manifests.tagged(visitor.holder(), tag)?,
            Target::OtherDigest(_) => return None,
        };
        let cached = self.cached(call, &digest)?;
        if !self.layers.access().may_still_see(visitor, digest) {
            return None;
        }
        info!(registry = %call.registry, %target, "the registry cannot be reached: from memory");
        Some(self.of_cache(call, cached))
    }

    fn of_cache(&self, call: &Call, cached: Cached) -> Response<Body> {
        let length = cached.bytes.len();
        let body = match call.method == Method::HEAD {
            true => body::empty(),
            false => {
                self.metrics.served(Served::Local).inc_by(length as u64);
                body::full(cached.bytes)
            }
        };
        let told = Told {
            digest: cached.digest,
            media_type: cached.media_type,
            length: length as u64,
        };
        told.response(body)
    }

    /// Has containerd be told that it need not fetch what the manifest names.
    async fn promise(&self, call: &Call, image: &ImageName) {
        if let Some(promiser) = &self.promiser
            && call.method == Method::GET
        {
            promiser.promise(image).await;
        }
    }

    /// Remembers what the origin let this client see, for the layers of the same pull.
    fn saw_manifest(
        &self,
        call: &Call,
        repository: &Repository,
        visitor: &Visitor,
        manifest: Option<Digest>,
        bytes: Option<&[u8]>,
    ) -> ImageName {
        let image = ImageName {
            registry: call.registry.clone(),
            repository: repository.clone(),
            manifest,
        };
        self.layers.access().note_accepted(visitor);
        let covered = self.images.note(&image, bytes);
        self.layers
            .note_accepted(&image, &covered, call.credential.as_ref());
        image
    }
}

/// What a registry tells of a manifest besides its bytes.
pub(super) struct Told {
    pub(super) digest: Digest,
    pub(super) media_type: String,
    pub(super) length: u64,
}

impl Told {
    /// An answer of success, as a registry gives it.
    pub(super) fn response(self, body: Body) -> Response<Body> {
        let mut response = Response::new(body);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_LENGTH, self.length.into());
        let texts = [
            (header::CONTENT_TYPE, self.media_type),
            (DIGEST_HEADER, self.digest.to_string()),
            (header::ETAG, format!("\"{}\"", self.digest)),
        ];
        for (name, text) in texts {
            if let Ok(value) = HeaderValue::try_from(text) {
                headers.insert(name, value);
            }
        }
        reply::mark(headers);
        response
    }
}

/// Whether a client takes a manifest of this type.
pub(super) fn accepts(headers: &HeaderMap, media_type: &str) -> bool {
    let Some(accepted) = headers.get(header::ACCEPT) else {
        return true;
    };
    let wanted = media_type.split(';').next().unwrap_or_default().trim();
    let mut accepted = accepted.to_str().unwrap_or_default().split(',');
    accepted.any(|part| {
        let part = part.split(';').next().unwrap_or_default().trim();
        part == "*/*" || part.eq_ignore_ascii_case(wanted)
    })
}

/// The digest that a manifest must have: the one asked for, else the one the registry tells.
fn promised(target: &Target, headers: &HeaderMap) -> Option<Digest> {
    match target {
        Target::Digest(digest) => Some(*digest),
        Target::OtherDigest(_) => None,
        Target::Tag(_) => {
            let told = headers.get(DIGEST_HEADER)?.to_str().ok()?;
            Digest::parse(told).ok()
        }
    }
}

fn check(bytes: &[u8], promised: Option<Digest>) -> Result<(), Failure> {
    let got = Digest::of(bytes);
    match promised {
        Some(wanted) if wanted != got => Err(Failure::Unavailable(format!(
            "the registry's manifest has digest {got}, wanted {wanted}"
        ))),
        _ => Ok(()),
    }
}

enum CollectError {
    TooLong,
    Cut(BodyError),
}

async fn collect(mut body: Body) -> Result<Bytes, CollectError> {
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(CollectError::Cut)?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if bytes.len() + data.len() > MAX_MANIFEST_LEN {
            return Err(CollectError::TooLong);
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_types_that_the_client_takes_come_from_memory() {
        let oci = "application/vnd.oci.image.manifest.v1+json";
        for (accept, is_taken) in [
            (None, true),
            (Some("*/*"), true),
            (
                Some("a/b, application/vnd.oci.image.manifest.v1+json;q=0.5"),
                true,
            ),
            (
                Some("application/vnd.docker.distribution.manifest.v2+json"),
                false,
            ),
            (Some("a/b, */*"), true),
            (Some(""), false),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(accept) = accept {
                headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
            }
            assert_eq!(accepts(&headers, oci), is_taken, "{accept:?}");
        }
    }
}
