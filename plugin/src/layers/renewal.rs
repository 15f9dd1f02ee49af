//! Another credential in place of one that was refused half-way.
//!
//! Tokens live for minutes, layers sometimes take longer. Whoever the source was handed out for gets
//! a fresh token where an account of theirs buys them; else what the registry accepted lately for a
//! manifest that names the layer is part of the same pull; else, where no login is configured, the
//! layer may be anybody's.

use hawker_model::{RegistryHost, Repository, TaskId};
use hawker_swarm::Source;
use tracing::debug;

use super::{ImageName, Layers};
use crate::access::Claim;

/// Credentials that are tried at most: somebody waits for two seconds.
const MOST_TRIES: usize = 3;

impl Layers {
    /// A source for the same place with a credential that the origin takes now. Cancel safe.
    pub(crate) async fn renew(&self, task: TaskId, refused: &Source) -> Option<Source> {
        let access = &self.0.access;
        let claim = access.offered(task, refused)?;
        let mut claims = vec![claim.clone()];
        claims.extend(self.others(&claim));
        // What was shown itself is what was refused; what it buys may be bought anew.
        access.end(&claim);
        if claim.shows() == refused.authorization.as_ref() {
            claims.remove(0);
        }
        for claim in claims.into_iter().take(MOST_TRIES) {
            match access.establish(&claim).await {
                Ok(right) => {
                    let source = access.source(&claim, &right);
                    if source != *refused {
                        return Some(source);
                    }
                }
                Err(error) => debug!(%task, place = %claim.place(), %error, "not renewed"),
            }
        }
        None
    }

    /// The claims of others of the same pull, newest first.
    fn others(&self, claim: &Claim) -> Vec<Claim> {
        let origin = self.0.access.origin();
        let place = claim.place();
        let registry = RegistryHost::parse(place.registry());
        let repository = Repository::parse(place.repository());
        let (Some(digest), Ok(registry), Ok(repository)) =
            (claim.task().digest(), registry, repository)
        else {
            return Vec::new();
        };
        let image = ImageName {
            registry,
            repository,
            manifest: None,
        };
        let mut shown = Vec::new();
        for manifest in self.0.evidence.manifests(&image, &digest) {
            let image = image.clone().with_manifest(manifest);
            shown.extend(self.0.keychain.seen(&image));
        }
        if !origin.knows_login(&image.registry) {
            shown.push(None);
        }
        let mut claims: Vec<Claim> = Vec::new();
        for credential in shown {
            let other = Claim::blob(
                origin,
                &image.registry,
                &image.repository,
                digest,
                credential.as_ref(),
            );
            let known = [&claims[..], std::slice::from_ref(claim)].concat();
            if let Ok(other) = other
                && known.iter().all(|known| known.shows() != other.shows())
            {
                claims.push(other);
            }
        }
        claims
    }
}
