//! The testbed's hand on a token service.

use std::{
    process::Command,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result};
use bytes::Bytes;
use http::Request;

use super::{
    Account, Grant, Mode, Rules,
    server::{CERTIFICATE, ISSUER, KEY, Order, TokenTally},
};
use crate::{
    bed::{Host, Process},
    http as client,
    pki::PrivateCa,
};

const PORT: u16 = 5010;
const CONTROL: &str = "127.0.0.1:5011";
const DIR: &str = "/etc/testbed-token";
const LIMIT: Duration = Duration::from_secs(30);
const DAY: i64 = 86_400;

/// Where a token service runs and for whom.
#[derive(Debug, Clone)]
pub struct TokenSetup {
    /// The registry's name in tokens.
    pub service: String,
    /// The directory of the host with `cert.pem` and `key.pem`, when it speaks TLS.
    pub tls_dir: Option<String>,
}

/// A running token service.
#[derive(Debug, Clone)]
pub struct TokenService {
    host: Arc<Host>,
    process: Arc<Process>,
    realm: String,
    rules: Arc<Mutex<Rules>>,
}

impl TokenService {
    /// # Errors
    /// When it does not come up.
    pub fn start(host: &Arc<Host>, setup: &TokenSetup) -> Result<Self> {
        let ca = PrivateCa::create("testbed tokens")?;
        let pair = ca.server(&["tokens"])?;
        host.write(&format!("{DIR}/{CERTIFICATE}"), pair.cert_pem)?;
        host.write(&format!("{DIR}/{KEY}"), pair.key_pem)?;
        host.write(&format!("{DIR}/roots.pem"), ca.cert_pem())?;
        let mut command = Command::new(std::env::current_exe()?);
        let port = PORT.to_string();
        command.args(["token-server", "--port", &port, "--control", CONTROL]);
        command.args(["--service", &setup.service, "--dir", DIR]);
        if let Some(dir) = &setup.tls_dir {
            command.args(["--tls", dir]);
        }
        let process = host.spawn("token-server", &mut command)?;
        let scheme = if setup.tls_dir.is_some() {
            "https"
        } else {
            "http"
        };
        let this = Self {
            host: Arc::clone(host),
            process,
            realm: format!("{scheme}://{}:{PORT}/token", host.name()),
            rules: Arc::default(),
        };
        let is_up = || this.tally().is_ok();
        this.process.wait_until(LIMIT, is_up)?;
        this.change(|_| {})?;
        Ok(this)
    }

    /// The section of docker-registry's settings that makes it verify the service's tokens.
    pub(crate) fn registry_settings(&self, service: &str) -> String {
        let realm = &self.realm;
        format!(
            "auth:\n  token:\n    realm: {realm}\n    service: {service}\n    issuer: {ISSUER}\n    \
             rootcertbundle: {DIR}/roots.pem\n"
        )
    }

    #[must_use]
    pub fn realm(&self) -> &str {
        &self.realm
    }

    /// Changes what the service goes by.
    ///
    /// # Errors
    /// When the service has ended.
    pub fn change(&self, change: impl FnOnce(&mut Rules)) -> Result<()> {
        let mut rules = self.rules();
        change(&mut rules);
        self.control("PUT", "/rules", serde_json::to_vec(&*rules)?)
            .map(drop)
    }

    /// # Errors
    /// When the service has ended.
    pub fn add(&self, name: &str, account: Account) -> Result<()> {
        self.change(|rules| {
            rules.accounts.insert(name.to_owned(), account);
        })
    }

    /// Issues nothing to this account any more. Tokens that it has are a matter of the registry.
    ///
    /// # Errors
    /// When there is no such account, or the service has ended.
    pub fn revoke(&self, name: &str) -> Result<()> {
        let mut is_known = false;
        self.change(|rules| {
            if let Some(account) = rules.accounts.get_mut(name) {
                account.is_revoked = true;
                is_known = true;
            }
        })?;
        let is_known = is_known.then_some(());
        is_known.with_context(|| format!("no account {name}"))
    }

    /// # Errors
    /// When the service has ended.
    pub fn set_mode(&self, mode: Mode) -> Result<()> {
        self.change(|rules| rules.mode = mode)
    }

    /// Refuses connections, or takes them again.
    ///
    /// # Errors
    /// When the service has ended.
    pub fn set_open(&self, is_open: bool) -> Result<()> {
        self.control("PUT", "/open", serde_json::to_vec(&is_open)?)?;
        let address = format!("{}:{PORT}", self.host.address());
        await_port(&self.host, &address, is_open)
    }

    /// A token as the service would issue it, for a day.
    ///
    /// # Errors
    /// When the service has ended.
    pub fn mint(&self, account: &str, access: &[Grant]) -> Result<String> {
        self.mint_for(account, access, DAY)
    }

    /// A token that holds for so many seconds; negative: that has expired.
    ///
    /// # Errors
    /// When the service has ended.
    pub fn mint_for(&self, account: &str, access: &[Grant], life_seconds: i64) -> Result<String> {
        let order = Order {
            account: account.to_owned(),
            access: access.to_vec(),
            life_seconds,
        };
        let answer = self.control("POST", "/mint", serde_json::to_vec(&order)?)?;
        Ok(answer.text())
    }

    /// # Errors
    /// When the service has ended.
    pub fn tally(&self) -> Result<TokenTally> {
        let answer = self.control("GET", "/tally", Vec::new())?;
        Ok(serde_json::from_slice(&answer.body)?)
    }

    /// All tokens that clients were given.
    ///
    /// # Errors
    /// When the service has ended.
    pub fn issued(&self) -> Result<Vec<String>> {
        let answer = self.control("GET", "/issued", Vec::new())?;
        Ok(serde_json::from_slice(&answer.body)?)
    }

    /// # Errors
    /// When the service has ended.
    pub fn reset(&self) -> Result<()> {
        self.control("DELETE", "/tally", Vec::new()).map(drop)
    }

    fn rules(&self) -> MutexGuard<'_, Rules> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn control(&self, method: &str, path: &str, body: Vec<u8>) -> Result<client::Answer> {
        let request = Request::builder()
            .method(method)
            .uri(format!("http://{CONTROL}{path}"))
            .body(Bytes::from(body))?;
        self.host.enter(|| client::send(request, LIMIT))??.success()
    }
}

/// Waits until a port takes connections, or refuses them.
///
/// # Errors
/// When it does not within the limit.
pub(crate) fn await_port(host: &Host, address: &str, is_open: bool) -> Result<()> {
    let deadline = std::time::Instant::now() + LIMIT;
    loop {
        let connected = host.enter(|| std::net::TcpStream::connect(address))?;
        if connected.is_ok() == is_open {
            return Ok(());
        }
        anyhow::ensure!(
            std::time::Instant::now() < deadline,
            "{address} of {} did not change within {LIMIT:?}",
            host.name()
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}
