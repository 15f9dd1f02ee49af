//! Who signed piece lists: the shell, which checks the signatures, knows the certificates.

use std::{collections::BTreeMap, sync::Arc};

use hawker_model::HostId;

/// Signers remembered: more than any cluster's seeds.
const MOST: usize = 4096;

/// Certificates (as in a batch) and whose they are.
#[derive(Debug, Default)]
pub(crate) struct Signers {
    known: BTreeMap<Arc<[u8]>, HostId>,
}

impl Signers {
    pub(crate) fn note(&mut self, certificate: &Arc<[u8]>, host: HostId) {
        if let Some(known) = self.known.get_mut(certificate) {
            *known = host;
        } else if self.known.len() < MOST {
            self.known.insert(Arc::clone(certificate), host);
        }
    }

    pub(crate) fn host(&self, certificate: &Arc<[u8]>) -> Option<&HostId> {
        self.known.get(certificate)
    }
}
