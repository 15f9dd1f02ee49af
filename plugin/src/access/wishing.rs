//! What a client wishes for, as the seed of its repository is asked for it.

use hawker_model::{RegistryHost, Repository, Target};
use hawker_p2p::{GivenManifest, ManifestWish, Race, Resolution};
use hawker_swarm::Source;
use http::Method;
use tracing::debug;

use super::{Access, AccessError, Heard, Visitor, claim::is_password};

impl Access {
    /// A visitor's wish for a manifest, where a seed may be asked: the visitor shows no password, was
    /// not refused a moment ago (a seed may remember a yes from before), and would get nothing by
    /// what is configured on this host.
    pub(crate) fn wish(
        &self,
        visitor: &Visitor,
        (registry, repository): (&RegistryHost, &Repository),
        target: &Target,
        (method, accept): (&Method, &str),
    ) -> Option<ManifestWish> {
        if !self.hears_seeds(&visitor.holder)
            || visitor.credential.as_ref().is_some_and(is_password)
        {
            return None;
        }
        let url = self.origin().manifest_url(registry, repository, target);
        let source = Source {
            url: url.ok()?.into(),
            authorization: visitor.credential.clone(),
        };
        (!self.origin().shows_ours(&source)).then(|| ManifestWish {
            source,
            accept: accept.to_owned(),
            whole: *method == Method::GET,
        })
    }

    /// What the seed says to the visitor's wish. Bytes have the digest that it tells, and that of the
    /// URL where one is named.
    pub(crate) async fn ask_seed_for(
        &self,
        visitor: &Visitor,
        wish: &ManifestWish,
        race: &Race,
    ) -> Heard<GivenManifest> {
        let heard = match self.0.node.ask_manifest(wish, race).await {
            Ok(Resolution::Given(manifest)) => Heard::Granted(manifest),
            Ok(Resolution::Denied { status, challenges }) => {
                Heard::Refused(AccessError::Refused { status, challenges })
            }
            Ok(Resolution::NotFound) => Heard::Nothing,
            Ok(Resolution::Failed(reason)) => {
                debug!(%reason, "a seed cannot tell: the registry is asked");
                Heard::Nothing
            }
            Err(reason) => {
                debug!(%reason, "no seed tells: the registry is asked");
                Heard::Nothing
            }
        };
        self.believed(&visitor.holder, heard)
    }
}
