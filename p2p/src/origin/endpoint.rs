//! Where a registry can be asked, and whether that answered of late.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use hawker_model::{Digest, RegistryHost};
use http::HeaderMap;
use url::Url;

use super::config;

/// How long an endpoint that failed is left alone while others are there.
const LEFT_ALONE: Duration = Duration::from_secs(30);

/// One place where a registry's content is.
#[derive(Debug)]
pub(super) struct Endpoint {
    /// What the paths of the API are put behind: it ends in `/v2`, or in what stands for that.
    api: Url,
    pub(super) standing: Standing,
    serves: Serves,
    /// Sent along, to this scheme, host and port alone.
    pub(super) headers: HeaderMap,
    /// Whether it is told which registry is meant.
    namespace: Namespace,
    failed: Mutex<Option<Instant>>,
}

/// Whose word an endpoint's is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// The registry's: what it says stands, and the registry's credentials are for it.
    Own,
    /// A mirror's: what it has not, or does not give, another one is asked for; it sees no
    /// credential of the registry.
    Mirror,
}

/// Whether requests say for which registry they are (`ns`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Namespace {
    /// No: it is one registry.
    Silent,
    /// Yes, unless it is at the registry's own name: it may serve several.
    Told,
}

/// What an endpoint is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Serves {
    /// What a digest names.
    pub(super) pull: bool,
    /// What a tag names.
    pub(super) resolve: bool,
}

/// What a path of the API asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asks {
    /// Something that a digest names.
    Pull,
    /// What a tag names now.
    Resolve,
    /// Lists, the API itself: the registry's own word is wanted.
    Other,
}

impl Endpoint {
    /// An endpoint of the registry at `base`.
    pub(super) fn own(base: &Url) -> Self {
        let serves = Serves {
            pull: true,
            resolve: true,
        };
        Self::new(
            config::under(base, "/v2"),
            Standing::Own,
            Namespace::Silent,
            serves,
        )
    }

    pub(super) fn new(api: Url, standing: Standing, namespace: Namespace, serves: Serves) -> Self {
        Self {
            api,
            standing,
            serves,
            headers: HeaderMap::new(),
            namespace,
            failed: Mutex::default(),
        }
    }

    pub(super) fn api(&self) -> &Url {
        &self.api
    }

    /// Whether something is sent along to it, or it is a mirror.
    pub(super) fn is_peculiar(&self) -> bool {
        !self.headers.is_empty() || self.standing == Standing::Mirror
    }

    /// Whether it is one registry's alone, so that a URL at it tells which.
    pub(super) fn names_its_registry(&self) -> bool {
        self.standing == Standing::Own && self.namespace == Namespace::Silent
    }

    /// The path within the API of a URL that is at this endpoint.
    pub(super) fn path_of<'a>(&self, url: &'a Url) -> Option<&'a str> {
        path_below(&self.api, url)
    }

    /// Where it has `path` of the API, with the query of `url`. `None`: it is not asked for that.
    pub(super) fn url(
        &self,
        registry: &RegistryHost,
        path: &str,
        query: Option<&str>,
    ) -> Option<Url> {
        match (asks(path), self.standing) {
            (Asks::Pull, _) if !self.serves.pull => return None,
            (Asks::Resolve, _) if !self.serves.resolve => return None,
            (Asks::Other, Standing::Mirror) => return None,
            _ => {}
        }
        let mut url = config::under(&self.api, path);
        url.set_query(query);
        if self.namespace == Namespace::Told && !self.is_named(registry) {
            url.query_pairs_mut().append_pair("ns", registry.as_str());
        }
        Some(url)
    }

    /// Whether it is where the registry's name says.
    fn is_named(&self, registry: &RegistryHost) -> bool {
        let named = config::default_base(registry);
        named.is_ok_and(|base| {
            base.host_str() == self.api.host_str()
                && base.port_or_known_default() == self.api.port_or_known_default()
        })
    }

    pub(super) fn note_failure(&self) {
        *lock(&self.failed) = Some(Instant::now());
    }

    pub(super) fn note_answer(&self) {
        *lock(&self.failed) = None;
    }

    /// Whether it failed so recently that others are asked before it.
    pub(super) fn is_left_alone(&self) -> bool {
        lock(&self.failed).is_some_and(|at| at.elapsed() < LEFT_ALONE)
    }
}

/// The path of `url` below `api`, where it is below it.
pub(super) fn path_below<'a>(api: &Url, url: &'a Url) -> Option<&'a str> {
    let rest = url.path().strip_prefix(api.path())?;
    (url.origin() == api.origin() && rest.starts_with('/')).then_some(rest)
}

fn asks(path: &str) -> Asks {
    if path.contains("/blobs/") || path.contains("/referrers/") {
        return Asks::Pull;
    }
    match path.rsplit_once("/manifests/") {
        Some((_, reference)) if Digest::parse(reference).is_ok() => Asks::Pull,
        Some(_) => Asks::Resolve,
        None => Asks::Other,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mirror(api: &str, serves: Serves) -> Endpoint {
        let api = Url::parse(api).unwrap();
        Endpoint::new(api, Standing::Mirror, Namespace::Told, serves)
    }

    const ALL: Serves = Serves {
        pull: true,
        resolve: true,
    };

    #[test]
    fn a_mirror_is_told_for_which_registry_it_is_asked() {
        let quay = RegistryHost::parse("quay.io").unwrap();
        let m = mirror("https://m.lan/p/v2", ALL);
        let url = m.url(&quay, "/a/manifests/latest", Some("x=1")).unwrap();
        assert_eq!(
            url.as_str(),
            "https://m.lan/p/v2/a/manifests/latest?x=1&ns=quay.io"
        );
        let own = mirror("https://quay.io/v2", ALL);
        let url = own.url(&quay, "/a/blobs/x", None).unwrap();
        assert_eq!(url.as_str(), "https://quay.io/v2/a/blobs/x");
        let hub = RegistryHost::parse("docker.io").unwrap();
        let own = mirror("https://registry-1.docker.io/v2", ALL);
        assert_eq!(own.url(&hub, "/a/blobs/x", None).unwrap().query(), None);
        assert_eq!(m.url(&quay, "/", None), None);
        assert_eq!(m.url(&quay, "/a/tags/list", None), None);
    }

    #[test]
    fn capabilities_say_what_an_endpoint_is_asked_for() {
        let quay = RegistryHost::parse("quay.io").unwrap();
        let digest = Digest::of(b"");
        let by_digest = format!("/a/manifests/{digest}");
        let pulls = mirror(
            "https://m/v2",
            Serves {
                resolve: false,
                ..ALL
            },
        );
        assert!(pulls.url(&quay, &by_digest, None).is_some());
        assert!(pulls.url(&quay, "/a/manifests/latest", None).is_none());
        let resolves = mirror("https://m/v2", Serves { pull: false, ..ALL });
        assert!(resolves.url(&quay, &by_digest, None).is_none());
        assert!(resolves.url(&quay, "/a/manifests/latest", None).is_some());
    }
}
