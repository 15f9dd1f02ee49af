//! Who may have which blob of which registry: the one place where that is found out.
//!
//! Knowing a digest is no right to its bytes. Whoever wants a blob, a client of the mirror or the
//! snapshotter for an image, shows a credential (or none); the origin is asked with that very
//! credential, by one cheap request; and its answer is remembered for a while ([`rights`]).

mod rights;

use std::{future::Future, pin::pin, time::Duration};

use futures::future::{Either, select};
use hawker_model::{Digest, RegistryHost, Repository};
use hawker_p2p::{Account, OriginClient, OriginError};
use hawker_swarm::{Secret, Source};

pub(crate) use self::rights::Right;
use self::rights::{RightKey, Rights};

/// Somebody's wish for a blob, with what they show for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claim<'a> {
    pub(crate) registry: &'a RegistryHost,
    pub(crate) repository: &'a Repository,
    pub(crate) digest: Digest,
    /// `None`: who is configured for the registry, or nobody.
    pub(crate) credential: Option<&'a Secret>,
}

impl Claim<'_> {
    fn key(&self) -> RightKey {
        RightKey::new(self.registry, self.repository, self.digest, self.credential)
    }
}

/// Asks origins for rights, and remembers them.
#[derive(Debug)]
pub(crate) struct Access {
    origin: OriginClient,
    patience: Duration,
    rights: Rights,
}

impl Access {
    /// Asks `origin`, gives up when it has not answered for `patience`, and remembers a right for
    /// `keep`.
    pub(crate) fn new(origin: OriginClient, patience: Duration, keep: Duration) -> Self {
        Self {
            origin,
            patience,
            rights: Rights::new(keep),
        }
    }

    /// The client for origins.
    pub(crate) fn origin(&self) -> &OriginClient {
        &self.origin
    }

    /// Where the network finds the blob, with the claimant's credential.
    pub(crate) fn source(&self, claim: &Claim<'_>) -> Result<Source, OriginError> {
        let url = self
            .origin
            .blob_url(claim.registry, claim.repository, &claim.digest)?;
        Ok(Source {
            url: url.into(),
            authorization: claim.credential.cloned(),
        })
    }

    /// The claimant's right, remembered or asked for.
    pub(crate) async fn establish(&self, claim: &Claim<'_>) -> Result<Right, AccessError> {
        let source = self.source(claim)?;
        let ask = async {
            let asked = tokio::time::timeout(self.patience, self.origin.head(&source)).await;
            let head = asked.map_err(|_| AccessError::Slow)??;
            Ok(Right {
                length: head.length,
            })
        };
        self.rights.establish(&claim.key(), ask).await
    }

    /// An account's right to a blob, asked for, and the credential that it bought there: the right
    /// is remembered as that credential's. `claim` shows nothing.
    pub(crate) async fn establish_as(
        &self,
        claim: &Claim<'_>,
        account: &Account,
    ) -> Result<(Right, Option<Secret>), AccessError> {
        let url = self
            .origin
            .blob_url(claim.registry, claim.repository, &claim.digest)?;
        let asking = self.origin.head_as(&url, account);
        let asked = tokio::time::timeout(self.patience, asking).await;
        let (head, credential) = asked.map_err(|_| AccessError::Slow)??;
        let right = Right {
            length: head.length,
        };
        let shown = Claim {
            credential: credential.as_ref(),
            ..*claim
        };
        self.rights.grant(&shown.key(), right);
        Ok((right, credential))
    }

    /// The origin refused after all what it had granted: its answer of then counts no more.
    pub(crate) fn forget(&self, claim: &Claim<'_>) {
        self.rights.forget(&claim.key());
    }

    /// Remembers that the origin accepted a credential for a repository. It gives no right to any
    /// blob, but it makes one likely.
    pub(crate) fn note_accepted(
        &self,
        registry: &RegistryHost,
        repository: &Repository,
        credential: Option<&Secret>,
    ) {
        let key = RightKey::of_repository(registry, repository, credential);
        self.rights.note(&key);
    }

    /// Whether a claim will hardly be refused: the right is remembered, or one to something else of
    /// the repository.
    pub(crate) fn is_likely(&self, claim: &Claim<'_>) -> bool {
        let of_repository =
            RightKey::of_repository(claim.registry, claim.repository, claim.credential);
        self.rights.knows(&claim.key()) || self.rights.knows(&of_repository)
    }
}

/// The right and what it is for, both at once; a refusal ends the other. For claims that will hardly
/// be refused: nothing is handed out before the right stands.
pub(crate) async fn both<R, E, O>(
    right: impl Future<Output = Result<R, E>>,
    opening: impl Future<Output = O>,
) -> Result<(R, O), E> {
    match select(pin!(right), pin!(opening)).await {
        Either::Left((right, opening)) => Ok((right?, opening.await)),
        Either::Right((opened, right)) => Ok((right.await?, opened)),
    }
}

/// Why there is no right.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AccessError {
    #[error("the registry did not answer in time")]
    Slow,
    #[error(transparent)]
    Origin(#[from] OriginError),
}
