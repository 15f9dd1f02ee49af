//! A host's own certificate, key and authority: what it presents, believes and signs with, also
//! when the files change while it runs.

use std::{
    fmt, fs,
    path::Path,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::SystemTime,
};

use hawker_model::{HostId, Role};
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::ServerName;
use tokio::sync::watch;

use crate::{
    certificate::{Parsed, PeerCertificate},
    credentials::Credentials,
    current::Current,
    files::{TlsFiles, finish_renewal, write_public},
    identity_error::IdentityError,
    moment::Moment,
    pem::pem_of,
    pin::AuthorityPin,
    reading::{read_crl_file, read_files},
    reloaded::Reloaded,
    revocation::{Crl, CrlError, Learned},
    serial::{CertificateId, Serial},
    signer::SignerError,
    trust::{Distrust, Trust},
};

/// A host as the others see it. Cheap to share in an `Arc`; every call may come from any thread.
///
/// Its name, role and cluster stay what they were; certificate, authorities and revocations may be
/// exchanged while it is in use ([`Self::reload`], [`Self::learn`]). What is asked for then is of
/// the newest state; connections that stand go on with what they were made with, until their owner
/// looks at [`Self::check`] again, which [`Self::changes`] tells it to.
pub struct Identity {
    owner: PeerCertificate,
    files: TlsFiles,
    current: RwLock<Arc<Current>>,
    changes: watch::Sender<u64>,
    /// Held while the lists of revoked certificates are written.
    keeping: Mutex<()>,
}

/// A signature, and the certificate that it belongs to.
#[derive(Clone, Debug)]
pub struct Signed {
    /// The signer's certificate, DER.
    pub certificate: Arc<[u8]>,
    /// 64 bytes of Ed25519.
    pub signature: Vec<u8>,
}

/// Why nobody takes a signature any more that was good once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stale {
    /// Its certificate has ended. What it signed was true.
    Expired,
    /// Its certificate was revoked, or its authority is no longer believed.
    Distrusted,
}

/// The three files' contents, PEM.
#[derive(Clone, Copy)]
pub struct TlsPem<'a> {
    pub ca: &'a [u8],
    pub cert: &'a [u8],
    pub key: &'a [u8],
}

/// The name a TLS client dials with. Certificates are checked by host and role, so it stands for
/// any host and is not sent.
pub fn server_name() -> ServerName<'static> {
    // An address is a valid name whatever its digits.
    ServerName::IpAddress(std::net::Ipv4Addr::LOCALHOST.into())
}

impl Identity {
    /// Reads a host's files and checks that others of the cluster will believe them now. A renewal
    /// that was cut short is finished. A list of revoked certificates need not be there; one of
    /// another authority counts for nothing.
    pub fn load(files: &TlsFiles) -> Result<Self, IdentityError> {
        let now = SystemTime::now();
        let texts = read_files(files)?;
        let loaded = Self::from_pem(texts.as_pem(), files, now);
        let identity = match loaded {
            Err(IdentityError::KeyMismatch { .. }) if finish_renewal(files) => {
                Self::from_pem(read_files(files)?.as_pem(), files, now)?
            }
            loaded => loaded?,
        };
        for file in [&files.known_crl(), &files.crl] {
            identity.learn_file(file)?.sound()?;
        }
        identity.state().check_own(files, now)?;
        Ok(identity)
    }

    /// As [`Self::load`], from contents in memory, as of another time, and without revocations.
    /// `files` names them in errors, and is what [`Self::reload`] reads.
    pub fn from_pem(
        pem: TlsPem<'_>,
        files: &TlsFiles,
        now: SystemTime,
    ) -> Result<Self, IdentityError> {
        let trust = Trust::from_pem(pem.ca, &files.ca)?;
        let credentials = Arc::new(Credentials::from_pem(pem.cert, pem.key, files)?);
        let owner = credentials.owner.clone();
        let current = Current::new(credentials, trust, files)?;
        current.check_own(files, now)?;
        Ok(Self {
            owner,
            files: files.clone(),
            current: RwLock::new(Arc::new(current)),
            changes: watch::Sender::new(0),
            keeping: Mutex::new(()),
        })
    }

    /// Reads the files again. What is wrong changes nothing: on an error, and with refused lists,
    /// all goes on as before.
    pub fn reload(&self) -> Result<Reloaded, IdentityError> {
        let texts = match read_files(&self.files)? {
            texts if texts.matches_key(&self.files) => texts,
            texts => match finish_renewal(&self.files) {
                true => read_files(&self.files)?,
                false => texts,
            },
        };
        let credentials = Credentials::from_pem(&texts.cert, &texts.key, &self.files)?;
        self.check_owner(&credentials.owner)?;
        let trust = Trust::from_pem(&texts.ca, &self.files.ca)?;
        let before = self.state();
        let mut reloaded = Reloaded {
            certificate: credentials.certificate != before.credentials.certificate,
            authorities: trust.authorities() != before.trust.authorities(),
            ..Reloaded::default()
        };
        if reloaded.certificate || reloaded.authorities {
            self.replace(Arc::new(credentials), trust)?;
        }
        let learned = self.learn_file(&self.files.crl)?;
        reloaded.revocations = learned.revocations;
        reloaded.refused = learned.refused;
        Ok(reloaded)
    }

    /// Checks a list of revoked certificates in DER and takes it up if it says more than what is
    /// known. What is known is never forgotten for it.
    pub fn learn(&self, crl: &[u8]) -> Result<Learned, CrlError> {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let mut trust = Trust::clone(&current.trust);
        let learned = trust.learn(crl)?;
        if learned == Learned::Newer {
            let newer = Current::new(current.credentials.clone(), trust, &self.files);
            // The same parts made the state before this one.
            *current = Arc::new(newer.map_err(|error| CrlError::Unreadable(error.to_string()))?);
            drop(current);
            self.tell();
        }
        Ok(learned)
    }

    /// Learns the lists of revoked certificates that are in a file, if there is one.
    pub fn learn_file(&self, file: &Path) -> Result<Reloaded, IdentityError> {
        let mut learned = Reloaded::default();
        let refused = |source| IdentityError::Crl {
            file: file.to_owned(),
            source,
        };
        let lists = match read_crl_file(file)? {
            None => return Ok(learned),
            Some(Ok(lists)) => lists,
            Some(Err(error)) => {
                learned.refused.push(refused(error));
                return Ok(learned);
            }
        };
        for list in lists {
            match self.learn(&list) {
                Ok(Learned::Newer) => learned.revocations = true,
                Ok(Learned::Known) => {}
                Err(error) => learned.refused.push(refused(error)),
            }
        }
        Ok(learned)
    }

    /// Writes down what is revoked, for the next start and for whoever copies the file. A list that
    /// was put there and that nobody has read is learned first; a file that is wrong, or not whole
    /// yet, is left as it is.
    pub fn keep_lists(&self) -> Result<(), IdentityError> {
        let _keeping = self.keeping.lock().unwrap_or_else(PoisonError::into_inner);
        let read = self.learn_file(&self.files.crl);
        let Some(lists) = self.crl_pem() else {
            return Ok(());
        };
        replace(&self.files.known_crl(), &lists)?;
        read?.sound()?;
        replace(&self.files.crl, &lists)
    }

    fn check_owner(&self, found: &PeerCertificate) -> Result<(), IdentityError> {
        if found.spiffe_id() == self.owner.spiffe_id() {
            return Ok(());
        }
        Err(IdentityError::Changed {
            file: self.files.cert.clone(),
            found: found.spiffe_id(),
            own: self.owner.spiffe_id(),
        })
    }

    fn state(&self) -> Arc<Current> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        current.clone()
    }

    /// Takes up what the files say, with what is known to be revoked at that very moment.
    fn replace(
        &self,
        credentials: Arc<Credentials>,
        mut trust: Trust,
    ) -> Result<(), IdentityError> {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        trust.inherit(&current.trust);
        let new = Current::new(credentials, trust, &self.files)?;
        new.check_own(&self.files, SystemTime::now())?;
        *current = Arc::new(new);
        drop(current);
        self.tell();
        Ok(())
    }

    fn tell(&self) {
        self.changes.send_modify(|changes| *changes += 1);
    }

    /// Says whenever certificate, authorities or revocations have changed: connections that stand
    /// are to be looked at again with [`Self::check`].
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Whether a certificate that was believed when its connection was made is so still.
    pub fn check(&self, certificate: &CertificateId) -> Result<(), Distrust> {
        self.state().trust.check(certificate)
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

    /// Its files.
    pub fn files(&self) -> &TlsFiles {
        &self.files
    }

    /// When its certificate began.
    pub fn not_before(&self) -> SystemTime {
        self.state().credentials.not_before()
    }

    /// When its certificate expires.
    pub fn not_after(&self) -> SystemTime {
        self.state().credentials.not_after()
    }

    /// Its certificate, DER.
    pub fn certificate(&self) -> Arc<[u8]> {
        self.state().credentials.certificate.clone()
    }

    /// Its certificate's number.
    pub fn serial(&self) -> Serial {
        self.state().credentials.owner.id.serial.clone()
    }

    /// Whether its own certificate is believed still.
    pub fn check_own(&self) -> Result<(), Distrust> {
        let current = self.state();
        current.trust.check(&current.credentials.owner.id)
    }

    /// The authorities it believes, as a `ca.pem`.
    pub fn authorities_pem(&self) -> String {
        self.state().trust.authorities_pem()
    }

    /// What names each of its authorities, as in join tokens.
    pub fn authority_pins(&self) -> Vec<AuthorityPin> {
        let current = self.state();
        let authorities = current.trust.authorities().iter();
        authorities
            .filter_map(|der| AuthorityPin::of(der))
            .collect()
    }

    /// The lists of revoked certificates that count, of all authorities.
    pub fn crls(&self) -> Vec<Crl> {
        self.state().trust.crls().cloned().collect()
    }

    /// Those lists as a file in PEM; `None` where there is none.
    pub fn crl_pem(&self) -> Option<String> {
        let current = self.state();
        let texts = current.trust.crls();
        let text: String = texts.map(|crl| pem_of("X509 CRL", crl.der())).collect();
        (!text.is_empty()).then_some(text)
    }

    /// How many certificates are revoked.
    pub fn revoked_count(&self) -> usize {
        self.state().trust.revoked_count()
    }

    /// For accepting: TLS 1.3, a certificate of our cluster is required of the client, no session
    /// is resumed (so no certificate outlives its check). To be asked for with every connection:
    /// the next may have to show another certificate.
    pub fn server_config(&self, alpn: &[&[u8]]) -> Arc<ServerConfig> {
        let mut config = self.state().server.clone();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        Arc::new(config)
    }

    /// For dialing, with [`server_name`]: TLS 1.3, the server must have a certificate of our
    /// cluster. Which host and role it is, the caller checks with [`PeerCertificate::from_tls`].
    /// To be asked for with every connection.
    pub fn client_config(&self, alpn: &[&[u8]]) -> Arc<ClientConfig> {
        let mut config = self.state().client.clone();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        Arc::new(config)
    }

    /// For the port where hosts join: as [`Self::server_config`], but a client may come without a
    /// certificate, and is shown our authorities as well.
    pub fn issuer_config(&self) -> Arc<ServerConfig> {
        Arc::new(self.state().issuer.clone())
    }

    /// Signs with the key of the certificate.
    pub fn sign(&self, message: &[u8]) -> Signed {
        let current = self.state();
        let signature = current.credentials.signing_key.sign(message);
        Signed {
            certificate: current.credentials.certificate.clone(),
            signature: signature.as_ref().to_vec(),
        }
    }

    /// Whether others would still take what the owner of `certificate` (DER) signed, of which we
    /// know that it was believed once.
    pub fn check_signer(&self, certificate: &[u8], now: SystemTime) -> Result<(), Stale> {
        let parsed = Parsed::parse(certificate).map_err(|_| Stale::Distrusted)?;
        let trust = &self.state().trust;
        if trust.check(&parsed.owner.id).is_err() {
            return Err(Stale::Distrusted);
        }
        match Moment::from(now) > parsed.validity.1 {
            true => Err(Stale::Expired),
            false => Ok(()),
        }
    }

    /// Checks that `certificate` (DER) was issued by our authority to a host of our cluster, holds
    /// now and is not revoked, and that `signature` over `message` is its owner's. Whether that
    /// owner may sign this is the caller's to judge. Certificates are remembered, so that a batch
    /// costs one Ed25519 verification.
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
        let current = self.state();
        current
            .signers
            .verify(&current.verifier, certificate, message, signature, now)
    }
}

/// Writes a file that does not say the same already.
fn replace(file: &Path, text: &str) -> Result<(), IdentityError> {
    match fs::read(file).is_ok_and(|found| found == text.as_bytes()) {
        true => Ok(()),
        false => Ok(write_public(file, text)?),
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("id", &self.owner.spiffe_id())
            .field("not_after", &Moment::from(self.not_after()))
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for TlsPem<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsPem(***)")
    }
}
