//! What an operator says about origins, and where registries are.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    path::PathBuf,
    time::Duration,
};

use hawker_model::RegistryHost;
use hawker_swarm::Secret;
use url::{Host, Url};

use super::{AllowPrivate, exchange};

/// Settings of an [`super::OriginClient`].
#[derive(Clone, Debug)]
pub struct OriginConfig {
    /// What is known of single registries. Being listed here makes a private address permitted.
    pub registries: BTreeMap<RegistryHost, RegistryEndpoint>,
    /// Registries and networks that may be private.
    pub allow_private: Vec<AllowPrivate>,
    /// From the start of name resolution to the end of the TLS handshake.
    pub connect_timeout: Duration,
    /// From the start of a request to the head of its answer, connecting included.
    pub header_timeout: Duration,
    /// The longest silence within a body.
    pub read_timeout: Duration,
    /// Attempts to get on with a body, after the first, that brought no byte.
    pub retries: u32,
    /// Wait before the first retry; doubles with each further one, up to 10 s.
    pub first_backoff: Duration,
    /// Longest wait that a server's `Retry-After` can impose.
    pub longest_retry_after: Duration,
    /// Bytes to read and drop at most when a server ignores `Range`. `None`: all that precede.
    pub discard_limit: Option<u64>,
    /// The `User-Agent` of requests that are not a client's own.
    pub user_agent: String,
}

impl Default for OriginConfig {
    fn default() -> Self {
        Self {
            registries: BTreeMap::new(),
            allow_private: Vec::new(),
            connect_timeout: Duration::from_secs(5),
            header_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(30),
            retries: 5,
            first_backoff: Duration::from_millis(200),
            longest_retry_after: Duration::from_secs(60),
            discard_limit: None,
            user_agent: concat!("hawker/", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

/// What an operator says of one registry.
#[derive(Clone, Debug, Default)]
pub struct RegistryEndpoint {
    /// Where it is, when that is not `https://<name>`. A path is put before `/v2/`.
    pub endpoint: Option<Url>,
    /// Certificate authorities (PEM) that it may use besides those of the system.
    pub ca_file: Option<PathBuf>,
    /// Whether its certificate is believed unseen.
    pub skip_verify: bool,
    /// Who we are there when a client brings no credential.
    pub login: Option<Login>,
}

/// A name and a password.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Login {
    pub username: String,
    pub password: Secret,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login")
            .field("username", &self.username)
            .field("password", &self.password)
            .finish()
    }
}

impl OriginConfig {
    /// Where each configured registry is.
    pub(super) fn bases(&self) -> Result<HashMap<RegistryHost, Url>, OriginConfigError> {
        let mut bases: HashMap<_, _> = self
            .registries
            .iter()
            .map(|(name, registry)| {
                let base = match &registry.endpoint {
                    Some(endpoint) => endpoint.clone(),
                    None => default_base(name).map_err(|error| OriginConfigError::Endpoint {
                        registry: name.clone(),
                        reason: error.to_string(),
                    })?,
                };
                exchange::check_url(&base).map_err(|reason| OriginConfigError::Endpoint {
                    registry: name.clone(),
                    reason,
                })?;
                Ok((name.clone(), base))
            })
            .collect::<Result<_, _>>()?;
        let named = |text| bases.keys().find(|name| name.as_str() == text);
        // Docker's other name of it.
        if let (Some(hub), Ok(index)) = (named("docker.io"), RegistryHost::parse("index.docker.io"))
        {
            let base = bases[hub].clone();
            bases.entry(index).or_insert(base);
        }
        Ok(bases)
    }
}

/// Where a registry is of which nothing is configured.
pub(super) fn default_base(registry: &RegistryHost) -> Result<Url, url::ParseError> {
    if matches!(registry.as_str(), "docker.io" | "index.docker.io") {
        return Url::parse("https://registry-1.docker.io");
    }
    let base = Url::parse(&format!("https://{registry}"))?;
    match is_loopback(&base) {
        // Parsed anew, so that the scheme's default port is its own.
        true => Url::parse(&format!("http://{registry}")),
        false => Ok(base),
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

/// `path` (with a leading slash) below `base`.
pub(super) fn under(base: &Url, path: &str) -> Url {
    let mut url = base.clone();
    url.set_query(None);
    url.set_fragment(None);
    url.set_path(&format!("{}{path}", base.path().trim_end_matches('/')));
    url
}

/// Why origins cannot be used as configured.
#[derive(Debug, thiserror::Error)]
pub enum OriginConfigError {
    #[error("registries.\"{registry}\".endpoint: {reason}")]
    Endpoint {
        registry: RegistryHost,
        reason: String,
    },
    #[error("registries.\"{registry}\".ca: cannot read {}: {reason}", path.display())]
    ReadCa {
        registry: RegistryHost,
        path: PathBuf,
        reason: String,
    },
    #[error("registries.\"{registry}\".ca: {} holds no certificate in PEM form", path.display())]
    NoCa {
        registry: RegistryHost,
        path: PathBuf,
    },
    #[error("cannot set up TLS: {0}")]
    Tls(String),
}
