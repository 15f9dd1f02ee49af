//! How the snapshotter gets the layers of an image.
//!
//! [`Layers`] opens a layer's blob in the piece network once the registry has granted it to a
//! credential that this pull may use ([`keychain`], [`docker_config`]), by the same question and
//! the same memory as the mirror's clients ([`crate::access`]). What it returns, [`NodeLayer`], is
//! read from a blocking thread. [`ImageIndex`] says which layers a stack has when containerd does
//! not: from the manifests that passed the mirror.
//!
//! Invariants: a credential that a client showed is used for that client's manifest and its layers
//! alone, for a few minutes; nothing is read before the right stands; no credential is written
//! anywhere.

mod docker_config;
mod error;
mod helper;
mod image_index;
mod image_name;
mod keychain;
mod manifest;
mod node_layer;
#[cfg(test)]
mod tests;

use std::{path::PathBuf, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use hawker_model::{Digest, TaskId};
use hawker_p2p::{Account, Blob, Node};
use hawker_swarm::{Secret, Source};
use tracing::debug;

use self::{docker_config::DockerConfig, keychain::Keychain};
pub(crate) use self::{
    error::LayerError, image_index::ImageIndex, image_name::ImageName, node_layer::NodeLayer,
};
use crate::access::{Access, Right, both};

/// How layers are had.
#[derive(Clone, Debug)]
pub(crate) struct LayersSettings {
    /// How long the origin may take for the headers of its answer.
    pub(crate) origin_patience: Duration,
    /// How long the network may take to find out a blob's length.
    pub(crate) network_patience: Duration,
    /// How long a right to a blob is remembered.
    pub(crate) keep_rights: Duration,
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
struct Opened {
    blob: Blob,
    length: u64,
    granted_to: Candidate,
}

impl Layers {
    /// Opens layers in the network of `node`.
    pub(crate) fn new(node: Node, settings: LayersSettings) -> Self {
        let origin = node.origin().clone();
        Self(Arc::new(Inner {
            access: Access::new(origin, settings.origin_patience, settings.keep_rights),
            keychain: Keychain::default(),
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
        let opened = self.open_blob(image, digest).await?;
        Ok(NodeLayer::new(self.clone(), image.clone(), digest, opened))
    }

    /// Opens again what was refused while it was read: the registry is asked anew, whatever it
    /// granted then.
    async fn reopen(
        &self,
        image: &ImageName,
        digest: Digest,
        granted_to: &Candidate,
    ) -> Result<Opened, LayerError> {
        self.forget_right(image, digest, granted_to);
        self.open_blob(image, digest).await
    }

    /// The whole of a small blob of an image, checked.
    async fn read_small(
        &self,
        image: &ImageName,
        digest: Digest,
        most: u64,
    ) -> Result<Bytes, LayerError> {
        let Opened { blob, length, .. } = self.open_blob(image, digest).await?;
        if length > most {
            return Err(LayerError::TooLong { length, most });
        }
        let mut all = BytesMut::new();
        let mut bytes = std::pin::pin!(blob.read(0..length));
        while let Some(chunk) = bytes.next().await {
            all.extend_from_slice(&chunk.map_err(LayerError::Network)?);
        }
        match Digest::of(&all) == digest {
            true => Ok(all.freeze()),
            false => Err(LayerError::WrongBytes),
        }
    }

    /// The blob, with the first credential that is granted it.
    async fn open_blob(&self, image: &ImageName, digest: Digest) -> Result<Opened, LayerError> {
        let mut refused = None;
        for candidate in self.candidates(image) {
            let error = match self.open_as(image, digest, &candidate).await {
                Ok(Some((blob, length))) => {
                    return Ok(Opened {
                        blob,
                        length,
                        granted_to: candidate,
                    });
                }
                Ok(None) => continue,
                Err(error) => error,
            };
            debug!(%image, %digest, ?candidate, %error, "not granted");
            match (&error, &candidate) {
                (LayerError::Denied { .. }, _) => self.forget(image, digest, &candidate),
                // Some registries hide what they refuse; not from whom they showed the manifest.
                (LayerError::NotFound(_), Candidate::Docker | Candidate::Ours) => {}
                _ => return Err(error),
            }
            // What the first one is told says most: it was accepted a moment ago.
            refused.get_or_insert(error);
        }
        Err(refused.unwrap_or_else(|| LayerError::denied(image, "nobody to ask for")))
    }

    fn candidates(&self, image: &ImageName) -> Vec<Candidate> {
        let seen = self.0.keychain.seen(image);
        let asks_nobody = !seen.contains(&None);
        let mut candidates: Vec<_> = seen.into_iter().map(Candidate::Seen).collect();
        let ours = asks_nobody.then_some(Candidate::Ours);
        let docker = self.0.docker.is_some().then_some(Candidate::Docker);
        match self.0.access.origin().knows_login(&image.registry) {
            true => candidates.extend(ours.into_iter().chain(docker)),
            false => candidates.extend(docker.into_iter().chain(ours)),
        }
        candidates
    }

    /// `None`: the candidate has nothing to show.
    async fn open_as(
        &self,
        image: &ImageName,
        digest: Digest,
        candidate: &Candidate,
    ) -> Result<Option<(Blob, u64)>, LayerError> {
        let opened = match candidate {
            Candidate::Seen(credential) => self.open_with(image, digest, credential.as_ref()).await,
            Candidate::Ours => self.open_with(image, digest, None).await,
            Candidate::Docker => {
                let Some(docker) = &self.0.docker else {
                    return Ok(None);
                };
                let account = docker.account(&image.registry, &image.repository).await;
                let Some(account) = account else {
                    return Ok(None);
                };
                self.open_for(image, digest, &account).await
            }
        };
        opened.map(Some)
    }

    async fn open_with(
        &self,
        image: &ImageName,
        digest: Digest,
        credential: Option<&Secret>,
    ) -> Result<(Blob, u64), LayerError> {
        let access = &self.0.access;
        let claim = image.claim(digest, credential);
        let refused = |error| LayerError::of_access(image, error);
        let source = access
            .source(&claim)
            .map_err(|error| refused(error.into()))?;
        let right = access.establish(&claim);
        let opening = self.open_source(image, digest, source);
        let (right, opened) = match access.is_likely(&claim) {
            true => both(right, opening).await.map_err(refused)?,
            // A refusal is likely enough not to trouble the network before.
            false => (right.await.map_err(refused)?, opening.await),
        };
        check(image, right, opened?)
    }

    async fn open_for(
        &self,
        image: &ImageName,
        digest: Digest,
        account: &Account,
    ) -> Result<(Blob, u64), LayerError> {
        let access = &self.0.access;
        let refused = |error| LayerError::of_access(image, error);
        let nobody = image.claim(digest, None);
        let established = access.establish_as(&nobody, account).await;
        let (right, credential) = established.map_err(refused)?;
        let claim = image.claim(digest, credential.as_ref());
        let source = access
            .source(&claim)
            .map_err(|error| refused(error.into()))?;
        let opened = self.open_source(image, digest, source).await?;
        check(image, right, opened)
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

    /// What was refused is not shown again, and its right counts no more.
    fn forget(&self, image: &ImageName, digest: Digest, candidate: &Candidate) {
        self.forget_right(image, digest, candidate);
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

    fn forget_right(&self, image: &ImageName, digest: Digest, candidate: &Candidate) {
        let credential = match candidate {
            Candidate::Seen(credential) => credential.as_ref(),
            Candidate::Ours => None,
            // Asked each time.
            Candidate::Docker => return,
        };
        self.0.access.forget(&image.claim(digest, credential));
    }
}

/// What the registry told of the blob must be what the network has.
fn check(
    image: &ImageName,
    right: Right,
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
