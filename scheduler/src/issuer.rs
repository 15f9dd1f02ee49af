//! Gives certificates to hosts: to new ones that show a token, and to those that renew theirs.
//!
//! It holds the authority's key, so each of its answers is decided in one place, under one lock,
//! and is on disk before it is given: a token's use is counted before the certificate is made, and
//! the certificate's number is noted before it is handed out.
//!
//! ```text
//! hosts ──TLS, port 8003──► server ──┐
//!                                    ├──► Issuer ──► tokens.json, issued.tsv, tls.crl
//! operator ──unix socket──► control ─┘       └──► Identity::learn ──► driver tells all hosts
//! ```

mod attempts;
mod control;
mod refusal;
mod server;
mod token_store;

use std::{
    fmt, fs, io,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use hawker_enrol::{EnrolError, Granted, JoinRequest, JoinToken, Renewed, TokenId, TokenSecret};
use hawker_identity::{
    AuthorityPin, CaError, CertificateRequest, Certified, ClusterCa, CrlError, Identity,
    IdentityError, IssuedLog, IssuedLogError, PeerCertificate, Record, Reloaded, Serial, Subject,
    date, other_names,
};
use hawker_model::{HostId, Role};

pub use self::token_store::TokenStoreError;
use self::{
    attempts::Attempts,
    refusal::Refusal,
    token_store::{Token, TokenStore},
};
pub(crate) use self::{
    control::{ControlSocket, serve as serve_control},
    server::serve,
};
use crate::settings::IssuerPlaces;

/// Failed attempts with tokens, of one address and of all, within this time.
const WINDOW: Duration = Duration::from_secs(60);
const FAILURES_PER_ADDRESS: usize = 10;
const FAILURES: usize = 200;
/// Renewals of one host within this time.
const RENEWAL_WINDOW: Duration = Duration::from_secs(3600);
const RENEWALS_PER_HOST: usize = 10;

/// The issuer. Shared in an `Arc`; its calls touch the disk.
pub(crate) struct Issuer {
    authority: ClusterCa,
    pin: AuthorityPin,
    identity: Arc<Identity>,
    days: u32,
    /// What `hawker ca` has issued with the same key, where the authority's directory is here.
    elsewhere: IssuedLog,
    /// What `hawker ca` has revoked there.
    revoked_elsewhere: PathBuf,
    state: Mutex<State>,
}

/// What changes.
struct State {
    tokens: TokenStore,
    issued: IssuedLog,
    records: Vec<Record>,
    failures: Attempts,
    renewals: Attempts,
}

/// Why there is no issuer.
#[derive(Debug, thiserror::Error)]
pub enum IssuerError {
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("the authority in issuer.ca_cert and issuer.ca_key cannot be used: {0}")]
    Authority(#[from] CaError),
    #[error(
        "the authority {0} (issuer.ca_cert) is not in tls.ca: hosts of this cluster would not \
         believe its certificates"
    )]
    Foreign(PathBuf),
    #[error("cannot make {path} (issuer.dir): {source}")]
    Dir { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Tokens(#[from] TokenStoreError),
    #[error(transparent)]
    Issued(#[from] IssuedLogError),
    #[error(transparent)]
    Revoked(#[from] IdentityError),
}

/// Why a certificate cannot be revoked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RevokeError {
    #[error("no certificate that is good still was issued to {0:?}: give its number instead")]
    Unknown(String),
    #[error("the list of revoked certificates cannot be made: {0}")]
    Making(#[from] CaError),
    #[error("the list of revoked certificates is not believed: {0}")]
    List(#[from] CrlError),
    #[error(transparent)]
    Issued(#[from] IssuedLogError),
    #[error("it is revoked, and all hosts are told, but it is not written down: {0}")]
    Keeping(#[from] IdentityError),
}

/// A new token, as the operator wants it.
#[derive(Clone, Debug)]
pub(crate) struct TokenOrder {
    pub(crate) role: Role,
    pub(crate) host: Option<HostId>,
    pub(crate) uses: u32,
    pub(crate) lifetime: Duration,
}

impl Issuer {
    /// Reads the authority, and what was issued and revoked before.
    pub(crate) fn open(
        places: &IssuerPlaces,
        identity: Arc<Identity>,
    ) -> Result<Self, IssuerError> {
        let read = |path: &PathBuf| {
            fs::read_to_string(path).map_err(|source| IssuerError::Read {
                path: path.clone(),
                source,
            })
        };
        let authority = ClusterCa::load(&read(&places.ca_cert)?, &read(&places.ca_key)?)?;
        let foreign = || IssuerError::Foreign(places.ca_cert.clone());
        let pin = AuthorityPin::of_pem(authority.cert_pem()).ok_or_else(foreign)?;
        if !identity.authority_pins().contains(&pin) {
            return Err(foreign());
        }
        fs::create_dir_all(&places.dir).map_err(|source| IssuerError::Dir {
            path: places.dir.clone(),
            source,
        })?;
        let revoked_elsewhere = places.ca_cert.with_file_name("crl.pem");
        identity.learn_file(&revoked_elsewhere)?.sound()?;
        let issued = IssuedLog::new(&places.dir.join("issued.tsv"));
        let state = State {
            tokens: TokenStore::open(&places.dir.join("tokens.json"))?,
            records: issued.read()?,
            issued,
            failures: Attempts::new(WINDOW),
            renewals: Attempts::new(RENEWAL_WINDOW),
        };
        Ok(Self {
            authority,
            pin,
            identity,
            days: places.days,
            elsewhere: IssuedLog::new(&places.ca_cert.with_file_name("issued.tsv")),
            revoked_elsewhere,
            state: Mutex::new(state),
        })
    }

    /// Makes a token. Its text is told once and kept nowhere.
    pub(crate) fn create_token(&self, order: &TokenOrder) -> Result<JoinToken, TokenStoreError> {
        let random = |_| TokenStoreError::Random;
        let id = TokenId::random().map_err(random)?;
        let secret = TokenSecret::random().map_err(random)?;
        let now = SystemTime::now();
        let expires = now + order.lifetime;
        let token = Token::new(id, secret.hash(), order, expires);
        self.state().tokens.add(token, now)?;
        let (role, uses, until) = (order.role, order.uses, date(expires));
        let bound = order.host.as_ref().map(HostId::as_str);
        tracing::info!(token = %id, %role, uses, until, host = bound, "made a join token");
        let authority = self.pin;
        Ok(JoinToken {
            id,
            secret,
            authority,
        })
    }

    /// The tokens that can be used still.
    pub(crate) fn tokens(&self) -> Vec<Token> {
        let now = SystemTime::now();
        let state = self.state();
        let usable = state.tokens.iter().filter(|token| token.is_usable(now));
        usable.cloned().collect()
    }

    /// Makes a token worthless; says whether there was one.
    pub(crate) fn revoke_token(&self, id: TokenId) -> Result<bool, TokenStoreError> {
        let removed = self.state().tokens.remove(id)?;
        if removed {
            tracing::info!(token = %id, "revoked a join token");
        }
        Ok(removed)
    }

    /// What was issued, here and by `hawker ca`, oldest first.
    pub(crate) fn certificates(&self) -> Result<Vec<Record>, IssuedLogError> {
        self.records(&self.state())
    }

    fn records(&self, state: &State) -> Result<Vec<Record>, IssuedLogError> {
        let mut all = self.elsewhere.read()?;
        all.extend(state.records.iter().cloned());
        all.sort_by_key(|record| record.issued);
        Ok(all)
    }

    /// Answers a host that shows a token.
    pub(crate) fn join(&self, request: &JoinRequest, from: &str) -> Result<Granted, Refusal> {
        let (id, host) = (request.token, &request.host);
        let granted = self.try_join(request, from);
        match &granted {
            Ok((_, role, serial)) => {
                tracing::info!(token = %id, %host, %role, %serial, from, "issued a certificate");
            }
            Err(refusal) => {
                tracing::warn!(token = %id, %host, from, %refusal, "refused a host that wants to join");
            }
        }
        granted.map(|(granted, ..)| granted)
    }

    fn try_join(
        &self,
        request: &JoinRequest,
        from: &str,
    ) -> Result<(Granted, Role, Serial), Refusal> {
        let now = SystemTime::now();
        let mut state = self.state();
        let failures = &state.failures;
        if failures.count(from) >= FAILURES_PER_ADDRESS || failures.total() >= FAILURES {
            return Err(Refusal::TooMany);
        }
        // Only guesses count: not a host that is refused for its name, say.
        let token = match state.tokens.find(request.token, &request.secret) {
            Some(token) => token.clone(),
            None => {
                state.failures.add(from);
                return Err(Refusal::Token);
            }
        };
        let key = CertificateRequest::from_pem(&request.request)?;
        token.check(&request.host, now)?;
        if token.host.is_none() {
            self.check_name(&state, &request.host, now)?;
        }
        state.tokens.take(request.token)?;
        let subject = Subject {
            host: request.host.clone(),
            role: token.role,
            names: Vec::new(),
        };
        let how = format!("join {}", request.token);
        let certified = self.certify(&mut state, &key, &subject, how)?;
        let serial = certified.serial.clone();
        Ok((self.granted(certified), token.role, serial))
    }

    /// A token for any host is not one for a host that exists: it could take its place.
    fn check_name(&self, state: &State, host: &HostId, now: SystemTime) -> Result<(), Refusal> {
        let records = self.records(state)?;
        let revoked = self.revoked();
        let taken = records.iter().any(|record| {
            record.host == *host && record.not_after > now && !revoked.contains(&record.serial)
        });
        match taken || host == self.identity.host() {
            true => Err(Refusal::NameTaken(host.clone())),
            false => Ok(()),
        }
    }

    pub(crate) fn revoked(&self) -> Vec<Serial> {
        let lists = self.identity.crls();
        let serials = lists.iter().flat_map(|list| list.revoked());
        serials.map(|(serial, _)| serial.clone()).collect()
    }

    /// Answers a host that shows its certificate (`der`), which TLS has checked.
    pub(crate) fn renew(
        &self,
        owner: &PeerCertificate,
        der: &[u8],
        request_pem: &str,
    ) -> Result<Granted, Refusal> {
        let (host, role) = (&owner.host, owner.role);
        let granted = self.try_renew(owner, der, request_pem);
        match &granted {
            Ok(certified) => {
                let serial = &certified.serial;
                tracing::info!(%host, %role, %serial, "renewed a certificate");
            }
            Err(refusal) => {
                let serial = owner.id.serial();
                tracing::warn!(%host, %role, %serial, %refusal, "refused to renew a certificate");
            }
        }
        granted.map(|certified| self.granted(certified))
    }

    fn try_renew(
        &self,
        owner: &PeerCertificate,
        der: &[u8],
        request_pem: &str,
    ) -> Result<Certified, Refusal> {
        let mut state = self.state();
        // Since the handshake it may have been revoked, as long as we waited for the lock.
        self.identity.check(&owner.id)?;
        let renewals = &mut state.renewals;
        if renewals.count(owner.host.as_str()) >= RENEWALS_PER_HOST {
            return Err(Refusal::TooMany);
        }
        renewals.add(owner.host.as_str());
        let key = CertificateRequest::from_pem(request_pem)?;
        let subject = Subject {
            host: owner.host.clone(),
            role: owner.role,
            names: other_names(der).unwrap_or_default(),
        };
        let how = format!("renew {}", owner.id.serial());
        self.certify(&mut state, &key, &subject, how)
    }

    fn certify(
        &self,
        state: &mut State,
        key: &CertificateRequest,
        subject: &Subject,
        how: String,
    ) -> Result<Certified, Refusal> {
        let certified = self.authority.issue_to(key, subject, self.days)?;
        let record = Record {
            serial: certified.serial.clone(),
            host: subject.host.clone(),
            role: subject.role,
            issued: SystemTime::now(),
            not_after: certified.not_after,
            how,
        };
        state.issued.add(&record)?;
        state.records.push(record);
        Ok(certified)
    }

    fn granted(&self, certified: Certified) -> Granted {
        Granted {
            certificate: certified.cert_pem,
            authorities: self.identity.authorities_pem(),
            // A long one comes with the first session.
            revocations: self
                .identity
                .crl_pem()
                .filter(|lists| lists.len() < 1 << 20)
                .unwrap_or_default(),
        }
    }

    /// Revokes all certificates of a host, or one by its number; gives their numbers. All hosts
    /// are told at once.
    pub(crate) fn revoke(&self, target: &str) -> Result<Vec<Serial>, RevokeError> {
        // Until the list is known, nobody renews what it is to name, and nobody makes another list.
        let state = self.state();
        let serials = self.serials_of(&state, target)?;
        self.learn_files();
        let before = self.identity.crl_pem();
        let list = self
            .authority
            .revoke(&serials, before.as_deref().map(str::as_bytes))?;
        for list in self.authority.own_lists(list.as_bytes())? {
            self.identity.learn(list.der())?;
        }
        for serial in &serials {
            tracing::warn!(target_ = target, %serial, "revoked a certificate");
        }
        self.identity.keep_lists()?;
        Ok(serials)
    }

    /// Learns what others have revoked with the same key and nobody has read yet, so that the next
    /// list names it too. Without it the list is as good: none takes anything back.
    fn learn_files(&self) {
        for file in [&self.revoked_elsewhere, &self.identity.files().crl] {
            let learned = self.identity.learn_file(file);
            if let Err(error) = learned.and_then(Reloaded::sound) {
                tracing::warn!(%error, "went on without that list of revoked certificates");
            }
        }
    }

    fn serials_of(&self, state: &State, target: &str) -> Result<Vec<Serial>, RevokeError> {
        let now = SystemTime::now();
        let records = self.records(state)?;
        let of_host = records
            .iter()
            .filter(|record| record.host.as_str() == target && record.not_after > now);
        let serials: Vec<_> = of_host.map(|record| record.serial.clone()).collect();
        match (serials.is_empty(), target.parse::<Serial>()) {
            (false, _) => Ok(serials),
            // Shorter ones are names of hosts that are not known.
            (true, Ok(serial)) if target.len() >= 16 => Ok(vec![serial]),
            _ => Err(RevokeError::Unknown(target.to_owned())),
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issuer")
            .field("authority", &self.authority)
            .field("days", &self.days)
            .finish_non_exhaustive()
    }
}

/// The scheduler renews its own certificate with itself.
#[derive(Debug)]
pub(crate) struct OwnIssuer(pub(crate) Arc<Issuer>);

impl hawker_enrol::Issuer for OwnIssuer {
    fn renew<'a>(&'a self, identity: &'a Identity, request_pem: &'a str) -> Renewed<'a> {
        let answer = || {
            let der = identity.certificate();
            let owner = PeerCertificate::parse(&der)
                .map_err(|error| EnrolError::Answer(error.to_string()))?;
            self.0
                .renew(&owner, &der, request_pem)
                .map_err(|refusal| EnrolError::Refused(refusal.to_string()))
        };
        Box::pin(std::future::ready(answer()))
    }
}

#[cfg(test)]
mod tests;
