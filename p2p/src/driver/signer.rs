//! Signs the piece lists we build, and checks those of others.

use std::{sync::Arc, time::SystemTime};

use hawker_identity::{Identity, Stale};
use hawker_model::{
    ChainState, Geometry, HostId, OriginName, PieceIndex, Role, SignedStates, TaskId,
};
use hawker_swarm::Message;

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

    /// A message as it goes out: chain values of our own, joined of several batches, are signed, and
    /// of a complete blob a list goes that others can believe still. `known` is the blob's geometry
    /// and whether it is complete. `None`: what our values are about is not here any more; whoever
    /// got them unsigned would take us for a forger.
    pub(crate) fn vouch(
        &self,
        task: &TaskId,
        known: Option<(Geometry, bool)>,
        message: Message,
    ) -> Option<Message> {
        let Message::List { batch } = message else {
            return Some(message);
        };
        let unsigned = batch.signature.is_empty() && self.identity.is_some();
        let batch = match known {
            None if unsigned => return None,
            Some((geometry, _)) if unsigned => {
                self.sign(task, &geometry, batch.first, batch.states, batch.origin)
            }
            Some((geometry, true)) => self.relay(task, &geometry, batch),
            Some((_, false)) | None => batch,
        };
        Some(Message::List { batch })
    }

    /// A batch of a list that our own bytes prove, as it goes to others. One whose signer's
    /// certificate has ended, or was revoked, nobody would take any more: for that we vouch
    /// ourselves. What a revoked signer said of the origin is not known.
    fn relay(&self, task: &TaskId, geometry: &Geometry, batch: SignedStates) -> SignedStates {
        let Some(identity) = &self.identity else {
            return batch;
        };
        let origin = match identity.check_signer(&batch.signer, SystemTime::now()) {
            Ok(()) => return batch,
            Err(Stale::Expired) => batch.origin,
            // Nothing but that signer vouched for a URL's bytes.
            Err(Stale::Distrusted) if matches!(task, TaskId::Url(_)) => return batch,
            Err(Stale::Distrusted) => None,
        };
        self.sign(task, geometry, batch.first, batch.states, origin)
    }

    /// Whether a batch may be believed until its bytes prove it, and who signed it. A blob's list may come from any
    /// host of the cluster, since the digest exposes a false one; a URL's only from a seed or from
    /// the fetcher that the scheduler elected, since nothing else vouches for it.
    pub(crate) fn check(
        &self,
        task: &TaskId,
        geometry: &Geometry,
        batch: &SignedStates,
        fetcher: Option<&HostId>,
    ) -> Result<Option<HostId>, Unbelieved> {
        let Some(identity) = &self.identity else {
            return Ok(None);
        };
        let message = batch.message(task, geometry);
        let signer = identity.verify_signer(&batch.signer, &message, &batch.signature);
        let signer = signer.map_err(|error| Unbelieved {
            why: error.to_string(),
            is_forged: error.is_forged(),
        })?;
        let trusted = match (task, signer.role) {
            (_, Role::Scheduler) => false,
            (TaskId::Blob(_), _) | (_, Role::Seed) => true,
            (TaskId::Url(_), Role::Node) => fetcher == Some(&signer.host),
        };
        match trusted {
            true => Ok(Some(signer.host)),
            false => Err(Unbelieved {
                why: format!("{} {} may not vouch for {task}", signer.role, signer.host),
                is_forged: false,
            }),
        }
    }
}

/// Why a batch is not believed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unbelieved {
    pub(crate) why: String,
    /// Whoever passed it on must have known. Of other flaws it may not: certificates end and are
    /// revoked, and hosts hear of that at different times.
    pub(crate) is_forged: bool,
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use hawker_identity::{ClusterCa, Subject, TlsFiles, TlsPem};
    use hawker_model::Digest;

    use super::*;

    fn signer(role: Role) -> ListSigner {
        let authority = ClusterCa::create("test", 1).unwrap();
        let subject = Subject {
            host: HostId::parse("host").unwrap(),
            role,
            names: Vec::new(),
        };
        let issued = authority.issue(&subject, 1).unwrap();
        let pem = TlsPem {
            ca: authority.cert_pem().as_bytes(),
            cert: issued.cert_pem.as_bytes(),
            key: issued.key_pem.as_bytes(),
        };
        let files = TlsFiles::in_dir(std::path::Path::new("/test"));
        let identity = Identity::from_pem(pem, &files, SystemTime::now()).unwrap();
        ListSigner::new(&Security::Tls(Arc::new(identity)))
    }

    fn signed(signer: &ListSigner, task: &TaskId) -> (Geometry, SignedStates) {
        let geometry = Geometry::for_length(4 << 16).unwrap();
        let states = vec![ChainState::initial(); 2];
        let origin = OriginName::of_url("https://private.example/v2/a/blobs/b");
        let batch = signer.sign(task, &geometry, PieceIndex(0), states, origin);
        (geometry, batch)
    }

    #[test]
    fn a_list_whose_origin_was_altered_is_not_believed() {
        let task = TaskId::Blob(Digest::of(b"x"));
        let signer = signer(Role::Node);
        let (geometry, batch) = signed(&signer, &task);
        let owner = HostId::parse("host").unwrap();
        assert_eq!(
            signer.check(&task, &geometry, &batch, None),
            Ok(Some(owner))
        );
        let others = [
            "https://evil.example",
            "http://private.example",
            "https://private.example:8443",
        ];
        let others = others.into_iter().map(OriginName::of_url);
        for origin in others.chain([None]) {
            let altered = SignedStates {
                origin,
                ..batch.clone()
            };
            let error = signer.check(&task, &geometry, &altered, None).unwrap_err();
            assert!(error.is_forged, "{error:?}");
        }
    }

    #[test]
    fn chain_values_of_our_own_go_out_signed_or_not_at_all() {
        let task = TaskId::Blob(Digest::of(b"x"));
        let signer = signer(Role::Node);
        let geometry = Geometry::for_length(4 << 16).unwrap();
        let own = || Message::List {
            batch: SignedStates {
                first: PieceIndex(1),
                states: vec![ChainState::initial(); 2],
                origin: None,
                signer: Arc::from([]),
                signature: Vec::new(),
            },
        };
        for complete in [false, true] {
            let sent = signer.vouch(&task, Some((geometry, complete)), own());
            let Some(Message::List { batch }) = sent else {
                panic!("{sent:?}");
            };
            let owner = HostId::parse("host").unwrap();
            let checked = signer.check(&task, &geometry, &batch, None);
            assert_eq!(checked, Ok(Some(owner)));
            let relayed = Message::List { batch };
            let again = signer.vouch(&task, None, relayed.clone());
            assert_eq!(again, Some(relayed), "signed by whomever, it needs no blob");
        }
        assert_eq!(signer.vouch(&task, None, own()), None);
        let plain = ListSigner { identity: None };
        assert_eq!(plain.vouch(&task, None, own()), Some(own()));
        let leave = signer.vouch(&task, None, Message::Leave);
        assert_eq!(leave, Some(Message::Leave));
    }

    #[test]
    fn a_plain_network_signs_nothing_but_tells_the_origin() {
        let task = TaskId::Blob(Digest::of(b"x"));
        let signer = ListSigner { identity: None };
        let (geometry, batch) = signed(&signer, &task);
        assert!(batch.signer.is_empty() && batch.signature.is_empty());
        let origin = batch.origin.as_ref().map(OriginName::as_str);
        assert_eq!(origin, Some("https://private.example"));
        assert_eq!(signer.check(&task, &geometry, &batch, None), Ok(None));
    }
}
