//! A host's own certificate, key and authority: what it presents, believes and signs with.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use aws_lc_rs::signature::Ed25519KeyPair;
use hawker_model::{HostId, Role};
use rustls::{
    CertificateError, ClientConfig, Error, RootCertStore, ServerConfig,
    client::Resumption,
    crypto::{self, CryptoProvider},
    server::{NoServerSessionStorage, WebPkiClientVerifier},
    version::TLS13,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};

use crate::{
    certificate::{Parsed, PeerCertificate, PeerCertificateError, PublicKey},
    explain_tls,
    files::TlsFiles,
    moment::Moment,
    signer::{SignerError, Signers},
    verifier::ClusterVerifier,
};

/// A host as the others see it. Cheap to share in an `Arc`; every call may come from any thread.
pub struct Identity {
    owner: PeerCertificate,
    not_after: SystemTime,
    certificate: Arc<[u8]>,
    signing_key: Ed25519KeyPair,
    verifier: Arc<ClusterVerifier>,
    server: ServerConfig,
    client: ClientConfig,
    signers: Signers,
}

/// The three files' contents, PEM.
#[derive(Clone, Copy)]
pub struct TlsPem<'a> {
    pub ca: &'a [u8],
    pub cert: &'a [u8],
    pub key: &'a [u8],
}

/// Why a host's files are of no use. Every message names the file and what to do.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("cannot read {file}: {source}; {remedy}")]
    Read {
        file: PathBuf,
        source: io::Error,
        remedy: &'static str,
    },
    #[error("{file} holds no certificate in PEM form{detail}; write it anew with `hawker ca`")]
    NoCertificate { file: PathBuf, detail: String },
    #[error("{file} holds no private key in PEM form{detail}; write it anew with `hawker ca`")]
    NoKey { file: PathBuf, detail: String },
    #[error(
        "{file} holds a key that is not Ed25519 ({detail}); piece lists are signed with it: issue the certificate with `hawker ca`"
    )]
    KeyKind { file: PathBuf, detail: String },
    #[error(
        "the key in {key} does not belong to the certificate in {cert}; put the two files of the same issue side by side"
    )]
    KeyMismatch { cert: PathBuf, key: PathBuf },
    #[error("the certificate in {file} expired on {not_after}; renew it with `hawker ca`")]
    Expired { file: PathBuf, not_after: String },
    #[error(
        "the certificate in {file} is not valid before {not_before}, and this host's clock says {now}; set the clock, or wait"
    )]
    NotYetValid {
        file: PathBuf,
        not_before: String,
        now: String,
    },
    #[error(
        "the certificate in {cert} was not issued by the authority in {ca}; copy the ca.pem of the authority that issued it, or issue it anew"
    )]
    OtherAuthority { cert: PathBuf, ca: PathBuf },
    #[error(
        "the certificate in {file} names no host of a cluster: {source}; issue it with `hawker ca`"
    )]
    Role {
        file: PathBuf,
        source: PeerCertificateError,
    },
    #[error("the authority in {file} cannot be used: {detail}; copy the cluster's ca.pem again")]
    Authority { file: PathBuf, detail: String },
    #[error("the certificate in {file} cannot be used: {detail}; issue it anew with `hawker ca`")]
    Unusable { file: PathBuf, detail: String },
}

/// The name a TLS client dials with. Certificates are checked by host and role, so it stands for
/// any host and is not sent.
pub fn server_name() -> ServerName<'static> {
    // An address is a valid name whatever its digits.
    ServerName::IpAddress(std::net::Ipv4Addr::LOCALHOST.into())
}

impl Identity {
    /// Reads a host's files and checks that others of the cluster will believe them now.
    pub fn load(files: &TlsFiles) -> Result<Self, IdentityError> {
        let read = |path: &Path| {
            fs::read(path).map_err(|source| IdentityError::Read {
                file: path.to_owned(),
                remedy: read_remedy(&source),
                source,
            })
        };
        let (ca, cert, key) = (read(&files.ca)?, read(&files.cert)?, read(&files.key)?);
        let pem = TlsPem {
            ca: &ca,
            cert: &cert,
            key: &key,
        };
        Self::from_pem(pem, files, SystemTime::now())
    }

    /// As [`Self::load`], from contents in memory and as of another time. `files` only names them
    /// in errors.
    pub fn from_pem(
        pem: TlsPem<'_>,
        files: &TlsFiles,
        now: SystemTime,
    ) -> Result<Self, IdentityError> {
        let provider = Arc::new(crypto::aws_lc_rs::default_provider());
        let roots = Arc::new(read_authorities(pem.ca, &files.ca)?);
        let chain = read_certificates(pem.cert, &files.cert)?;
        let key = read_key(pem.key, &files.key)?;
        let parsed = Parsed::parse(&chain[0]).map_err(|error| wrong_owner(error, &files.cert))?;
        let signing_key = read_signing_key(&key, &parsed.key, files)?;
        let clients = believe_clients(&roots, &provider, &files.ca)?;
        let verifier = ClusterVerifier::new(&parsed.owner.cluster, roots, &provider, clients);
        verifier
            .verify(&chain[0], Moment::from(now).to_rustls())
            .map_err(|error| own_certificate_error(&error, files))?;
        let verifier = Arc::new(verifier);
        let certificate = Arc::from(chain[0].as_ref());
        let parts = TlsParts {
            provider,
            verifier: verifier.clone(),
            chain,
            key,
        };
        Ok(Self {
            server: parts.server().map_err(|error| unusable(&error, files))?,
            client: parts.client().map_err(|error| unusable(&error, files))?,
            not_after: parsed.validity.1.to_system(),
            owner: parsed.owner,
            certificate,
            signing_key,
            verifier,
            signers: Signers::default(),
        })
    }

    /// This host's name.
    pub fn host(&self) -> &HostId {
        &self.owner.host
    }

    /// What this host is.
    pub fn role(&self) -> Role {
        self.owner.role
    }

    /// The cluster it belongs to.
    pub fn cluster(&self) -> &str {
        &self.owner.cluster
    }

    /// When its certificate expires.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Its certificate, DER.
    pub fn certificate(&self) -> Arc<[u8]> {
        self.certificate.clone()
    }

    /// For accepting: TLS 1.3, a certificate of our cluster is required of the client, no session
    /// is resumed (so no certificate outlives its check).
    pub fn server_config(&self, alpn: &[&[u8]]) -> Arc<ServerConfig> {
        let mut config = self.server.clone();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        Arc::new(config)
    }

    /// For dialing, with [`server_name`]: TLS 1.3, the server must have a certificate of our
    /// cluster. Which host and role it is, the caller checks with [`PeerCertificate::from_tls`].
    pub fn client_config(&self, alpn: &[&[u8]]) -> Arc<ClientConfig> {
        let mut config = self.client.clone();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        Arc::new(config)
    }

    /// Signs with the key of the certificate: 64 bytes of Ed25519.
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.signing_key.sign(message).as_ref().to_vec()
    }

    /// Checks that `certificate` (DER) was issued by our authority to a host of our cluster, holds
    /// now, and that `signature` over `message` is its owner's. Whether that owner may sign this
    /// is the caller's to judge. Certificates are remembered, so that a batch costs one Ed25519
    /// verification.
    pub fn verify_signer(
        &self,
        certificate: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<PeerCertificate, SignerError> {
        self.verify_signer_at(certificate, message, signature, SystemTime::now())
    }

    /// As [`Self::verify_signer`], as of another time.
    pub fn verify_signer_at(
        &self,
        certificate: &[u8],
        message: &[u8],
        signature: &[u8],
        now: SystemTime,
    ) -> Result<PeerCertificate, SignerError> {
        self.signers
            .verify(&self.verifier, certificate, message, signature, now)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("id", &self.owner.spiffe_id())
            .field("not_after", &Moment::from(self.not_after))
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for TlsPem<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsPem(***)")
    }
}

/// What both TLS configurations are made of.
struct TlsParts {
    provider: Arc<CryptoProvider>,
    verifier: Arc<ClusterVerifier>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl TlsParts {
    fn server(&self) -> Result<ServerConfig, Error> {
        let mut config = ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(self.verifier.clone())
            .with_single_cert(self.chain.clone(), self.key.clone_key())?;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    fn client(&self) -> Result<ClientConfig, Error> {
        let mut config = ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(self.verifier.clone())
            .with_client_auth_cert(self.chain.clone(), self.key.clone_key())?;
        config.resumption = Resumption::disabled();
        config.enable_sni = false;
        Ok(config)
    }
}

fn read_remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "the daemon must run as a user who may read it (hawker ca makes keys for their owner)"
        }
        _ => "make a certificate for this host with `hawker ca`, or correct the path in [tls]",
    }
}

fn read_certificates(
    pem: &[u8],
    file: &Path,
) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let none = |detail: String| IdentityError::NoCertificate {
        file: file.to_owned(),
        detail,
    };
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match read {
        Ok(chain) if chain.is_empty() => Err(none(String::new())),
        Ok(chain) => Ok(chain),
        Err(error) => Err(none(format!(" ({error})"))),
    }
}

fn read_authorities(pem: &[u8], file: &Path) -> Result<RootCertStore, IdentityError> {
    let mut roots = RootCertStore::empty();
    for authority in read_certificates(pem, file)? {
        roots
            .add(authority)
            .map_err(|error| IdentityError::Authority {
                file: file.to_owned(),
                detail: error.to_string(),
            })?;
    }
    Ok(roots)
}

fn read_key(pem: &[u8], file: &Path) -> Result<PrivateKeyDer<'static>, IdentityError> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| IdentityError::NoKey {
        file: file.to_owned(),
        detail: match error {
            rustls_pki_types::pem::Error::NoItemsFound => String::new(),
            other => format!(" ({other})"),
        },
    })
}

fn read_signing_key(
    key: &PrivateKeyDer<'_>,
    public: &PublicKey,
    files: &TlsFiles,
) -> Result<Ed25519KeyPair, IdentityError> {
    use aws_lc_rs::signature::KeyPair as _;
    let wrong_kind = |file: &Path, detail: &str| IdentityError::KeyKind {
        file: file.to_owned(),
        detail: detail.to_owned(),
    };
    let public = match public {
        PublicKey::Ed25519(public) => public,
        PublicKey::Other { algorithm } => {
            return Err(wrong_kind(&files.cert, &format!("algorithm {algorithm}")));
        }
    };
    let PrivateKeyDer::Pkcs8(der) = key else {
        return Err(wrong_kind(&files.key, "not in PKCS#8"));
    };
    let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der.secret_pkcs8_der())
        .map_err(|error| wrong_kind(&files.key, &error.to_string()))?;
    match pair.public_key().as_ref() == &public[..] {
        true => Ok(pair),
        false => Err(IdentityError::KeyMismatch {
            cert: files.cert.clone(),
            key: files.key.clone(),
        }),
    }
}

fn believe_clients(
    roots: &Arc<RootCertStore>,
    provider: &Arc<CryptoProvider>,
    file: &Path,
) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, IdentityError> {
    WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
        .build()
        .map_err(|error| IdentityError::Authority {
            file: file.to_owned(),
            detail: error.to_string(),
        })
}

fn wrong_owner(source: PeerCertificateError, file: &Path) -> IdentityError {
    IdentityError::Role {
        file: file.to_owned(),
        source,
    }
}

fn unusable(error: &Error, files: &TlsFiles) -> IdentityError {
    IdentityError::Unusable {
        file: files.cert.clone(),
        detail: explain_tls(error),
    }
}

/// Why the host's own certificate would not be believed by others.
fn own_certificate_error(error: &Error, files: &TlsFiles) -> IdentityError {
    let file = files.cert.clone();
    match error {
        Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. }) => {
            IdentityError::Expired {
                file,
                not_after: Moment::from(*not_after).to_string(),
            }
        }
        Error::InvalidCertificate(CertificateError::NotValidYetContext { time, not_before }) => {
            IdentityError::NotYetValid {
                file,
                not_before: Moment::from(*not_before).to_string(),
                now: Moment::from(*time).to_string(),
            }
        }
        Error::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature,
        ) => IdentityError::OtherAuthority {
            cert: file,
            ca: files.ca.clone(),
        },
        other => unusable(other, files),
    }
}
