//! All that is known of registries, and which ways lead to what a URL names.
//!
//! A registry has one base URL, by which its content is named everywhere; where requests really go
//! is decided here, request by request: its endpoints in order, those that failed last. Invariant:
//! an endpoint that several registries may share (a mirror) names none, so that bytes are ascribed
//! to the registry that was asked for, never to the mirror that had them.

use std::{collections::HashMap, sync::Arc};

use hawker_model::RegistryHost;
use http::HeaderMap;
use url::Url;

use super::{
    Http, config,
    dialer::Proxies,
    endpoint::{self, Endpoint, Standing},
    error,
};

/// The registries that something is known of.
#[derive(Default)]
pub(super) struct Registries {
    by_name: HashMap<RegistryHost, Arc<Registry>>,
    /// In the order of their names.
    all: Vec<Arc<Registry>>,
    /// Where registries are asked that have no places of their own: mirrors, and perhaps a server that
    /// stands in for the registries.
    default: Vec<Arc<Endpoint>>,
}

/// A registry that something is known of.
pub(super) struct Registry {
    pub(super) name: RegistryHost,
    /// Where it is by its name, or by its first endpoint. Its content is named so.
    pub(super) base: Url,
    pub(super) endpoints: Vec<Arc<Endpoint>>,
    /// Where something else holds for its connections than for all others.
    pub(super) http: Option<Http>,
    /// Where its own places are shown a client certificate: the connections to them alone.
    pub(super) identified: Option<Http>,
    /// Whether it is asked where all are that have no places of their own.
    pub(super) is_by_default: bool,
    pub(super) proxies: Proxies,
    pub(super) about: About,
}

/// What messages about a registry name.
#[derive(Clone, Debug, Default)]
pub(super) struct About {
    /// As `[registries]` should name it.
    pub(super) registry: String,
    /// Whether authorities are configured, and where.
    pub(super) ca: Option<String>,
    /// The client certificate that is shown.
    pub(super) client: Option<String>,
}

/// One place to ask for something.
#[derive(Clone)]
pub(super) struct Way {
    pub(super) url: Url,
    pub(super) endpoint: Option<Arc<Endpoint>>,
}

impl Way {
    /// To `url` itself.
    pub(super) fn straight(url: &Url) -> Self {
        Self {
            url: url.clone(),
            endpoint: None,
        }
    }

    pub(super) fn standing(&self) -> Standing {
        self.endpoint
            .as_ref()
            .map_or(Standing::Own, |endpoint| endpoint.standing)
    }

    pub(super) fn headers(&self) -> HeaderMap {
        self.endpoint
            .as_ref()
            .map(|endpoint| endpoint.headers.clone())
            .unwrap_or_default()
    }
}

impl Registries {
    pub(super) fn new(registries: Vec<Registry>, default: Vec<Endpoint>) -> Self {
        let all: Vec<_> = registries.into_iter().map(Arc::new).collect();
        Self {
            by_name: all
                .iter()
                .map(|r| (r.name.clone(), Arc::clone(r)))
                .collect(),
            all,
            default: default.into_iter().map(Arc::new).collect(),
        }
    }

    pub(super) fn by_name(&self, name: &RegistryHost) -> Option<&Arc<Registry>> {
        self.by_name.get(name)
    }

    pub(super) fn all(&self) -> &[Arc<Registry>] {
        &self.all
    }

    /// The registry that `url` is at: by base or by an endpoint of its own; best the one whose API
    /// it is in.
    pub(super) fn at(&self, url: &Url) -> Option<&Arc<Registry>> {
        let within = |registry: &&Arc<Registry>| registry.path_of(url).is_some();
        let beside = |registry: &&Arc<Registry>| registry.origins().any(|o| o == url.origin());
        self.all
            .iter()
            .find(within)
            .or_else(|| self.all.iter().find(beside))
    }

    /// What messages name: the registry that `url` is at, else its host.
    pub(super) fn about(&self, url: &Url) -> About {
        self.at(url).map_or_else(
            || About {
                registry: error::host_port(url),
                ..About::default()
            },
            |registry| registry.about.clone(),
        )
    }

    /// The ways to what `url` names, in the order of going them; at least one.
    pub(super) fn ways(&self, url: &Url) -> Vec<Way> {
        let registry = self.all.iter().find(|r| r.path_of(url).is_some());
        let mut ways = match registry {
            Some(registry) => {
                let path = registry.path_of(url).unwrap_or_default();
                ways_of(&registry.name, &self.places(registry), path, url)
            }
            None => match unknown(url) {
                Some((name, path)) => {
                    let mut ways = ways_of(&name, &self.default, path, url);
                    if !self.has_stand_in() {
                        ways.push(Way::straight(url));
                    }
                    ways
                }
                None => Vec::new(),
            },
        };
        if ways.is_empty() {
            ways.push(Way::straight(url));
        }
        if let [only] = &mut ways[..] {
            // No other is asked instead, so there is nothing to remember.
            only.endpoint = only.endpoint.take().filter(|e| e.is_peculiar());
        }
        // Stable: the order stands among those that are well, and among those that are not.
        ways.sort_by_key(|way| way.endpoint.as_ref().is_some_and(|e| e.is_left_alone()));
        ways
    }
}

impl Registries {
    /// Where `registry` is asked, in order. One that is itself the mirror of others is asked as
    /// itself: it sees its clients' credentials, and not what is ours instead of them.
    pub(super) fn places(&self, registry: &Registry) -> Vec<Arc<Endpoint>> {
        let default = self.default.iter().filter(|endpoint| {
            let is_itself = registry.origins().any(|own| own == endpoint.api().origin());
            registry.is_by_default && (endpoint.standing == Standing::Own || !is_itself)
        });
        let is_replaced = registry.is_by_default && self.has_stand_in();
        let own = registry.endpoints.iter().filter(|_| !is_replaced);
        default.chain(own).cloned().collect()
    }

    fn has_stand_in(&self) -> bool {
        let mut default = self.default.iter();
        default.any(|endpoint| endpoint.standing == Standing::Own)
    }
}

impl Registry {
    fn path_of<'a>(&self, url: &'a Url) -> Option<&'a str> {
        let mut own = self.endpoints.iter().filter(|e| e.names_its_registry());
        endpoint::path_below(&config::under(&self.base, "/v2"), url)
            .or_else(|| own.find_map(|endpoint| endpoint.path_of(url)))
    }

    /// Where nothing else is: the URLs by which its content is named.
    pub(super) fn naming_urls(&self) -> Vec<&Url> {
        let own = self.endpoints.iter().filter(|e| e.names_its_registry());
        let own = own.map(|endpoint| endpoint.api());
        std::iter::once(&self.base).chain(own).collect()
    }

    /// The servers whose word is the registry's.
    pub(super) fn origins(&self) -> impl Iterator<Item = url::Origin> {
        self.own_urls().map(Url::origin)
    }

    /// The base, and what is the registry's own.
    pub(super) fn own_urls(&self) -> impl Iterator<Item = &Url> {
        let own = self
            .endpoints
            .iter()
            .filter(|endpoint| endpoint.standing == Standing::Own)
            .map(|endpoint| endpoint.api());
        std::iter::once(&self.base).chain(own)
    }
}

fn ways_of(name: &RegistryHost, endpoints: &[Arc<Endpoint>], path: &str, url: &Url) -> Vec<Way> {
    let way = |endpoint: &Arc<Endpoint>| {
        Some(Way {
            url: endpoint.url(name, path, url.query())?,
            endpoint: Some(Arc::clone(endpoint)),
        })
    };
    endpoints.iter().filter_map(way).collect()
}

/// The registry that nothing is known of at `url`, and the path of its API; `None` for URLs that
/// are no registry's.
fn unknown(url: &Url) -> Option<(RegistryHost, &str)> {
    let name = match error::host_port(url) {
        hub if hub == "registry-1.docker.io" => "docker.io".to_owned(),
        name => name,
    };
    let name = RegistryHost::parse(&name).ok()?;
    let base = config::default_base(&name).ok()?;
    let path = endpoint::path_below(&config::under(&base, "/v2"), url)?;
    Some((name, path))
}
