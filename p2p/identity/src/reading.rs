//! A host's files, read whole before anything is made of them.

use std::{fs, io, path::Path};

use crate::{
    IdentityError, TlsPem,
    credentials::Credentials,
    files::TlsFiles,
    revocation::{CrlError, MAX_CRL_BYTES, MAX_CRLS, read_pem},
};

/// The contents of the three files.
pub(crate) struct Texts {
    pub(crate) ca: Vec<u8>,
    pub(crate) cert: Vec<u8>,
    pub(crate) key: Vec<u8>,
}

impl Texts {
    pub(crate) fn as_pem(&self) -> TlsPem<'_> {
        TlsPem {
            ca: &self.ca,
            cert: &self.cert,
            key: &self.key,
        }
    }

    pub(crate) fn matches_key(&self, files: &TlsFiles) -> bool {
        let read = Credentials::from_pem(&self.cert, &self.key, files);
        !matches!(read, Err(IdentityError::KeyMismatch { .. }))
    }
}

pub(crate) fn read_files(files: &TlsFiles) -> Result<Texts, IdentityError> {
    Ok(Texts {
        ca: read(&files.ca)?,
        cert: read(&files.cert)?,
        key: read(&files.key)?,
    })
}

fn read(path: &Path) -> Result<Vec<u8>, IdentityError> {
    fs::read(path).map_err(|source| IdentityError::Read {
        file: path.to_owned(),
        remedy: read_remedy(&source),
        source,
    })
}

fn read_remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "the daemon must run as a user who may read it (hawker ca makes keys for their owner)"
        }
        _ => "make a certificate for this host with `hawker ca`, or correct the path in [tls]",
    }
}

/// The lists of a file, unchecked. `None` where there is no file.
#[allow(clippy::type_complexity, reason = "read, absent or wrong")]
pub(crate) fn read_crl_file(
    path: &Path,
) -> Result<Option<Result<Vec<Vec<u8>>, CrlError>>, IdentityError> {
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        // In PEM a list takes a third more.
        Ok(found) if found.len() > (2 * MAX_CRL_BYTES * MAX_CRLS) as u64 => {
            return Ok(Some(Err(CrlError::TooLarge)));
        }
        _ => {}
    }
    let text = fs::read(path).map_err(|source| IdentityError::Read {
        file: path.to_owned(),
        remedy: "it lists the revoked certificates: let the daemon read it, or remove it",
        source,
    })?;
    Ok(Some(read_pem(&text)))
}
