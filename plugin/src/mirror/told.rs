//! What a seed tells of a manifest, in the form in which the registry would have told it.
//!
//! The bytes of a digest prove themselves; the type that goes with them is taken where they say it
//! themselves. What a tag names is a seed's word: the setting `tags_from_seeds` says whether it is
//! believed.

use hawker_model::{Repository, Target};
use hawker_p2p::{GivenManifest, ManifestWish, Race};
use http::{HeaderMap, Method, Response, header};
use serde::{Deserialize, de::IgnoredAny};
use tracing::debug;

use super::{Mirror, call::Call, manifest::Told};
use crate::{
    access::{AccessError, Granting, Grantor, Heard, Visitor, ask_seed_first},
    body::{self, Body},
};

const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

impl Mirror {
    /// The answer for a manifest, and whose it is: the seed's where one may be asked and tells it, and
    /// else the registry's.
    pub(super) async fn ask_for(
        &self,
        call: &Call,
        repository: &Repository,
        visitor: &Visitor,
        target: &Target,
    ) -> (Grantor, Result<Response<Body>, AccessError>) {
        let (by, answer) = match self.wish(call, repository, visitor, target) {
            Some(wish) => {
                let race = Race::default();
                let told = self.told(call, visitor, &wish, &race);
                ask_seed_first(told, &race, || self.upstream.ask(call)).await
            }
            None => (Grantor::Origin, self.upstream.ask(call).await),
        };
        if answer.is_ok() {
            self.metrics.manifests(by).inc();
        }
        (by, answer)
    }

    /// What a seed may be asked in place of the client's own request.
    fn wish(
        &self,
        call: &Call,
        repository: &Repository,
        visitor: &Visitor,
        target: &Target,
    ) -> Option<ManifestWish> {
        let is_asked = match target {
            Target::Digest(_) => true,
            Target::Tag(_) => self.settings.tags_from_seeds,
            Target::OtherDigest(_) => false,
        };
        if !is_asked || !call.is_plain() {
            return None;
        }
        let accept = accepted(&call.headers);
        let place = (&call.registry, repository);
        let access = self.layers.access();
        access.wish(visitor, place, target, (&call.method, accept))
    }

    /// The seed's answer, where it may be one to this call.
    async fn told(
        &self,
        call: &Call,
        visitor: &Visitor,
        wish: &ManifestWish,
        race: &Race,
    ) -> Heard<Response<Body>> {
        let access = self.layers.access();
        let heard = access.ask_seed_for(visitor, wish, race).await;
        match heard {
            Heard::Granted(manifest) if is_for(call, &manifest) => {
                Heard::Granted(response(call, manifest))
            }
            Heard::Granted(manifest) => {
                let media_type = manifest.media_type;
                debug!(
                    media_type,
                    "a seed tells a manifest of another type than it is"
                );
                Heard::Nothing
            }
            Heard::Refused(refusal) => Heard::Refused(refusal),
            Heard::Nothing => Heard::Nothing,
        }
    }
}

impl Granting for Response<Body> {
    fn is_outage(&self) -> bool {
        self.status().is_server_error()
    }

    fn is_given(&self) -> bool {
        self.status().is_success()
    }
}

/// What a client takes; empty: anything.
fn accepted(headers: &HeaderMap) -> &str {
    let accepted = headers.get(header::ACCEPT);
    accepted
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}

/// Whether it may be the answer to the call.
fn is_for(call: &Call, manifest: &GivenManifest) -> bool {
    let media_type = manifest.media_type.as_str();
    let is_so = match &manifest.bytes {
        Some(bytes) => is_of_type(bytes, media_type),
        None => true,
    };
    is_so && super::manifest::accepts(&call.headers, media_type)
}

fn response(call: &Call, manifest: GivenManifest) -> Response<Body> {
    let told = Told {
        digest: manifest.digest,
        media_type: manifest.media_type,
        length: manifest.length,
    };
    let body = match (call.method == Method::HEAD, manifest.bytes) {
        (false, Some(bytes)) => body::full(bytes),
        _ => body::empty(),
    };
    told.response(body)
}

/// What tells a manifest from an index, and by which name it goes.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    media_type: Option<String>,
    manifests: Option<IgnoredAny>,
    layers: Option<IgnoredAny>,
}

/// Whether the bytes themselves say that they are of this type. What they do not say, a seed could
/// make up: the same bytes may be read as two kinds of things.
fn is_of_type(bytes: &[u8], media_type: &str) -> bool {
    let told = media_type.split(';').next().unwrap_or_default().trim();
    let Ok(shape) = serde_json::from_slice::<Shape>(bytes) else {
        return false;
    };
    match (shape.media_type, told) {
        (Some(own), told) => own.eq_ignore_ascii_case(told),
        (None, OCI_INDEX) => shape.manifests.is_some() && shape.layers.is_none(),
        (None, OCI_MANIFEST) => shape.layers.is_some() && shape.manifests.is_none(),
        (None, _) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_is_taken_where_the_bytes_say_it_themselves() {
        let docker = "application/vnd.docker.distribution.manifest.v2+json";
        let named = format!(r#"{{"mediaType":"{docker}","layers":[]}}"#);
        for (bytes, media_type, is_so) in [
            (named.as_str(), docker, true),
            (
                named.as_str(),
                "Application/vnd.docker.distribution.manifest.v2+json; x=1",
                true,
            ),
            (named.as_str(), OCI_MANIFEST, false),
            (r#"{"layers":[]}"#, OCI_MANIFEST, true),
            (r#"{"layers":[]}"#, OCI_INDEX, false),
            (r#"{"manifests":[]}"#, OCI_INDEX, true),
            (r#"{"manifests":[],"layers":[]}"#, OCI_INDEX, false),
            (r#"{"manifests":[],"layers":[]}"#, OCI_MANIFEST, false),
            (r#"{"layers":[]}"#, docker, false),
            ("[]", OCI_INDEX, false),
            ("", OCI_MANIFEST, false),
        ] {
            assert_eq!(
                is_of_type(bytes.as_bytes(), media_type),
                is_so,
                "{bytes} {media_type}"
            );
        }
    }
}
