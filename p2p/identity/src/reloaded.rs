//! What became of files that were read again.

use crate::{identity_error::IdentityError, revocation::CrlError};

/// What a reload, or a file of revoked certificates, has changed.
#[derive(Debug, Default)]
pub struct Reloaded {
    /// The certificate is another one.
    pub certificate: bool,
    /// The authorities are others.
    pub authorities: bool,
    /// More is revoked than before.
    pub revocations: bool,
    /// Why lists in the file are not believed ([`IdentityError::Crl`]). What was known stays.
    pub refused: Vec<IdentityError>,
}

impl Reloaded {
    /// Fails where a list is wrong; one of an authority that is not ours counts for nothing.
    pub fn sound(mut self) -> Result<Self, IdentityError> {
        match self.refused.iter().position(|error| !is_foreign(error)) {
            Some(at) => Err(self.refused.swap_remove(at)),
            None => Ok(self),
        }
    }
}

fn is_foreign(error: &IdentityError) -> bool {
    match error {
        IdentityError::Crl { source, .. } => matches!(source, CrlError::Foreign(_)),
        _ => false,
    }
}
