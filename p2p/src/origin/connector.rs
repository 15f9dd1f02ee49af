//! How connections to origins are made: names resolved, every address checked, TLS with what is
//! configured for the host. The check stands here, between resolving and connecting, so that a name
//! that changes its address between two look-ups gains nothing.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
    vec,
};

use hawker_model::RegistryHost;
use http::Uri;
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::{
    client::legacy::connect::{
        HttpConnector,
        dns::{GaiResolver, Name},
    },
    rt::TokioIo,
};
use tokio::net::TcpStream;
use tower::Service;
use url::Url;

use super::{
    OriginConfig, OriginConfigError,
    address::{AddressRefused, AddressRule},
    tls,
};

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Connecting<T> = Pin<Box<dyn Future<Output = Result<T, BoxError>> + Send>>;

/// Connects to what a URI names, by TCP or TLS.
#[derive(Clone)]
pub(super) struct Connector {
    dialer: Dialer,
    timeout: Duration,
    tls: Arc<TlsSettings>,
}

struct TlsSettings {
    usual: Arc<rustls::ClientConfig>,
    /// Where an operator said something else, by host and port.
    special: HashMap<(String, u16), Arc<rustls::ClientConfig>>,
}

/// A connection was not made in time.
#[derive(Debug, thiserror::Error)]
#[error("no connection within {} ms", .0.as_millis())]
pub(super) struct ConnectTimeout(pub(super) Duration);

impl Connector {
    pub(super) fn new(
        config: &OriginConfig,
        bases: &HashMap<RegistryHost, Url>,
        rule: Arc<AddressRule>,
    ) -> Result<Self, OriginConfigError> {
        let roots = tls::native_roots();
        let mut special = HashMap::new();
        for (name, base) in bases {
            let Some(registry) = config.registries.get(name) else {
                continue;
            };
            let Some(settings) = tls::special(name, registry, &roots)? else {
                continue;
            };
            let host = base.host_str().unwrap_or_default().to_owned();
            special.insert(
                (host, base.port_or_known_default().unwrap_or(443)),
                settings,
            );
        }
        let tls = Arc::new(TlsSettings {
            usual: tls::usual(roots)?,
            special,
        });
        Ok(Self {
            dialer: Dialer::new(rule, config.connect_timeout),
            timeout: config.connect_timeout,
            tls,
        })
    }

    /// The same for what a stranger named.
    pub(super) fn wary(&self) -> Self {
        let rule = Arc::new(self.dialer.rule.for_strangers());
        Self {
            dialer: Dialer::new(rule, self.timeout),
            ..self.clone()
        }
    }
}

impl Service<Uri> for Connector {
    type Response = MaybeHttpsStream<TokioIo<TcpStream>>;
    type Error = BoxError;
    type Future = Connecting<Self::Response>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let port = uri.port_u16().unwrap_or(443);
        let key = (uri.host().unwrap_or_default().to_owned(), port);
        let settings = self.tls.special.get(&key).unwrap_or(&self.tls.usual);
        let connecting =
            HttpsConnector::from((self.dialer.clone(), Arc::clone(settings))).call(uri);
        let timeout = self.timeout;
        Box::pin(async move {
            tokio::time::timeout(timeout, connecting)
                .await
                .unwrap_or_else(|_| Err(Box::new(ConnectTimeout(timeout))))
        })
    }
}

/// Connects by TCP where the rule permits.
#[derive(Clone)]
struct Dialer {
    rule: Arc<AddressRule>,
    checked: HttpConnector<CheckedResolver>,
    /// For hosts that an operator named.
    unchecked: HttpConnector,
}

impl Dialer {
    fn new(rule: Arc<AddressRule>, timeout: Duration) -> Self {
        let resolver = CheckedResolver {
            rule: Arc::clone(&rule),
            inner: GaiResolver::new(),
        };
        Self {
            rule,
            checked: tuned(HttpConnector::new_with_resolver(resolver), timeout),
            unchecked: tuned(HttpConnector::new(), timeout),
        }
    }
}

fn tuned<R>(mut connector: HttpConnector<R>, timeout: Duration) -> HttpConnector<R> {
    // Divided among the addresses of a name, so that a dead one leaves time for the others.
    connector.set_connect_timeout(Some(timeout));
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_keepalive(Some(Duration::from_secs(30)));
    connector
}

impl Service<Uri> for Dialer {
    type Response = TokioIo<TcpStream>;
    type Error = BoxError;
    type Future = Connecting<Self::Response>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let host = uri.host().unwrap_or_default();
        let default_port = if uri.scheme_str() == Some("http") {
            80
        } else {
            443
        };
        let port = Some(uri.port_u16().unwrap_or(default_port));
        if self.rule.exempts(host, port) {
            let connecting = self.unchecked.call(uri);
            return Box::pin(async move { Ok(connecting.await?) });
        }
        // The connector does not resolve literal addresses, so they are checked here.
        if let Err(refused) = self.rule.check_host(host, port) {
            return Box::pin(async move { Err(refused.into()) });
        }
        let connecting = self.checked.call(uri);
        Box::pin(async move { Ok(connecting.await?) })
    }
}

/// Resolves names to those of their addresses that may be asked.
#[derive(Clone)]
struct CheckedResolver {
    rule: Arc<AddressRule>,
    inner: GaiResolver,
}

impl Service<Name> for CheckedResolver {
    type Response = vec::IntoIter<SocketAddr>;
    type Error = BoxError;
    type Future = Connecting<Self::Response>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let rule = Arc::clone(&self.rule);
        let host = name.as_str().to_owned();
        let resolving = self.inner.call(name);
        Box::pin(async move {
            let all: Vec<SocketAddr> = resolving.await?.collect();
            let permitted: Vec<SocketAddr> = all
                .iter()
                .copied()
                .filter(|address| rule.permits(address.ip()))
                .collect();
            match (permitted.is_empty(), all.first()) {
                (false, _) => Ok(permitted.into_iter()),
                (true, Some(first)) => Err(AddressRefused {
                    host,
                    address: first.ip().to_string(),
                }
                .into()),
                (true, None) => Err(io::Error::other("the name has no address").into()),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn resolve(rule: AddressRule) -> Result<Vec<SocketAddr>, BoxError> {
        let mut resolver = CheckedResolver {
            rule: Arc::new(rule),
            inner: GaiResolver::new(),
        };
        Ok(resolver.call("localhost".parse().unwrap()).await?.collect())
    }

    #[tokio::test]
    async fn names_that_resolve_to_private_addresses_do_not_resolve() {
        let error = resolve(AddressRule::default()).await.unwrap_err();
        assert!(error.downcast_ref::<AddressRefused>().is_some(), "{error}");

        let allowed = ["127.0.0.0/8".parse().unwrap()];
        let addresses = resolve(AddressRule::new(&allowed, [].into_iter()))
            .await
            .unwrap();
        assert!(
            addresses.iter().all(|address| address.ip().is_loopback()),
            "{addresses:?}"
        );
        assert!(!addresses.is_empty());
    }
}
