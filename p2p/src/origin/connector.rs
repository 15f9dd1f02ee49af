//! How connections to origins are made: TCP by the [`Dialer`], TLS with what is configured for the
//! host.

use std::{
    collections::HashMap,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::Uri;
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use tower::Service;
use url::Url;

use super::{
    dialer::{BoxError, Connecting, Dialer},
    link::Link,
};

/// Connects to what a URI names, by TCP or TLS.
#[derive(Clone)]
pub(super) struct Connector {
    pub(super) dialer: Dialer,
    pub(super) timeout: Duration,
    pub(super) tls: Arc<TlsSettings>,
}

#[derive(Clone)]
pub(super) struct TlsSettings {
    pub(super) usual: Arc<rustls::ClientConfig>,
    /// Where an operator said something else, by host and port.
    pub(super) special: Special,
}

/// A host and a port.
pub(super) type Place = (String, u16);
/// TLS by place.
pub(super) type Special = HashMap<Place, Arc<rustls::ClientConfig>>;

/// Where `url` is.
pub(super) fn place(url: &Url) -> Place {
    let host = url.host_str().unwrap_or_default().to_owned();
    (host, url.port_or_known_default().unwrap_or(443))
}

/// A connection was not made in time.
#[derive(Debug, thiserror::Error)]
#[error("no connection within {} ms", .0.as_millis())]
pub(super) struct ConnectTimeout(pub(super) Duration);

impl Service<Uri> for Connector {
    type Response = MaybeHttpsStream<Link>;
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
