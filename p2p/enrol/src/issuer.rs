//! From whom a host gets its next certificate, and how it is put in place.

use std::{fmt, pin::Pin};

use hawker_identity::{
    Identity, IdentityError, NewKey, RequestError, TlsPem, WriteError, replace_pair, write_public,
};

use crate::{
    client::{EnrolError, renew},
    message::Granted,
};

/// The answer of an issuer, some time.
pub type Renewed<'a> = Pin<Box<dyn Future<Output = Result<Granted, EnrolError>> + Send + 'a>>;

/// Gives hosts their next certificates: over the network, or in the same process on the scheduler
/// that holds the authority.
pub trait Issuer: fmt::Debug + Send + Sync {
    /// A certificate of the same host and role for the key of `request_pem`.
    fn renew<'a>(&'a self, identity: &'a Identity, request_pem: &'a str) -> Renewed<'a>;
}

/// An issuer at the other end of a network.
#[derive(Clone, Debug)]
pub struct RemoteIssuer {
    address: String,
}

impl RemoteIssuer {
    /// The issuer at `host:port`.
    pub fn new(address: String) -> Self {
        Self { address }
    }
}

impl Issuer for RemoteIssuer {
    fn renew<'a>(&'a self, identity: &'a Identity, request_pem: &'a str) -> Renewed<'a> {
        Box::pin(renew(&self.address, identity, request_pem))
    }
}

/// Why a certificate was not renewed. The old one stays in use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RenewalError {
    #[error(transparent)]
    Key(#[from] RequestError),
    #[error(transparent)]
    Enrol(#[from] EnrolError),
    #[error("the new certificate is of no use: {0}")]
    Useless(IdentityError),
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error("the new files cannot be taken up: {0}")]
    Reload(IdentityError),
}

/// Gets the next certificate, puts it in place and uses it.
pub(crate) async fn renew_identity(
    identity: &Identity,
    issuer: &dyn Issuer,
) -> Result<(), RenewalError> {
    let key = NewKey::generate(identity.host())?;
    let granted = issuer.renew(identity, &key.request_pem).await?;
    // All that could be wrong is found before a file is touched.
    let check = |authorities: &str| {
        let pem = TlsPem {
            ca: authorities.as_bytes(),
            cert: granted.certificate.as_bytes(),
            key: key.key_pem.as_bytes(),
        };
        let now = std::time::SystemTime::now();
        Identity::from_pem(pem, identity.files(), now).map_err(RenewalError::Useless)
    };
    // An authority that we believe vouches for the issuer: else it could bring in any other, and
    // a certificate of that.
    let next = check(&identity.authorities_pem())?;
    let same = (next.host(), next.role()) == (identity.host(), identity.role());
    if !same || next.cluster() != identity.cluster() {
        let what = format!("it is for {} {}", next.role(), next.host());
        return Err(EnrolError::Answer(what).into());
    }
    let authorities = merged(&identity.authorities_pem(), &granted.authorities);
    check(&authorities)?;
    if authorities != identity.authorities_pem() {
        write_public(&identity.files().ca, &authorities)?;
    }
    replace_pair(identity.files(), &granted.certificate, &key.key_pem)?;
    identity.reload().map_err(RenewalError::Reload)?;
    Ok(())
}

/// Our authorities, and those of the issuer that we did not know: so a new authority comes to all
/// hosts before certificates of it do. Taking one away is a person's decision.
fn merged(ours: &str, theirs: &str) -> String {
    const END: &str = "-----END CERTIFICATE-----";
    let mut all = ours.to_owned();
    for block in theirs.split_inclusive(END) {
        let Some(at) = block.find("-----BEGIN CERTIFICATE-----") else {
            continue;
        };
        let block = &block[at..];
        let body = |text: &str| text.split_whitespace().collect::<String>();
        if block.ends_with(END) && !body(&all).contains(&body(block)) {
            all.push_str(block);
            all.push('\n');
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use std::fs;

    use hawker_identity::{CertificateRequest, ClusterCa, Existing, Subject, TlsFiles, write_host};
    use hawker_model::{HostId, Role};
    use tempfile::TempDir;

    use super::*;

    /// Signs with its authority, and says that it believes these.
    #[derive(Debug)]
    struct Signer {
        authority: ClusterCa,
        believed: String,
    }

    impl Signer {
        fn new(authority: ClusterCa, others: &[&ClusterCa]) -> Self {
            let others = others.iter().map(|other| other.cert_pem());
            let believed = others.chain([authority.cert_pem()]).collect();
            Self {
                authority,
                believed,
            }
        }
    }

    impl Issuer for Signer {
        fn renew<'a>(&'a self, identity: &'a Identity, request_pem: &'a str) -> Renewed<'a> {
            let request = CertificateRequest::from_pem(request_pem).unwrap();
            let subject = subject(identity.host().as_str());
            let issued = self.authority.issue_to(&request, &subject, 30).unwrap();
            let granted = Granted {
                certificate: issued.cert_pem,
                authorities: self.believed.clone(),
                revocations: String::new(),
            };
            Box::pin(std::future::ready(Ok(granted)))
        }
    }

    fn subject(host: &str) -> Subject {
        Subject {
            host: HostId::parse(host).unwrap(),
            role: Role::Node,
            names: Vec::new(),
        }
    }

    fn authority() -> ClusterCa {
        ClusterCa::create("prod", 365).unwrap()
    }

    fn installed(authority: &ClusterCa) -> (TempDir, TlsFiles, Identity) {
        let dir = tempfile::tempdir().unwrap();
        let issued = authority.issue(&subject("node-1"), 30).unwrap();
        let pem = authority.cert_pem();
        let files = write_host(dir.path(), pem, &issued, Existing::Keep).unwrap();
        let identity = Identity::load(&files).unwrap();
        (dir, files, identity)
    }

    #[tokio::test]
    async fn an_issuer_brings_in_no_authority_that_vouches_for_itself() {
        let ours = authority();
        let (_dir, files, node) = installed(&ours);
        let before = [&files.ca, &files.cert, &files.key].map(|file| fs::read(file).unwrap());
        let thief = Signer::new(authority(), &[&ours]);
        let error = renew_identity(&node, &thief).await.unwrap_err();
        assert!(matches!(error, RenewalError::Useless(_)), "{error}");
        let after = [&files.ca, &files.cert, &files.key].map(|file| fs::read(file).unwrap());
        assert_eq!(before, after);
    }

    #[tokio::test]
    async fn a_new_authority_comes_with_a_certificate_of_the_old_one_and_issues_the_next() {
        let (old, new) = (authority(), authority());
        let (_dir, files, node) = installed(&old);
        let both = Signer::new(old, &[&new]);
        renew_identity(&node, &both).await.unwrap();
        assert_eq!(node.authority_pins().len(), 2);
        let then = Signer::new(new, &[&both.authority]);
        renew_identity(&node, &then).await.unwrap();
        assert_eq!(Identity::load(&files).unwrap().serial(), node.serial());
        assert_eq!(node.authority_pins().len(), 2);
    }

    #[test]
    fn new_authorities_are_added_and_known_ones_are_not() {
        let block =
            |text| format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n");
        let (one, two) = (block("AAAA"), block("BB\nBB"));
        let both = format!("{one}{two}");
        assert_eq!(merged(&one, &both), both);
        assert_eq!(merged(&both, &two), both);
        assert_eq!(merged(&one, "rubbish"), one);
        let folded = two.replace("BB\nBB", "BBBB");
        assert_eq!(merged(&both, &folded), both);
    }
}
