//! What an operator says about origins, and where registries are.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use hawker_model::RegistryHost;
use hawker_swarm::Secret;
use url::{Host, Url};

use super::{AllowPrivate, Budget, Proxy, UsualProxies};

/// Settings of an [`super::OriginClient`].
#[derive(Clone, Debug)]
pub struct OriginConfig {
    /// What is known of single registries. Being listed here makes a private address permitted.
    pub registries: BTreeMap<RegistryHost, RegistryEndpoint>,
    /// Registries and networks that may be private.
    pub allow_private: Vec<AllowPrivate>,
    /// The proxies of everything that names none of its own.
    pub proxies: UsualProxies,
    /// Directories with the settings of registries as containerd and Docker keep them. What
    /// `registries` says wins.
    pub certs_d: Vec<PathBuf>,
    /// Where this very program is a registry: such entries of `certs_d` are passed over.
    pub own_addresses: Vec<SocketAddr>,
    /// From the start of name resolution to the end of the TLS handshake.
    pub connect_timeout: Duration,
    /// From the start of a request to the head of its answer, connecting included.
    pub header_timeout: Duration,
    /// How long an endpoint may take to answer while another one of its registry is left.
    pub endpoint_timeout: Duration,
    /// How long a token server may take. Somebody waits meanwhile.
    pub token_timeout: Duration,
    /// The longest silence within a body.
    pub read_timeout: Duration,
    /// Attempts to get on with a body, after the first, that brought no byte.
    pub retries: u32,
    /// Wait before the first retry; doubles with each further one, up to 10 s.
    pub first_backoff: Duration,
    /// What a registry is asked at most of which nothing else is said.
    pub budget: Budget,
    /// How long servers are waited for that say when to come back (`Retry-After`), all waits of one
    /// body together that brought no byte.
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
            proxies: UsualProxies::default(),
            certs_d: Vec::new(),
            own_addresses: Vec::new(),
            connect_timeout: Duration::from_secs(5),
            header_timeout: Duration::from_secs(10),
            endpoint_timeout: Duration::from_secs(2),
            token_timeout: Duration::from_secs(3),
            read_timeout: Duration::from_secs(30),
            retries: 5,
            first_backoff: Duration::from_millis(200),
            budget: Budget::default(),
            longest_retry_after: Duration::from_secs(600),
            discard_limit: None,
            user_agent: concat!("hawker/", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

/// What an operator says of one registry.
#[derive(Clone, Debug, Default)]
pub struct RegistryEndpoint {
    /// Where it is, when that is not `https://<name>`, in the order of asking; they hold the same
    /// and take the same credentials. A path is put before `/v2/`.
    pub endpoints: Vec<Url>,
    /// Certificate authorities (PEM) that it and its token server may use besides those of the
    /// system.
    pub ca_file: Option<PathBuf>,
    /// What its endpoints are shown.
    pub client: Option<ClientFiles>,
    /// Whether its certificate is believed unseen.
    pub skip_verify: bool,
    /// Who we are there when a client brings no credential.
    pub login: Option<Login>,
    /// Registries of one trust group hold each other's bytes: what one gave may be had through
    /// another without a proof.
    pub trust_group: Option<String>,
    /// What it is asked at most.
    pub budget: Budget,
    /// By which proxy it is reached, and what it sends us to.
    pub proxy: ProxyChoice,
    /// Addresses of hosts, instead of what the system's resolver says, for requests to this
    /// registry and to what it sends us to.
    pub resolve: BTreeMap<String, Vec<IpAddr>>,
}

/// A client's certificate and its key (PEM); it may be one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// By which proxy a registry is reached.
#[derive(Clone, Debug, Default)]
pub enum ProxyChoice {
    /// That of all others, if there is one for it.
    #[default]
    Usual,
    /// None.
    Direct,
    /// This one, always.
    Via(Proxy),
}

/// A name and a password.
#[derive(Clone, PartialEq, Eq)]
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
    #[error("registries.\"{registry}\".client_cert, client_key: {reason}")]
    Client {
        registry: RegistryHost,
        reason: String,
    },
    #[error("origin.proxy_ca: {reason}")]
    ProxyCa { reason: String },
    #[error("cannot set up TLS: {0}")]
    Tls(String),
}
