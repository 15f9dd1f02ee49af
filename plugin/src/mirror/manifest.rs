//! Manifests: always from the origin, with the client's own request, and checked before a byte of
//! them is answered.

use bytes::{Bytes, BytesMut};
use hawker_model::{Digest, Repository, Target};
use http::{Method, Response, StatusCode, header};
use http_body_util::BodyExt;
use tracing::warn;

use super::{Mirror, call::Call, failure::Failure};
use crate::{
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
        let response = self.upstream.pass(call).await?;
        if response.status() != StatusCode::OK {
            return Ok(response);
        }
        if call.method == Method::HEAD {
            self.saw_manifest(call, repository, promised(target, response.headers()), None);
            return Ok(response);
        }
        let (mut parts, body) = response.into_parts();
        let bytes = collect(body).await.map_err(|error| match error {
            CollectError::TooLong => Failure::Unavailable(format!(
                "the manifest is longer than {MAX_MANIFEST_LEN} bytes"
            )),
            CollectError::Cut(error) => {
                Failure::Unavailable(format!("the registry cut the manifest: {error}"))
            }
        })?;
        check(&bytes, promised(target, &parts.headers)).inspect_err(|error| {
            warn!(registry = %call.registry, %repository, %target, %error, "a manifest is wrong");
        })?;
        self.saw_manifest(call, repository, Some(Digest::of(&bytes)), Some(&bytes));
        parts
            .headers
            .insert(header::CONTENT_LENGTH, bytes.len().into());
        self.metrics.served(Served::Pass).inc_by(bytes.len() as u64);
        Ok(Response::from_parts(parts, body::full(bytes)))
    }

    /// Remembers what the origin let this client see, for the layers of the same pull.
    fn saw_manifest(
        &self,
        call: &Call,
        repository: &Repository,
        manifest: Option<Digest>,
        bytes: Option<&[u8]>,
    ) {
        let image = ImageName {
            registry: call.registry.clone(),
            repository: repository.clone(),
            manifest,
        };
        let credential = call.credential.as_ref();
        self.layers
            .access()
            .note_accepted(&call.registry, repository, credential);
        let covered = self.images.note(&image, bytes);
        self.layers.note_accepted(&image, &covered, credential);
    }
}

/// The digest that a manifest must have: the one asked for, else the one the registry tells.
fn promised(target: &Target, headers: &http::HeaderMap) -> Option<Digest> {
    match target {
        Target::Digest(digest) => Some(*digest),
        Target::OtherDigest(_) => None,
        Target::Tag(_) => {
            let told = headers.get("docker-content-digest")?.to_str().ok()?;
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
