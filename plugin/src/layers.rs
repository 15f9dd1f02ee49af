//! How the snapshotter gets the layers of an image.
//!
//! [`Layers`] opens a layer's blob in the piece network once the registry has granted it to a
//! credential that this pull may use ([`keychain`], [`docker_config`]), by the same question and
//! the same memory as the mirror's clients ([`crate::access`]). What it returns, [`NodeLayer`], is
//! read from a blocking thread. [`ImageIndex`] says which layers a stack has when containerd does
//! not: from the manifests that passed the mirror.
//!
//! Invariants: a credential that a client showed is used for that client's manifest and its layers
//! alone, for a few minutes; this host's own accounts are used only for what a manifest names that a
//! registry gave to a client of the mirror, whatever labels say; nothing is read before the right
//! stands, and nothing that the registry is not shown to hold; no credential is written anywhere.

mod docker_config;
mod error;
mod evidence;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod granted;
mod helper;
mod image_index;
mod image_name;
mod keychain;
mod manifest;
mod node_layer;
mod renewal;
#[cfg(test)]
pub(crate) mod tests;

use std::{future::Future, path::PathBuf, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use hawker_model::{Digest, TaskId};
use hawker_p2p::{Blob, Node};
use hawker_swarm::{Secret, Source};
use tracing::debug;

pub(crate) use self::{
    docker_config::DockerConfig,
    error::LayerError,
    granted::GrantedBlob,
    image_index::{FoundLayer, ImageIndex, LayerStory},
    image_name::ImageName,
    manifest::Part,
    node_layer::NodeLayer,
};
use self::{evidence::Evidence, keychain::Keychain};
use crate::access::{Access, Claim, Recourse, Right, both};

/// How layers are had.
#[derive(Clone, Debug)]
pub(crate) struct LayersSettings {
    /// How long the network may take to find out a blob's length.
    pub(crate) network_patience: Duration,
    /// Docker's `config.json`, whether it is there or not.
    pub(crate) docker_config: Option<PathBuf>,
}

/// Opens layers. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Layers(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    node: Node,
    access: Access,
    keychain: Keychain,
    evidence: Evidence,
    docker: Option<DockerConfig>,
    network_patience: Duration,
}

/// Whose credential is tried.
#[derive(Clone, Debug)]
enum Candidate {
    /// What a client of the mirror showed for the same manifest; `None` where the registry wanted
    /// nothing.
    Seen(Option<Secret>),
    /// Nobody's: the client for origins uses what `[registries]` says, or asks anonymously.
    Ours,
    /// Whoever is logged in with Docker's command on this host.
    Docker,
}

/// A blob that may be read.
#[derive(Clone)]
struct Opened {
    blob: Blob,
    length: u64,
    claim: Claim,
    right: Right,
}

impl Layers {
    /// Opens layers in the network of `node` for whom `access` grants them.
    pub(crate) fn new(node: Node, access: Access, settings: LayersSettings) -> Self {
        Self(Arc::new(Inner {
            access,
            keychain: Keychain::default(),
            evidence: Evidence::default(),
            docker: settings.docker_config.map(DockerConfig::new),
            network_patience: settings.network_patience,
            node,
        }))
    }

    /// Who may have what, for the mirror's clients as well.
    pub(crate) fn access(&self) -> &Access {
        &self.0.access
    }

    /// Remembers that the registry accepted what a client showed for the manifests `covered` of
    /// the image's repository, as [`ImageIndex::note`] returns them.
    pub(crate) fn note_accepted(
        &self,
        image: &ImageName,
        covered: &[Option<Digest>],
        credential: Option<&Secret>,
    ) {
        self.0.keychain.note(image, covered, credential);
    }

    /// Remembers what a manifest of the image's repository names, which a registry gave to somebody.
    pub(crate) fn note_named(&self, image: &ImageName, named: &[Digest]) {
        self.0.evidence.note(image, named);
    }

    /// Opens a layer (or the config) of an image for reading, once the registry has granted it.
    /// Cancel safe.
    ///
    /// # Errors
    /// When the registry refuses every credential that may be used for the image, or neither it nor
    /// the network gives the blob.
    pub(crate) async fn open(
        &self,
        image: &ImageName,
        digest: Digest,
    ) -> Result<NodeLayer, LayerError> {
        let granted = self.grant(image, digest).await?;
        // Where it cannot be had, containerd fetches it.
        Ok(granted.read(0..granted.length(), Recourse::Registry))
    }

    /// Opens a blob of an image, once the registry has granted it: to be held while it arrives, and
    /// read from anywhere. Cancel safe.
    ///
    /// # Errors
    /// As [`Layers::open`].
    pub(crate) async fn grant(
        &self,
        image: &ImageName,
        digest: Digest,
    ) -> Result<GrantedBlob, LayerError> {
        let opened = Box::pin(self.open_blob(image, digest)).await?;
        let granted = GrantedBlob::new(self.clone(), image.clone(), digest, opened);
        Ok(granted)
    }

    /// Has a registry say that this image's pull may have a blob, without any of its bytes. Tells its
    /// length. Cancel safe.
    ///
    /// # Errors
    /// When the registry refuses every credential that may be used for the image, or tells no length.
    pub(crate) async fn permit(
        &self,
        image: &ImageName,
        digest: Digest,
    ) -> Result<u64, LayerError> {
        self.first_granted(image, digest, |claim| async move {
            let right = self.0.access.establish(&claim).await;
            let right = right.map_err(|error| LayerError::of_access(image, error))?;
            right.length.ok_or_else(|| LayerError::NoLength {
                registry: image.registry.to_string(),
            })
        })
        .await
    }

    /// Opens again what was refused while it was read: the registry is asked anew, whatever it
    /// granted then.
    async fn reopen(
        &self,
        image: &ImageName,
        digest: Digest,
        claim: &Claim,
    ) -> Result<Opened, LayerError> {
        self.0.access.end(claim);
        Box::pin(self.open_blob(image, digest)).await
    }

    /// Whether all of a blob is in this node's store. That is no right to it.
    async fn is_here(&self, digest: Digest) -> bool {
        matches!(self.0.node.find(TaskId::Blob(digest)).await, Ok(Some(_)))
    }

    /// The whole of a small blob of an image, checked.
    async fn read_small(
        &self,
        image: &ImageName,
        digest: Digest,
        most: u64,
    ) -> Result<Bytes, LayerError> {
        let Opened {
            blob,
            length,
            claim,
            right,
            ..
        } = Box::pin(self.open_blob(image, digest)).await?;
        if length > most {
            return Err(LayerError::TooLong { length, most });
        }
        let mut all = BytesMut::new();
        let access = &self.0.access;
        let bytes = access.read(claim, right, &blob, 0..length, Recourse::Registry);
        let mut bytes = std::pin::pin!(bytes);
        while let Some(chunk) = bytes.next().await {
            let chunk = chunk.map_err(|error| LayerError::of_read(image, error))?;
            all.extend_from_slice(&chunk);
        }
        match Digest::of(&all) == digest {
            true => Ok(all.freeze()),
            false => Err(LayerError::WrongBytes),
        }
    }

    /// The blob, with the first credential that is granted it.
    async fn open_blob(&self, image: &ImageName, digest: Digest) -> Result<Opened, LayerError> {
        self.first_granted(image, digest, |claim| async move {
            let opening = Box::pin(self.open_claim(image, digest, &claim));
            let (right, blob, length) = opening.await?;
            Ok(Opened {
                blob,
                length,
                claim,
                right,
            })
        })
        .await
    }

    /// What `ask` has with the first credential that is granted the blob.
    async fn first_granted<T, F: Future<Output = Result<T, LayerError>>>(
        &self,
        image: &ImageName,
        digest: Digest,
        ask: impl Fn(Claim) -> F,
    ) -> Result<T, LayerError> {
        let mut refused = None;
        for candidate in self.candidates(image, digest) {
            let Some(claim) = self.claim(image, digest, &candidate).await? else {
                continue;
            };
            // Boxed: it is a large future, and many stand on it.
            let error = match Box::pin(ask(claim)).await {
                Ok(granted) => return Ok(granted),
                Err(error) => error,
            };
            debug!(%image, %digest, ?candidate, %error, "not granted");
            match (&error, &candidate) {
                (LayerError::Denied { .. }, _) => self.forget(image, &candidate),
                // Some registries hide what they refuse; not from whom they showed the manifest.
                (LayerError::NotFound(_), Candidate::Docker | Candidate::Ours) => {}
                _ => return Err(error),
            }
            // What the first one is told says most: it was accepted a moment ago.
            refused.get_or_insert(error);
        }
        Err(refused.unwrap_or_else(|| LayerError::denied(image, "nobody to ask for")))
    }

    /// Whose credentials may be tried. An account of this host's only for what a manifest of that
    /// repository, which a registry gave to a client of the mirror, names: labels come with images,
    /// and whoever pushes an image could name another's layer in them.
    fn candidates(&self, image: &ImageName, digest: Digest) -> Vec<Candidate> {
        let knows_login = self.0.access.origin().knows_login(&image.registry);
        let is_named = self.0.evidence.names(image, &digest);
        let mut seen = self.0.keychain.seen(image);
        // "No credential" is our login, where there is one.
        seen.retain(|credential| credential.is_some() || !knows_login || is_named);
        let ours = !seen.contains(&None) && (!knows_login || is_named);
        let ours = ours.then_some(Candidate::Ours);
        let docker = (self.0.docker.is_some() && is_named).then_some(Candidate::Docker);
        let mut candidates: Vec<_> = seen.into_iter().map(Candidate::Seen).collect();
        match knows_login {
            true => candidates.extend(ours.into_iter().chain(docker)),
            false => candidates.extend(docker.into_iter().chain(ours)),
        }
        candidates
    }

    /// What a candidate shows; `None`: it has nothing to show.
    async fn claim(
        &self,
        image: &ImageName,
        digest: Digest,
        candidate: &Candidate,
    ) -> Result<Option<Claim>, LayerError> {
        let origin = self.0.access.origin();
        let claim = |credential: Option<&Secret>| {
            let claim = Claim::blob(
                origin,
                &image.registry,
                &image.repository,
                digest,
                credential,
            );
            claim.map_err(|error| LayerError::of_access(image, error.into()))
        };
        match candidate {
            Candidate::Seen(credential) => claim(credential.as_ref()).map(Some),
            Candidate::Ours => claim(None).map(Some),
            Candidate::Docker => {
                let Some(docker) = &self.0.docker else {
                    return Ok(None);
                };
                let account = Box::pin(docker.account(&image.registry, &image.repository)).await;
                account
                    .map(|account| Ok(claim(None)?.by(account)))
                    .transpose()
            }
        }
    }

    async fn open_claim(
        &self,
        image: &ImageName,
        digest: Digest,
        claim: &Claim,
    ) -> Result<(Right, Blob, u64), LayerError> {
        let access = &self.0.access;
        let refused = |error| LayerError::of_access(image, error);
        let right = Box::pin(access.establish(claim));
        let (right, opened) = match access.likely_source(claim) {
            Some(source) => both(right, self.open_source(image, digest, source))
                .await
                .map_err(refused)?,
            // A refusal is likely enough not to trouble the network before.
            None => {
                let right = right.await.map_err(refused)?;
                let source = access.source(claim, &right);
                (right, self.open_source(image, digest, source).await)
            }
        };
        let (blob, length) = check(image, &right, opened?)?;
        Ok((right, blob, length))
    }

    /// The blob and its length, as the network knows it.
    async fn open_source(
        &self,
        image: &ImageName,
        digest: Digest,
        source: Source,
    ) -> Result<(Blob, u64), LayerError> {
        let opening = async {
            let blob = self.0.node.open(TaskId::Blob(digest), Some(source)).await?;
            let geometry = blob.geometry().await;
            let geometry = geometry.map_err(|failure| LayerError::of_task(image, failure))?;
            Ok((blob, geometry.length()))
        };
        let patience = self.0.network_patience;
        let opened = tokio::time::timeout(patience, opening).await;
        opened.unwrap_or(Err(LayerError::Silent { patience }))
    }

    /// What was refused is not shown again.
    fn forget(&self, image: &ImageName, candidate: &Candidate) {
        match candidate {
            Candidate::Seen(credential) => self.0.keychain.forget(image, credential.as_ref()),
            Candidate::Ours => {}
            Candidate::Docker => {
                if let Some(docker) = &self.0.docker {
                    docker.forget_answers();
                }
            }
        }
    }
}

/// What the registry told of the blob must be what the network has.
fn check(
    image: &ImageName,
    right: &Right,
    (blob, length): (Blob, u64),
) -> Result<(Blob, u64), LayerError> {
    match right.length {
        Some(told) if told == length => Ok((blob, length)),
        Some(told) => Err(LayerError::Length {
            told,
            network: length,
        }),
        None => Err(LayerError::NoLength {
            registry: image.registry.to_string(),
        }),
    }
}
