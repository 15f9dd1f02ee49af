//! Signs the piece lists we build, and checks those of others.

use std::sync::Arc;

use hawker_identity::Identity;
use hawker_model::{
    ChainState, Geometry, HostId, OriginName, PieceIndex, Role, SignedStates, TaskId,
};

use crate::transport::Security;

/// Our key and everybody's certificate authority; without TLS, neither.
#[derive(Clone, Debug)]
pub(crate) struct ListSigner {
    identity: Option<Arc<Identity>>,
}

impl ListSigner {
    pub(crate) fn new(security: &Security) -> Self {
        let identity = match security {
            Security::Tls(identity) => Some(Arc::clone(identity)),
            Security::Plain { .. } => None,
        };
        Self { identity }
    }

    /// A batch of our own, of pieces that were all read from `origin`.
    pub(crate) fn sign(
        &self,
        task: &TaskId,
        geometry: &Geometry,
        first: PieceIndex,
        states: Vec<ChainState>,
        origin: Option<OriginName>,
    ) -> SignedStates {
        let mut batch = SignedStates {
            first,
            states,
            origin,
            signer: Arc::from([]),
            signature: Vec::new(),
        };
        if let Some(identity) = &self.identity {
            // In one go: the certificate may be exchanged at any moment.
            let signed = identity.sign(&batch.message(task, geometry));
            batch.signer = signed.certificate;
            batch.signature = signed.signature;
        }
        batch
    }

    /// Whether a batch may be believed until its bytes prove it. A blob's list may come from any
    /// host of the cluster, since the digest exposes a false one; a URL's only from a seed or from
    /// the fetcher that the scheduler elected, since nothing else vouches for it.
    pub(crate) fn check(
        &self,
        task: &TaskId,
        geometry: &Geometry,
        batch: &SignedStates,
        fetcher: Option<&HostId>,
    ) -> Result<(), String> {
        let Some(identity) = &self.identity else {
            return Ok(());
        };
        let signer = identity
            .verify_signer(
                &batch.signer,
                &batch.message(task, geometry),
                &batch.signature,
            )
            .map_err(|error| error.to_string())?;
        let trusted = match (task, signer.role) {
            (_, Role::Scheduler) => false,
            (TaskId::Blob(_), _) | (_, Role::Seed) => true,
            (TaskId::Url(_), Role::Node) => fetcher == Some(&signer.host),
        };
        match trusted {
            true => Ok(()),
            false => Err(format!(
                "{} {} may not vouch for {task}",
                signer.role, signer.host
            )),
        }
    }
}
