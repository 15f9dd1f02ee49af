//! How a registry is run: behind what, for whom.

use std::{process::Command, sync::Arc};

use anyhow::{Context, Result, ensure};

use crate::{
    bed::{Host, Link},
    pki::PrivateCa,
    token::{TokenService, TokenSetup},
};

pub(super) const TLS_DIR: &str = "/etc/testbed-tls";
const PASSWORDS: &str = "/etc/registry.htpasswd";
const HTTPS: u16 = 443;

/// A registry to be started.
#[derive(Debug, Clone)]
pub struct RegistrySetup {
    /// Of its host: what clients call it.
    pub name: String,
    pub link: Link,
    pub port: u16,
    pub gate: Gate,
    pub tls: Option<Tls>,
}

/// Who is let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gate {
    /// Everybody; whatever is shown is never looked at.
    Open,
    /// Whoever shows a token of the service that runs beside it.
    Token,
    /// Whoever shows this account.
    Basic { user: String, password: String },
}

/// TLS under an authority that no host knows of itself.
#[derive(Debug, Clone)]
pub struct Tls {
    pub ca: Arc<PrivateCa>,
    /// Whether clients need a certificate of the same authority.
    pub wants_certificates: bool,
}

/// How the testbed itself gets past the gate.
#[derive(Debug)]
pub(super) enum Pass {
    None,
    Token(TokenService),
    Basic(String, String),
}

impl RegistrySetup {
    /// An open registry at port 5000.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            link: Link::default(),
            port: 5000,
            gate: Gate::Open,
            tls: None,
        }
    }

    /// With a token service beside it.
    #[must_use]
    pub fn with_tokens(self) -> Self {
        Self {
            gate: Gate::Token,
            ..self
        }
    }

    #[must_use]
    pub fn with_account(self, user: &str, password: &str) -> Self {
        Self {
            gate: Gate::Basic {
                user: user.to_owned(),
                password: password.to_owned(),
            },
            ..self
        }
    }

    /// At port 443, as a registry with TLS mostly is.
    #[must_use]
    pub fn with_tls(self, ca: &Arc<PrivateCa>) -> Self {
        Self {
            port: HTTPS,
            tls: Some(Tls {
                ca: Arc::clone(ca),
                wants_certificates: false,
            }),
            ..self
        }
    }

    #[must_use]
    pub fn wanting_certificates(mut self) -> Self {
        if let Some(tls) = &mut self.tls {
            tls.wants_certificates = true;
        }
        self
    }

    /// What clients write before the repository.
    #[must_use]
    pub fn authority(&self) -> String {
        match self.tls.is_some() && self.port == HTTPS {
            true => self.name.clone(),
            false => format!("{}:{}", self.name, self.port),
        }
    }

    /// The base of its URLs.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.authority())
    }

    /// Writes what servers on the host need for TLS; returns the directory.
    pub(super) fn install_tls(&self, host: &Host) -> Result<Option<&'static str>> {
        let Some(tls) = &self.tls else {
            return Ok(None);
        };
        let pair = tls.ca.server(&[&self.name])?;
        host.write(&format!("{TLS_DIR}/cert.pem"), pair.cert_pem)?;
        host.write(&format!("{TLS_DIR}/key.pem"), pair.key_pem)?;
        if tls.wants_certificates {
            host.write(&format!("{TLS_DIR}/clients.pem"), tls.ca.cert_pem())?;
        }
        Ok(Some(TLS_DIR))
    }

    /// Starts what guards the registry; returns how the testbed gets in, and the section of
    /// docker-registry's settings.
    pub(super) fn start_gate(&self, host: &Arc<Host>) -> Result<(Pass, String)> {
        match &self.gate {
            Gate::Open => Ok((Pass::None, String::new())),
            Gate::Basic { user, password } => {
                host.write(PASSWORDS, format!("{user}:{}\n", bcrypt(password)?))?;
                let section =
                    format!("auth:\n  htpasswd:\n    realm: testbed\n    path: {PASSWORDS}\n");
                Ok((Pass::Basic(user.clone(), password.clone()), section))
            }
            Gate::Token => {
                let service = TokenService::start(
                    host,
                    &TokenSetup {
                        service: self.authority(),
                        tls_dir: self.tls.is_some().then(|| TLS_DIR.to_owned()),
                    },
                )?;
                let section = service.registry_settings(&self.authority());
                Ok((Pass::Token(service), section))
            }
        }
    }
}

/// As docker-registry wants passwords; the C library of Debian can, by way of Perl.
fn bcrypt(password: &str) -> Result<String> {
    let salt = "$2b$05$hawkertestbedssalt0000";
    let output = Command::new("perl")
        .args(["-e", "print crypt($ARGV[0], $ARGV[1])", password, salt])
        .output()
        .context("cannot run perl")?;
    let hash = String::from_utf8(output.stdout)?;
    ensure!(hash.starts_with("$2"), "perl knows no bcrypt: {hash:?}");
    Ok(hash)
}
