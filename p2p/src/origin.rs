//! The client of origins: registries and plain HTTP(S) servers, where the first copy of every blob
//! comes from.
//!
//! The mirror asks it for manifests ([`OriginClient::pass`]) and for rights and lengths
//! ([`OriginClient::head`]); the node, a seed most of the time, reads blobs and files through it
//! ([`OriginClient::fetch`]).
//!
//! What always holds:
//! * A credential is sent to the scheme, host and port it was given for, and to nobody else; a
//!   redirect to elsewhere goes without. Credentials are never logged and never stored.
//! * Addresses that only this machine or its network can reach are refused unless configured,
//!   whichever way they are named: by literal, by name, by redirect, by token realm. The check is
//!   made on the resolved address that is connected to ([`connector`]).
//! * A body is delivered exactly once, in order and unencoded, as long as the server states: a cut
//!   body is resumed where it stopped, a changed one is an error ([`body`]).

mod account;
mod address;
mod assembly;
mod auth;
mod body;
mod budget;
mod certs_d;
mod challenge;
mod config;
mod connector;
mod dialer;
mod endpoint;
mod error;
mod exchange;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod group;
mod head;
mod hold;
mod inspect;
mod link;
mod manifest;
mod pass;
mod password;
mod pool;
mod proxy;
mod range;
mod registries;
mod resolver;
mod retry;
mod silence;
#[cfg(test)]
mod tests;
mod tls;
mod token;
mod ways;

use std::{collections::HashMap, fmt, sync::Arc};

use hawker_model::{Digest, RegistryHost, Repository, Target};
use hawker_swarm::{Behalf, ManifestWish, Secret, Source};
use url::Url;

use address::AddressRule;
use auth::Authorizer;
use budget::{Ledger, Ledgers};
use connector::{Place, place};
use dialer::Proxies;
use endpoint::Standing;
use group::Groups;
use pool::{By, Http};
use registries::{About, Registries};

pub use account::Account;
pub use address::{AllowPrivate, AllowPrivateError};
pub use body::OriginBody;
pub use budget::Budget;
pub use config::{
    ClientFiles, Login, OriginConfig, OriginConfigError, ProxyChoice, RegistryEndpoint,
};
pub use error::OriginError;
pub use group::OriginGroup;
pub use head::OriginHead;
pub(crate) use hold::{HeldBy, Hold};
pub use inspect::EndpointReport;
pub use pass::{Challenges, PassBody, PassRequest, Redirects};
pub use proxy::{NoProxy, Proxy, UsualProxies};
pub use range::ByteRange;

/// The client of every origin. Clones are cheap and share connections, tokens and settings.
#[derive(Clone)]
pub struct OriginClient(Arc<Inner>);

struct Inner {
    config: OriginConfig,
    rule: Arc<AddressRule>,
    registries: Registries,
    /// By which proxy everything goes that has no other.
    proxies: Proxies,
    /// What of containerd's and Docker's settings is passed over.
    warnings: Vec<String>,
    /// Who we are at each configured registry that asks, by its scheme, host and port.
    accounts: HashMap<url::Origin, Account>,
    groups: Groups,
    /// For what an operator named, and where that leads.
    trusting: Http,
    /// For all else: not even a configured private host may be reached by a stranger's redirect.
    wary: Http,
    authorizer: Authorizer,
    ledgers: Ledgers,
    /// The connections to mirrors that are shown a client certificate.
    to_mirrors: HashMap<Place, Http>,
}

impl OriginClient {
    /// Reads certificates and the directories of `certs_d`, and prepares the client. Does not
    /// connect. Needs a tokio runtime only once it is used.
    pub fn new(config: OriginConfig) -> Result<Self, OriginConfigError> {
        let assembled = assembly::assemble(&config)?;
        for warning in &assembled.warnings {
            tracing::warn!("{warning}");
        }
        let registries = assembled.registries;
        let mut accounts = HashMap::new();
        for registry in registries.all() {
            let settings = config.registries.get(&registry.name);
            if let Some(login) = settings.and_then(|settings| settings.login.as_ref()) {
                for origin in registry.origins() {
                    let account = || Account::Login(login.clone());
                    accounts.entry(origin).or_insert_with(account);
                }
            }
        }
        let groups = Groups::new(registries.all().iter().map(|registry| {
            let settings = config.registries.get(&registry.name);
            let trust = settings.and_then(|settings| settings.trust_group.as_deref());
            (trust, registry.naming_urls())
        }));
        let special = config.registries.iter();
        let special = special.map(|(name, settings)| (name.to_string(), settings.budget));
        let ledgers = Ledgers::new(config.budget, special.collect());
        Ok(Self(Arc::new(Inner {
            groups,
            wary: assembled.wary,
            trusting: assembled.trusting,
            warnings: assembled.warnings,
            proxies: assembled.proxies,
            config,
            rule: assembled.rule,
            registries,
            accounts,
            authorizer: Authorizer::default(),
            ledgers,
            to_mirrors: assembled.to_mirrors,
        })))
    }

    /// What of containerd's and Docker's settings (`certs_d`) is passed over, with file and line.
    pub fn warnings(&self) -> &[String] {
        &self.0.warnings
    }

    /// Where `registry` is: its first endpoint, if some are configured; else `registry-1.docker.io`
    /// for Docker Hub, http for a loopback registry that is allowed, https for all others. Private
    /// addresses are refused unless configured or allowed.
    pub fn base_url(&self, registry: &RegistryHost) -> Result<Url, OriginError> {
        if let Some(known) = self.0.registries.by_name(registry) {
            return Ok(known.base.clone());
        }
        let base = config::default_base(registry).map_err(|error| OriginError::InvalidUrl {
            url: registry.to_string(),
            reason: error.to_string(),
        })?;
        self.0
            .rule
            .check_url(&base)
            .map_err(|refused| refused.at(&base))?;
        Ok(base)
    }

    /// The URL of a blob: `<base>/v2/<repository>/blobs/<digest>`.
    pub fn blob_url(
        &self,
        registry: &RegistryHost,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Url, OriginError> {
        let base = self.base_url(registry)?;
        Ok(config::under(
            &base,
            &format!("/v2/{repository}/blobs/{digest}"),
        ))
    }

    /// The URL of a manifest: `<base>/v2/<repository>/manifests/<target>`.
    pub fn manifest_url(
        &self,
        registry: &RegistryHost,
        repository: &Repository,
        target: &Target,
    ) -> Result<Url, OriginError> {
        let base = self.base_url(registry)?;
        let path = format!("/v2/{repository}/manifests/{target}");
        Ok(config::under(&base, &path))
    }

    /// What the origin says of `source` without its body: whether it may be had, its length. One
    /// cheap request (HEAD, or GET of one byte where HEAD is not offered); retried once.
    pub async fn head(&self, source: &Source) -> Result<OriginHead, OriginError> {
        head::head(self, source).await
    }

    /// As [`OriginClient::head`], with the source's own credential alone: one that is refused is
    /// not replaced by who is configured, or by nobody. Tells too what was shown at last: the token
    /// that a name and password bought where the registry issues some.
    pub async fn head_own(
        &self,
        source: &Source,
    ) -> Result<(OriginHead, Option<Secret>), OriginError> {
        head::head_own(self, source).await
    }

    /// As [`OriginClient::head_own`], of a registry's blob: a name and password that the source
    /// brings are shown to the registry itself only where it gives the blob for no token that they
    /// buy. Not for files, which may be others for those who show nothing.
    pub async fn head_blob_own(
        &self,
        source: &Source,
    ) -> Result<(OriginHead, Option<Secret>), OriginError> {
        password::head(self, source).await
    }

    /// As [`OriginClient::head_own`], for another host that named the source: nothing of ours is shown
    /// beside it, as in [`OriginClient::fetch_for_others`].
    pub async fn head_for_others(&self, source: &Source) -> Result<OriginHead, OriginError> {
        head::head_for_others(self, source).await
    }

    /// As [`OriginClient::head`], for an account: what it says of the blob or file at `url`, and
    /// what was shown there at last, if anything had to be. That is a token wherever the registry
    /// issues some, and so good for one repository and a few minutes; use it as
    /// [`Source::authorization`].
    pub async fn head_as(
        &self,
        url: &Url,
        account: &Account,
    ) -> Result<(OriginHead, Option<Secret>), OriginError> {
        head::head_as(self, url, account).await
    }

    /// The origins that hold what `registry` holds: its endpoints, and the registries that an
    /// operator put into its trust group. A registry of which nothing is configured is its own
    /// group; one that may not be asked has none.
    pub fn same_group(&self, registry: &RegistryHost) -> OriginGroup {
        self.base_url(registry)
            .map_or_else(|_| OriginGroup::default(), |base| self.group_of_url(&base))
    }

    /// The origins that hold what the server of `url` holds: those of the registry that is there,
    /// else that server alone.
    pub fn group_of_url(&self, url: &Url) -> OriginGroup {
        self.0.groups.of_url(url)
    }

    /// The login that is configured for the registry at `url`, for [`OriginClient::head_as`].
    pub fn account_of(&self, url: &Url) -> Option<Account> {
        self.0.accounts.get(&url.origin()).cloned()
    }

    /// Whether a reader of this host who asks for `source` is helped by something of ours: a login,
    /// where the source brings no credential, or a header or a client certificate that the registry
    /// is shown in any case. Then what it grants to such a reader says nothing of the source's owner.
    pub fn shows_ours(&self, source: &Source) -> bool {
        let Ok(wanted) = Wanted::parse(source) else {
            return true;
        };
        let is_anonymous = source.authorization.is_none();
        let shows = |url: &Url| {
            self.0.shows_client(url)
                || (is_anonymous && self.0.accounts.contains_key(&url.origin()))
        };
        let ways = self.0.registries.ways(&wanted.url);
        let mut own = ways.iter().filter(|way| way.standing() == Standing::Own);
        shows(&wanted.url) || own.any(|way| shows(&way.url) || !way.headers().is_empty())
    }

    /// The registry whose configured login `account` is.
    fn configured_as(&self, url: &Url, account: Option<&Account>) -> Option<String> {
        let is_configured = account.is_some() && self.0.accounts.get(&url.origin()) == account;
        is_configured.then(|| self.0.registries.about(url).registry)
    }

    /// Whether somebody is configured for `registry`, who asks where a source brings nothing.
    pub fn knows_login(&self, registry: &RegistryHost) -> bool {
        let base = self.base_url(registry);
        base.is_ok_and(|base| self.0.accounts.contains_key(&base.origin()))
    }

    /// Reads the bytes `range` of `source`. Returns once the origin has answered with success; the
    /// body heals itself as far as the settings allow.
    pub async fn fetch(
        &self,
        source: &Source,
        range: ByteRange,
    ) -> Result<OriginBody, OriginError> {
        let hold = Hold::default();
        self.fetch_held(Behalf::Reader, source, range, hold).await
    }

    /// As [`OriginClient::fetch`], for somebody else who named the source: nothing of ours is shown,
    /// neither a login that is configured here nor a header or a client certificate. What those open
    /// is for readers of this host.
    pub async fn fetch_for_others(
        &self,
        source: &Source,
        range: ByteRange,
    ) -> Result<OriginBody, OriginError> {
        let hold = Hold::default();
        self.fetch_held(Behalf::Others, source, range, hold).await
    }

    /// The same, where `hold` tells from now on what the body waits for.
    pub(crate) async fn fetch_held(
        &self,
        behalf: Behalf,
        source: &Source,
        range: ByteRange,
        hold: Hold,
    ) -> Result<OriginBody, OriginError> {
        let ours = match behalf {
            Behalf::Reader => Ours::Shown,
            Behalf::Others => Ours::Withheld,
        };
        let wanted = Wanted {
            ours,
            ..Wanted::parse(source)?
        };
        OriginBody::open(self, wanted, range, hold).await
    }

    /// Asks for a manifest that another host wishes for, with what it shows and nothing of ours
    /// beside it, as [`OriginClient::fetch_for_others`]; the answer of success, with GET or HEAD as it
    /// wishes. Retried once.
    pub async fn manifest_for_others(
        &self,
        wish: &ManifestWish,
    ) -> Result<http::Response<PassBody>, OriginError> {
        manifest::manifest(self, wish, manifest::Name::Theirs).await
    }

    /// The same without what the wish shows: in nobody's name, with a token that anybody gets where
    /// the registry wants one. Not retried, and 429 has no effect on other requests.
    pub async fn manifest_for_nobody(
        &self,
        wish: &ManifestWish,
    ) -> Result<http::Response<PassBody>, OriginError> {
        manifest::manifest(self, wish, manifest::Name::Nobodys).await
    }

    /// Passes one request of a client on to its registry and hands back what the registry says,
    /// whatever it says.
    pub async fn pass(
        &self,
        request: PassRequest<'_>,
    ) -> Result<http::Response<PassBody>, OriginError> {
        pass::pass(self, request).await
    }
}

impl fmt::Debug for OriginClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OriginClient")
            .field("config", &self.0.config)
            .finish_non_exhaustive()
    }
}

impl Inner {
    /// The connections for what `on_behalf` led to. Our certificate is shown where nobody else sent us:
    /// it would open for them what is not theirs.
    fn http(&self, on_behalf: &Url, led: Led) -> &Http {
        if led == Led::ByNobody
            && let Some(identified) = self.identified(on_behalf)
        {
            return identified;
        }
        let registry = self.registries.at(on_behalf);
        match registry.and_then(|registry| registry.http.as_ref()) {
            Some(own) => own,
            None if self.rule.exempts_url(on_behalf) => &self.trusting,
            None => &self.wary,
        }
    }

    /// The connections to the host of `url` by which it is shown a client certificate.
    fn identified(&self, url: &Url) -> Option<&Http> {
        let registry = self.registries.at(url);
        registry
            .and_then(|registry| registry.identified.as_ref())
            .or_else(|| self.to_mirrors.get(&place(url)))
            .filter(|_| url.scheme() == "https")
    }

    /// Whether a client certificate is shown at the host of `url`.
    fn shows_client(&self, url: &Url) -> bool {
        self.identified(url).is_some()
    }

    /// What the registry at `url` is asked.
    fn ledger(&self, url: &Url) -> Arc<Ledger> {
        self.ledgers.of(&self.registries.about(url).registry)
    }

    /// The proxy that takes a whole request for `url`, as plain ones are sent.
    fn forward_proxy(&self, url: &Url, on_behalf: &Url) -> Option<&Proxy> {
        let proxies = match self.registries.at(on_behalf) {
            Some(registry) => &registry.proxies,
            None => &self.proxies,
        };
        let host = url.host_str().unwrap_or_default();
        let port = url.port_or_known_default().unwrap_or(80);
        (url.scheme() == "http")
            .then(|| proxies.of("http", host, port))
            .flatten()
    }

    /// What messages about a request name: the registry that led to `url`, unless a host that is
    /// configured itself is asked, or one that the registry's settings are not for.
    fn about(&self, url: &Url, on_behalf: &Url) -> About {
        let leading = self.registries.at(on_behalf).filter(|r| r.http.is_some());
        match (self.registries.at(url), leading) {
            (Some(there), _) => there.about.clone(),
            (None, Some(leading)) => leading.about.clone(),
            (None, None) => self.registries.about(url),
        }
    }
}

/// A source as requests are made of it.
#[derive(Clone)]
struct Wanted {
    url: Url,
    /// What was wanted at first, which may have sent us to `url`.
    on_behalf: Url,
    /// Sent at first.
    authorization: Option<http::HeaderValue>,
    /// Answers what the server at `url` asks for. `None`: who is configured, or nobody.
    account: Option<Account>,
    refused: Refused,
    ours: Ours,
    by: By,
}

/// Who chose where a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Led {
    /// We did.
    ByNobody,
    /// Another server did, by a redirect or a realm, even if it sent us back to where we came from.
    ByOthers,
}

/// What the refusal of a credential that came along means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refused {
    /// That it is tried without: what is asked may be public.
    MayBePublic,
    /// Just that.
    IsRefused,
}

/// Whether what is configured here is shown beside what the source brings: logins, what they bought,
/// headers, client certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ours {
    Shown,
    Withheld,
}

impl Wanted {
    fn parse(source: &Source) -> Result<Self, OriginError> {
        let invalid = |reason: &str| OriginError::InvalidUrl {
            url: error::shown_text(&source.url),
            reason: reason.to_owned(),
        };
        let mut url = Url::parse(&source.url).map_err(|error| invalid(&error.to_string()))?;
        url.set_fragment(None);
        exchange::check_url(&url).map_err(|reason| invalid(&reason))?;
        let authorization = match &source.authorization {
            Some(secret) => Some(
                sensitive(secret).ok_or_else(|| invalid("its credential is no header value"))?,
            ),
            None => None,
        };
        Ok(Self {
            on_behalf: url.clone(),
            url,
            authorization,
            account: source.authorization.as_ref().and_then(Account::of_basic),
            refused: Refused::MayBePublic,
            ours: Ours::Shown,
            by: By::Any,
        })
    }
}

/// A credential as a header value that hyper and HTTP/2 compression keep to themselves.
fn sensitive(secret: &Secret) -> Option<http::HeaderValue> {
    let mut value = http::HeaderValue::from_str(secret.expose()).ok()?;
    value.set_sensitive(true);
    Some(value)
}
